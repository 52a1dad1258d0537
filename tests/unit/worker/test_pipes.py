"""A job's two streams on their way to file descriptors: real pipes."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from cronium.worker.executor import Log
from cronium.worker.pipes import Pipes


class Ends:
    """Two pipes and what was said before each write."""

    def __init__(self) -> None:
        self.readers: dict[str, int] = {}
        self.writers: dict[str, int] = {}
        for stream in ("stdout", "stderr"):
            self.readers[stream], self.writers[stream] = os.pipe()
            os.set_blocking(self.readers[stream], False)
        self.said: list[tuple[str, bytes]] = []
        self.pipes = Pipes(self.writers, lambda stream, end: self.said.append((stream, end)))

    def read(self, stream: str) -> bytes:
        with suppress(BlockingIOError):
            return os.read(self.readers[stream], 1 << 20)
        return b""

    def close(self) -> None:
        for descriptor in (*self.readers.values(), *self.writers.values()):
            with suppress(OSError):
                os.close(descriptor)


@pytest.fixture
def ends() -> Iterator[Ends]:
    both = Ends()
    yield both
    both.close()


def test_all_bytes_arrive_in_order_through_a_slow_reader(ends: Ends) -> None:
    # Guards: a full pipe never blocks us, loses nothing, and room tells how much may follow.
    data = random.Random(1).randbytes(1_000_000)
    got, offset = b"", 0
    while len(got) < len(data):
        if piece := data[offset : offset + min(ends.pipes.room(), 100_000)]:
            offset += len(piece)
            ends.pipes.put(Log("stdout", piece, offset))
        got += os.read(ends.readers["stdout"], 7000)
        assert ends.pipes.durable("stdout") <= len(got) + 65536 + 4096  # a pipe's capacity: pipe(7)
        ends.pipes.write()
    assert got == data
    assert ends.pipes.blocked() is None
    assert ends.pipes.durable("stdout") == len(data)


def test_a_stream_waits_behind_the_other(ends: Ends) -> None:
    # Guards: the order between the two streams is the one in which they were read.
    ends.pipes.put(Log("stdout", b"x" * 200_000, 200_000))
    ends.pipes.put(Log("stderr", b"later\n", 6))
    assert ends.pipes.blocked() == ends.writers["stdout"]
    assert ends.read("stderr") == b""
    while ends.pipes.blocked() is not None:
        ends.read("stdout")
        ends.pipes.write()
    assert ends.read("stderr") == b"later\n"
    assert ends.said[-1] == ("stderr", b"\n")


def test_a_reader_that_has_gone_is_seen_and_nothing_waits_for_it(ends: Ends) -> None:
    os.close(ends.readers["stdout"])
    ends.pipes.put(Log("stdout", b"for nobody", 10))
    assert ends.pipes.broken is not None
    assert (ends.pipes.broken[0], type(ends.pipes.broken[1])) == ("stdout", BrokenPipeError)
    assert ends.pipes.blocked() is None
    assert (ends.pipes.durable("stdout"), ends.pipes.room()) == (10, 256 * 1024)


def test_what_was_skipped_counts_as_durable_in_its_turn(ends: Ends) -> None:
    ends.pipes.put(Log("stdout", b"x" * 200_000, 200_000))
    ends.pipes.skip("stdout", 300_000)
    assert ends.pipes.durable("stdout") == 0
    ends.pipes.drop()
    assert ends.pipes.durable("stdout") == 300_000
    assert ends.pipes.room() == 256 * 1024


def test_a_plain_file_takes_all_at_once(tmp_path: Path) -> None:
    path = tmp_path / "out"
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT)
    said: list[str] = []
    pipes = Pipes({"stdout": descriptor, "stderr": descriptor}, lambda stream, _: said.append(stream))
    pipes.put(Log("stdout", b"y" * 200_000, 200_000))
    os.close(descriptor)
    assert path.stat().st_size == 200_000
    assert said == ["stdout"]
