"""Conservation laws of prices, on random ops and nets: they add up, grow with the work, and never fall below what must be moved."""

from dataclasses import dataclass, replace
from math import prod

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from szilard.cost_model.compulsory import compulsory_bytes
from szilard.cost_model.counts import count
from szilard.cost_model.device import device_names, load_device
from szilard.cost_model.price import bytes_by_level, price_group, price_net, price_op
from szilard.cost_model.tile_reuse import reread

from .priced_nets import net_of

DEVICES = [load_device(name) for name in device_names()]
LEVELS = ("memory", "cache", "link")


def variant(device, core, cache):
    """A profile with smaller memories, so that tiles matter at the sizes of a test; without registers, which only floors know of."""
    table = {key: c for key, c in device.coefficients.items() if key not in ("capacity.registers", "capacity.chip")}
    sizes = {"capacity.core": core * device.value("capacity.core"), "capacity.cache": cache * device.value("capacity.cache")}
    return replace(device, coefficients=table).with_values(sizes)


VARIANTS = [variant(device, core, cache) for device in DEVICES for core in (1.0, 0.1, 0.01) for cache in (1.0, 1e-2, 1e-3)]


def devices():
    return st.sampled_from(VARIANTS)


@dataclass(frozen=True)
class Family:
    """One kind of op with named sizes: `shapes` of operands by name ("w" is a constant), and of its output "y"."""

    kind: str
    sizes: tuple[str, ...]
    shapes: object
    attributes: object = lambda n: {}

    def net(self, n, dtype="float32"):
        shapes = self.shapes(n)
        names = [name for name in shapes if name != "y"]
        return net_of(
            shapes, [(self.kind, names, ["y"], self.attributes(n))], constants=["w"], dtypes=dict.fromkeys(shapes, dtype)
        )


def conv_shapes(n):
    kernel, stride = 3, 2
    high, wide = (n["high"] - 1) * stride + kernel, (n["wide"] - 1) * stride + kernel
    x, w = (n["images"], n["inputs"], high, wide), (n["outputs"], n["inputs"], kernel, kernel)
    return {"x": x, "w": w, "y": (n["images"], n["outputs"], n["high"], n["wide"])}


def attention_shapes(n):
    q, k = (n["batch"], 6, n["rows"], n["depth"]), (n["batch"], 2, n["keys"], n["depth"])
    return {"q": q, "k": k, "v": k, "y": q}


FAMILIES = {
    "linear": Family(
        "matmul", ("m", "k", "n"), lambda n: {"x": (n["m"], n["k"]), "w": (n["k"], n["n"]), "y": (n["m"], n["n"])}
    ),
    "product": Family(
        "matmul",
        ("b", "m", "k", "n"),
        lambda n: {"x": (n["b"], n["m"], n["k"]), "v": (n["b"], n["k"], n["n"]), "y": (n["b"], n["m"], n["n"])},
    ),
    "einsum": Family(
        "einsum",
        ("b", "m", "k", "n"),
        lambda n: {"x": (n["b"], n["m"], n["k"]), "v": (n["b"], n["n"], n["k"]), "y": (n["b"], n["n"], n["m"])},
        lambda n: {"equation": "bmk,bnk->bnm"},
    ),
    "conv": Family("conv", ("images", "inputs", "outputs", "high", "wide"), conv_shapes, lambda n: {"strides": [2, 2]}),
    "depthwise": Family(
        "conv",
        ("c", "high", "wide"),
        lambda n: {
            "x": (2, n["c"], n["high"] + 2, n["wide"] + 2),
            "w": (n["c"], 1, 3, 3),
            "y": (2, n["c"], n["high"], n["wide"]),
        },
        lambda n: {"groups": n["c"]},
    ),
    "attention": Family("attention", ("batch", "rows", "keys", "depth"), attention_shapes),
    "causal": Family("attention", ("batch", "rows", "keys", "depth"), attention_shapes, lambda n: {"is_causal": True}),
    "lstm": Family(
        "lstm",
        ("steps", "rows", "width", "hidden"),
        lambda n: {
            "x": (n["steps"], n["rows"], n["width"]),
            "w": (1, 4 * n["hidden"], n["width"]),
            "r": (1, 4 * n["hidden"], n["hidden"]),
            "y": (n["steps"], 1, n["rows"], n["hidden"]),
        },
    ),
    **{
        kind: Family(kind, ("m", "n"), lambda n: {"x": (n["m"], n["n"]), "y": (n["m"], n["n"])})
        for kind in ("gelu", "softmax", "layer_norm", "transpose", "cumsum", "quantize_linear")
    },
    "add": Family("add", ("m", "n"), lambda n: {"x": (n["m"], n["n"]), "v": (n["m"], n["n"]), "y": (n["m"], n["n"])}),
    "reduce_sum": Family("reduce_sum", ("m", "n"), lambda n: {"x": (n["m"], n["n"]), "y": (n["m"],)}),
    "embedding": Family("embedding", ("m", "n"), lambda n: {"w": (999, n["n"]), "x": (n["m"],), "y": (n["m"], n["n"])}),
}


@st.composite
def ops(draw):
    """(family, sizes, dtype)."""
    family = FAMILIES[draw(st.sampled_from(sorted(FAMILIES)))]
    most = 40 if family.kind in ("conv", "lstm") else 300
    return family, {name: draw(st.integers(1, most)) for name in family.sizes}, draw(st.sampled_from(["float32", "float16"]))


def priced(family, sizes, dtype, device):
    net = family.net(sizes, dtype)
    return price_op(net.ops["op0"], net, device), count(net.ops["op0"], net)


@given(ops(), st.data(), st.integers(1, 200), devices())
@settings(max_examples=300, deadline=None)
def test_nothing_shrinks_when_a_dimension_grows(op, data, more, device):
    family, sizes, dtype = op
    grown = data.draw(st.sampled_from(family.sizes))
    small, _ = priced(family, sizes, dtype, device)
    large, _ = priced(family, {**sizes, grown: sizes[grown] + more}, dtype, device)
    assert not small.at_least
    least = 1 - 1e-9
    for name in ("flops", "bytes", "seconds", "joules", "launches", "landauer"):
        assert getattr(large, name) >= least * getattr(small, name), (name, grown)
    for level in LEVELS:
        assert large.bytes_by_level[level] >= least * small.bytes_by_level[level], (level, grown)
    for term, joules in small.terms.items():
        assert large.terms[term] >= least * joules, (term, grown)


@given(ops(), devices())
@settings(max_examples=200, deadline=None)
def test_joules_pay_at_least_for_what_must_be_moved(op, device):
    family, sizes, dtype = op
    net = family.net(sizes, dtype)
    moved = compulsory_bytes(net.ops.values(), net)
    assert moved > 0
    # Every operand passes between the cache and a core; in a cold cache, every one of them comes from memory or goes there.
    cold = device.with_values({"capacity.cache": 1.0})
    for levels, one in ((("byte.cache",), device), (("byte.cache", "byte.memory"), cold)):
        least = sum(one.value(level) for level in levels) * moved * (1 - 1e-9)
        assert priced(*op, one)[0].joules >= least
        # And no less where nothing but bytes costs anything.
        free = one.with_values({key: 0.0 for key in one.coefficients if key.startswith(("flop.", "launch")) or key == "static"})
        assert priced(*op, free)[0].joules >= least


@given(ops(), devices())
@settings(max_examples=200, deadline=None)
def test_cold_traffic_never_lies_below_its_floor(op, device):
    """Where nothing stays in the cache from the op before, the traffic of each level is at least the floor shown beside it."""
    cost, counts = priced(*op, device)
    assert cost.io_bytes <= (counts.bytes + reread(counts.nests, device.value("capacity.cache"))) * (1 + 1e-9)
    assert cost.io_bytes_core <= cost.bytes_by_level["cache"] * (1 + 1e-9)


@given(ops(), devices(), st.floats(1, 50), st.sampled_from(["capacity.cache", "capacity.core"]))
@settings(max_examples=200, deadline=None)
def test_a_larger_memory_never_moves_more(op, device, factor, level):
    family, sizes, dtype = op
    counts = priced(family, sizes, dtype, device)[1]
    larger = device.with_values({level: factor * device.value(level)})
    small, large = bytes_by_level(counts, device), bytes_by_level(counts, larger)
    assert all(large[name] <= small[name] * (1 + 1e-12) for name in LEVELS)
    vast = device.with_values({"capacity.cache": 1e15, "capacity.core": 1e15})
    constants = counts.bytes - sum(counts.activations)
    assert bytes_by_level(counts, vast) == {"memory": pytest.approx(constants), "cache": counts.bytes, "link": 0.0}


@given(ops(), devices(), st.floats(0.01, 3))
@settings(max_examples=200, deadline=None)
def test_modelled_power_never_exceeds_the_limit(op, device, watts):
    device = device.with_values({"power_limit": device.value("static") + watts})
    cost, _ = priced(*op, device)
    limit = device.value("power_limit")
    assert cost.joules <= limit * cost.seconds * (1 + 1e-9)
    if "power_limit" in cost.seconds_by_bound:
        assert cost.joules == pytest.approx(limit * cost.seconds)


KINDS = ("gelu", "add", "softmax", "layer_norm", "transpose", "reshape", "matmul", "linear", "slice", "dropout", "attention")


@st.composite
def nets(draw):
    """A net of up to nine ops over square values, each read by any later op; "linear" has a weight of its own."""
    width = draw(st.integers(1, 300))
    shapes, lines, constants = {"x": (1, 1, width, width), "z": (1, 1, width, width)}, [], []
    for number, kind in enumerate(draw(st.lists(st.sampled_from(KINDS), min_size=1, max_size=9))):
        known = st.sampled_from([name for name in shapes if name not in constants])
        operands = [draw(known) for _ in range({"add": 2, "matmul": 2, "attention": 3}.get(kind, 1))]
        if kind == "linear":
            constants.append(f"w{number}")
            shapes[constants[-1]] = (width, width)
            operands.append(constants[-1])
        shapes[f"v{number}"] = (1, 1, width, width)
        lines.append(("matmul" if kind == "linear" else kind, operands, [f"v{number}"]))
    return net_of(shapes, lines, constants)


@given(nets(), st.data(), devices())
@settings(max_examples=300, deadline=None)
def test_fusing_never_raises_bytes_seconds_or_joules(net, data, device):
    members = [net.ops[name] for name in data.draw(st.lists(st.sampled_from(list(net.ops)), unique=True, min_size=1))]
    fused, apart = price_group(members, net, device), [price_op(op, net, device) for op in members]
    most = 1 + 1e-9
    for name in ("bytes", "seconds", "joules", "launches"):
        assert getattr(fused, name) <= most * sum(getattr(cost, name) for cost in apart), name
    for level in LEVELS:
        assert fused.bytes_by_level[level] <= most * sum(cost.bytes_by_level[level] for cost in apart) + 1e-9, level
    for term in fused.terms:
        assert fused.terms[term] <= most * sum(cost.terms[term] for cost in apart) + 1e-18, term
    assert fused.flops == pytest.approx(sum(cost.flops for cost in apart))


@given(nets(), devices())
@settings(max_examples=80, deadline=None)
def test_a_net_costs_what_its_ops_cost(net, device):
    found, apart = price_net(net, device).total, [price_op(op, net, device) for op in net.ops.values()]
    for name in ("flops", "bytes", "launches", "seconds", "joules", "landauer"):
        assert getattr(found, name) == pytest.approx(sum(getattr(cost, name) for cost in apart)), name
    for level in LEVELS:
        assert found.bytes_by_level[level] == pytest.approx(sum(cost.bytes_by_level[level] for cost in apart))


@given(nets(), nets(), devices())
@settings(max_examples=80, deadline=None)
def test_two_nets_beside_each_other_cost_their_sum(one, other, device):
    """Disjoint work adds up in every field: the two nets share no value."""
    renamed = net_of(
        {**{f"a{n}": v.shape for n, v in one.values.items()}, **{f"b{n}": v.shape for n, v in other.values.items()}},
        [
            (op.kind, [f"{mark}{n}" for n in op.inputs], [f"{mark}{n}" for n in op.outputs])
            for mark, net in (("a", one), ("b", other))
            for op in net.ops.values()
        ],
        [f"{mark}{n}" for mark, net in (("a", one), ("b", other)) for n, v in net.values.items() if v.constant],
    )
    both = price_net(renamed, device).total
    parts = [price_net(net, device).total for net in (one, other)]
    for name in ("flops", "bytes", "launches", "seconds", "joules", "landauer", "io_bytes"):
        assert getattr(both, name) == pytest.approx(sum(getattr(part, name) for part in parts)), name
    for level in LEVELS:
        assert both.bytes_by_level[level] == pytest.approx(sum(part.bytes_by_level[level] for part in parts))


def test_unfused_attention_pays_for_its_scores():
    heads, length, width = 12, 1024, 64
    shape, scores = (1, heads, length, width), (1, heads, length, length)
    shapes = dict.fromkeys(("q", "k", "v", "y"), shape) | {"s": scores, "p": scores}
    apart = net_of(
        shapes,
        [
            ("matmul", ["q", "k"], ["s"], {"transpose_b": True}),
            ("softmax", ["s"], ["p"]),
            ("matmul", ["p", "v"], ["y"]),
        ],
    )
    fused = net_of(dict.fromkeys("qkvy", shape), [("attention", ["q", "k", "v"], ["y"])])
    for device in DEVICES:
        whole, parts = price_net(fused, device).total, price_net(apart, device).total
        assert parts.bytes_by_level["cache"] - whole.bytes_by_level["cache"] > 3 * 4 * prod(scores)
        assert parts.joules > whole.joules
