"""Virtual time for simulations: a heap of things that are to happen, and the two clocks of our host. Nothing here waits."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable

_UNIX_AT_START_MS = 1_700_000_000_000


class Clock:
    """`now_s` is the true time and only moves in `run_until`. Our host's clocks can be wrong, the backend's are true."""

    def __init__(self) -> None:
        self.now_s = 1000.0
        self._heap: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()
        self._booted_s = 0.0
        self.wrong_ms = 0
        self.was_right = True

    def unix_ms(self) -> int:
        """As the backend sees it."""
        return _UNIX_AT_START_MS + round(self.now_s * 1000)

    def mono_s(self) -> float:
        """Our host's monotonic clock."""
        return self.now_s - self._booted_s

    def host_unix_ms(self) -> int:
        """Our host's Unix clock."""
        return self.unix_ms() + self.wrong_ms

    def jump(self, by_s: float) -> None:
        """Somebody sets our host's Unix clock."""
        self.was_right = False
        self.wrong_ms += round(by_s * 1000)

    def boot(self) -> None:
        """The monotonic clock begins anew."""
        self._booted_s = self.now_s - 5.0

    def after(self, delay_s: float, do: Callable[[], None]) -> None:
        heapq.heappush(self._heap, (self.now_s + delay_s, next(self._order), do))

    def stop(self) -> None:
        """Nothing will happen any more."""
        self._heap.clear()

    def run_until(self, until_s: float, done: Callable[[], bool] = lambda: False) -> bool:
        """Let things happen until then, or until it is done; whether it was."""
        heap, pop = self._heap, heapq.heappop
        while heap and heap[0][0] <= until_s:
            self.now_s, _, do = pop(heap)
            do()
            if done():
                return True
        self.now_s = max(self.now_s, until_s)
        return done()
