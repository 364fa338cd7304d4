"""The lines of a printed forward: unpacking, module paths, the device of the inputs, and calls of modules."""

import operator

import torch
from torch import nn

from szilard.rewriter.print_body import Body

from .fx_graphs import GraphMaker, aten, cleaned, traced


def lines_of(graph, dynamic=None):
    return list(Body(graph, dynamic or {}).lines())


def test_pieces_are_unpacked_and_what_nobody_reads_is_not_named():
    maker = GraphMaker()
    split = maker.call(aten.split_with_sizes.default, maker.x, [1, 1, 3], -1)
    last = maker.call(operator.getitem, split, 2)
    again = maker.call(operator.getitem, split, 2)
    assert lines_of(maker.module(maker.call(aten.add.Tensor, last, again))) == [
        "_, _, pieces = x.split([1, 1, 3], -1)",
        "add = pieces + pieces  # [3, 4, 3]",
        "return add",
    ]


def test_only_the_first_output_of_a_norm_is_its_plain_form():
    maker = GraphMaker()
    norm = maker.call(aten.native_layer_norm.default, maker.x, [5], None, None, 1e-5)
    first = maker.call(operator.getitem, norm, 0)
    assert lines_of(maker.module(first))[0] == "layer_norm = F.layer_norm(x, [5], None, None, 1e-05)  # [3, 4, 5]"


def test_all_outputs_of_a_norm_are_called_by_the_aten_name():
    maker = GraphMaker()
    norm = maker.call(aten.native_layer_norm.default, maker.x, [5], None, None, 1e-5)
    both = [maker.call(operator.getitem, norm, index) for index in (0, 2)]
    graph = maker.module(*both)
    assert lines_of(graph)[0] == "layer_norm, _, layer_norm_1 = aten.native_layer_norm.default(x, [5], None, None, 1e-05)"


def test_a_path_is_written_where_the_module_changes_and_leaves_are_not_named():
    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = nn.Linear(3, 3)

        def forward(self, x):
            return self.inner(x).relu()

    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.blocks = nn.ModuleList([Block(), Block()])

        def forward(self, x):
            return self.blocks[1](self.blocks[0](x)) * 2

    lines = lines_of(cleaned(traced(Two(), torch.ones(2, 3))))
    assert [line for line in lines if line.startswith("#")] == ["# blocks.0", "# blocks.1", "# the model itself"]


def test_tensors_are_made_on_the_device_of_the_inputs():
    maker = GraphMaker()
    made = maker.call(aten.full.default, [2], 1.0, dtype=torch.float32, device=torch.device("cpu"), pin_memory=False)
    assert lines_of(maker.module(made))[:2] == [
        "device = x.device",
        "full = torch.full([2], 1.0, dtype=torch.float32, device=device)  # [2]",
    ]


def test_a_cast_does_not_name_the_device_it_is_on():
    maker = GraphMaker()
    cast = maker.call(aten._to_copy.default, maker.x, dtype=torch.float64, layout=torch.strided, device=torch.device("cpu"))
    assert lines_of(maker.module(cast))[0] == "cast = x.to(torch.float64)  # [3, 4, 5]"


def test_nested_results_are_flat_and_none_is_kept_in_place():
    maker = GraphMaker()
    graph = maker.module(maker.x, [maker.y, maker.x], None)
    assert lines_of(graph)[-1] == "return (x, y, x, None)"


def test_gpt2_rows_and_stored_weights_read_as_linear():
    class Rows(nn.Module):
        def __init__(self):
            super().__init__()
            self.stored, self.turned, self.bias = (nn.Parameter(torch.randn(*s)) for s in ((4, 6), (6, 4), (6,)))

        def forward(self, x):
            return (
                torch.addmm(self.bias, x, self.stored),
                torch.addmm(self.bias, x, self.turned.t()),
                torch.mm(x, self.turned.t()),
            )

    lines = lines_of(cleaned(traced(Rows(), torch.randn(3, 4))))
    assert [line.partition("  #")[0] for line in lines if "linear" in line][:3] == [
        "linear = torch.addmm(self.bias, x, self.stored)",
        "linear_1 = F.linear(x, self.turned, self.bias)",
        "linear_2 = F.linear(x, self.turned)",
    ]
