"""How it stands with the way to a place: since when it is lost, when it is tried again, when that has been enough.

Pure: times (monotonic) come in.
"""

from __future__ import annotations

from typing import Final

from cronium.common.errors import ExecutionError, Reason

_FIRST_PAUSE_S: Final = 0.1
_MAX_PAUSE_S: Final = 5.0
_REFUSED_PAUSE_S: Final = 15.0  # while a place runs on a server that lets us in no more
_TELL_LOST_S: Final = 3.0
_REOPENS: Final = 20  # of channels, before the connection is made anew
_REFUSALS: Final = 3  # in a row, of channels or commands: more do not help
_SOUND_S: Final = 5.0  # a session of that length was a good one


class Absence:
    """`since_s`: since when the place is not heard, None while it is; `trouble`: why. `again_s`: not to be tried before."""

    def __init__(self) -> None:
        self.since_s: float | None = None
        self.trouble: ExecutionError | None = None
        self.again_s = 0.0
        self.told = False  # people were
        self._pause_s = 0.0  # before the next login, from one in vain to the next; a place that is heard has none
        self._reopens = self._refusals = 0
        self._heard_s: float | None = None

    @property
    def heard(self) -> bool:
        """Whether a session hears the place."""
        return self._heard_s is not None

    def begins(self, now_s: float, error: ExecutionError) -> None:
        """It is not to be heard, or still not."""
        self.trouble = error
        if self.since_s is None:
            self.since_s = now_s

    def over(self) -> None:
        """Nobody waits for it any more."""
        self.since_s = None

    def hears(self, now_s: float) -> float | None:
        """A session hears it (again). For how long it was lost, if people were told of that."""
        lost_s = now_s - self.since_s if self.told and self.since_s is not None else None
        self._heard_s = now_s
        self._refusals, self._pause_s = 0, 0.0
        self.since_s, self.trouble, self.told = None, None, False
        return lost_s

    def session_ends(self) -> None:
        """None hears it now."""
        self._heard_s = None

    def is_to_be_told(self, now_s: float) -> bool:
        """Whether people should know, and do not; said once."""
        if self.told or self.since_s is None or now_s - self.since_s <= _TELL_LOST_S:
            return False
        self.told = True
        return True

    def login_failed(self, now_s: float, error: ExecutionError) -> None:
        """The next is due after a pause."""
        pause_s = max(_FIRST_PAUSE_S, self._next_pause_s())
        self.again_s = now_s + (pause_s if error.reason is Reason.UNREACHABLE else _REFUSED_PAUSE_S)

    def connection_lost(self, now_s: float) -> None:
        """The next login is due at once, unless those before it led to nothing."""
        self.again_s = now_s + self._next_pause_s()

    def channel_lost(self, now_s: float) -> bool:
        """The next is due soon, over the same connection; False when so many were lost that another connection is needed."""
        if self._heard_s is not None and now_s > self._heard_s + _SOUND_S:
            self._reopens = 0
        self._reopens += 1
        if self._reopens > _REOPENS:
            self._reopens = 0
            return False
        self.again_s = now_s + (min(1.0, 0.01 * 2**self._reopens) if self._reopens > 1 else 0.0)
        return True

    def is_refused_for_good(self) -> bool:
        """A server has refused once more; whether that was often enough."""
        self._refusals += 1
        return self._refusals >= _REFUSALS

    def _next_pause_s(self) -> float:
        pause_s, self._pause_s = self._pause_s, min(_MAX_PAUSE_S, max(_FIRST_PAUSE_S, 2 * self._pause_s))
        return pause_s
