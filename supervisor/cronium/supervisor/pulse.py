"""The supervisor's own beat, for the monitor: a counter that each round of the loop raises, published at least once a second.

About as often, together with a beat, it says how it is (`StatusReport`): to the monitor, and to the command line.

Runs in the supervisor's loop.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import zmq

from cronium.common.addresses import VITALS, endpoint
from cronium.common.messages import StatusReport, SupervisorBeat
from cronium.common.wire import pack

_LONGEST_S = 1.0
_REPORT_S = 1.0


class Pulse:
    """Owns the PUB socket."""

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], runtime_dir: Path, interval_s: float) -> None:
        self._interval_s = min(interval_s, _LONGEST_S)
        self._socket = context.socket(zmq.PUB)
        self._socket.setsockopt(zmq.LINGER, 0)
        (runtime_dir / VITALS).unlink(missing_ok=True)
        self._socket.bind(endpoint(runtime_dir, VITALS))
        self._progress = 0
        self._due_s = 0.0
        self._report_due_s = 0.0

    def next_due_s(self) -> float:
        """When (monotonic) the next beat is due."""
        return self._due_s

    def round(self, now_s: float, report: Callable[[], bytes]) -> None:
        """The loop has come round once more. `report` tells how it is, and is asked when that is due."""
        self._progress += 1
        if now_s >= self._due_s:
            self._due_s = now_s + self._interval_s
            self._socket.send(pack(SupervisorBeat(os.getpid(), self._progress)), zmq.DONTWAIT)  # a PUB drops, and never blocks
            if now_s >= self._report_due_s:
                self._report_due_s = now_s + _REPORT_S
                self._socket.send(pack(StatusReport(report())), zmq.DONTWAIT)
