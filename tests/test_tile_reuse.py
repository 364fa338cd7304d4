"""Traffic of tilings: the closed forms are the best of real schedules, walked tile by tile; they fall with capacity to nothing."""

from dataclasses import replace
from itertools import product
from math import ceil, inf, prod

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from szilard.cost_model.tile_reuse import Product, Scores, Steps, Window, again, excess, reread, tiles


def pieces(extent, tile):
    """[start, stop) of the blocks of an axis."""
    return [(start, min(start + tile, extent)) for start in range(0, extent, tile)]


class Pad:
    """A scratchpad that counts the bytes moved in and out and the most it ever held."""

    def __init__(self):
        self.moved, self.most = 0.0, 0.0

    def hold(self, size):
        self.most = max(self.most, size)


def walk_result(nest, a, b):
    """A tile of a x b results stays; columns of the left operand and rows of the right one stream past it."""
    pad = Pad()
    for (i, i_end), (j, j_end) in product(pieces(nest.rows, a), pieces(nest.columns, b)):
        height, width = i_end - i, j_end - j
        for _ in range(nest.inner):
            pad.hold(height * width * nest.partial + height * nest.left + width * nest.right)
            pad.moved += height * nest.left + width * nest.right
        pad.moved += height * width * nest.partial
    return nest.batch * pad.moved, pad.most


def walk_operand(nest, a, left):
    """`a` whole rows of the left operand (or columns of the right one) stay; the other operand streams past them, vector by vector."""
    pad = Pad()
    stays, streams = (nest.left, nest.right) if left else (nest.right, nest.left)
    kept, passing = (nest.rows, nest.columns) if left else (nest.columns, nest.rows)
    for i, i_end in pieces(kept, a):
        pad.moved += (i_end - i) * nest.inner * stays
        for _ in range(passing):
            pad.hold((i_end - i) * (nest.inner * stays + nest.partial) + nest.inner * streams)
            pad.moved += nest.inner * streams + (i_end - i) * nest.partial
    return nest.batch * pad.moved, pad.most


def best(walks, fast):
    return min((moved for moved, held in walks if held <= fast), default=inf)


SIZES = st.integers(1, 9)
ITEMS = st.sampled_from([0.5, 1.0, 2.0, 4.0, 8.0])


@given(SIZES, SIZES, SIZES, st.integers(1, 3), ITEMS, ITEMS, st.sampled_from([4.0, 8.0]), st.integers(24, 700))
@settings(max_examples=100, deadline=None)
def test_a_product_moves_what_its_best_schedule_moves(rows, inner, columns, batch, left, right, partial, fast):
    nest = Product(batch, rows, inner, columns, left, right, partial)
    walks = [walk_result(nest, a, b) for a in range(1, rows + 1) for b in range(1, columns + 1)]
    walks += [walk_operand(nest, a, True) for a in range(1, rows + 1)]
    walks += [walk_operand(nest, a, False) for a in range(1, columns + 1)]
    compulsory = batch * (rows * inner * left + inner * columns * right + rows * columns * partial)
    assert compulsory + excess(nest, float(fast)) == pytest.approx(best(walks, fast))


def touched(nest, h, w):
    """Input positions that the outputs h x w (pairs of [start, stop)) touch, by looking at every window."""
    spans = [h, (0, nest.extent[1]), w]
    axes = [
        {i * s + k for i in range(*span) for k in range(size)}
        for span, s, size in zip(spans, nest.step, nest.kernel, strict=True)
    ]
    return prod(map(len, axes))


def walk_result_stays(nest, images, ph, pw, channels, whole):
    """A tile of the result stays and one input channel after another streams by; with `whole` the patch stays with all its channels and
    one output channel after another streams by."""
    pad = Pad()
    for (i, i_end), h, w in product(pieces(nest.images, images), pieces(nest.extent[0], ph), pieces(nest.extent[2], pw)):
        count, patch = i_end - i, (i_end - i) * touched(nest, h, w)
        pixels = count * (h[1] - h[0]) * nest.extent[1] * (w[1] - w[0])
        if whole:
            pad.moved += nest.inputs * patch * nest.input + nest.outputs * nest.inputs * nest.taps * nest.weight
            pad.hold(nest.inputs * (patch * nest.input + nest.taps * nest.weight) + pixels * nest.partial)
            continue
        for c, c_end in pieces(nest.outputs, channels):
            made = c_end - c
            pad.moved += nest.inputs * (patch * nest.input + made * nest.taps * nest.weight)
            pad.hold(patch * nest.input + made * (nest.taps * nest.weight + pixels * nest.partial))
    return nest.groups * pad.moved, pad.most


def walk_weights_stay(nest, made):
    """All weights of some channels stay; each image slides by in a buffer that keeps what later windows still need."""
    pad, image = Pad(), touched(nest, (0, nest.extent[0]), (0, nest.extent[2]))
    width = (nest.extent[2] - 1) * nest.step[2] + nest.kernel[2]
    row = ((nest.extent[1] - 1) * nest.step[1] + nest.kernel[1]) * width
    line = (nest.kernel[0] - 1) * row + (nest.kernel[1] - 1) * width + nest.kernel[2]
    for c, c_end in pieces(nest.outputs, made):
        weights = (c_end - c) * nest.inputs * nest.taps * nest.weight
        pad.moved += weights + nest.inputs * nest.images * image * nest.input
        pad.hold(weights + nest.inputs * line * nest.input + (c_end - c) * nest.partial)
    return nest.groups * pad.moved, pad.most


@st.composite
def windows(draw):
    size = st.integers(1, 5)
    kernel = tuple(draw(st.lists(st.integers(1, 3), min_size=3, max_size=3)))
    extent = (draw(size), draw(st.integers(1, 2)), draw(size))
    step = tuple(draw(st.integers(1, k)) for k in kernel)
    shape = {"images": draw(st.integers(1, 3)), "groups": draw(st.integers(1, 2)), "inputs": draw(size), "outputs": draw(size)}
    shape |= {"extent": extent, "kernel": kernel, "step": step, "taps": prod(kernel)}
    shape |= {"input": draw(ITEMS), "weight": draw(ITEMS), "partial": 4.0}
    bare = Window(**shape, read=0.0)
    positions = touched(bare, (0, extent[0]), (0, extent[2]))
    return Window(**shape, read=shape["input"] * shape["images"] * shape["groups"] * shape["inputs"] * positions)


@given(windows(), st.integers(60, 2000))
@settings(max_examples=300, deadline=None)
def test_a_convolution_moves_what_its_best_schedule_moves(nest, fast):
    grid = [(1, h, w) for h in range(1, nest.extent[0] + 1) for w in range(1, nest.extent[2] + 1)]
    grid += [(images, nest.extent[0], nest.extent[2]) for images in range(1, nest.images + 1)]
    walks = [walk_result_stays(nest, *tile, c, False) for tile in grid for c in range(1, nest.outputs + 1)]
    walks += [walk_result_stays(nest, *tile, 1, True) for tile in grid]
    walks += [walk_weights_stay(nest, c) for c in range(1, nest.outputs + 1)]
    # Results are left out on both sides: each is written once. The smallest tile is taken even where it does not fit.
    compulsory = nest.read + nest.groups * nest.outputs * nest.inputs * nest.taps * nest.weight
    found = best(walks, fast)
    if found < inf:
        assert compulsory + excess(nest, float(fast)) == pytest.approx(found)


def walk_scores(nest, rows):
    """`rows` queries stay with their results and all keys stream by; or, with none, all keys stay and queries stream by."""
    pad, pair = Pad(), (nest.depth + nest.value_depth) * nest.key
    row = nest.depth * nest.query + (nest.value_depth + 3) * nest.partial
    loaded = nest.depth * nest.query + nest.value_depth * nest.partial
    if not rows:
        return nest.batch * (nest.keys * pair + nest.rows * loaded), nest.keys * pair + row
    for start, stop in pieces(nest.rows, rows):
        pad.hold((stop - start) * row + pair)
        pad.moved += (stop - start) * loaded + nest.keys * pair
    return nest.batch * pad.moved, pad.most


@given(SIZES, SIZES, SIZES, SIZES, st.integers(1, 3), ITEMS, ITEMS, st.integers(270, 900))
@settings(max_examples=400, deadline=None)
def test_attention_moves_what_its_best_schedule_moves(rows, keys, depth, value_depth, batch, query, key, fast):
    nest = Scores(batch, rows, keys, depth, value_depth, query, key, 4.0)
    walks = [walk_scores(nest, r) for r in range(rows + 1)]
    compulsory = batch * (rows * (depth * query + value_depth * 4.0) + keys * (depth + value_depth) * key)
    assert compulsory + excess(nest, float(fast)) == pytest.approx(best(walks, fast))
    assert excess(replace(nest, causal=True), float(fast)) == pytest.approx(excess(nest, float(fast)) / 2)


def test_flash_attention_costs_what_its_paper_says():
    """4 N^2 d^2 / M words for keys and values, with tiles of M / 2d rows (arXiv 2307.08691)."""
    length, depth, words = 65536, 64, 2.0**18
    moved = excess(Scores(1, length, length, depth, depth, 4.0, 4.0, 4.0), 4 * words) / 4
    assert moved == pytest.approx(4 * length**2 * depth**2 / words, rel=0.05)


def test_a_square_product_costs_what_its_best_tiling_is_known_to_cost():
    """2 n^3 / (sqrt(M + 1) - 1) words in and n^2 out (Smith et al., arXiv 1702.02017), at a size that the tile divides."""
    tile, blocks = 99, 10
    n, words = tile * blocks, (tile + 1) ** 2 - 1
    moved = excess(Product(1, n, n, n, 4.0, 4.0, 4.0), 4.0 * words) / 4 + 2 * n * n
    assert moved == 2 * n**3 / tile


NESTS = st.one_of(
    st.builds(Product, st.integers(1, 4), *[st.integers(1, 3000)] * 3, ITEMS, ITEMS, st.sampled_from([4.0, 8.0])),
    st.builds(
        Scores,
        st.integers(1, 9),
        *[st.integers(1, 3000)] * 2,
        *[st.integers(1, 256)] * 2,
        ITEMS,
        ITEMS,
        st.just(4.0),
        st.booleans(),
    ),
    windows(),
    st.builds(Steps, st.floats(1, 1e7), st.integers(1, 500)),
)


@given(NESTS, st.floats(16, 1e8), st.floats(1, 100))
@settings(max_examples=200, deadline=None)
def test_more_memory_never_moves_more_and_enough_moves_nothing_more(nest, fast, factor):
    small, large = excess(nest, fast), excess(nest, fast * factor)
    assert 0 <= large <= small < inf
    assert excess(nest, 1e12) == 0


def test_what_is_read_again_adds_up():
    one, other = Product(2, 300, 200, 100, 4.0, 4.0, 4.0), Steps(1e6, 5)
    assert reread([one, other, one], 1e4) == 2 * excess(one, 1e4) + excess(other, 1e4)
    assert reread([], 1e4) == 0
    assert excess(other, 4e5) == 4 * 6e5


@pytest.mark.parametrize("extent", [1, 2, 7, 100, 101, 12345])
def test_tiles_hold_the_shortest_for_every_number_of_blocks(extent):
    assert {ceil(extent / blocks) for blocks in range(1, extent + 1)} <= set(tiles(extent))
    assert tiles(extent).max() == extent
    assert tiles(extent).min() == 1
    assert len(tiles(extent)) <= 2 * extent**0.5 + 2


def test_a_tile_below_one_is_no_tile():
    assert again(10, np.array([0.9, 1.0, 2.5, 10.0, 11.0])).tolist() == [inf, 9, 4, 0, 0]
