"""A power cut: what was not synced is gone, in any order of pages. Nothing that was in a place is lost, no number comes twice."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cronium.common.messages import Batch, Position
from cronium.supervisor.streamer.ledger import Ledger
from cronium.supervisor.streamer.spool import Spool
from cronium.supervisor.streamer.track import Verdict
from cronium.worker.lines import LineEncoder
from peers.streamer_parts import MIB, announce, ledger, spool

PLACE, PAGE_BYTES = "place", 4096
JOB = "job"


class Host:
    """One job with two streams in a place, a spool with its ledger, and a backend. `cut` is the power cut."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.boots = folder, 0
        self.files = {
            stream: "".join(f"{stream} {n} {'z' * (n % 700)}\n" for n in range(400)).encode() for stream in ("stdout", "stderr")
        }
        self.backend: dict[int, tuple[str, str]] = {}
        self._boot()

    def _boot(self) -> None:
        self.boots += 1
        self.spool: Spool = spool(self.folder, max_bytes=8 * MIB, segment_bytes=MIB // 8)
        self.ledger: Ledger = ledger(self.spool)
        self.synced = self.spool.end
        self.ledger.announce(announce(JOB, "w", self.boots), 0.0)
        track = self.ledger.positions.get(JOB, 1)
        assert track is not None
        self.reader = LineEncoder(JOB, track.written)
        self.at = {stream: track.written.mark(PLACE, stream).offset for stream in self.files}
        assert all(track.synced.mark(PLACE, stream).offset >= 0 for stream in self.files)

    def read(self, stream: str, count: int) -> None:
        """A worker reads so many bytes, numbers their lines, and they are written."""
        data = self.files[stream][self.at[stream] : self.at[stream] + count]
        self.at[stream] += len(data)
        self.reader.feed(PLACE, stream, data, self.at[stream], 0.0, 0)
        while (encoded := self.reader.take()) is not None:
            batch = Batch(
                JOB, "w", 1, self.boots, 1, encoded.first_sequence, encoded.lines, encoded.payload, False,
                len(encoded.payload), encoded.after,
            )  # fmt: skip
            assert self.ledger.batch(batch, 0.0) is Verdict.TAKE

    def sync(self) -> None:
        self.synced = self.spool.end
        self.ledger.is_safe_up_to(self.synced)

    def send(self, count: int) -> None:
        """What the outlet does: only what is synced goes."""
        while count and (spooled := self.spool.peek()) is not None and spooled.lsn < self.ledger.safe:
            assert isinstance(spooled.record, Batch)
            for entry in json.loads(spooled.record.payload):
                known = self.backend.setdefault(entry["sequence"], (entry["stream"], entry["line"]))
                assert known == (entry["stream"], entry["line"]), "a number was used twice"
            self.spool.advance()
            self.ledger.settled((JOB, 1), spooled.record.size, spooled.disk_bytes, 0.0)
            count -= 1
        self.ledger.low = self.spool.cursor
        self.ledger.mark()

    def cut(self, survives: list[bool]) -> None:
        """Each page that was not synced is there or not."""
        base, path = self.spool.segment_base(self.spool.end), max(self.folder.glob("*.spool"))
        from_byte = max(16, self.synced - base)
        self.spool.close()
        with path.open("r+b") as file:
            size = path.stat().st_size
            for number, at in enumerate(range(from_byte, min(size, from_byte + 64 * PAGE_BYTES), PAGE_BYTES)):
                if not survives[number % len(survives)]:
                    file.seek(at)
                    file.write(b"\0" * min(PAGE_BYTES, size - at))
        self._boot()


steps = st.lists(
    st.one_of(
        st.tuples(st.sampled_from(["stdout", "stderr"]), st.integers(1, 30_000)),
        st.tuples(st.just("sync"), st.just(0)),
        st.tuples(st.just("send"), st.integers(1, 5)),
        st.tuples(st.just("cut"), st.lists(st.booleans(), min_size=1, max_size=8)),
    ),
    max_size=60,
)


@settings(max_examples=80, deadline=None)
@given(steps)
def test_a_power_cut_loses_nothing_of_a_place_and_uses_no_number_twice(
    tmp_path_factory: pytest.TempPathFactory, history: list[tuple[str, int | list[bool]]]
) -> None:
    """Promises 3 and 5: whatever came before, the backend has every line of both streams once, in order."""
    folder = tmp_path_factory.mktemp("spool")
    host = Host(folder)
    for step, value in history:
        match step, value:
            case "sync", _:
                host.sync()
            case "send", int():
                host.send(value)
            case "cut", list():
                host.cut(value)
            case stream, int():
                host.read(stream, value)
    for stream in host.files:
        host.read(stream, 10 * MIB)
    host.sync()
    host.send(10_000)
    host.spool.close()
    assert sorted(host.backend) == list(range(1, 801))
    for stream, data in host.files.items():
        lines = [line for number, (of, line) in sorted(host.backend.items()) if of == stream]
        assert lines == data.decode().splitlines()
    shutil.rmtree(folder)


def test_what_a_backend_has_is_never_ahead_of_what_a_power_cut_leaves(tmp_path: Path) -> None:
    host = Host(tmp_path)
    host.read("stdout", 5000)
    host.send(100)
    assert not host.backend
    host.sync()
    host.send(100)
    assert host.backend
    host.read("stdout", 5000)
    host.cut([False])
    track = host.ledger.positions.get(JOB, 1)
    assert track is not None
    assert track.written.next_sequence == max(host.backend) + 1
    assert track.written != Position()
