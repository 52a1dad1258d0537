"""A circuit breaker for each server: one that does not answer is left alone for a while. Pure; part of the core.

closed --failureThreshold failures in a row--> open --recoveryTimeout--> half-open, one trial at a time --reached--> closed
                                                                         half-open --not reached--> open again
`reached` closes it from every state. A server is its `host:port` (`host_of`), whoever wants to log in there. Nothing of it is
written down: after a restart each server gets its chance.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from cronium.supervisor.core import actions as do
from cronium.supervisor.core.events import Now
from cronium.supervisor.core.rules import Rules

_MOST = 1000  # servers remembered at once, beside those that are left alone


@dataclass(slots=True)
class _Breaker:
    """`open_until_s` (monotonic) while it is open; `half_open` after that, with the worker that tries."""

    failures: int = 0
    reason: str = ""
    open_until_s: float | None = None
    half_open: bool = False
    trial: str | None = None


@dataclass(frozen=True, slots=True)
class Obstacle:
    """Why nobody (more) is to log in to a server now. `open`: it is left alone, else somebody is trying it."""

    reason: str
    open: bool


@dataclass(slots=True)
class Breakers:
    """All of them; a server without an entry has not failed."""

    rules: Rules
    draft: do.Draft
    _breakers: dict[str, _Breaker] = field(default_factory=dict)

    def seen(self, host: str, *, reached: bool, reason: str, now: Now) -> None:
        """Somebody tried to get there."""
        breaker = self._breakers.get(host)
        if reached:
            if breaker is not None:
                del self._breakers[host]
                if breaker.half_open or breaker.open_until_s is not None:
                    self.draft.note("info", "server answers again", None, server=host)
            return
        if breaker is None:
            self._forget_some()
            breaker = self._breakers[host] = _Breaker()
        breaker.failures += 1
        breaker.reason = reason
        if breaker.open_until_s is not None:
            return  # said by somebody who was on the way already
        if breaker.half_open or breaker.failures >= self.rules.breaker_failures:
            if not breaker.half_open:
                self.draft.note("warning", "server is left alone", None, server=host, failures=breaker.failures, error=reason)
            breaker.half_open, breaker.trial = False, None
            breaker.open_until_s = now.mono_s + self.rules.breaker_recovery_s

    def tick(self, now: Now) -> None:
        """What was left alone long enough may be tried."""
        for breaker in self._breakers.values():
            if breaker.open_until_s is not None and now.mono_s >= breaker.open_until_s:
                breaker.open_until_s, breaker.half_open = None, True

    def obstacle(self, hosts: Iterable[str]) -> Obstacle | None:
        """Why a job on these servers has to wait; None when it may go."""
        if not self._breakers:
            return None
        found: Obstacle | None = None
        for host in hosts:
            breaker = self._breakers.get(host)
            if breaker is None:
                continue
            if breaker.open_until_s is not None:
                again = f"it is tried again every {self.rules.breaker_recovery_s:g} s"
                return Obstacle(f"server {host} does not answer ({breaker.reason or 'no reason given'}), {again}", open=True)
            if breaker.trial is not None:
                found = Obstacle(f"server {host} did not answer, and is being tried", open=False)
        return found

    def begins(self, worker: str, hosts: Iterable[str]) -> None:
        """A worker goes there: the trial where one is due."""
        for host in hosts if self._breakers else ():
            breaker = self._breakers.get(host)
            if breaker is not None and breaker.half_open:
                breaker.trial = worker

    def got_there(self, worker: str, now: Now) -> None:
        """What the worker was given runs, over a connection that it had already: its trial has come out well."""
        for host in [host for host, breaker in self._breakers.items() if breaker.trial == worker]:
            self.seen(host, reached=True, reason="", now=now)

    def over(self, worker: str) -> None:
        """A worker has stopped trying, whatever came of it: the next may."""
        for breaker in self._breakers.values():
            if breaker.trial == worker:
                breaker.trial = None

    def are_closed(self, hosts: Iterable[str]) -> bool:
        """Whether none of these is left alone or on trial."""
        for host in hosts:
            breaker = self._breakers.get(host)
            if breaker is not None and (breaker.half_open or breaker.open_until_s is not None):
                return False
        return True

    def is_failing(self, host: str) -> bool:
        """Whether nobody got there at the last try, and nothing holds the next one back."""
        breaker = self._breakers.get(host)
        return breaker is not None and not breaker.half_open and breaker.open_until_s is None

    def is_on_trial(self, host: str) -> bool:
        """Whether it was left alone, and one may try it."""
        breaker = self._breakers.get(host)
        return breaker is not None and breaker.half_open

    def next_due_s(self) -> float:
        """When (monotonic) the next is to be tried."""
        if not self._breakers:
            return math.inf
        return min((b.open_until_s for b in self._breakers.values() if b.open_until_s is not None), default=math.inf)

    def states(self) -> Mapping[str, str]:
        """Of those that are not closed: `open` or `half-open`."""
        return {
            host: "half-open" if breaker.half_open else "open"
            for host, breaker in self._breakers.items()
            if breaker.half_open or breaker.open_until_s is not None
        }

    def _forget_some(self) -> None:
        if len(self._breakers) < _MOST:
            return
        for host, breaker in self._breakers.items():
            if breaker.open_until_s is None and breaker.trial is None:
                del self._breakers[host]
                return
