"""The supervisor's own beat, for the monitor: a counter that each round of the loop raises, published at least once a second.

Runs in the supervisor's loop.
"""

from __future__ import annotations

import os
from pathlib import Path

import zmq

from cronium.common.addresses import VITALS, endpoint
from cronium.common.messages import SupervisorBeat
from cronium.common.wire import pack

_LONGEST_S = 1.0


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

    def next_due_s(self) -> float:
        """When (monotonic) the next beat is due."""
        return self._due_s

    def round(self, now_s: float) -> None:
        """The loop has come round once more."""
        self._progress += 1
        if now_s >= self._due_s:
            self._due_s = now_s + self._interval_s
            self._socket.send(pack(SupervisorBeat(os.getpid(), self._progress)), zmq.DONTWAIT)  # a PUB drops, and never blocks
