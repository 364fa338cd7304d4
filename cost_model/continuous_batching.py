"""Continuous batching under Poisson arrivals: how many sequences a step holds, and what a request costs with the watts of an idle device.

A request asks for G tokens; it joins at the next step and leaves after its last token. With k requests a step takes s(k) seconds, so that
k / s(k) tokens leave a second: a processor-sharing queue whose rate depends on how many share it. Its occupancy depends on G by its mean
alone (Cohen, "The multiple phase service network with generalized processor sharing", 1979): p(k) ~ product over j <= k of
arrivals x G x s(j) / j. Requests beyond the largest batch wait in turn; there the mean is exact for lengths without memory only.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import floor, sqrt

import numpy as np

from .errors import InputError
from .serving import OperatingPoint


@dataclass(frozen=True)
class Occupancy:
    """A served stream in the long run. `busy` is the share of time with a request in service, `batch` the mean number in service
    while busy, `waiting` that of requests in the queue, `seconds_per_token` [s] the mean step that a token takes, `request_seconds` [s]
    the mean stay, `joules` [J] a request with the static watts of all time, of which `idle_joules` [J] while nothing was served."""

    busy: float
    batch: float
    waiting: float
    seconds_per_token: float
    request_seconds: float
    joules: float
    idle_joules: float


def largest_arrivals(points: Sequence[OperatingPoint], tokens: float) -> float:
    """Requests of `tokens` tokens a second [1/s] that the largest of `points` can serve: beyond it the queue grows without end."""
    return max(points, key=lambda point: point.batch).tokens_per_second / tokens


def occupancy(points: Sequence[OperatingPoint], arrivals: float, tokens: float, idle_watts: float) -> Occupancy:
    """The long run of `arrivals` [1/s] requests of `tokens` tokens in the mean, in batches up to the largest of `points`; a step
    between two points lies on the straight line between them. `idle_watts` [W] are drawn while nothing is served.

    Raises InputError where more arrive than the largest batch can serve.
    """
    limit = max(point.batch for point in points)
    load = arrivals / largest_arrivals(points, tokens)
    if load >= 1.0:
        raise InputError(
            f"{arrivals:g} requests/s of {tokens:g} tokens are {arrivals * tokens:.4g} tokens/s, and {limit} sequences at once make "
            f"{arrivals * tokens / load:.4g}: the queue would grow without end; spread them over {floor(load) + 1} or more devices."
        )
    seconds, joules = steps(points, limit)
    batch = np.arange(1, limit + 1)
    logs = np.concatenate([[0.0], np.cumsum(np.log(arrivals * tokens * seconds / batch))])
    weights = np.exp(logs - logs.max())
    # Beyond the limit each further request is as likely as the one before it times the load: a geometric tail.
    tail, queued = weights[-1] * load / (1 - load), weights[-1] * load / (1 - load) ** 2
    total = weights.sum() + tail
    share = np.append(weights[1:-1], weights[-1] + tail) / total
    idle = float(weights[0] / total)
    serving, waiting = float(share @ batch), float(queued / total)
    watts = float(share @ (joules / seconds))
    return Occupancy(
        busy=1.0 - idle,
        batch=serving / (1.0 - idle),
        waiting=waiting,
        seconds_per_token=serving / (arrivals * tokens),
        # Who comes while a step runs waits for its end, half a step in the mean.
        request_seconds=(serving + waiting) / arrivals + float(share @ seconds) / 2.0,
        joules=(watts + idle * idle_watts) / arrivals,
        idle_joules=idle * idle_watts / arrivals,
    )


def steps(points: Sequence[OperatingPoint], limit: int) -> tuple[np.ndarray, np.ndarray]:
    """Seconds [s] and joules [J] of a step of 1, 2, ... `limit` sequences, by straight lines between the points."""
    known = sorted(points, key=lambda point: point.batch)
    at, batch = [point.batch for point in known], np.arange(1, limit + 1)
    seconds = np.interp(batch, at, [point.seconds for point in known])
    return seconds, np.interp(batch, at, [point.joules * point.batch for point in known])


def gathered_batch(arrivals: float, longest: float, compute: Callable[[int], float], limit: int) -> int:
    """Eq. 20: the batch min(B_max, floor(arrivals x (longest - compute(B)))), where `longest` [s] is what a request may take and compute(B)
    [s] what a batch takes. B stands on both sides: the largest that does not exceed its right side; 0 if there is none.
    """
    low, high = 0, limit + 1
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if middle <= arrivals * (longest - compute(middle)) else (low, middle)
    return low


def marginal_joules(points: Sequence[OperatingPoint], tokens: float) -> float:
    """e_marginal of eq. 21: by how much the dynamic joules of a request of `tokens` tokens change with each sequence more in its batch [J],
    from the smallest to the largest of `points`. Negative for a decoder, which shares its weights; 0 for one batch."""
    first, last = (pick(points, key=lambda point: point.batch) for pick in (min, max))
    dynamic = [tokens * (point.joules - point.static) for point in (first, last)]
    return (dynamic[1] - dynamic[0]) / (last.batch - first.batch) if last.batch > first.batch else 0.0


def printed_request_energy(batch: float, static: float, longest: float, dynamic: float, marginal: float) -> float:
    """Eq. 21 as printed: e_static tau_max / B + e_dynamic(B) [J], with e_dynamic = `dynamic` + `marginal` B, the only form that gives the
    optimum it states. `static` [W], `longest` [s]."""
    return static * longest / batch + dynamic + marginal * batch


def printed_optimal_batch(static: float, longest: float, marginal: float) -> float:
    """The optimum that eq. 21 states: sqrt(e_static tau_max / e_marginal). Joules a request of a real step fall with the batch, so it
    is none of a decoder's."""
    return sqrt(static * longest / marginal)
