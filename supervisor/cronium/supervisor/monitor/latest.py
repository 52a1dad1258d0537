"""The last that was heard from the supervisor: kept by the monitor's loop, read by the threads that serve it.

One attribute is replaced as a whole, so nobody waits for anybody.
"""

from __future__ import annotations

import time

from cronium.supervisor.status.report import Report

SILENT_S = 5.0  # reports come every second
_SILENT = (
    "the supervisor has said nothing for {silent_s:.0f} s, so it makes no progress: if it hangs, it is ended after twice "
    "workers.hungAfter and jobs go on (its log says where it hangs)"
)
_NOTHING = "the supervisor has said nothing yet: wait a moment"


class Latest:
    """`hears` is called by one thread, `report` by any."""

    def __init__(self) -> None:
        self._heard: tuple[bytes, float] | None = None

    def hears(self, report: bytes) -> None:
        """A report has come."""
        self._heard = (report, time.monotonic())

    def report(self) -> tuple[Report, bool]:
        """The last one, and whether it is of now: an older one is called unhealthy, with what to do. Raises ValueError."""
        heard = self._heard
        if heard is None:
            return Report(status="unhealthy", reasons=(_NOTHING,)), False
        report = Report.from_json(heard[0])
        silent_s = time.monotonic() - heard[1]
        if silent_s < SILENT_S:
            return report, True
        return report.model_copy(
            update={"status": "unhealthy", "reasons": (_SILENT.format(silent_s=silent_s), *report.reasons)}
        ), False
