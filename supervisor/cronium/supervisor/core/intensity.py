"""When starting anew is no answer any more: more than n deaths of a kind within t seconds (OTP's restart intensity). Pure.

The level above then decides: the supervisor exits with its reason, and whoever started it (supervisord) takes over.
"""

from __future__ import annotations

from collections import deque

EXIT_CODE = 70  # EX_SOFTWARE of sysexits.h

_YOUNG_S = 2.0  # a process that lived longer is started again without a pause
_FIRST_PAUSE_S = 0.1
_LONGEST_PAUSE_S = 10.0


class Intensity:
    """Deaths by kind; `most` of them within `period_s` are allowed."""

    def __init__(self, most: int, period_s: float) -> None:
        self._most = most
        self._period_s = period_s
        self._deaths: dict[str, deque[float]] = {}

    def died(self, kind: str, cause: str, now_s: float) -> str | None:
        """One more, at a monotonic time. When it is one too many: what to tell people."""
        deaths = self._deaths.setdefault(kind, deque(maxlen=self._most + 1))
        deaths.append(now_s)
        if len(deaths) <= self._most or now_s - deaths[0] > self._period_s:
            return None
        return (
            f"{len(deaths)} processes of kind '{kind}' died within {now_s - deaths[0]:.1f} s, the last one: {cause}. See the "
            "entries above for why; workers.restartIntensity and restartPeriod say how many are allowed. Jobs go on in their "
            "places, and the next start takes them over"
        )


def longest_pause_s(longest_s: float, most: int, period_s: float) -> float:
    """The longest pause between two starts of what dies at once: with longer ones the intensity could never be exceeded."""
    return min(longest_s, period_s / (2 * most))


def young_deaths(before: int, lived_s: float) -> int:
    """How many deaths in a row came soon after the start, with this one."""
    return 0 if lived_s > _YOUNG_S else before + 1


def restart_pause_s(young: int, most: int, period_s: float) -> float:
    """How long to wait before a role is started again, after so many young deaths in a row: not at all after the first."""
    if young <= 1:
        return 0.0
    return min(_FIRST_PAUSE_S * 2.0 ** min(young, 20), longest_pause_s(_LONGEST_PAUSE_S, most, period_s))
