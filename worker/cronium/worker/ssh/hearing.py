"""What a place says of itself, and when it began and ended: from the bytes of `state` and `events` to updates for people.

Runs in a worker; no I/O of its own: a session brings the bytes. All of it is the script's word as well as the launcher's, so what
it may say is bounded.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from typing import Final

from cronium.common.servers import Server
from cronium.worker.events import Events
from cronium.worker.executor import Gap, Status, Told, Update
from cronium.worker.launcher import Ended, OutputLost, OutputWaits, Segment, Started, StateEvent
from cronium.worker.ssh.commands import Facts
from cronium.worker.ssh.flow import Flow
from cronium.worker.ssh.session import Session
from cronium.worker.ssh.watch import Watch
from cronium.worker.story import Story

_USER_HZ: Final = 100  # of start_ticks, on every Linux whatever its kernel's own clock has (proc_pid_stat(5))
_MOST_LOSSES_TOLD: Final = 20


class Hearing:
    """`offsets`: how far its output was read, by stream; whoever reads raises them. `since_ms` (Unix): nothing of it is older.

    `begun`: its script was, as far as is known; `started_ms` and `ended_ms` (Unix): when, 0 while that is not known.
    """

    def __init__(
        self,
        server: Server,
        label: str,
        since_ms: int,
        max_events_bytes: int,
        offsets: Mapping[str, int],
        watch: Watch,
        flow: Flow,
        *,
        begun: bool,
    ) -> None:
        self.begun = begun
        self.started_ms = self.ended_ms = 0
        self._server, self._label, self._since_ms, self._max_events_bytes = server, label, since_ms, max_events_bytes
        self._offsets, self._watch, self._flow = offsets, watch, flow
        self._losses: set[tuple[str, str]] = set()
        self.anew()

    def anew(self) -> None:
        """Whatever the place has said is heard from its start."""
        self.story, self.events = Story(), Events(self._max_events_bytes)

    def take(self, session: Session, now_s: float) -> Iterator[Update]:
        """What it has said since."""
        session.read()
        if session.state:
            self._watch.hear(now_s)
            data = bytes(session.state)
            session.state.clear()
            for event in self.story.feed(data):
                yield from self._told(event, session.facts, now_s)
        if session.events:
            self._watch.hear(now_s)
            progress = self.events.feed(bytes(session.events))
            session.events.clear()
            if progress is not None:
                yield progress

    def _told(self, event: StateEvent, facts: Facts | None, now_s: float) -> Iterator[Update]:
        match event:
            case Started() if event is not self.story.started:
                pass  # the launcher says it once, before anything of the script can write there
            case Started(boot_id=boot_id):
                first = not self.started_ms
                self.started_ms = self.started_ms or self._start_of(event, facts)
                now = facts.boot_id if facts is not None else None
                rebooted = None not in (boot_id, now) and boot_id != now
                self._watch.began(now_s, rebooted=rebooted, age_s=max(0, now_ms() - self.started_ms) / 1000)
                self.begun = True
                if first:
                    yield Status("running", self._label)
            case Ended():
                self.ended_ms = self.ended_ms or now_ms()
                self._watch.speak(now_s)
            case Segment(stream, offset):
                self._flow.segment(stream, offset)
            case OutputWaits(stream, reason) if (stream, "waits") not in self._losses:
                self._losses.add((stream, "waits"))
                where = self._server.name
                text = f"{stream} waits ({reason.replace('_', ' ')}) on {where}: make room there, then it goes on"
                yield Told(text, self._label)
            case OutputLost(stream, reason, detail):
                loss = (stream, reason)
                if loss not in self._losses and len(self._losses) < _MOST_LOSSES_TOLD:
                    self._losses.add(loss)
                    text = f"some of {stream} was lost in its place: {reason.replace('_', ' ')} {detail}".rstrip()
                    yield Gap(stream, text, self._offsets[stream], self._label)
            case _:
                pass

    def _start_of(self, started: Started, facts: Facts | None) -> int:
        """When that was (Unix ms): it may be read long after, by one who has taken the place over."""
        found_ms, ticks, up_s = now_ms(), started.start_ticks, facts.up_s if facts is not None else None
        if facts is None or ticks is None or up_s is None or started.boot_id != facts.boot_id:
            return found_ms
        age_s = up_s - ticks / _USER_HZ  # below 0 when it began after we had come
        return max(self._since_ms, found_ms - round(max(0.0, age_s) * 1000))


def now_ms() -> int:
    """The time (Unix)."""
    return time.time_ns() // 1_000_000
