"""Does the way to a place still live, does the place? Judged from what was heard of it and when.

Pure: times (monotonic) come in, a `Finding` goes out. What it orders counts as done. A server that goes on talking is not
believed for ever: how long a start, and the rest after an end, may take is bounded in time that we spend reading. What we do not
read (a backend that takes nothing, a machine asleep) is no fault of the server's.
"""

from __future__ import annotations

from enum import Enum, auto
from typing import Final

from cronium.worker.story import Story

QUIET_S: Final = 2.0
"""What was on its way from a place that is over has arrived by then."""
_LOST_AFTER_SILENT: Final = 4  # intervals: three questions without an answer
_FIRST_LOOK_S: Final = 1.0  # until a launcher that was fed says that it has begun
_OVERDUE_S: Final = 60.0  # beyond a deadline and its grace, or after the script's end: the launcher does not do its duty
_AFTER_KILL_S: Final = 30.0
BEGIN_S: Final = 300.0
"""From when a launcher was fed, or its place asked, until its script has begun: unpacking on a slow disk."""
REST_S: Final = 600.0
"""After the script's end: packing what it left, and its last output,"""
_SLOWEST_BYTES_S: Final = 16 * 1024  # and longer if the output comes as quickly as this
_BEYOND_S: Final = 10.0  # within which a place that has ended has told so
_STEP_S: Final = 5.0  # between two judgements; longer ones were not spent reading


class Finding(Enum):
    """What is to be done."""

    NOTHING = auto()
    LOOK = auto()
    """Ask the place."""
    LOST = auto()
    """The connection is silent: make another."""
    ANEW = auto()
    """The launcher has gone before it said that it had begun: ask what is there."""
    KILL = auto()
    """End all that runs in the place."""
    OVER = auto()
    """Nothing more comes from it."""


class Watch:
    """`interval_s`: how often a place is asked when it says nothing. `limit_s`: the script's deadline and grace.

    `rest_bytes`: how much output may come after the script's end. Why it ordered an end: `late` (the script ran beyond its
    limit), `stuck` (it never began), `endless` (it has ended, and its server goes on).
    """

    def __init__(self, interval_s: float, limit_s: float, rest_bytes: int) -> None:
        self._interval_s, self._limit_s, self._rest_bytes = interval_s, limit_s, rest_bytes
        self._begin_s, self._rest_s = BEGIN_S, REST_S
        self.heard_s = self.spoke_s = 0.0  # anything; output
        self.late = self.stuck = self.endless = self.rebooted = False
        self._judged_s = 0.0
        self._ended = False
        self._unbegun_s = self._beyond_s = self._after_s = 0.0  # spent reading: before the start, after the deadline, the end
        self._after_bytes = 0
        self._looked_s = 0.0
        self._began_s: float | None = None
        self._gone_s: float | None = None
        self._killed_s: float | None = None

    def begin(self, now_s: float) -> None:
        """A session has begun."""
        self.heard_s = self.spoke_s = self._looked_s = self._judged_s = now_s
        self._gone_s = None

    def began(self, now_s: float, *, rebooted: bool, age_s: float = 0.0) -> None:
        """The place says that its script was started, `age_s` ago; `rebooted`: before its server's last boot."""
        if self._began_s is None:
            self._began_s = now_s - age_s
        if rebooted:
            self.rebooted, self._gone_s = True, now_s

    def hear(self, now_s: float) -> None:
        """It has said something."""
        self.heard_s = now_s

    def speak(self, now_s: float, size_bytes: int = 0) -> None:
        """Its script has: output, or its end."""
        self.heard_s = self.spoke_s = now_s
        if self._ended:
            self._after_bytes += size_bytes

    def look(self, now_s: float, *, launcher_alive: bool) -> None:
        """The answer to a look."""
        self.heard_s = now_s
        if not launcher_alive and self._gone_s is None:
            self._gone_s = now_s
        elif launcher_alive and not self.rebooted:
            self._gone_s = None

    @property
    def gone(self) -> bool:
        """Whether the place says that its launcher is not there any more."""
        return self._gone_s is not None

    def judge(self, story: Story, *, quiet: bool, now_s: float, reading: bool = True) -> Finding:
        """What is to be done now.

        `quiet`: all output that has come is taken, and safe with us. `reading`: we take what comes.
        """
        self._count(story, now_s, reading=reading)
        if now_s - self.heard_s > self._interval_s * _LOST_AFTER_SILENT:
            return Finding.LOST
        gone = self._gone_s is not None and now_s > self._gone_s + QUIET_S
        self.stuck = self.stuck or self._unbegun_s > self._begin_s
        self.endless = self.endless or self._is_endless()
        if gone and not story.begun and not self.stuck:
            return Finding.ANEW
        if self.endless and story.drained is not None:
            return Finding.OVER
        late = self._overdue(story, quiet=quiet, now_s=now_s)
        if self._killed_s is None and story.drained is None and (gone or late or self.stuck or self.endless):
            self._killed_s, self.late = now_s, late and not gone
            return Finding.KILL
        if self._killed_s is not None:
            ended = gone and quiet and now_s > max(self._killed_s, self.spoke_s) + QUIET_S
            if ended or now_s > self._killed_s + _AFTER_KILL_S:
                return Finding.OVER
        if now_s >= self._looked_s + (self._interval_s if story.begun else min(_FIRST_LOOK_S, self._interval_s)):
            self._looked_s = now_s
            return Finding.LOOK
        return Finding.NOTHING

    def _overdue(self, story: Story, *, quiet: bool, now_s: float) -> bool:
        if story.ended is not None:
            return quiet and now_s > self.spoke_s + _OVERDUE_S
        return self._beyond_s > _BEYOND_S

    def _count(self, story: Story, now_s: float, *, reading: bool) -> None:
        """The time since the last judgement goes to what the place is in."""
        spent_s = min(now_s - self._judged_s, _STEP_S) if reading else 0.0
        self._judged_s = now_s
        self._ended = self._ended or story.ended is not None or story.drained is not None or (story.begun and not story.started)
        if self._ended:
            self._after_s += spent_s
        elif self._began_s is None:
            self._unbegun_s += spent_s
        elif now_s > self._began_s + self._limit_s + _OVERDUE_S:
            self._beyond_s += spent_s

    def _is_endless(self) -> bool:
        return self._after_bytes > self._rest_bytes or self._after_s > self._rest_s + self._after_bytes / _SLOWEST_BYTES_S
