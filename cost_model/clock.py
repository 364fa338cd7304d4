"""`Clock`: the time a meter lives in. The wall's, or that of a simulation, which moves only when work or sleep moves it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Protocol


class Clock(Protocol):
    """Seconds since some start [s], a way to pass them, and a poll that goes on beside the work."""

    def now(self) -> float:
        """The time [s]."""
        ...

    def sleep(self, seconds: float) -> None:
        """Lets `seconds` pass without work."""
        ...

    def watch(self, poll: Callable[[], None], period: float) -> AbstractContextManager[None]:
        """Calls `poll` about every `period` seconds while the context is open. `poll` must keep its faults to itself."""
        ...


@dataclass(frozen=True)
class WallClock:
    """The machine's own monotonic clock. A watch is a thread: runtimes release the interpreter while they work, so it is not held up."""

    def now(self) -> float:
        """The time [s] of time.perf_counter."""
        return time.perf_counter()

    def sleep(self, seconds: float) -> None:
        """Sleeps; no time passes for zero or less."""
        if seconds > 0:
            time.sleep(seconds)

    @contextmanager
    def watch(self, poll: Callable[[], None], period: float) -> Iterator[None]:
        """Calls `poll` from a thread, the first time at once, and waits for its last call when the context closes."""
        over = threading.Event()

        def beat() -> None:
            while not over.is_set():
                poll()
                over.wait(period)

        thread = threading.Thread(target=beat, name="szilard counter", daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()
