"""The log on disk: what was written is read again, a torn end is cut off, it is bounded, and a foreign file is refused."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cronium.common.crypto import SealError
from cronium.common.messages import Batch
from cronium.supervisor.streamer.records import Mark, Record
from cronium.supervisor.streamer.segment import SpoolError
from cronium.supervisor.streamer.spool import Spool, Spooled, SpoolFullError
from peers.streamer_parts import MIB, announce, batch, spool


def fill(log: object, count: int, size: int = 200) -> list[Batch]:
    found = []
    for number in range(count):
        found.append(batch(texts=(f"{number} " + "x" * size,)))
        log.append(found[-1])  # type: ignore[attr-defined]
    return found


def batches(log: Spool) -> list[Batch]:
    """What a restart reads."""
    records = [found.record for found in log.recover() if isinstance(found, Spooled)]
    return [record for record in records if isinstance(record, Batch)]


def count_by_cursor(log: Spool) -> int:
    count = 0
    while log.peek() is not None:
        log.advance()
        count += 1
    return count


def segments_base(log: Spool) -> int:
    return log.segment_base(log.end)


def segments(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.spool"))


def test_a_restart_reads_everything_in_order(tmp_path: Path) -> None:
    """Promise 5: a kill at any instant loses no line that was written."""
    log = spool(tmp_path)
    written: list[Record] = [announce()]
    log.append(announce())
    written += fill(log, 3000, 1000)  # over several segments
    log.append(Mark(12, 99))
    log.close()
    assert len(segments(tmp_path)) > 2
    again = spool(tmp_path)
    found = [s.record for s in again.recover()]
    assert [record for record in found if not isinstance(record, Mark)] == written
    assert found[-1] == Mark(12, 99)
    assert again.mark == Mark(12, 99)
    again.close()


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 4000), st.booleans())
def test_a_torn_end_is_cut_off_wherever_it_was_torn(tmp_path_factory: pytest.TempPathFactory, cut: int, garbage: bool) -> None:
    folder = tmp_path_factory.mktemp("spool")
    log = spool(folder)
    written = fill(log, 10)
    ends = [log.end]
    log.close()
    path = segments(folder)[-1]
    size = ends[-1] - cut
    if size < 16:
        size = 16
    with path.open("r+b") as file:
        file.truncate(size)
        if garbage:
            file.seek(size)
            file.write(os.urandom(500))
    again = spool(folder)
    found = [s.record for s in again.recover()]
    assert found == written[: len(found)]
    assert again.end <= size
    more = batch(texts=("after",))
    again.append(more)
    again.close()
    third = spool(folder)
    assert [s.record for s in third.recover()] == [*found, more]
    third.close()


def test_the_cursor_gives_every_batch_once_from_memory_and_from_the_file(tmp_path: Path) -> None:
    log = spool(tmp_path)
    read: list[Batch] = []

    def take(count: int) -> None:
        while count and (spooled := log.peek()) is not None:
            assert isinstance(spooled.record, Batch)
            read.append(spooled.record)
            log.advance()
            count -= 1

    written: list[Batch] = []
    for number in range(40):
        written += fill(log, 150, 500)  # more than is kept in memory (100)
        log.append(Mark(0, number))
        take(30 + number * 7 % 200)
    take(100_000)
    assert read == written
    log.seek(0)
    read.clear()
    take(100_000)
    assert read == written
    log.close()


def test_it_is_bounded_and_goes_on_when_old_segments_go(tmp_path: Path) -> None:
    """Promise 7."""
    log = spool(tmp_path, max_bytes=16 * MIB)
    with pytest.raises(SpoolFullError):
        fill(log, 100_000, 10_000)
    assert sum(path.stat().st_blocks * 512 for path in segments(tmp_path)) <= 16 * MIB
    assert log.free_bytes() < 20_000
    log.append(announce())  # what is no batch still finds room
    log.drop_below(log.end // 2)
    assert log.free_bytes() > 6 * MIB
    fill(log, 1, 10_000)
    log.close()


def test_a_file_that_is_not_ours_is_refused_and_left_alone(tmp_path: Path) -> None:
    foreign = tmp_path / f"{0:020d}.spool"
    foreign.write_bytes(b"somebody's only copy of something")
    with pytest.raises(SpoolError, match="not a file of this spool: move it out"):
        spool(tmp_path)
    assert foreign.read_bytes() == b"somebody's only copy of something"


def test_another_key_is_told_and_nothing_is_cut(tmp_path: Path) -> None:
    log = spool(tmp_path)
    fill(log, 3)
    log.close()
    with pytest.raises(SealError, match="right key"):
        list(spool(tmp_path, key=b"k" * 32).recover())
    (tmp_path / "lock").unlink()
    again = spool(tmp_path)
    assert len(list(again.recover())) == 3
    again.close()


def test_what_is_stored_cannot_be_read_without_the_key(tmp_path: Path) -> None:
    """Promise 6."""
    log = spool(tmp_path)
    log.append(batch(texts=("a password in a line",), job="secret-name"))
    log.close()
    stored = b"".join(path.read_bytes() for path in segments(tmp_path))
    assert b"password" not in stored
    assert b"secret-name" not in stored


def test_two_streamers_never_write_to_one_spool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cronium.supervisor.streamer.spool._LOCK_WAIT_S", 0.05)
    log = spool(tmp_path)
    with pytest.raises(SpoolError, match="another streamer"):
        spool(tmp_path)
    log.close()
    spool(tmp_path).close()


def test_a_segment_made_in_the_moment_of_a_power_cut_is_no_error(tmp_path: Path) -> None:
    log = spool(tmp_path)
    written = fill(log, 3)
    end = log.end
    log.close()
    (tmp_path / f"{end:020d}.spool").write_bytes(b"\0" * 4096)
    again = spool(tmp_path)
    assert [s.record for s in again.recover()] == written
    again.close()


def test_damage_costs_the_record_it_hit_and_nothing_else(tmp_path: Path) -> None:
    log = spool(tmp_path)
    written = fill(log, 3000, 1000)
    log.close()
    first = segments(tmp_path)[0]
    with first.open("r+b") as file:
        file.seek(5000)
        file.write(b"damage")
    again = spool(tmp_path)
    found = batches(again)
    assert len(found) == len(written) - 1
    assert found == [w for w in written if w in found]
    assert count_by_cursor(again) == len(found)
    again.close()


def test_damage_in_the_newest_segment_costs_no_more_if_a_mark_says_that_it_was_synced(tmp_path: Path) -> None:
    """Promise 5: a bit that flips is no reason to throw away what follows it, which the places no longer have."""
    for synced in (True, False):
        folder = tmp_path / str(synced)
        log = spool(folder)
        written = fill(log, 5)
        at = log.end - segments_base(log) + 40
        written += fill(log, 5)
        log.append(Mark(0, 1, log.end if synced else 0))
        written += fill(log, 1)
        log.close()
        with segments(folder)[-1].open("r+b") as file:
            file.seek(at)
            byte = file.read(1)[0]
            file.seek(at)
            file.write(bytes([byte ^ 1]))
        again = spool(folder)
        assert batches(again) == (written[:5] + written[6:] if synced else written[:5])
        more = fill(again, 1)
        again.close()
        third = spool(folder)
        assert batches(third)[-1] == more[0]
        third.close()


def test_a_missing_file_costs_what_was_in_it(tmp_path: Path) -> None:
    log = spool(tmp_path)
    written = fill(log, 3000, 1000)
    log.close()
    segments(tmp_path)[1].unlink()
    again = spool(tmp_path)
    found = batches(again)
    assert found[0] == written[0]
    assert found[-1] == written[-1]
    assert len(written) - 1000 < len(found) < len(written)
    assert count_by_cursor(again) == len(found)
    again.close()


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_a_kill_or_a_power_cut_at_any_byte_keeps_what_was_said(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    """Promise 5: a kill keeps what was written, a power cut what was synced, whatever became of the pages behind that."""
    folder = tmp_path_factory.mktemp("spool")
    log = spool(folder)
    written: list[Batch] = []
    ends: list[int] = []
    for size in data.draw(st.lists(st.integers(1, 9000), min_size=1, max_size=20)):
        written += fill(log, 1, size)
        ends.append(log.end)
        if data.draw(st.booleans()):
            log.append(Mark(0, 1, data.draw(st.sampled_from([0, *ends]))))
    end = log.end
    log.close()
    synced = data.draw(st.sampled_from([0, *ends]))
    path = segments(folder)[-1]
    with path.open("r+b") as file:
        if data.draw(st.booleans(), label="kill in the middle of a write"):
            at = data.draw(st.integers(16, end))
            file.truncate(at)
            kept = sum(e <= at for e in ends)
        else:  # after a power cut each page behind the sync is as it was, as it became, or zero
            kept = sum(e <= synced for e in ends)
            for at in range(max(16, synced), end, 4096):
                if data.draw(st.booleans()):
                    file.seek(at)
                    file.write(b"\0" * min(4096, end - at))
    again = spool(folder)
    found = batches(again)
    assert found[:kept] == written[:kept]
    again.close()
