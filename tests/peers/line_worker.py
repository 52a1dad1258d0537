"""A worker as the streamer sees it: the real `Sender` on a PUSH and a SUB socket, fed with numbered lines. No executor."""

from __future__ import annotations

import time
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import orjson
import zmq

from cronium.common.addresses import OUTPUT, POSITIONS, WELCOME, endpoint
from cronium.common.messages import FileMark, Position, Said, StreamTotals
from cronium.common.wire import pack, unpack
from cronium.worker.lines import EncodedBatch
from cronium.worker.sender import PositionLostError, Sender

PLACE = "place"


def encode(
    job_id: str, before: Position, texts: list[str], stream: str = "stdout", now_ms: int = 1_700_000_000_000
) -> EncodedBatch:
    """A batch of whole lines behind a position."""
    first = before.next_sequence
    entries = [
        {"jobId": job_id, "stream": stream, "line": text, "timestamp": now_ms, "sequence": first + index}
        for index, text in enumerate(texts)
    ]
    data = "".join(text + "\n" for text in texts).encode()
    old = before.stdout if stream == "stdout" else before.stderr
    totals = StreamTotals(old.lines + len(texts), old.bytes + len(data), zlib.crc32(data, old.crc32))
    mark = before.mark(PLACE, stream)
    marks = (*(m for m in before.files if m.stream != stream), FileMark(PLACE, stream, mark.offset + len(data)))
    after = replace(before, next_sequence=first + len(texts), files=marks)
    after = replace(after, stdout=totals) if stream == "stdout" else replace(after, stderr=totals)
    return EncodedBatch(first, len(texts), orjson.dumps(entries), after)


def line_of(sequence: int) -> str:
    """The text of a line, known from its number."""
    return f"line {sequence:08d} " + "x" * 85


@dataclass
class LineWorker:
    """Sends lines 1..total of a job. A reader that loses its way is replaced by a new one, with the next generation."""

    runtime_dir: Path
    name: str
    job_id: str
    total: int
    announce: Callable[[LineWorker], None]
    epoch: int = 1
    lines_a_batch: int = 500
    generation: int = 1
    fresh: bool = False
    compress_threshold: int = 1024
    read_to: Position = field(default_factory=Position)
    sender: Sender | None = None
    most_on_way: int = 0
    said: list[Said] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.context = zmq.Context()
        self.output = self.context.socket(zmq.PUSH)
        self.output.setsockopt(zmq.IMMEDIATE, 1)
        self.output.setsockopt(zmq.SNDHWM, 64)
        self.output.setsockopt(zmq.SNDTIMEO, 200)
        self.positions = self.context.socket(zmq.SUB)
        for topic in (self.name.encode(), WELCOME):
            self.positions.setsockopt(zmq.SUBSCRIBE, topic)
        for socket, name in ((self.output, OUTPUT), (self.positions, POSITIONS)):
            socket.setsockopt(zmq.LINGER, 0)
            socket.setsockopt(zmq.RECONNECT_IVL, 10)
            socket.setsockopt(zmq.RECONNECT_IVL_MAX, 100)
            socket.connect(endpoint(self.runtime_dir, name))
        self._begin(fresh=self.fresh)

    def _begin(self, *, fresh: bool) -> None:
        self.announce(self)
        self.sender = Sender(self.job_id, self.name, self.epoch, self.generation, self.compress_threshold)
        self.sender.start(time.monotonic(), fresh=fresh)
        self._place: Position | None = None

    def step(self, wait_ms: int = 5) -> None:
        """Do what is due, then wait a moment for an answer."""
        assert self.sender is not None
        if self.sender.position is not None:
            self._place = self._place or self.sender.position
            while self._place.next_sequence <= self.total and self.sender.room_bytes() > 0:
                first = self._place.next_sequence
                texts = [line_of(n) for n in range(first, min(first + self.lines_a_batch, self.total + 1))]
                batch = encode(self.job_id, self._place, texts)
                self.sender.take(batch)
                self._place = batch.after
                self._send()
        self._send()
        self.positions.poll(wait_ms)
        while True:
            try:
                topic, *rest = self.positions.recv_multipart(zmq.DONTWAIT)
            except zmq.Again:
                break
            if topic == WELCOME:
                self.sender.streamer_is_new(time.monotonic())
                continue
            said = unpack(rest[0])
            assert isinstance(said, Said)
            self.said = [*self.said[-50:], said]
            try:
                self.sender.hear(said, time.monotonic())
            except PositionLostError:
                self.generation += 1
                self._begin(fresh=False)
                return

    def _send(self) -> None:
        assert self.sender is not None
        for message in self.sender.due(time.monotonic()):
            try:
                self.output.send(pack(message))
            except zmq.Again:  # nobody takes it: it goes again when nothing is heard of it
                break
            self.most_on_way = max(self.most_on_way, self.sender._on_way_bytes)

    def is_durable(self) -> bool:
        assert self.sender is not None
        return self.sender.synced is not None and self.sender.synced.next_sequence > self.total

    def run(self, until: Callable[[], bool] | None = None, timeout_s: float = 60.0) -> None:
        """Work until all is durable or a condition holds. Raises TimeoutError."""
        deadline = time.monotonic() + timeout_s
        done = until or self.is_durable
        while not done():
            if time.monotonic() > deadline:
                raise TimeoutError(f"{self.job_id} is at {self.sender and self.sender.written}")
            self.step()

    def close(self) -> None:
        self.context.destroy(linger=0)


def numbers(lines: dict[int, object]) -> Iterator[int]:
    """The sequence numbers as they came first."""
    yield from lines
