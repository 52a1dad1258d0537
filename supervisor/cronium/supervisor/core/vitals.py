"""Hung is dead: who has made no progress for too long. Pure; used by the core, and by the monitor for the supervisor itself.

Rules:
1. A process says a counter that only its main loop raises. One that stands still is none, however often it is said.
2. One that does not beat (the forkserver), or not yet, goes on as long as the kernel does not call it stopped.
3. Judged is only in a look, which is made after everything that had been said was heard: whoever looks late, as it was stopped
   itself or waited for a disk, must not take its own silence for that of the others. Two looks far apart: everybody has all
   of their time again.
4. First its stack is dumped, then it is killed; progress in between spares it. One that a kill does not end is judged again.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

_LOOK_S = 1.0


@dataclass(frozen=True, slots=True)
class Hung:
    """A process that has made no progress for `silent_s`. `over`: it had its chance to say where it hangs, and is to be ended."""

    name: str
    silent_s: float
    over: bool


@dataclass(slots=True)
class _Life:
    progress_s: float  # when it last made some
    counter: int | None = None
    dumped_s: float | None = None

    def goes_on(self, now_s: float) -> None:
        self.progress_s, self.dumped_s = now_s, None


class Vitals:
    """Everybody who is watched. Times are monotonic seconds; `dump_s` lies between the dump and the end."""

    def __init__(self, hung_after_s: float, dump_s: float = 0.5) -> None:
        self._hung_after_s = hung_after_s
        self._dump_s = dump_s
        self._look_s = min(_LOOK_S, hung_after_s / 4)
        self._lives: dict[str, _Life] = {}
        self._looked_s: float | None = None

    def begins(self, name: str, now_s: float) -> None:
        """A process is there."""
        self._lives[name] = _Life(now_s)

    def ends(self, name: str) -> None:
        """It is gone."""
        self._lives.pop(name, None)

    def beats(self, name: str, counter: int, now_s: float) -> None:
        """It says its counter."""
        life = self._lives.get(name)
        if life is not None and life.counter != counter:
            life.counter = counter
            life.goes_on(now_s)

    def mute(self) -> tuple[str, ...]:
        """Those that have not beaten: the next look has to tell whether they are awake."""
        return tuple(name for name, life in self._lives.items() if life.counter is None)

    def next_look_s(self) -> float:
        """When to look again, at the latest."""
        if self._looked_s is None:
            return -math.inf
        dumped_s = (life.dumped_s + self._dump_s for life in self._lives.values() if life.dumped_s is not None)
        return min([self._looked_s + self._look_s, *dumped_s])

    def late_s(self, now_s: float) -> float:
        """By how much a look that is made now comes too late, 0 when it does not: deadlines of others are to be put off by it."""
        gap_s = 0.0 if self._looked_s is None else now_s - self._looked_s
        return gap_s if gap_s > 2 * self._look_s else 0.0

    def looked(self, awake: Iterable[str], now_s: float) -> list[Hung]:
        """All that was said up to now has been heard, and of the mute these are `awake`: who hangs."""
        late = self._looked_s is not None and now_s - self._looked_s > self._hung_after_s / 2
        self._looked_s = now_s
        for name in self._lives if late else (name for name in awake if name in self._lives):
            if late or self._lives[name].counter is None:
                self._lives[name].goes_on(now_s)
        return [hung for name, life in self._lives.items() if (hung := self._judge(name, life, now_s)) is not None]

    def _judge(self, name: str, life: _Life, now_s: float) -> Hung | None:
        silent_s = now_s - life.progress_s
        if silent_s < self._hung_after_s:
            return None
        if life.dumped_s is None:
            life.dumped_s = now_s
            return Hung(name, silent_s, over=False)
        if now_s < life.dumped_s + self._dump_s:
            return None
        life.goes_on(now_s)
        return Hung(name, silent_s, over=True)
