"""What is lost on a disk, and what is given up for its age, is told; everything else goes on."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from cronium.common.messages import Batch, Position
from cronium.supervisor.streamer.ledger import Ledger
from cronium.supervisor.streamer.records import Mark
from cronium.supervisor.streamer.spool import Spool
from peers.streamer_parts import MIB, announce, batch, ledger, spool

LONG = "x" * 400


def write(made: Ledger, job: str, place: Position, count: int) -> Position:
    for _ in range(count):
        one = batch(place, (LONG,) * 20, job)
        made.batch(one, 0.0)
        place = one.after
    return place


def lines(log: Spool) -> list[tuple[str, int, str, str]]:
    """Job, number, stream and text of all that would be sent."""
    found = []
    while (spooled := log.peek()) is not None:
        assert isinstance(spooled.record, Batch)
        found += [(e["jobId"], e["sequence"], e["stream"], e["line"]) for e in json.loads(spooled.record.payload)]
        log.advance()
    return found


def synced(made: Ledger, log: Spool) -> None:
    made.is_safe_up_to(log.end)
    made.mark()


def hit(folder: Path, at: int) -> None:
    with sorted(folder.glob("*.spool"))[0].open("r+b") as file:
        file.seek(at)
        file.write(b"damage")


def blank(folder: Path, start: int, stop: int) -> None:
    with sorted(folder.glob("*.spool"))[0].open("r+b") as file:
        file.seek(start)
        file.write(b"\0" * (stop - start))


def acknowledge_all(made: Ledger, log: Spool) -> None:
    while (spooled := log.peek()) is not None:
        assert isinstance(spooled.record, Batch)
        log.advance()
        made.settled((spooled.record.job_id, 1), spooled.record.size, spooled.disk_bytes, 0.0)
    made.low = log.cursor


def test_a_job_whose_lines_are_lost_is_told_which_once_and_others_lose_nothing(tmp_path: Path) -> None:
    log = spool(tmp_path)
    made = ledger(log)
    made.announce(announce("hit"), 0.0)
    made.announce(announce("whole"), 0.0)
    place = write(made, "hit", Position(), 1)
    at = log.end
    place = write(made, "hit", place, 1)
    whole = write(made, "whole", Position(), 2)
    place = write(made, "hit", place, 1)
    synced(made, log)
    log.close()
    hit(tmp_path, at + 100)
    for _ in range(2):
        log = spool(tmp_path)
        made = ledger(log)
        (said,) = [line for line in lines(log) if line[2] == "system"]
        assert said[0] == "hit"
        assert said[1] == place.next_sequence
        assert "lines 21 to 40 of this job are lost" in said[3]
        track, other = made.positions.get("hit", 1), made.positions.get("whole", 1)
        assert track is not None
        assert other is not None
        assert track.written.files == place.files, "what follows the damage is known: the place is not read again"
        assert track.written.next_sequence == place.next_sequence + 1
        assert other.written == whole
        synced(made, log)
        log.close()


def test_whose_lines_were_hit_is_known_from_what_was_written_behind_them(tmp_path: Path) -> None:
    """Promise 3, and a job that lost nothing is told nothing: a quiet one has no record behind the damage either."""
    log = spool(tmp_path)
    made = ledger(log)
    made.announce(announce("quiet"), 0.0)
    quiet = write(made, "quiet", Position(), 1)
    made.announce(announce("hit"), 0.0)
    kept = write(made, "hit", Position(), 1)
    at = log.end
    used = write(made, "hit", kept, 3)
    last = log.end
    synced(made, log)
    log.close()
    blank(tmp_path, at, last)
    for _ in range(2):
        log = spool(tmp_path)
        made = ledger(log)
        (said,) = [line for line in lines(log) if line[2] == "system"]
        assert (said[0], said[1]) == ("hit", used.next_sequence)
        assert "lines 21 to 80 of this job are lost" in said[3]
        assert made.summary("hit", 1).position == replace(used, next_sequence=used.next_sequence + 1)
        assert made.summary("quiet", 1).position == quiet
        log.close()


def test_what_was_hit_and_acknowledged_is_lost_to_nobody_and_no_number_comes_again(tmp_path: Path) -> None:
    log = spool(tmp_path)
    made = ledger(log)
    made.announce(announce("hit"), 0.0)
    kept = write(made, "hit", Position(), 1)
    at = log.end
    used = write(made, "hit", kept, 2)
    acknowledge_all(made, log)
    synced(made, log)
    log.close()
    hit(tmp_path, at + 100)
    log = spool(tmp_path)
    made = ledger(log)
    assert lines(log) == []
    assert made.summary("hit", 1).position == used
    log.close()


def lose_the_newest(folder: Path, log: Spool) -> tuple[Position, Position]:
    """Damage behind which nothing tells whose it was; the job's position before it and behind it."""
    made = ledger(log)
    made.announce(announce("hit"), 0.0)
    kept = write(made, "hit", Position(), 1)
    at = log.end
    used = write(made, "hit", kept, 3)
    last = log.end
    log.append(Mark(made.low, 1, log.end))
    log.close()
    blank(folder, at, last)
    return kept, used


def test_a_job_whose_newest_lines_may_be_lost_uses_no_number_again(tmp_path: Path) -> None:
    """Promise 3: it goes back to what is known of it, so what its place still holds is read again, under new numbers."""
    kept, used = lose_the_newest(tmp_path, spool(tmp_path))
    log = spool(tmp_path)
    made = ledger(log)
    track = made.positions.get("hit", 1)
    assert track is not None
    assert track.written.files == kept.files
    assert track.written.next_sequence > used.next_sequence
    (said,) = [line for line in lines(log) if line[2] == "system"]
    assert (said[0], said[1]) == ("hit", track.written.next_sequence - 1)
    assert "from 21 on may be lost" in said[3]
    log.close()


def test_without_room_for_the_line_the_numbers_are_left_out_all_the_same_and_it_is_said_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Promise 3: a full disk is no reason to use numbers twice."""
    kept, used = lose_the_newest(tmp_path, spool(tmp_path))
    log = spool(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(Spool, "free_bytes", lambda _spool: 0)
        made = ledger(log)
        track = made.positions.get("hit", 1)
        assert track is not None
        assert track.written.next_sequence > used.next_sequence
        assert track.written == track.synced, "so a reader does not wait for a sync that does not come"
        made.try_again(0.0)
    assert lines(log)[-1][1] == kept.next_sequence - 1
    for _ in range(2):
        made.try_again(0.0)
    log.seek(0)
    (said,) = [line for line in lines(log) if line[2] == "system"]
    assert said[1] > used.next_sequence
    assert "may be lost" in said[3]
    log.close()


@pytest.mark.parametrize("fsync", [True, False])
def test_without_fsync_no_mark_says_that_anything_was_synced(tmp_path: Path, fsync: bool) -> None:
    """Else what a power cut took back would be told as damage."""
    log = spool(tmp_path, fsync=fsync)
    made = ledger(log)
    made.announce(announce("job"), 0.0)
    write(made, "job", Position(), 1)
    end = log.end
    synced(made, log)
    assert log.mark.synced == (end if fsync else 0)
    log.close()


def test_damage_of_what_was_acknowledged_is_no_jobs_business(tmp_path: Path) -> None:
    log = spool(tmp_path)
    made = ledger(log)
    made.announce(announce("job"), 0.0)
    place = write(made, "job", Position(), 5)
    acknowledge_all(made, log)
    place = write(made, "job", place, 1)
    synced(made, log)
    log.close()
    hit(tmp_path, 1000)
    log = spool(tmp_path)
    made = ledger(log)
    assert [line for line in lines(log) if line[2] == "system"] == []
    track = made.positions.get("job", 1)
    assert track is not None
    assert track.written == place
    log.close()


def test_a_missing_file_is_told_to_those_who_had_lines_in_it(tmp_path: Path) -> None:
    log = spool(tmp_path, max_bytes=16 * MIB)
    made = ledger(log)
    made.announce(announce("loud"), 0.0)
    made.announce(announce("quiet"), 0.0)
    quiet = write(made, "quiet", Position(), 1)
    loud = write(made, "loud", Position(), 400)
    quiet = write(made, "quiet", quiet, 1)
    synced(made, log)
    log.close()
    sorted(tmp_path.glob("*.spool"))[1].unlink()
    log = spool(tmp_path, max_bytes=16 * MIB)
    made = ledger(log)
    told = [line for line in lines(log) if line[2] == "system"]
    assert [line[0] for line in told] == ["loud"]
    assert made.summary("quiet", 1).position == quiet
    assert made.summary("loud", 1).position.next_sequence == loud.next_sequence + 1
    log.close()


def test_age_counts_the_time_that_we_ran_and_survives_restarts(tmp_path: Path) -> None:
    log = spool(tmp_path)
    made = ledger(log, max_age_s=6400.0)
    made.announce(announce("job"), 0.0)
    place = write(made, "job", Position(), 1)
    old = log.end
    now_s = 0.0
    for _ in range(30):
        now_s += 100.0
        made.grow_older(now_s)
        made.mark()
    log.close()
    log = spool(tmp_path)
    made = ledger(log, max_age_s=6400.0)  # its clock began anew; the month in between does not count
    place = write(made, "job", place, 1)
    for step in range(1, 34):
        made.grow_older(step * 100.0)
        made.mark()
    assert made.too_old_below == 0
    made.grow_older(3700.0)
    assert old <= made.too_old_below < log.end
    log.close()


@pytest.mark.parametrize("restart", [True, False])
def test_marks_do_not_pile_up_while_nothing_waits(tmp_path: Path, restart: bool) -> None:
    log = spool(tmp_path)
    made = ledger(log, max_age_s=64.0)
    if restart:
        log.close()
        log = spool(tmp_path)
        made = ledger(log, max_age_s=64.0)
    made.settled(("job", 1), 0, 0, 0.0)
    for step in range(1000):
        assert log.peek() is None
        made.low = log.cursor
        made.grow_older(float(step))
        made.mark()
    assert log.end < 200, "one mark"
    log.close()
