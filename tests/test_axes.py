"""Named axes against numpy: every element of a moved index array must be where the layout says."""

import math

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from szilard.passes.axes import Part, above, aligned, below, digits, regroup, split, whole

from .nets import NetBuilder

SIZES = (2, 3, 5, 4)


def indices(layout, axes):
    """An array of shape(layout) whose element is the flat index over `axes` (name -> size) that the layout puts there."""
    parts = [part for dimension in layout for part in dimension]
    grid = np.indices([part.size for part in parts]) if parts else np.zeros((0,))
    flat = np.zeros([part.size for part in parts], np.int64)
    for name, size in axes.items():
        index = sum((grid[at] * part.stride for at, part in enumerate(parts) if part.name == name), np.zeros_like(flat))
        flat = flat * size + index
    return flat.reshape([math.prod(part.size for part in dimension) for dimension in layout])


def test_split_and_regroup_name_the_same_elements():
    lead = split("x", (2, 3))
    assert lead == (digits("x", 3, 2), digits("x", 1, 3))
    assert regroup((*lead, whole("n", 5)), (6, 5)) == (whole("x", 6), whole("n", 5))
    assert regroup((whole("x", 6), whole("n", 5)), (2, 3, 1, 5)) == (*lead, (), whole("n", 5))


def test_regroup_refuses_what_cuts_across_digits():
    assert regroup((whole("n", 4), whole("d", 6)), (6, 4)) is None
    assert regroup((whole("n", 3),), (2, 2)) is None


def test_aligned_drops_what_is_broadcast():
    layout = (*split("x", (2, 3)), whole("n", 5))
    assert aligned(layout, (2, 3, 5), (3, 1)) == (digits("x", 1, 3), ())
    assert aligned(layout, (2, 3, 5), (4, 5)) is None
    assert aligned(layout, (2, 3, 5), (1, 2, 3, 5)) is None


def test_repeated_heads_lose_their_inner_digit_on_the_way_up():
    net = NetBuilder()
    few = net.input("few", 2, 2, 1, 5)
    many = net.op("expand", few, shape=(2, 2, 3, 5), id="many")
    flat = net.reshape(many, 2, 6, 5, id="flat")
    done = net.net(flat)
    start = (digits("x", 6, 2), digits("x", 1, 6), whole("s", 5))
    middle = above(done.ops["flat"], done, start)
    assert above(done.ops["many"], done, middle) == (digits("x", 6, 2), digits("x", 3, 2), (), whole("s", 5))


@st.composite
def moves(draw):
    """A random chain of transposes and reshapes from four axes."""
    net, shape = NetBuilder(), SIZES
    value = net.input("start", *shape)
    for _ in range(draw(st.integers(1, 6))):
        if draw(st.booleans()):
            value = net.transpose(value, *draw(st.permutations(range(len(shape)))))
        else:
            factors = [p for size in shape for p in ((2, 2) if size == 4 else (size,) if size > 1 else ())]
            cuts = sorted(draw(st.sets(st.integers(1, max(1, len(factors) - 1)))))
            groups = [factors[a:b] for a, b in zip([0, *cuts], [*cuts, len(factors)], strict=True)]
            value = net.reshape(value, *(math.prod(group) for group in groups))
        shape = net.shape(value)
    return net.net(value)


@settings(max_examples=150, deadline=None)
@given(moves())
def test_layouts_follow_numpy_down_and_up(net):
    axes = dict(zip("abcd", SIZES, strict=True))
    start = tuple(whole(name, size) for name, size in axes.items())
    array, layout, layouts = np.arange(math.prod(SIZES)).reshape(SIZES), start, []
    for op in net.ops.values():
        array = np.transpose(array, op.attributes["perm"]) if op.kind == "transpose" else array.reshape(net.shape(op.output))
        layout = below(op, net, layout)
        assert layout is not None
        np.testing.assert_array_equal(indices(layout, axes), array)
        layouts.append((op, layout))
    for op, found in reversed(layouts):
        layout = above(op, net, found)
        assert layout is not None
    assert layout == start


def test_parts_carry_stride_and_size():
    assert whole("n", 7) == (Part("n", 1, 7),)
    assert whole("n", 1) == ()
