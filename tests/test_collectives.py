"""Bytes over a link: collectives of both runtimes against rings that really pass parts on, copies between devices, and their price."""

from dataclasses import replace

import numpy as np
import onnx
import pytest
import torch
import torch.distributed as dist
from torch.distributed import _functional_collectives as funcol
from torch.testing._internal.distributed.fake_pg import FakeStore

from szilard.cost_model.collectives_onnx import stand_in
from szilard.cost_model.counts import count, count_group
from szilard.cost_model.device import load_device
from szilard.cost_model.measurement import work_of
from szilard.cost_model.price import price_net, price_op
from szilard.cost_model.view_fx import view_fx
from szilard.rewriter.backend_onnx import OnnxBackend

from .onnx_texts import model
from .priced_nets import net_of

H100 = load_device("h100")
DEVICES = 4


def ring(kind: str, parts: list[np.ndarray]) -> tuple[list[np.ndarray], float, float]:
    """(what each device ends up with, bytes and additions of one device) of a ring in which only neighbours talk."""
    count = len(parts)
    pieces = [list(np.array_split(part, count)) for part in parts]
    sent = added = 0.0
    if kind in ("all_reduce", "reduce_scatter"):
        for step in range(count - 1):
            moving = [(rank, (rank - step) % count) for rank in range(count)]
            copies = [pieces[rank][piece].copy() for rank, piece in moving]
            sent += copies[0].nbytes
            added += copies[0].size
            for (rank, piece), copy in zip(moving, copies, strict=True):
                pieces[(rank + 1) % count][piece] = pieces[(rank + 1) % count][piece] + copy
    if kind == "reduce_scatter":
        return [pieces[rank][(rank + 1) % count] for rank in range(count)], sent, added
    if kind == "all_gather":
        pieces = [[part if rank == piece else np.zeros_like(part) for piece in range(count)] for rank, part in enumerate(parts)]
    for step in range(count - 1):
        start = 1 if kind == "all_reduce" else 0
        moving = [(rank, (rank + start - step) % count) for rank in range(count)]
        copies = [pieces[rank][piece].copy() for rank, piece in moving]
        sent += copies[0].nbytes
        for (rank, piece), copy in zip(moving, copies, strict=True):
            pieces[(rank + 1) % count][piece] = copy
    return [np.concatenate(each) for each in pieces], sent, added


@pytest.mark.parametrize("kind", ["all_reduce", "reduce_scatter", "all_gather"])
def test_a_device_sends_and_adds_what_it_does_in_a_ring(kind):
    parts = [np.arange(24, dtype=np.float32) * (rank + 1) for rank in range(DEVICES)]
    results, sent, added = ring(kind, parts)
    if kind == "all_gather":
        assert np.array_equal(results[2], np.concatenate(parts))
    else:
        total = np.sum(parts, axis=0)
        assert np.array_equal(results[0], total if kind == "all_reduce" else np.array_split(total, DEVICES)[1])
    shapes = {"x": (24,), "y": results[0].shape}
    net = net_of(shapes, [(kind, ["x"], ["y"], {"group_size": DEVICES})])
    found = count(net.ops["op0"], net)
    assert found.known
    assert (found.link, sum(found.flops.values())) == (sent, added)
    assert (found.read, found.written) == (96, 4 * results[0].size)


def test_a_group_of_unknown_size_costs_at_least_what_two_devices_do():
    net = net_of({"x": (24,), "y": (24,)}, [("all_reduce", ["x"], ["y"])])
    found = price_op(net.ops["op0"], net, H100)
    assert (found.bytes_by_level["link"], found.at_least) == (96.0, True)
    pair = net_of({"x": (24,), "y": (24,)}, [("all_reduce", ["x"], ["y"], {"group_size": 2})])
    known = price_op(pair.ops["op0"], pair, H100)
    assert (known.bytes_by_level, known.at_least) == (found.bytes_by_level, False)


def test_links_are_paid_in_joules_and_seconds():
    size = 64_000_000
    net = net_of({"x": (size,), "y": (size,)}, [("all_reduce", ["x"], ["y"], {"group_size": 8})])
    cost = price_net(net, H100).total
    crossed = 2 * 7 / 8 * 4 * size
    assert work_of(cost)["link"] == crossed
    assert cost.terms["link"] == pytest.approx(crossed * H100.value("link"))
    assert cost.seconds == pytest.approx(crossed / 450e9 + H100.value("launch_seconds"))
    both = count_group(net.ops.values(), net)
    assert both.link == crossed
    # A profile that does not say how fast its link is still pays for it.
    still = {key: value for key, value in H100.coefficients.items() if key != "bandwidth.link"}
    slow = price_net(net, replace(H100, coefficients=still)).total
    assert slow.terms["link"] == cost.terms["link"]
    assert slow.seconds < cost.seconds


@pytest.fixture
def group():
    dist.init_process_group("fake", rank=0, world_size=DEVICES, store=FakeStore())
    yield dist.group.WORLD
    dist.destroy_process_group()


class Sharded(torch.nn.Module):
    def __init__(self, group):
        super().__init__()
        self.group = group

    def forward(self, x):
        summed = funcol.all_reduce(x, "sum", self.group)
        gathered = funcol.all_gather_tensor(x, 0, self.group)
        scattered = funcol.reduce_scatter_tensor(x, "sum", 0, self.group)
        return summed, gathered, scattered


def test_collectives_of_torch_are_found_with_their_group(group):
    exported = torch.export.export(Sharded(group), (torch.ones(8, 3),)).run_decompositions({})
    net = view_fx(exported.graph_module, {"x": (8, 3)})
    found = {op.kind: count(op, net) for op in net.ops.values() if op.kind != "identity"}
    assert {kind: one.link for kind, one in found.items()} == {
        "all_reduce": 2 * 3 / 4 * 96,
        "all_gather": 3 * 96,
        "reduce_scatter": 3 / 4 * 96,
    }
    assert all(one.known for one in found.values())
    assert price_net(net, H100).total.bytes_by_level["link"] == pytest.approx(144 + 288 + 72)


def test_a_group_that_this_process_does_not_have_is_said(group):
    exported = torch.export.export(Sharded(group), (torch.ones(8, 3),)).run_decompositions({})
    dist.destroy_process_group()
    net = view_fx(exported.graph_module, {"x": (8, 3)})
    known = {op.kind: count(op, net).known for op in net.ops.values() if op.kind != "identity"}
    assert known == {"all_reduce": False, "all_gather": True, "reduce_scatter": True}
    dist.init_process_group("fake", rank=0, world_size=DEVICES, store=FakeStore())


def test_a_copy_to_another_device_crosses_a_link():
    graph = torch.fx.Graph()
    with torch._subclasses.FakeTensorMode(allow_non_fake_inputs=True):
        here, there = torch.empty(5, 7), torch.empty(5, 7, device="cuda")
    x = graph.placeholder("x")
    x.meta["val"] = here
    y = graph.call_function(torch.ops.aten._to_copy.default, (x,), {"device": torch.device("cuda")})
    y.meta["val"] = there
    z = graph.call_function(torch.ops.aten._to_copy.default, (y,), {"dtype": torch.float32})
    z.meta["val"] = there
    graph.output((z,))
    net = view_fx(torch.fx.GraphModule({}, graph), {"x": (5, 7)})
    kinds = [op.kind for op in net.ops.values()]
    assert kinds == ["transfer", "identity"]
    assert count(net.ops[y.name], net).link == 140


def test_collectives_of_onnxruntime_are_found_and_their_shapes_known():
    text = (
        "(float[N,3] x) => (float[N,3] y, float[M,3] z, float[N,3] w) { "
        "a = Relu(x) y = com.microsoft.AllReduce(a) g = com.microsoft.AllGather<group_size = 4, axis = 0>(a) "
        "z = Relu(g) h = com.microsoft.AllToAll<group_size = 4>(a) t = MemcpyToHost(h) w = Relu(t) }"
    )
    net = OnnxBackend().view(model(text), {"x": (8, 3)})
    kinds = {op.kind: op for op in net.ops.values()}
    assert net.shape("z") == (32, 3)
    found = {kind: count(op, net) for kind, op in kinds.items()}
    assert found["all_gather"].link == 3 / 4 * 4 * 96
    assert found["all_to_all"].link == 3 / 4 * 96
    assert found["transfer"].link == 96
    assert (found["all_reduce"].link, found["all_reduce"].known) == (96, False)
    assert [kind for kind, one in found.items() if not one.known] == ["all_reduce"]


def test_a_stand_in_has_the_shape_of_what_it_stands_for():
    nodes = [
        onnx.helper.make_node("AllGather", ["x"], ["y"], domain="com.microsoft", group_size=3, axis=1),
        onnx.helper.make_node("AllReduce", ["x"], ["z"], domain="com.microsoft"),
        onnx.helper.make_node("Relu", ["x"], ["w"]),
    ]
    stand_in(nodes)
    assert [(node.op_type, node.domain, len(node.input)) for node in nodes] == [
        ("Concat", "", 3),
        ("Identity", "", 1),
        ("Relu", "", 1),
    ]
