"""The processes beside the workers: forkserver, streamer, monitor, standalone queue. Which is to be started, and when. Pure.

Part of the core. A role is *wanted* (start it when it is due), *asked for* (a start is on its way) or *up*. What is forked waits
for the forkserver; what dies with it is its death alone.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from cronium.supervisor.core import actions as do
from cronium.supervisor.core.events import Now
from cronium.supervisor.core.intensity import restart_pause_s, young_deaths
from cronium.supervisor.core.rules import Rules

FORKSERVER, STREAMER, MONITOR, QUEUE = "forkserver", "streamer", "monitor", "standalone queue"
_FORKED = frozenset({STREAMER, MONITOR})
_FIRST_BEAT_S = 300.0  # a streamer reads its whole spool first, and beats while it does


@dataclass(slots=True)
class _Role:
    """`due_s` (monotonic): when to start it; of one that was asked for, or has not beaten yet: when that is to have happened."""

    due_s: float = -math.inf
    asked: bool = False
    up: bool = False
    started_s: float = 0.0
    young: int = 0
    starts: int = 0


class Roles:
    """All that were named at the start; none at all where nobody looks after them (tests of other parts)."""

    def __init__(self, rules: Rules, draft: do.Draft, names: Iterable[str]) -> None:
        self._rules = rules
        self._draft = draft
        self._roles = {name: _Role() for name in names}

    def __contains__(self, name: str) -> bool:
        return name in self._roles

    def can_fork(self) -> bool:
        """Whether the forkserver is there, as far as we know."""
        return FORKSERVER not in self._roles or self._roles[FORKSERVER].up

    def forked(self) -> tuple[str, ...]:
        """Those that die with the forkserver."""
        return tuple(name for name, role in self._roles.items() if name in _FORKED and (role.up or role.asked))

    def restarts(self) -> dict[str, int]:
        """How often each was started again."""
        return {name: max(0, role.starts - 1) for name, role in self._roles.items()}

    def started(self, name: str, now: Now) -> None:
        """It runs."""
        role = self._roles[name]
        role.asked, role.up, role.started_s, role.starts = False, True, now.mono_s, role.starts + 1
        role.due_s = now.mono_s + _FIRST_BEAT_S if name in _FORKED else math.inf

    def beats(self, name: str) -> None:
        """It has come so far that it beats."""
        if (role := self._roles.get(name)) is not None and role.up:
            role.due_s = math.inf

    def died(self, name: str, reason: str, now: Now, *, along: bool) -> None:
        """It is gone, or could not be started. `along`: with the forkserver."""
        role = self._roles[name]
        if not along:
            role.young = young_deaths(role.young, now.mono_s - role.started_s if role.up else 0.0)
        pause_s = restart_pause_s(role.young, self._rules.restart_intensity, self._rules.restart_period_s)
        role.up = role.asked = False
        role.due_s = now.mono_s + pause_s
        self._draft.note("warning", "role died", None, role=name, error=reason, again_in_s=round(pause_s, 2))

    def end_overdue(self, now: Now, late_s: float) -> None:
        """In a look (`Vitals`), so that everybody was heard: end what does not come up. `late_s`: so long nobody was heard."""
        for name, role in self._roles.items():
            if not role.up and not role.asked:
                continue
            role.due_s += late_s
            if now.mono_s >= role.due_s and (role.up or name not in _FORKED or self.can_fork()):
                self._draft.actions.append(do.EndRole(name, "has not beaten yet" if role.up else "was not started in time"))
                role.due_s = now.mono_s + self._rules.worker_start_s

    def keep(self, now: Now) -> None:
        """Start what is due."""
        for name, role in self._waiting():
            if now.mono_s >= role.due_s:
                role.asked, role.due_s = True, now.mono_s + self._rules.worker_start_s
                self._draft.actions.append(do.StartRole(name))

    def next_due_s(self) -> float:
        """When (monotonic) there is something to start."""
        return min((role.due_s for _, role in self._waiting()), default=math.inf)

    def _waiting(self) -> list[tuple[str, _Role]]:
        """Those that are to be started when they are due, and can be."""
        can_fork = self.can_fork()
        return [
            (name, role)
            for name, role in self._roles.items()
            if not role.up and not role.asked and (can_fork or name not in _FORKED)
        ]
