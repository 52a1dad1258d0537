"""Virtual time for simulations: a heap of things that are to happen. Nothing here waits."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable

_UNIX_AT_START_MS = 1_700_000_000_000


class Clock:
    """`now_s` only moves in `run_until`."""

    def __init__(self) -> None:
        self.now_s = 1000.0
        self._heap: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()

    def unix_ms(self) -> int:
        return _UNIX_AT_START_MS + round(self.now_s * 1000)

    def after(self, delay_s: float, do: Callable[[], None]) -> None:
        heapq.heappush(self._heap, (self.now_s + delay_s, next(self._order), do))

    def run_until(self, until_s: float, done: Callable[[], bool] = lambda: False) -> bool:
        """Let things happen until then, or until it is done; whether it was."""
        while self._heap and self._heap[0][0] <= until_s:
            self.now_s, _, do = heapq.heappop(self._heap)
            do()
            if done():
                return True
        self.now_s = max(self.now_s, until_s)
        return done()
