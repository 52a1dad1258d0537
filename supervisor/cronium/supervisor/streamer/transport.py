"""What the two ways to the backend have in common: what is told to the loop, and how threads and loop talk.

A transport's thread connects to inproc sockets only. Both directions are bounded; the loop never waits, a thread waits with a
time limit.
"""

from __future__ import annotations

from dataclasses import dataclass

import msgpack
import zmq

EVENTS = "inproc://events"
_EVENTS_HIGH_WATER_MARK = 1000


@dataclass(frozen=True, slots=True)
class Up:
    """The backend has let us in; `connection` numbers it."""

    connection: int


@dataclass(frozen=True, slots=True)
class Down:
    """The connection is gone."""

    connection: int
    reason: str


@dataclass(frozen=True, slots=True)
class Answered:
    """A frame was acknowledged, or refused for good with an `error`."""

    frame_id: int
    success: bool
    error: str


@dataclass(frozen=True, slots=True)
class Cancelled:
    """The backend says that a job was cancelled."""

    job_id: str


@dataclass(frozen=True, slots=True)
class Synced:
    """The log is safe up to this position; `error` when it could not be made so."""

    lsn: int
    error: str


Event = Up | Down | Answered | Cancelled | Synced
_EVENTS = (Up, Down, Answered, Cancelled, Synced)
_NUMBERS = {cls: number for number, cls in enumerate(_EVENTS)}


class Teller:
    """A thread's side: tells the loop. Belongs to the thread that makes it."""

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], timeout_s: float) -> None:
        self._socket = context.socket(zmq.PUSH)
        self._socket.setsockopt(zmq.SNDHWM, _EVENTS_HIGH_WATER_MARK)
        self._socket.setsockopt(zmq.SNDTIMEO, int(timeout_s * 1000))
        self._socket.setsockopt(zmq.LINGER, 0)
        self._socket.connect(EVENTS)

    def tell(self, event: Event) -> None:
        """Tell the loop. Raises zmq.Again when it has not listened for too long: nothing can be done then."""
        number = _NUMBERS[type(event)]
        self._socket.send(msgpack.packb((number, *(getattr(event, name) for name in event.__slots__))))

    def close(self) -> None:
        """Close the thread's socket."""
        self._socket.close()


def events_socket(context: zmq.Context[zmq.Socket[bytes]]) -> zmq.Socket[bytes]:
    """The loop's side."""
    socket = context.socket(zmq.PULL)
    socket.setsockopt(zmq.RCVHWM, _EVENTS_HIGH_WATER_MARK)
    socket.bind(EVENTS)
    return socket


def event_of(frame: bytes) -> Event:
    """The event of a frame that a `Teller` sent."""
    number, *fields = msgpack.unpackb(frame)
    return _EVENTS[number](*fields)
