"""The red-blue pebble game played exactly: the least loads and stores of any schedule of a small graph, by A* over its states."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from heapq import heappop, heappush
from itertools import count


def least_words(parents: Sequence[Sequence[int]], outputs: Sequence[int], fast: int, *, recompute: bool = True) -> int:
    """Least words moved to compute `outputs` of the graph whose node v needs `parents[v]` (smaller numbers; a node without is an input).

    Rules of Hong and Kung: `fast` red pebbles, none at the start; blue pebbles on the inputs; load (blue to red) and store (red to blue)
    cost 1; computing needs all parents red and, like dropping, is free; blue on all outputs ends the game. A result may take the pebble of
    one of its parents, which makes accumulators and only lowers the least. Computing a node again is allowed unless `recompute` is False.
    Raises ValueError when `fast` pebbles cannot compute the graph.
    """
    game = _Game(parents, outputs, fast, recompute)
    start = (0, 0, 0)
    best, ticket = {start: 0}, count()
    heap = [(game.remaining(*start), next(ticket), 0, start)]
    while heap:
        _, _, spent, state = heappop(heap)
        if spent > best[state]:
            continue
        if game.outputs & ~state[1] == 0:
            return spent
        for cost, following in game.moves(*state):
            total = spent + cost
            if total < best.get(following, 1 << 30):
                best[following] = total
                # Ties go to the state that was found last: the search dives, since most graphs reach the first estimate.
                heappush(heap, (total + game.remaining(*following), -next(ticket), total, following))
    raise ValueError(f"{fast} pebbles cannot compute this graph")


@dataclass
class _Game:
    """States are (red, blue, done) bit sets: `blue` leaves the inputs out, `done` is used only where each node is computed once.

    Three habits that cost nothing keep the search small: a pebble is dropped only when its place is needed, a node is stored
    when it is an output and just computed, or when it is about to be dropped.
    """

    above: Sequence[Sequence[int]]
    targets: Sequence[int]
    fast: int
    recompute: bool

    def __post_init__(self) -> None:
        self.size = len(self.above)
        self.parents = [sum(1 << p for p in set(above)) for above in self.above]
        self.inputs = sum(1 << v for v in range(self.size) if not self.parents[v])
        self.outputs = sum(1 << v for v in set(self.targets)) & ~self.inputs
        self.reaches = [1 << v for v in range(self.size)]
        for v in reversed(range(self.size)):
            for p in self.above[v]:
                self.reaches[p] |= self.reaches[v]

    def remaining(self, red: int, blue: int, done: int) -> int:
        """Words that are surely still to be moved: outputs not stored, and inputs that they need and that are not at hand."""
        wanted = list(_bits(self.outputs & ~blue))
        words, seen = len(wanted), 0
        for v in wanted:  # grows while it is read
            for p in _bits(self.parents[v] & ~red & ~blue & ~seen):
                seen |= 1 << p
                if self.inputs >> p & 1:
                    words += 1
                else:
                    wanted.append(p)
        return words

    def moves(self, red: int, blue: int, done: int) -> Iterator[tuple[int, tuple[int, int, int]]]:
        """(cost, state) after each way to put one more red pebble, with room made for it if there is none."""
        wanted = self.outputs & ~blue
        rooms = list(self._rooms(red, blue)) if red.bit_count() >= self.fast else [(0, red, blue)]
        for v in range(self.size):
            bit, above = 1 << v, self.parents[v]
            if red & bit or not self.reaches[v] & wanted:
                continue
            if above and not above & ~red and not done & bit:
                stored, after = wanted & bit, done if self.recompute else done | bit
                yield from ((cost + bool(stored), (rest | bit, kept | stored, after)) for cost, rest, kept in rooms)
            elif (self.inputs | blue) & bit:
                yield from ((cost + 1, (rest | bit, kept, done)) for cost, rest, kept in rooms)

    def _rooms(self, red: int, blue: int) -> Iterator[tuple[int, int, int]]:
        """(cost, red, blue) after dropping one pebble, stored first or not. One that no missing output needs goes before all others."""
        wanted = self.outputs & ~blue
        for u in _bits(red):
            if not self.reaches[u] & wanted:
                yield 0, red & ~(1 << u), blue
                return
        for u in _bits(red):
            bit = 1 << u
            yield 0, red & ~bit, blue
            if not (self.inputs | blue) & bit:
                yield 1, red & ~bit, blue | bit


def _bits(mask: int) -> Iterator[int]:
    while mask:
        low = mask & -mask
        yield low.bit_length() - 1
        mask ^= low
