"""A graph on another device: weights, constants and new tensors go along, and the original stays."""

import torch
from torch.fx import GraphModule

from szilard.rewriter.on_device import on_device
from szilard.rewriter.trace_torch import trace_module


class Model(torch.nn.Module):
    """Attention whose result is viewed, with positions that are made on the way and a causal mask in a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.width = torch.nn.Linear(8, 24)
        self.register_buffer("mask", torch.tril(torch.ones(6, 6, dtype=torch.bool)))

    def forward(self, x):
        x = x + torch.arange(x.shape[1], dtype=x.dtype).reshape(1, -1, 1) + torch.full((1,), 0.5)
        q, k, v = (part.reshape(2, 6, 2, 4).transpose(1, 2) for part in self.width(x).chunk(3, -1))
        mixed = torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=self.mask)
        return mixed.transpose(1, 2).reshape(2, 6, 8)


def traced() -> GraphModule:
    return trace_module(Model().eval(), (torch.randn(2, 6, 8),)).graph


def test_everything_is_made_on_the_device():
    graph = traced()
    moved = on_device(graph, "meta")
    with torch.inference_mode():
        (out,) = torch.utils._pytree.tree_leaves(moved(torch.randn(2, 6, 8, device="meta")))
    assert (out.device.type, out.shape) == ("meta", (2, 6, 8))
    assert {tensor.device.type for tensor in (*moved.parameters(), *moved.buffers())} == {"meta"}
    assert {tensor.device.type for tensor in (*graph.parameters(), *graph.buffers())} == {"cpu"}
    assert {str(node.kwargs["device"]) for node in graph.graph.nodes if node.kwargs.get("device")} == {"cpu"}


def test_a_view_becomes_a_reshape_since_kernels_of_the_device_may_lay_out_otherwise():
    graph = torch.fx.Graph()
    view = graph.call_function(torch.ops.aten.view.default, (graph.placeholder("x"), [6]))
    graph.output(view)
    moved = on_device(GraphModule({}, graph), "cpu")
    turned = torch.arange(6.0).reshape(2, 3).T
    assert moved(turned).tolist() == [0, 3, 1, 4, 2, 5]


def test_the_same_device_gives_the_same_result():
    graph, x = traced(), torch.randn(2, 6, 8)
    with torch.inference_mode():
        expected, found = (torch.utils._pytree.tree_leaves(each(x))[0] for each in (graph, on_device(graph, "cpu")))
    torch.testing.assert_close(found, expected)
