"""The exact pebble game: least words known by hand, the same as a game without any shortcut, and the bounds of `io_bounds.py` under it."""

import random
from heapq import heappop, heappush
from itertools import count

import pytest

from szilard.cost_model.io_bounds import attention_words, conv_words, matmul_words

from .pebbling import least_words


class Graph(list):
    """The parents of each node, built up; a call adds a node and gives its number."""

    def __call__(self, *parents: int | None) -> int:
        self.append([p for p in parents if p is not None])
        return len(self) - 1


def matmul_graph(m, n, k, accumulate=True):
    """Each sum in a chain: product and sum in one node, or each product a node of its own."""
    graph = Graph()
    a, b = ([[graph() for _ in range(columns)] for _ in range(rows)] for rows, columns in ((m, k), (k, n)))
    outputs = []
    for i in range(m):
        for j in range(n):
            total = graph(a[i][0], b[0][j])
            for step in range(1, k):
                pair = (a[i][step], b[step][j])
                total = graph(*pair, total) if accumulate else graph(graph(*pair), total)
            outputs.append(total)
    return graph, outputs


def conv_graph(size, taps, made, stride):
    graph = Graph()
    x, w = [graph() for _ in range(size)], [[graph() for _ in range(taps)] for _ in range(made)]
    outputs = []
    for weights in w:
        for place in range(0, size - taps + 1, stride):
            total = None
            for tap in range(taps):
                total = graph(x[place + tap], weights[tap], total)
            outputs.append(total)
    return graph, outputs


def attention_graph(queries, keys, depth, value_depth):
    """Without the exponentials and the sums that normalise: they could only add words."""
    graph = Graph()
    q, k, v = (
        [[graph() for _ in range(w)] for _ in range(n)] for n, w in ((queries, depth), (keys, depth), (keys, value_depth))
    )
    outputs = []
    for query in q:
        scores = []
        for key in k:
            score = None
            for a, b in zip(query, key, strict=True):
                score = graph(a, b, score)
            scores.append(score)
        for column in range(value_depth):
            total = None
            for score, value in zip(scores, v, strict=True):
                total = graph(score, value[column], total)
            outputs.append(total)
    return graph, outputs


def random_graph(seed, nodes):
    rng = random.Random(seed)
    graph = Graph()
    for v in range(nodes):
        graph(*rng.sample(range(v), min(v, rng.choice([0, 1, 2, 2, 3]))))
    read = {p for parents in graph for p in parents}
    outputs = [v for v, parents in enumerate(graph) if parents and (v not in read or rng.random() < 0.2)]
    return graph, outputs


def plain_game(parents, outputs, fast, recompute):
    """The rules one by one, Dijkstra over all states: load, store, compute, compute in the place of a parent, drop."""
    inputs = frozenset(v for v, above in enumerate(parents) if not above)
    ticket = count()
    heap, closed = [(0, next(ticket), (frozenset(), inputs, frozenset()))], set()
    while heap:
        spent, _, state = heappop(heap)
        if state in closed:
            continue
        closed.add(state)
        red, blue, done = state
        if blue.issuperset(outputs):
            return spent
        room = len(red) < fast
        following = [(0, (red - {v}, blue, done)) for v in red]
        following += [(1, (red, blue | {v}, done)) for v in red - blue]
        following += [(1, (red | {v}, blue, done)) for v in blue - red if room]
        for v in set(range(len(parents))) - red - inputs:
            if red.issuperset(parents[v]) and (recompute or v not in done):
                after = done if recompute else done | {v}
                following += [(0, (red - {p} | {v}, blue, after)) for p in parents[v]]
                following += [(0, (red | {v}, blue, after))] if room else []
        for cost, reached in following:
            heappush(heap, (spent + cost, next(ticket), reached))
    return None


def played(graph, outputs, fast, **rules):
    try:
        return least_words(graph, outputs, fast, **rules)
    except ValueError:
        return None


@pytest.mark.parametrize("seed", range(24))
@pytest.mark.parametrize("recompute", [True, False])
def test_the_search_finds_what_the_plain_rules_find(seed, recompute):
    graph, outputs = random_graph(seed, 3 + seed % 3)
    for fast in (1, 2, 3):
        assert played(graph, outputs, fast, recompute=recompute) == plain_game(graph, outputs, fast, recompute)


def test_known_games():
    chain = [[], [0], [1], [2]]
    assert least_words(chain, [3], 1) == 2
    assert least_words(chain, [1, 3], 1) == 3
    assert least_words([[], [], [0, 1]], [2], 2) == 3
    assert least_words([[], [0], [0]], [1, 2], 2) == 3
    assert least_words([[], [0], [0]], [1, 2], 1) == 4  # the input is loaded twice, or made room for
    assert least_words(chain, [0], 1) == 0
    with pytest.raises(ValueError, match="1 pebbles cannot"):
        least_words([[], [], [0, 1]], [2], 1)


def test_computing_again_can_save_words():
    found = [
        played(*random_graph(seed, 8), 3, recompute=True) < played(*random_graph(seed, 8), 3, recompute=False)
        for seed in range(60)
        if played(*random_graph(seed, 8), 3, recompute=False) is not None
    ]
    assert any(found)
    assert not all(found)


def check(graph, outputs, fast, bound):
    """Whether the bound, doubled, is above the least words; the bound itself must not be."""
    inputs = sum(not parents for parents in graph)
    words = least_words(graph, outputs, fast)
    assert max(bound, inputs + len(outputs)) <= words
    return 2 * bound > words


MATMULS = [(1, 1, 4), (2, 2, 1), (2, 1, 3), (2, 2, 2)]


def test_no_schedule_of_a_small_matmul_beats_the_bound_and_twice_the_bound_is_beaten():
    doubled = [
        check(*matmul_graph(*size, accumulate=accumulate), fast, matmul_words(size[0] * size[1] * size[2], fast))
        for size in MATMULS
        for fast, accumulate in ((3, True), (4, True), (4, False), (5, True), (6, False), (9, True))
    ]
    assert any(doubled)


def test_two_by_two_matmul_exactly():
    """8 inputs and 4 outputs once everything fits in 6 words; below that something moves twice."""
    assert [least_words(*matmul_graph(2, 2, 2), fast) for fast in (3, 4, 5, 6, 7, 12)] == [17, 14, 13, 12, 12, 12]


def test_no_schedule_of_a_small_convolution_beats_the_bound_and_twice_the_bound_is_beaten():
    doubled = []
    for size, taps, made, stride in [(3, 2, 2, 1), (4, 2, 1, 1), (5, 2, 2, 2), (3, 3, 2, 1), (4, 2, 2, 1)]:
        graph, outputs = conv_graph(size, taps, made, stride)
        overlap = min(-(-taps // stride), (size - taps) // stride + 1)
        for fast in (4, 5, 6) if len(graph) > 17 else (3, 4, 5):
            doubled.append(check(graph, outputs, fast, conv_words(len(outputs) * taps, fast, overlap)))
    assert any(doubled)


@pytest.mark.parametrize(
    ("sizes", "fast"), [((2, 2, 1, 1), 3), ((2, 2, 1, 1), 4), ((2, 2, 1, 1), 5), ((3, 2, 1, 1), 5), ((2, 2, 2, 1), 6)]
)
def test_no_schedule_of_a_small_attention_beats_the_bound(sizes, fast):
    queries, keys, depth, value_depth = sizes
    check(*attention_graph(*sizes), fast, attention_words(queries * keys, depth, value_depth, fast))


@pytest.mark.long
@pytest.mark.parametrize(("size", "fast"), [((2, 2, 3), 5), ((2, 2, 3), 6), ((3, 2, 2), 4), ((3, 2, 2), 5), ((3, 3, 2), 8)])
def test_larger_matmuls_exactly(size, fast):
    check(*matmul_graph(*size), fast, matmul_words(size[0] * size[1] * size[2], fast))
