"""Does the way to a place still live, does the place? Judged from what was heard of it and when.

Pure: times (monotonic) come in, a `Finding` goes out. What it orders counts as done.
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
    """`interval_s`: how often a place is asked when it says nothing. `limit_s`: the script's deadline and grace."""

    def __init__(self, interval_s: float, limit_s: float) -> None:
        self._interval_s, self._limit_s = interval_s, limit_s
        self.heard_s = self.spoke_s = 0.0  # anything; output
        self.late = self.rebooted = False
        self._looked_s = 0.0
        self._began_s: float | None = None
        self._gone_s: float | None = None
        self._killed_s: float | None = None

    def begin(self, now_s: float) -> None:
        """A session has begun."""
        self.heard_s = self.spoke_s = self._looked_s = now_s
        self._gone_s = None

    def began(self, now_s: float, *, rebooted: bool) -> None:
        """The place says that its script was started; `rebooted`: before its server's last boot."""
        if self._began_s is None:
            self._began_s = now_s
        if rebooted:
            self.rebooted, self._gone_s = True, now_s

    def hear(self, now_s: float) -> None:
        """It has said something."""
        self.heard_s = now_s

    def speak(self, now_s: float) -> None:
        """Its script has: output, or its end."""
        self.heard_s = self.spoke_s = now_s

    def look(self, now_s: float, *, launcher_alive: bool) -> None:
        """The answer to a look."""
        self.heard_s = now_s
        if not launcher_alive and self._gone_s is None:
            self._gone_s = now_s
        elif launcher_alive and not self.rebooted:
            self._gone_s = None

    def judge(self, story: Story, *, quiet: bool, now_s: float) -> Finding:
        """What is to be done now. `quiet`: all output that has come is taken, and safe with us."""
        if now_s - self.heard_s > self._interval_s * _LOST_AFTER_SILENT:
            return Finding.LOST
        gone = self._gone_s is not None and now_s > self._gone_s + QUIET_S
        if gone and not story.begun:
            return Finding.ANEW
        late = self._overdue(story, quiet=quiet, now_s=now_s)
        if self._killed_s is None and story.drained is None and (gone or late):
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
        return self._began_s is not None and now_s > self._began_s + self._limit_s + _OVERDUE_S
