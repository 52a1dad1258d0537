"""Notices when somebody sets the host's Unix clock, so that no deadline comes hours too early or late. Pure; part of the core.

Deadlines are written down in Unix time, as they have to outlive us; while we live, the monotonic clock says how much of it is
true.
"""

from __future__ import annotations

from cronium.supervisor.core.events import Now

_JUMP_MS = 2000  # less is a clock being slewed, or the granularity of the two


class Clocks:
    """Compares each event's two clocks with those of the one before."""

    def __init__(self) -> None:
        self._apart_ms: float | None = None

    def jumped_ms(self, now: Now) -> int:
        """By how much the Unix clock was set since the last event; 0 mostly. A host that slept counts as set: nothing ran."""
        apart_ms = now.unix_ms - now.mono_s * 1000
        by_ms = 0.0 if self._apart_ms is None else apart_ms - self._apart_ms
        self._apart_ms = apart_ms
        return round(by_ms) if abs(by_ms) >= _JUMP_MS else 0
