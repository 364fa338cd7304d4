"""A server simulated event by event: Poisson arrivals, steps of whatever is there, joules of every second; nothing is averaged before."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy import stats

BATCHES = 24
"""Stretches of equal numbers of requests; their means are near independent, so that a t-interval holds (batch means)."""

Interval = tuple[float, float]


@dataclass(frozen=True)
class Observed:
    """99 % intervals of the long-run means: requests in service while busy, share of busy time, joules a request, seconds of a stay, and
    seconds a token."""

    batch: Interval
    busy: Interval
    joules: Interval
    request_seconds: Interval
    seconds_per_token: Interval


def simulate(
    seconds: Callable[[int], float],
    joules: Callable[[int], float],
    *,
    arrivals: float,
    draw: Callable[[np.random.Generator], int],
    limit: int,
    idle_watts: float,
    requests: int,
    seed: int = 0,
) -> Observed:
    """Serve `requests` requests that arrive at random, `arrivals` a second, and ask for `draw` tokens each. A step of k takes
    `seconds(k)` and `joules(k)`; who arrives meanwhile joins the next, at most `limit` together, the others wait in turn."""
    random = np.random.default_rng(seed)
    times = np.cumsum(random.exponential(1 / arrivals, requests))
    tokens = [draw(random) for _ in range(requests)]
    waiting: deque[int] = deque()
    serving: list[int] = []
    left = dict(enumerate(tokens))
    now = spent = busy = held = made = 0.0
    stays, arrived, marks = np.zeros(requests), 0, []
    done = 0
    while done < requests:
        while arrived < requests and times[arrived] <= now:
            waiting.append(arrived)
            arrived += 1
        while waiting and len(serving) < limit:
            serving.append(waiting.popleft())
        if not serving:
            spent += idle_watts * (times[arrived] - now)
            now = times[arrived]
            continue
        k = len(serving)
        now, spent, busy = now + seconds(k), spent + joules(k), busy + seconds(k)
        held, made = held + k * seconds(k), made + k
        for request in serving:
            left[request] -= 1
            if not left[request]:
                stays[request] = now - times[request]
                done += 1
                if done % (requests // BATCHES) == 0:
                    marks.append((now, spent, busy, held, made))
        serving = [request for request in serving if left[request]]
    # The first stretch starts with an empty server and is left out.
    steps = np.diff(np.array(marks), axis=0)
    clock, energy, working, filled, produced = steps.T
    size = requests // BATCHES
    stay = stays[size : size * BATCHES].reshape(-1, size).mean(1)
    return Observed(
        _interval(filled / working),
        _interval(working / clock),
        _interval(energy / size),
        _interval(stay),
        _interval(filled / produced),
    )


def _interval(means: np.ndarray) -> Interval:
    half = stats.t.ppf(0.995, len(means) - 1) * means.std(ddof=1) / len(means) ** 0.5
    return float(means.mean() - half), float(means.mean() + half)
