"""Positions, tails and spool together: a restart at any moment finds everything, and what is not needed goes."""

from __future__ import annotations

import zlib
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cronium.common.messages import Batch, Forget, JobEpoch, Position, StillWanted
from cronium.supervisor.streamer.ledger import Ledger
from cronium.supervisor.streamer.track import Verdict
from peers.streamer_parts import MIB, announce, batch, ledger, spool


def send_all(made: Ledger, log: object) -> None:
    """Everything is sent and acknowledged."""
    while (spooled := log.peek()) is not None:  # type: ignore[attr-defined]
        one = spooled.record
        log.advance()  # type: ignore[attr-defined]
        made.settled((one.job_id, one.epoch), one.size, spooled.disk_bytes, 0.0)
    made.low = log.cursor  # type: ignore[attr-defined]
    made.mark()


def test_a_restart_knows_positions_tails_and_who_may_write(tmp_path: Path) -> None:
    log = spool(tmp_path)
    made = ledger(log)
    made.announce(announce(next_sequence=5), 0.0)
    one = batch(Position(5), ("hello", "world"))
    assert made.batch(one, 0.0) is Verdict.TAKE
    before = made.summary("job", 1)
    log.close()
    log = spool(tmp_path)
    again = ledger(log)
    assert again.summary("job", 1) == before
    assert before.stdout == b"hello\nworld\n"
    assert before.first_sequence == 5
    track = again.positions.get("job", 1)
    assert track is not None
    assert (track.worker, track.generation, track.waiting_bytes) == ("w1", 1, one.size)
    assert track.synced == one.after
    assert again.batch(batch(one.after), 0.0) is Verdict.TAKE
    log.close()


def test_what_a_restart_finds_of_jobs_that_nobody_will_ask_for_is_forgotten(tmp_path: Path) -> None:
    """Promise 7: that a report was taken may have been said to a streamer that was no more."""
    log = spool(tmp_path)
    made = ledger(log)
    for job in ("taken", "owed", "again", "unsent"):
        made.announce(announce(job), 0.0)
        made.batch(batch(Position(), ("x",), job), 0.0)
        if job != "unsent":
            send_all(made, log)
    log.close()
    log = spool(tmp_path)
    made = ledger(log)
    made.announce(announce("again", generation=2), 0.0)  # its worker may be opening it just now
    made.announce(announce("new"), 0.0)
    made.forget_others(StillWanted((JobEpoch("owed", 1), JobEpoch("taken", 2))))
    known = made.positions.keys()
    assert {job for job, _ in known} == {"owed", "unsent", "again", "new"}
    assert made.batch(batch(Position(2), ("y",), "unsent"), 0.0) is Verdict.UNKNOWN
    assert log.peek() is not None, "what is not acknowledged is still sent"
    log.close()
    assert ledger(spool(tmp_path)).positions.get("taken", 1) is None


def test_an_unknown_job_has_an_empty_summary_and_an_announced_one_too(tmp_path: Path) -> None:
    made = ledger(spool(tmp_path))
    unknown = made.summary("nobody", 1)
    assert (unknown.position, unknown.stdout, unknown.truncated) == (Position(), b"", False)
    made.announce(announce("silent"), 0.0)
    silent = made.summary("silent", 1)
    assert (silent.position, silent.stdout, silent.truncated) == (Position(), b"", False)


def test_segments_go_when_acknowledged_and_state_that_was_only_there_is_written_on(tmp_path: Path) -> None:
    """Promise 4 and 7: disk is bounded, and the tail of a quiet job survives the flood of another."""
    log = spool(tmp_path, max_bytes=16 * MIB)
    made = ledger(log)
    made.announce(announce("quiet", "w2"), 0.0)
    made.batch(batch(Position(), ("kept",), "quiet", worker="w2"), 0.0)
    made.announce(announce("gone", "w3"), 0.0)
    made.batch(batch(Position(), ("kept",), "gone", worker="w3"), 0.0)
    made.forget(Forget("gone", 1))
    made.announce(announce(), 0.0)
    place, segments = Position(), []
    for _ in range(1000):
        one = batch(place, ("x" * 1000,) * 60)
        assert made.batch(one, 0.0) is Verdict.TAKE
        place = one.after
        send_all(made, log)
        made.is_safe_up_to(log.end)
        segments.append(len(list(tmp_path.glob("*.spool"))))
    assert max(segments) <= 3
    quiet, loud = made.summary("quiet", 1), made.summary("job", 1)
    assert quiet.stdout == b"kept\n"
    log.close()
    log = spool(tmp_path, max_bytes=16 * MIB)
    again = ledger(log)
    assert again.summary("quiet", 1) == quiet
    assert again.summary("job", 1) == loud
    assert again.summary("gone", 1).position == Position()
    assert again.positions.get("job", 1).waiting_batches == 0  # type: ignore[union-attr]
    assert again.batch(batch(Position(3), ("more",), "quiet", worker="w2"), 0.0) is Verdict.REJECTED
    assert again.batch(batch(quiet.position, ("more",), "quiet", worker="w2"), 0.0) is Verdict.TAKE
    log.close()


def test_segments_stay_while_what_was_written_on_is_not_synced(tmp_path: Path) -> None:
    """Promise 5, power cut."""
    log = spool(tmp_path)
    made = ledger(log)
    made.announce(announce(), 0.0)
    place = Position()
    for _ in range(60):
        one = batch(place, ("x" * 1000,) * 60)
        made.batch(one, 0.0)
        place = one.after
    synced = log.end
    send_all(made, log)
    count = len(list(tmp_path.glob("*.spool")))
    made.is_safe_up_to(synced)
    assert len(list(tmp_path.glob("*.spool"))) == count > 1
    made.is_safe_up_to(log.end)
    assert len(list(tmp_path.glob("*.spool"))) < count
    log.close()


def test_a_full_spool_holds_jobs_back_and_takes_nothing(tmp_path: Path) -> None:
    log = spool(tmp_path, max_bytes=16 * MIB)
    made = ledger(log)
    made.announce(announce(), 0.0)
    place, verdict = Position(), Verdict.TAKE
    while verdict is Verdict.TAKE:
        one = batch(place, ("x" * 1000,) * 60)
        verdict = made.batch(one, 0.0)
        place = one.after if verdict is Verdict.TAKE else place
    assert verdict is Verdict.REJECTED
    (said,) = made.positions.due(0.0)
    assert said.rejected
    assert said.written == place
    assert said.window_bytes < one.size
    send_all(made, log)
    made.is_safe_up_to(log.end)
    made.positions.tick(0.1)
    (said,) = made.positions.due(0.1)
    assert said.window_bytes >= one.size
    assert made.batch(one, 0.0) is Verdict.TAKE
    log.close()


steps = st.lists(
    st.tuples(st.sampled_from(["batch", "batch", "batch", "ack", "restart", "sync", "forget", "announce"]), st.integers(0, 3)),
    max_size=80,
)


@settings(max_examples=40, deadline=None)
@given(steps)
def test_nothing_is_lost_over_any_history_with_restarts(
    tmp_path_factory: pytest.TempPathFactory, history: list[tuple[str, int]]
) -> None:
    """Promises 3, 4 and 5: after each restart positions are where they were, and every unacknowledged batch is sent."""
    folder = tmp_path_factory.mktemp("spool")
    log = spool(folder)
    made = ledger(log)
    place: dict[str, Position] = {}
    generation = dict.fromkeys(map(str, range(4)), 0)
    text: dict[str, bytes] = {}
    unacknowledged: list[tuple[str, int]] = []
    for step, number in history:
        job = str(number)
        match step:
            case "announce":
                generation[job] += 1
                made.announce(announce(job, generation=generation[job]), 0.0)
                place.setdefault(job, Position())
                text.setdefault(job, b"")
            case "batch" if job in place:
                lines = tuple(f"{job} {place[job].next_sequence + n} " + "y" * 5000 for n in range(20))
                one = batch(place[job], lines, job, generation=generation[job])
                assert made.batch(one, 0.0) is Verdict.TAKE
                place[job] = one.after
                text[job] = (text[job] + "".join(line + "\n" for line in lines).encode())[-MIB:]
                unacknowledged.append((job, one.first_sequence))
            case "ack":
                for _ in range(5):
                    if (spooled := log.peek()) is not None and isinstance(found := spooled.record, Batch):
                        log.advance()
                        made.settled((found.job_id, 1), found.size, spooled.disk_bytes, 0.0)
                        unacknowledged.remove((found.job_id, found.first_sequence))
                log.peek()
                made.low = log.cursor
                made.mark()
            case "sync":
                made.is_safe_up_to(log.end)
            case "forget" if job in place:
                made.forget(Forget(job, 1))
                if not any(waiting == job for waiting, _ in unacknowledged):
                    assert made.summary(job, 1).position == Position()
                    del place[job], text[job]
                else:  # taken up again before it was gone
                    generation[job] += 1
                    made.announce(announce(job, generation=generation[job]), 0.0)
                    text[job] = b""
            case "restart":
                log.close()
                log = spool(folder)
                made = ledger(log)
        for known, expected in place.items():
            found_state = made.summary(known, 1)
            assert found_state.position == expected
            assert found_state.stdout.endswith(text[known]) if step != "restart" else True
    log.close()
    log = spool(folder)
    made = ledger(log)
    left = []
    while (spooled := log.peek()) is not None:
        assert isinstance(spooled.record, Batch)
        left.append((spooled.record.job_id, spooled.record.first_sequence))
        log.advance()
    assert left == unacknowledged
    log.close()


def test_a_compressed_tail_is_text_again(tmp_path: Path) -> None:
    made = ledger(spool(tmp_path))
    made.announce(announce(), 0.0)
    one = batch(texts=("ä" * 100,) * 100)
    made.batch(replace(one, payload=zlib.compress(one.payload, 1, 31), compressed=True), 0.0)
    assert made.summary("job", 1).stdout == ("ä" * 100 + "\n").encode() * 100
