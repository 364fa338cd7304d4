"""Bounds of parts add up when the parts share no value, as the pebble game without recomputing shows."""

import pytest

from szilard.cost_model.io_bounds import matmul_words
from szilard.cost_model.io_parts import floor_of_parts

from .pebbling import least_words
from .priced_nets import net_of
from .test_pebbling import played, random_graph


def joined(seed):
    """Two random graphs, and both as one: an op on an output of the first is an input of the second, so they share no value."""
    (first, first_outputs), (second, second_outputs) = random_graph(2 * seed, 6), random_graph(2 * seed + 1, 6)
    whole, place = [*first, [first_outputs[-1]]], {}
    fed = next(v for v, parents in enumerate(second) if not parents and any(v in above for above in second))
    for v, parents in enumerate(second):
        if v != fed:
            whole.append([place[p] for p in parents])
        place[v] = len(first) if v == fed else len(whole) - 1
    outputs = {*first_outputs[:-1], *(place[v] for v in second_outputs)}
    return ((first, first_outputs), (second, second_outputs)), (whole, sorted(outputs))


@pytest.mark.parametrize("fast", [2, 3])
def test_no_schedule_beats_the_sum_over_parts_that_share_no_value(fast):
    """Counting an excess twice, as parts that share their values would, is beaten."""
    found = []
    for seed in range(120):
        parts, (whole, outputs) = joined(seed)
        words = [played(*part, fast, recompute=False) for part in parts]
        least = None if None in words else played(whole, outputs, fast, recompute=False)
        if least is not None:
            excess = sum(word - least_words(*part, 12) for word, part in zip(words, parts, strict=True))
            found.append((least, least_words(whole, outputs, len(whole)), excess))
    assert sum(excess > 0 for _, _, excess in found) > 10
    assert all(compulsory + excess <= least for least, compulsory, excess in found)
    assert any(compulsory + 2 * excess > least for least, compulsory, excess in found)


MATMUL = ("matmul", ["a", "b"], ["h"])


def chain(*lines):
    square = (512, 512)
    return net_of(dict.fromkeys("abhgcy", square), [MATMUL, *lines])


def test_a_net_of_one_matmul_has_its_bound():
    net = net_of(dict.fromkeys("abh", (512, 512)), [MATMUL])
    assert floor_of_parts(net, 4096) == pytest.approx(4 * matmul_words(512**3, 1024))
    assert floor_of_parts(net, 4e9) == 3 * 4 * 512**2


def test_matmuls_apart_add_their_excess_and_neighbours_do_not():
    size, bound = 4 * 512**2, 4 * matmul_words(512**3, 1024)
    apart = chain(("exp", ["h"], ["g"]), ("matmul", ["g", "c"], ["y"]))
    assert floor_of_parts(apart, 4096) == pytest.approx(4 * size + 2 * (bound - 3 * size))
    shared = net_of(dict.fromkeys("abhcy", (512, 512)), [MATMUL, ("matmul", ["h", "c"], ["y"])])
    assert floor_of_parts(shared, 4096) == pytest.approx(4 * size + bound - 3 * size)
