"""Names in printed code: never one name for two live values, never a word of Python, symbols that say what they count."""

import keyword

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from szilard.rewriter.print_names import (
    RESERVED,
    Variables,
    identifier,
    last_uses,
    shape_text,
    symbol_names,
    weight_names,
    word_of,
)

from .fx_graphs import GraphMaker, aten, traced

WORDS = st.sampled_from(["linear", "add", "sum", "torch", "x", "lambda"])


@given(st.lists(st.one_of(WORDS, st.integers(0, 5)), max_size=40))
def test_live_names_are_distinct_and_free_ones_are_used_again(steps):
    names, live = Variables(["x"]), []
    for step in steps:
        if isinstance(step, str):
            name = names.take(step)
            assert name not in live
            assert name not in RESERVED | {"x"}
            live.append(name)
        elif live:
            gone = live.pop(step % len(live))
            names.release(gone)
            assert names.take(gone) == gone
            names.release(gone)


def test_kept_names_are_never_used_again():
    names = Variables([])
    assert names.keep("batch") == "batch"
    names.release("batch")
    assert names.take("batch") == "batch_1"


@given(st.text(max_size=12))
def test_any_text_becomes_a_python_name(text):
    name = identifier(text)
    assert name.isidentifier() or keyword.iskeyword(name)


def test_each_value_dies_where_it_is_last_read():
    maker = GraphMaker()
    a = maker.call(aten.relu.default, maker.x)
    b = maker.call(aten.neg.default, a)
    c = maker.call(aten.add.Tensor, a, b)
    unread = maker.call(aten.tanh.default, c)
    graph = maker.module(c)
    dead = last_uses(list(graph.graph.nodes), {})
    assert dead[c] == [a, b]
    assert unread in dead[unread]
    assert a not in dead.get(b, [])
    shared = last_uses(list(graph.graph.nodes), {b: a})
    assert shared[c] == [a]


def test_words_are_those_of_the_operator():
    maker = GraphMaker()
    assert word_of(maker.call(aten._softmax.default, maker.x, -1, False)) == "softmax"
    rows = maker.call(aten.select.int, maker.x, 0, 0)
    assert word_of(maker.call(aten.mm.default, rows, maker.call(aten.permute.default, rows, [1, 0]))) == "linear"


def test_sizes_get_the_names_of_the_axes():
    class Flat(nn.Module):
        def forward(self, x, y):
            return x.flatten() * 2, y + 1

    program = traced(Flat(), torch.randn(3, 4), torch.randn(5), dynamic={"x": {0: "rows", 1: "in-put"}, "y": {0: "others"}})
    names = symbol_names(program.graph, {"x": {0: "rows", 1: "in-put"}})
    assert list(names.values()) == ["rows", "in_put", "y_0"]
    product = next(node for node in program.graph.graph.nodes if node.target is aten.mul.Tensor).meta["val"]
    assert shape_text(product, names) in ("[in_put*rows]", "[rows*in_put]")
    assert shape_text(torch.zeros(2, 1), {}) == "[2, 1]"


def test_weights_do_not_hide_methods_or_each_other():
    class Clash(nn.Module):
        def __init__(self):
            super().__init__()
            self.a = nn.ParameterDict({"b_c": nn.Parameter(torch.ones(1))})
            self.a_b = nn.ParameterDict({"c": nn.Parameter(torch.ones(1))})
            self.zero = nn.ParameterDict({"grad": nn.Parameter(torch.ones(1))})

        def forward(self, x):
            return x + self.a["b_c"] * self.a_b["c"] * self.zero["grad"]

    names = weight_names(traced(Clash(), torch.ones(2)).graph)
    assert len(set(names.values())) == 3
    assert not any(hasattr(nn.Module, name) for name in names.values())
