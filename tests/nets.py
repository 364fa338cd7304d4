"""`NetBuilder`: nets written by hand, one call an op, with shapes worked out for the few kinds the finders read."""

import math

import numpy as np

from szilard.cost_model.net import Net, Op, Value
from szilard.cost_model.sites import SiteMask


class NetBuilder:
    """Each method adds one op and gives the name of its output; `net(...)` closes the graph."""

    def __init__(self, dtype: str = "float32") -> None:
        self.dtype = dtype
        self.ops: dict[str, Op] = {}
        self.values: dict[str, Value] = {}
        self.inputs: list[str] = []
        self.random = np.random.default_rng(0)

    def input(self, name: str, *shape: int, dtype: str | None = None) -> str:
        self.values[name] = Value(name, shape, dtype or self.dtype)
        self.inputs.append(name)
        return name

    def constant(self, name: str, array) -> str:
        array = np.asarray(array)
        self.values[name] = Value(name, array.shape, str(array.dtype), lambda: array)
        return name

    def weight(self, name: str, *shape: int) -> str:
        return self.constant(name, self.random.standard_normal(shape).astype(self.dtype))

    def number(self, value: float) -> str:
        return self.constant(f"number_{len(self.values)}", np.asarray(value, self.dtype))

    def shape(self, name: str) -> tuple[int, ...]:
        shape = self.values[name].shape
        assert shape is not None
        return shape

    def op(
        self,
        kind: str,
        *inputs: str,
        shape=None,
        id: str = "",
        origin: str = "",
        dtype: str = "",
        outputs=1,
        branches=(),
        **attributes,
    ):
        """Any op; `shape` defaults to the broadcast of the operands."""
        if shape is None:
            shape = np.broadcast_shapes(*(self.shape(name) for name in inputs if name))
        name = id or f"{kind}_{len(self.ops)}"
        names = (name, *(f"{name}.{index}" for index in range(1, outputs)))
        dtype = dtype or next(
            (self.values[i].dtype for i in reversed(inputs) if i and self.values[i].dtype != "bool"), self.dtype
        )
        for output in names:
            self.values[output] = Value(output, tuple(shape), dtype)
        self.ops[name] = Op(name, kind, f"test.{kind}", inputs, names, attributes, origin, branches)
        return name

    def matmul(self, a: str, b: str, bias: str = "", transpose_b: bool = False, **more):
        left, right = self.shape(a), self.shape(b)
        right = (*right[:-2], right[-1], right[-2]) if transpose_b else right
        shape = (*np.broadcast_shapes(left[:-2], right[:-2]), left[-2], right[-1])
        names = (a, b, bias) if bias else (a, b)
        return self.op(
            "matmul", *names, shape=shape, transpose_a=False, transpose_b=transpose_b, **{"alpha": 1.0, "beta": 1.0, **more}
        )

    def reshape(self, x: str, *shape: int, **more):
        if -1 in shape:
            rest = math.prod(self.shape(x)) // -math.prod(shape)
            shape = tuple(rest if size == -1 else size for size in shape)
        return self.op("reshape", x, shape=shape, **more)

    def transpose(self, x: str, *perm: int, **more):
        return self.op("transpose", x, shape=[self.shape(x)[axis] for axis in perm], perm=list(perm), **more)

    def expand(self, x: str, *shape: int):
        return self.op("expand", x, shape=shape)

    def softmax(self, x: str, axis: int = -1, **more):
        return self.op("softmax", x, axis=axis, **more)

    def layer_norm(self, x: str, weight: str, bias: str = "", axis: int = -1, **more):
        names = (x, weight, bias) if bias else (x, weight)
        return self.op("layer_norm", *names, shape=self.shape(x), axis=axis, epsilon=1e-5, **more)

    def net(self, *outputs: str) -> Net:
        return Net(self.ops, self.values, tuple(self.inputs), outputs)


def run_net(net: Net, feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Every value of a hand-written net in float64, computed op by op with numpy."""
    seen = {name: np.asarray(value, np.float64) if value.dtype != bool else value for name, value in feeds.items()}
    for name, value in net.values.items():
        if value.load is not None:
            array = value.load()
            seen[name] = array if array.dtype == bool else array.astype(np.float64)
    for op in net.ops.values():
        seen[op.output] = _compute(op, [seen[name] for name in op.inputs if name], net.shape(op.output))
    return seen


def _compute(op: Op, x: list[np.ndarray], shape: tuple[int, ...] | None) -> np.ndarray:
    simple = {
        "add": np.add, "sub": np.subtract, "mul": np.multiply, "div": np.divide, "where": np.where, "tanh": np.tanh, "isnan": np.isnan,
        "not": np.logical_not, "relu": lambda a: np.maximum(a, 0), "identity": lambda a: a, "cast": lambda a: a, "dropout": lambda a, *_: a,
        "eq": np.equal, "sqrt": np.sqrt,
    }  # fmt: skip
    if op.kind in simple:
        return simple[op.kind](*x)
    if op.kind == "matmul":
        a = np.swapaxes(x[0], -1, -2) if op.attributes["transpose_a"] else x[0]
        b = np.swapaxes(x[1], -1, -2) if op.attributes["transpose_b"] else x[1]
        bias = op.attributes["beta"] * x[2] if len(x) > 2 else 0.0
        return op.attributes["alpha"] * (a @ b) + bias
    if op.kind == "transpose":
        return np.transpose(x[0], op.attributes["perm"])
    if op.kind in ("reshape", "squeeze", "unsqueeze"):
        return np.reshape(x[0], shape)
    if op.kind == "expand":
        return np.broadcast_to(x[0], shape)
    if op.kind == "softmax":
        powers = np.exp(x[0] - np.max(x[0], axis=op.attributes["axis"], keepdims=True))
        return powers / powers.sum(axis=op.attributes["axis"], keepdims=True)
    if op.kind == "reduce_max":
        return np.max(x[0], axis=tuple(op.attributes["axes"]), keepdims=True)
    raise NotImplementedError(op.kind)


def attend(seen: dict[str, np.ndarray], site) -> np.ndarray:
    """What an `AttentionSite` says its output is, from the values it names, in float64: [batch, heads, queries, D_v]."""
    query, key = (np.asarray(seen[name], np.float64) for name in (site.query, site.key))
    key = np.swapaxes(key, -1, -2) if site.key_transposed else key
    assert query.shape == (site.batch, site.heads, site.query_length, site.head_dim)
    assert key.shape == (site.batch, site.kv_heads, site.key_length, site.head_dim)
    repeats = site.heads // site.kv_heads
    scores = site.scale * query @ np.swapaxes(np.repeat(key, repeats, 1), -1, -2)
    if site.softcap:
        scores = site.softcap * np.tanh(scores / site.softcap)
    if site.causal:
        scores = np.where(np.tri(site.query_length, site.key_length, dtype=bool), scores, -np.inf)
    for mask in site.masks or ([SiteMask(site.mask, site.mask_kind)] if site.mask else []):
        scores = _masked(scores, np.asarray(seen[mask.value]), mask, site)
    if site.sink:
        column = np.broadcast_to(np.asarray(seen[site.sink], np.float64), (*scores.shape[:-1], 1))
        scores = np.concatenate([scores, column], -1)
    weights = np.exp(scores - np.max(scores, -1, keepdims=True))
    weights = (weights / weights.sum(-1, keepdims=True))[..., : site.key_length]
    return weights @ np.repeat(np.asarray(seen[site.value], np.float64), repeats, 1)


def _masked(scores: np.ndarray, value: np.ndarray, mask: SiteMask, site) -> np.ndarray:
    if mask.axes:
        sizes = {"B": site.batch, "H": site.heads, "N": site.query_length, "S": site.key_length, "1": 1}
        value = value.reshape([sizes[axis] for axis in mask.axes])
    if mask.kind == "additive":
        return scores + mask.factor * value
    return np.where(value == (mask.kind == "boolean"), scores, mask.fill)


def closed(net: Net, ops, kept: set[str]) -> bool:
    """Whether nothing outside `ops` reads what they write, except the values `kept`."""
    return all(
        name in kept or (name not in net.outputs and all(reader.id in ops for reader in net.consumers(name)))
        for op in ops
        for name in net.ops[op].outputs
    )
