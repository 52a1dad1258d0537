"""Finished jobs are remembered for a while, and for so long only: by age, by number, by the room they take on disk."""

from __future__ import annotations

from pathlib import Path

import pytest

from cronium.common.crypto import Seal
from cronium.common.errors import ExecutionError, Reason
from cronium.common.messages import Outcome, ServerOutcome
from cronium.supervisor.core import actions as do
from cronium.supervisor.core import events as on
from cronium.supervisor.core.done import DoneJobs
from cronium.supervisor.core.state import Ended, JobRecord, JobState
from cronium.supervisor.journal import Journal
from peers.core_driver import Driver, outcome, rules, summary


def finish(driver: Driver, *job_ids: str, message: str = "no such image") -> None:
    """Jobs come that cannot be run; their reports are taken, one a second."""
    refusal = Outcome("failed", None, ExecutionError(Reason.INVALID_JOB, message).report(), 1, 2)
    if driver.poll_key is None:
        driver.tick(40)
    driver.deliver(*job_ids, refusal=refusal)
    for action in driver.wanted(do.Acknowledge):
        driver.take(action)
        driver.give(on.SummaryHeard(summary(action.job_id)))
        driver.take(driver.one(do.SayComplete))
        driver.now_s += 1


def test_those_that_take_most_room_push_out_the_oldest() -> None:
    driver = Driver(keep_done_bytes=20_000)
    driver.start_workers()
    finish(driver, "a", "b")
    assert set(driver.records) == {"a", "b"}
    finish(driver, "c", message="x" * 18_500)
    assert set(driver.records) == {"b", "c"}
    finish(driver, "d")
    assert set(driver.records) == {"c", "d"}
    finish(driver, "e", message="x" * 30_000)
    assert not driver.records, "one that is larger than all that may be kept is not kept either"


def test_the_same_holds_after_a_restart() -> None:
    driver = Driver()
    driver.start_workers()
    finish(driver, "a", "b", "c", message="x" * 8000)
    driver.rules = rules(keep_done_bytes=20_000)
    driver.restart()
    driver.tick()
    assert set(driver.records) == {"b", "c"}


def test_one_that_comes_again_counts_no_more() -> None:
    driver = Driver(keep_done_bytes=20_000)
    driver.start_workers()
    for _ in range(5):
        finish(driver, "a", message="x" * 9000)
    finish(driver, "b", message="x" * 9000)
    assert set(driver.records) == {"a", "b"}


def test_a_report_is_owed_from_the_jobs_end_until_it_is_taken() -> None:
    driver = Driver()
    order = driver.run()
    assert driver.records["a"].placed_ms == driver.now().unix_ms == order.placed_ms
    placed_ms = order.placed_ms
    driver.now_s += 5
    driver.end(order)
    assert (driver.records["a"].owed_ms, driver.records["a"].placed_ms) == (driver.now().unix_ms, placed_ms)
    driver.give(on.SummaryHeard(summary()))
    driver.take(driver.one(do.SayComplete))
    assert driver.records["a"].owed_ms == 0
    driver.tick(40)
    driver.deliver("a")
    assert driver.records["a"].owed_ms == driver.now().unix_ms


def test_a_place_that_is_taken_over_was_named_when_it_was() -> None:
    driver = Driver()
    order = driver.run()
    driver.give(on.WorkerDied(order.worker, "SIGKILL"), after_s=7)
    again = driver.one(do.DispatchTo)
    assert (again.place, again.placed_ms) == (order.place, order.placed_ms)


@pytest.mark.parametrize("texts", [0, 3000])
def test_what_they_are_said_to_take_is_about_what_they_take(tmp_path: Path, texts: int) -> None:
    path = tmp_path / "journal.db"
    journal = Journal(path, Seal(b"k" * 32))
    empty = path.stat().st_size
    ended: dict[str, Ended] = {}
    draft = do.Draft()
    done = DoneJobs(rules(), draft, ended)
    error = ExecutionError(Reason.SCRIPT_EXIT, "x" * texts).report()
    for number in range(2000):
        record = JobRecord(f"job-{number:020}", 5, 1_700_000_000_000, state=JobState.DONE, place="cronium-x-1")
        if texts:
            record = record.but(
                servers=("deploy@web:22#1",), place=None, finished=(ServerOutcome("deploy@web:22#1", "w", "ok", 0),)
            )
        ended[record.job_id] = Ended(1, Outcome("failed", 1, error, 1, 2) if texts else outcome())
        done.put(record)
        journal.commit([do.PutJob(record, b"x" * 2000), do.PutJob(record), do.PutEnded(record.job_id, ended[record.job_id])])
    journal.close()
    room = path.stat().st_size - empty
    assert 0.6 < done._bytes / room < 1.6, f"{done._bytes / 2000} and {room / 2000} bytes a job"
