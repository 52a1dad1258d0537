"""One place on a server, seen through its two channels: its output on one, its own words on the other.

Runs in a worker. Reading never blocks; opening does, in a helper thread. A session ends with its connection or with one of its
channels (`broken`); the place goes on, and another session reads on from an offset.
"""

from __future__ import annotations

import secrets
import time
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Final

from cronium.common.errors import ExecutionError, Reason
from cronium.worker.errand import Errand
from cronium.worker.ssh.channel import RemoteChannel
from cronium.worker.ssh.commands import (
    Facts,
    KeepReader,
    Look,
    Marker,
    RemoteError,
    RemotePlace,
    Reply,
    Words,
    keep_command,
    read_command,
    run_command,
)
from cronium.worker.ssh.connection import Connection

READ_BYTES: Final = 256 * 1024
_STREAMS: Final = {1: "stdout", 2: "stderr"}
_MOST_REPLIES: Final = 1000
_FEED_BYTES: Final = 256 * 1024
_SEND_S: Final = 5.0
_ROUNDS: Final = 16
_KEEP_AFTER_S: Final = 0.05


class Session:
    """`output` and `keep` are the channels. What was said waits in `state`, `events` and `replies` for the reader."""

    def __init__(self, connection: Connection, place: RemotePlace, reader: str) -> None:
        self.connection, self.place, self.reader = connection, place, reader
        self.output: RemoteChannel | None = None
        self.keep: RemoteChannel | None = None
        self.state, self.events = bytearray(), bytearray()
        self.replies: deque[Look | Reply] = deque()
        self.facts: Facts | None = None  # what the place's first word on `keep` says
        self.made: Facts | None = None  # and what the one on the output's channel says
        self.refusal: RemoteError | None = None  # why there is nothing to read
        self.broken: ExecutionError | None = None
        self._opening: Errand[RemoteChannel] | None = None
        self._keep_due_s = 0.0
        self._output_markers: dict[int, Marker] = {1: Marker(), 2: Marker()}  # those still looked for
        self._keep_markers: dict[int, Marker] = {1: Marker(), 2: Marker()}
        self._sign = secrets.token_hex(16)
        self._keep_reader = KeepReader(self._sign)
        self._unsaid, self._unsaid_since_s = bytearray(), 0.0
        self._rest: deque[tuple[str, bytes]] = deque()

    def open_run(self, stdin_wait_s: float, remote_ttl_s: float, timeout_s: float) -> None:
        """Make the place, with a launcher in it that waits for its job. Blocks. Raises ExecutionError."""
        command = run_command(self.place, stdin_wait_s, remote_ttl_s, self.reader)
        self.output = self.connection.open(command, timeout_s)

    def open_read(self, offsets: Mapping[str, int], timeout_s: float) -> None:
        """Read the output from these offsets on. Blocks. Raises ExecutionError."""
        self.output = self.connection.open(read_command(self.place, offsets, self.reader), timeout_s)

    def open_keep(self, timeout_s: float) -> None:
        """Hear what the place says of itself, from the start. Blocks. Raises ExecutionError."""
        self.keep = self._keep(timeout_s)

    def start_keep(self, timeout_s: float) -> None:
        """The same without blocking: `read` notices once it is there, or that it is not to be had (`broken`)."""
        self._opening = Errand(RemoteChannel.close)
        self._opening.send(lambda: self._keep(timeout_s))

    def _keep(self, timeout_s: float) -> RemoteChannel:
        channel = self.connection.open(keep_command(self.place, 0, 0, self.reader), timeout_s)
        try:
            channel.send(Words.sign(self._sign), timeout_s)
        except OSError as error:
            channel.close()
            raise self._gone(f"the place's own channel takes nothing ({error})") from error
        return channel

    def feed(self, payload: bytes, timeout_s: float) -> None:
        """Hand the job to the launcher. Blocks while the server takes it. Raises ExecutionError."""
        if self.output is None:
            raise ExecutionError(Reason.INTERNAL, "no launcher waits here: please report it")
        try:
            for start in range(0, len(payload), _FEED_BYTES):  # each piece has its time: a slow line is no dead one
                self.output.send(payload[start : start + _FEED_BYTES], timeout_s)
            self.output.send_end()
        except OSError as error:
            raise self._not_handed_over(error) from error

    def offer(self, payload: bytes) -> int:
        """Hand over what is taken right now, and the end if that is all; how many bytes that was. Raises ExecutionError."""
        if self.output is None:
            return 0
        taken = 0
        try:
            while taken < len(payload) and (count := self.output.offer(payload[taken:])):
                taken += count
        except OSError as error:
            raise self._not_handed_over(error) from error
        if taken == len(payload):
            self.output.send_end()
        return taken

    @property
    def keep_due_s(self) -> float | None:
        """From when on (monotonic) somebody is to hear what the place says of itself; None when it is not made, or somebody does.

        Once the script has printed something, or a moment later: another login shell beside it would make its start slower.
        """
        return self._keep_due_s if self.keep is None and self._opening is None and 1 not in self._output_markers else None

    @property
    def settled(self) -> bool:
        """Whether both channels have said their first word, so that all that the place says is heard."""
        return self.facts is not None and 1 not in self._output_markers

    def descriptors(self) -> tuple[int, ...]:
        """Readable when there is something to read."""
        channels = tuple(
            channel.descriptor
            for channel in (self.output, self.keep)
            if channel is not None and not channel.ended and channel.descriptor >= 0
        )
        return channels if self._opening is None else (*channels, self._opening.descriptor)

    def take(self, limit: int) -> tuple[str, bytes] | None:
        """The next piece of output (stream, bytes); None when there is nothing now."""
        while True:
            if self._rest:
                stream, data = self._rest.popleft()
                if len(data) > limit:
                    self._rest.appendleft((stream, data[limit:]))
                return stream, data[:limit]
            if self.output is None or self.refusal is not None:
                return None
            piece = self.output.take(limit)
            if piece is None:
                if self.output.ended:
                    self._ended(self.output, self._output_markers, "the output's channel has ended")
                return None
            number, data = piece
            if number not in self._output_markers:
                self._keep_due_s = 0.0
                return _STREAMS[number], data
            rest = self._past(self._output_markers, number, data)
            if rest:
                self._keep_due_s = 0.0
                self._rest.append((_STREAMS[number], rest))

    def read(self) -> None:
        """Take in what the place has said of itself."""
        self._take_keep()
        if self.keep is None or self.refusal is not None:
            return
        if self._unsaid and self.broken is None:
            self._say(self.keep)
        for _ in range(_ROUNDS):
            piece = self.keep.take(READ_BYTES)
            if piece is None:
                if self.keep.ended:  # also when the place was not there, or not yet
                    self._ended(self.keep, self._keep_markers, "the place's own channel has ended")
                return
            number, data = piece
            if number in self._keep_markers:
                data = self._past(self._keep_markers, number, data)
            if number == 1:
                state, replies = self._keep_reader.feed(data)
                self.state += state
                self.replies.extend(replies[: _MOST_REPLIES - len(self.replies)])
            else:
                self.events += data

    def say(self, word: bytes) -> None:
        """One of `Words` to the place's keeper. What it does not take at once is said with the next `read`, for some seconds."""
        if self.keep is None or self.broken is not None:
            return
        if not self._unsaid:
            self._unsaid_since_s = time.monotonic()
        self._unsaid += word
        self._say(self.keep)

    def _say(self, keep: RemoteChannel) -> None:
        try:
            while self._unsaid and (count := keep.offer(bytes(self._unsaid))):
                del self._unsaid[:count]
                self._unsaid_since_s = time.monotonic()
            if self._unsaid and time.monotonic() > self._unsaid_since_s + _SEND_S:
                raise TimeoutError(f"{len(self._unsaid)} bytes were not taken within {_SEND_S:g} s")
        except OSError as error:
            self.broken = self.broken or self._gone(f"the place's own channel takes nothing ({error})")

    def close(self) -> None:
        """Both channels; what reads there for us leaves by itself."""
        if self._opening is not None:
            self._opening.close()
            self._opening = None
        for channel in (self.keep, self.output):
            if channel is not None:
                channel.close()

    def _past(self, markers: dict[int, Marker], number: int, data: bytes) -> bytes:
        """What follows the command's first line."""
        try:
            found = markers[number].feed(data)
        except RemoteError as error:
            self.refusal = self.refusal or error
            return b""
        if found is None:
            return b""
        del markers[number]
        facts, rest = found
        if markers is self._keep_markers and number == 1:
            self.facts = facts
        elif markers is self._output_markers and number == 1:
            self.made = facts
            self._keep_due_s = time.monotonic() + _KEEP_AFTER_S
        return rest

    def _take_keep(self) -> None:
        back = self._opening.take() if self._opening is not None else None
        if back is None or self._opening is None:
            return
        self._opening.close()
        self._opening = None
        self.keep, error = back
        if self.keep is None:
            self.broken = self.broken or error

    def _ended(self, channel: RemoteChannel, markers: dict[int, Marker], text: str) -> None:
        """Something else than our command has run if it ended by itself; without an exit code its session was ended."""
        if 1 in markers and channel.exit_code is not None and self.refusal is None:
            self.refusal = markers[1].missing()
        self.broken = self.broken or self._gone(text)

    def _not_handed_over(self, error: OSError) -> ExecutionError:
        text = f"the job could not be handed to {self.connection.server.address} ({error}): check the network"
        return ExecutionError(Reason.UNREACHABLE, text)

    def _gone(self, text: str) -> ExecutionError:
        address = self.connection.server.address
        return ExecutionError(Reason.UNREACHABLE, f"{address}: {text}: check the network, and see its sshd's log")


def opened(connection: Connection, place: RemotePlace, stdin_wait_s: float, remote_ttl_s: float, timeout_s: float) -> Session:
    """A new place with a launcher that waits, and both channels to it. Blocks. Raises ExecutionError."""
    session = Session(connection, place, _new_reader())
    with _closed_on_failure(session):
        session.open_run(stdin_wait_s, remote_ttl_s, timeout_s)
        session.open_keep(timeout_s)
    return session


def started(connection: Connection, place: RemotePlace, payload: bytes, remote_ttl_s: float, timeout_s: float) -> Session:
    """A new place with its job handed over; its own channel is still to be opened. Blocks. Raises ExecutionError."""
    session = Session(connection, place, _new_reader())
    with _closed_on_failure(session):
        session.open_run(timeout_s, remote_ttl_s, timeout_s)
        session.feed(payload, timeout_s)
    return session


def fed(session: Session, payload: bytes, timeout_s: float) -> Session:
    """A waiting launcher's session, its job handed over. Blocks. Raises ExecutionError."""
    with _closed_on_failure(session):
        session.feed(payload, timeout_s)
    return session


def asked(connection: Connection, place: RemotePlace, timeout_s: float) -> Session:
    """A place that may be there, its own channel opened. Blocks. Raises ExecutionError."""
    session = Session(connection, place, _new_reader())
    with _closed_on_failure(session):
        session.open_keep(timeout_s)
    return session


def reading(session: Session, offsets: Mapping[str, int], timeout_s: float) -> Session:
    """The same with its output from these offsets on. Blocks. Raises ExecutionError."""
    with _closed_on_failure(session):
        session.open_read(offsets, timeout_s)
    return session


@contextmanager
def _closed_on_failure(session: Session) -> Iterator[None]:
    try:
        yield
    except ExecutionError:
        session.close()
        raise


def _new_reader() -> str:
    """A name for one reading of a place, so that two of them do not end each other."""
    return secrets.token_hex(6)
