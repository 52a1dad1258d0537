"""What the backend is told, in which order, under which key. Promise 2: one terminal report, repeated until it is taken."""

from __future__ import annotations

from dataclasses import replace

import pytest

from cronium.common.errors import Reason
from cronium.common.messages import ResultFile, Results
from cronium.supervisor.core import actions as do
from cronium.supervisor.core import events as on
from cronium.supervisor.core.state import JobState, RetryRule
from peers.core_driver import Driver, outcome, summary


def test_acknowledge_statuses_complete_come_in_this_order() -> None:
    driver = Driver()
    driver.start_workers()
    driver.deliver("a")
    assert driver.state() is JobState.RECEIVED
    acknowledge = driver.one(do.Acknowledge)
    driver.take(acknowledge)
    order = driver.one(do.DispatchTo)
    driver.give(on.AttemptSaid(order.worker, "a", 1, "running"))
    status = driver.one(do.SayStatus)
    driver.end(order)
    assert not driver.wanted(do.Summarize)  # the status is still on its way
    driver.take(status)
    assert driver.one(do.Summarize).epoch == 1
    driver.give(on.SummaryHeard(summary()))
    complete = driver.one(do.SayComplete)
    assert (complete.attempt, complete.outcome.status) == (1, "completed")
    driver.take(complete)
    assert driver.state() is JobState.DONE
    assert driver.one(do.ForgetOutput).job_id == "a"


def test_a_new_streamer_hears_whose_output_will_be_asked_for() -> None:
    """Promise 7: everything else can go, however long ago its report was taken and in whatever epoch."""
    driver = Driver()
    order = driver.run()
    driver.bring("b")
    driver.end(order)
    driver.idle(order)
    driver.give(on.SummaryHeard(summary()))
    complete = driver.one(do.SayComplete)
    driver.give(on.StreamerIsReady())
    assert set(driver.one(do.WantOutput).jobs) == {("a", 1), ("b", 1)}
    driver.take(complete)
    driver.restart()
    driver.give(on.StreamerIsReady(), after_s=3600)
    assert driver.one(do.WantOutput).jobs == (("b", 1),)


def test_one_statement_of_a_job_is_on_its_way_at_a_time() -> None:
    driver = Driver()
    order = driver.run()
    driver.give(on.AttemptSaid(order.worker, "a", 1, "preparing"))
    first = driver.one(do.SayStatus)
    driver.give(on.AttemptSaid(order.worker, "a", 1, "running"))
    driver.tick(10)
    assert not driver.wanted(do.SayStatus)
    driver.take(first)
    assert driver.one(do.SayStatus).status == "running"


def test_what_is_owed_is_repeated_with_its_key_after_a_growing_pause() -> None:
    driver = Driver()
    driver.start_workers()
    driver.deliver("a")
    keys, pauses = [], []
    for _ in range(4):
        action = driver.one(do.Acknowledge)
        keys.append(action.key)
        driver.give(on.Unanswered("a", action.key, "500"))
        began_s = driver.now_s
        while not driver.wanted(do.Acknowledge):
            driver.tick(0.1)
        pauses.append(driver.now_s - began_s)
    assert len(set(keys)) == 1
    assert pauses == sorted(pauses)
    assert pauses[0] < 1.5 < 5 < pauses[-1]


def test_retry_after_is_kept() -> None:
    driver = Driver()
    driver.start_workers()
    driver.deliver("a")
    driver.give(on.Unanswered("a", driver.one(do.Acknowledge).key, "429", retry_after_s=30.0))
    driver.tick(29)
    assert not driver.wanted(do.Acknowledge)
    driver.tick(1.5)
    assert driver.wanted(do.Acknowledge)


def test_the_same_statement_has_the_same_key_after_a_crash() -> None:
    driver = Driver()
    driver.start_workers()
    driver.deliver("a")
    key = driver.one(do.Acknowledge).key
    driver.restart()
    driver.tick()
    assert driver.one(do.Acknowledge).key == key
    workers = driver.wanted(do.StartWorker)
    driver.take(driver.one(do.Acknowledge))
    driver.ready(workers[0].name)
    driver.end(_dispatched(driver))
    driver.give(on.SummaryHeard(summary()))
    key = driver.one(do.SayComplete).key
    driver.restart()
    driver.tick()
    assert not driver.wanted(do.SayComplete)
    driver.give(on.SummaryHeard(summary()))
    assert driver.one(do.SayComplete).key == key
    assert driver.one(do.SayComplete).outcome == outcome()


def test_every_status_has_a_key_of_its_own_also_after_a_crash() -> None:
    driver = Driver()
    order = driver.run()
    keys = []
    for _ in range(2):
        for status in ("preparing", "running"):
            driver.give(on.AttemptSaid(order.worker, "a", order.generation, status))
            keys.append(driver.one(do.SayStatus).key)
            driver.take(driver.one(do.SayStatus))
        driver.restart()
        driver.start_workers()
        order = _dispatched(driver, generation=order.generation + 1)
    assert len(set(keys)) == 4


def test_complete_waits_for_the_summary_and_asks_again_for_one_that_does_not_come() -> None:
    driver = Driver()
    driver.end(driver.run())
    driver.one(do.Summarize)
    driver.tick(4)
    assert not driver.wanted(do.Summarize)
    driver.tick(1.5)
    driver.one(do.Summarize)
    driver.give(on.StreamerIsReady())  # the one that was asked is gone
    driver.one(do.Summarize)
    driver.give(on.SummaryHeard(summary(epoch=2)))
    assert not driver.wanted(do.SayComplete)
    driver.give(on.SummaryHeard(summary()))
    driver.one(do.SayComplete)


def test_complete_is_tried_for_days_also_by_the_next_supervisors() -> None:
    """Nothing gives up: neither time nor tries nor restarts, and the key stays the same. The pause has its limit."""
    driver = Driver(retry_longest_s=60.0)
    driver.end(driver.run())
    driver.give(on.SummaryHeard(summary()))
    key, tries, day_s = driver.one(do.SayComplete).key, 0, 86_400.0
    began_s = driver.now_s
    while driver.now_s < began_s + 5 * day_s:
        complete = driver.one(do.SayComplete)
        assert (complete.key, complete.outcome) == (key, outcome())
        tries += 1
        driver.give(on.Unanswered("a", key, "503", retry_after_s=3600.0 if tries % 2 else None))
        if tries % 10 == 0:
            driver.restart()
        waited_s = driver.now_s
        while not driver.wanted(do.SayComplete):
            driver.tick(30)
            if driver.wanted(do.Summarize):
                driver.give(on.SummaryHeard(summary()))
            assert driver.now_s < waited_s + 2 * 3600
        assert driver.state() is JobState.ENDED
    assert tries > 5 * 24
    driver.take(driver.one(do.SayComplete))
    assert driver.state() is JobState.DONE


def test_a_summary_that_comes_late_is_not_kept_for_another_run() -> None:
    driver = Driver()
    driver.end(driver.run())
    driver.give(on.LeaseLost("a", "409"))
    driver.give(on.SummaryHeard(summary()))
    assert not driver.wanted(do.SayComplete)
    driver.give(on.SummaryHeard(summary("never heard of")))
    assert not driver.core._statements._lines


def test_a_complete_that_is_refused_for_good_is_set_aside_with_its_reason() -> None:
    driver = Driver()
    driver.end(driver.run())
    driver.give(on.SummaryHeard(summary()))
    driver.give(on.Refused("a", driver.one(do.SayComplete).key, "400: too large"))
    record = driver.records["a"]
    assert (record.state, record.set_aside, record.lost) == (JobState.DONE, "400: too large", False)


def test_a_complete_of_a_job_that_is_not_ours_any_more_is_lost() -> None:
    driver = Driver()
    driver.end(driver.run())
    driver.give(on.SummaryHeard(summary()))
    driver.give(on.Refused("a", driver.one(do.SayComplete).key, "409: superseded", gone=True))
    assert (driver.records["a"].state, driver.records["a"].lost) == (JobState.DONE, True)


def test_a_job_that_comes_back_waits_for_what_is_still_on_its_way() -> None:
    driver = Driver(max_concurrent=3)
    order = driver.run()
    driver.tick(5)
    driver.end(order)
    driver.give(on.SummaryHeard(summary()))
    complete = driver.one(do.SayComplete)
    driver.give(on.LeaseLost("a", "409"))
    driver.idle(order)
    driver.deliver("a")
    assert driver.state() is JobState.ENDED
    assert not driver.wanted(do.Acknowledge)
    driver.give(on.Refused("a", complete.key, "409: superseded", gone=True))
    driver.one(do.Acknowledge)


def test_a_status_that_is_refused_is_superseded_and_no_end() -> None:
    driver = Driver()
    order = driver.run()
    driver.give(on.AttemptSaid(order.worker, "a", 1, "running"))
    driver.give(on.Refused("a", driver.one(do.SayStatus).key, "400"))
    assert driver.state() is JobState.RUNNING
    assert not driver.records["a"].lost
    driver.tick(2.5)
    driver.one(do.SayStatus)


def test_an_answer_to_another_statement_changes_nothing() -> None:
    driver = Driver()
    driver.start_workers()
    driver.deliver("a")
    for event in (
        on.Taken("a", "other"),
        on.Refused("a", "other", "400"),
        on.Taken("nobody", "k"),
        on.Unanswered("a", "other", "x"),
    ):
        step = driver.give(event)
        assert not step.writes
    assert driver.state() is JobState.RECEIVED


def test_the_status_of_an_attempt_is_not_told_of_the_next() -> None:
    driver = Driver()
    order = driver.run(retry=RetryRule(2, exponential=False, delay_s=0.0))
    driver.give(on.AttemptSaid(order.worker, "a", 1, "running", 90.0, "nearly"))
    driver.take(driver.one(do.SayStatus))
    driver.end(order, outcome("failed", Reason.SCRIPT_EXIT))
    driver.idle(order)
    driver.tick(5)
    assert driver.records["a"].attempt == 2
    assert not driver.wanted(do.SayStatus)
    again = next(w for w in driver.core.workers() if w.job_id == "a")
    driver.give(on.AttemptSaid(again.name, "a", 2, "preparing"))
    assert (driver.one(do.SayStatus).percentage, driver.one(do.SayStatus).attempt) == (None, 2)


def test_statuses_of_many_jobs_stay_below_the_contracts_limit() -> None:
    """600 a minute (PROTOCOL.md): heartbeats of 100 jobs are told less often."""
    driver = Driver(max_concurrent=100, batch_size=100)
    driver.start_workers()
    driver.deliver(*(f"job-{n}" for n in range(100)))
    for action in driver.wanted(do.Acknowledge):
        driver.take(action)
    for worker in driver.core.workers():
        if worker.job_id is not None:
            driver.give(on.AttemptSaid(worker.name, worker.job_id, worker.generation, "running"))
            driver.take(driver.one(do.SayStatus))
    said = 0
    for _ in range(600):
        driver.tick(0.1)
        for status in driver.wanted(do.SayStatus):
            said += 1
            driver.take(status)
    assert 100 <= said <= 400


@pytest.mark.parametrize("refused", [True, False])
def test_a_job_that_cannot_be_run_is_acknowledged_and_reported(refused: bool) -> None:
    driver = Driver()
    driver.start_workers()
    driver.deliver("a", refusal=outcome("failed", Reason.INVALID_JOB))
    acknowledge = driver.one(do.Acknowledge)
    assert driver.state() is JobState.ENDED
    if refused:
        driver.give(on.Refused("a", acknowledge.key, "403", gone=True))
        assert driver.records["a"].lost
        return
    driver.take(acknowledge)
    driver.give(on.SummaryHeard(summary()))
    assert driver.one(do.SayComplete).outcome.status == "failed"
    assert not driver.wanted(do.DispatchTo)


def _dispatched(driver: Driver, generation: int = 1) -> do.DispatchTo:
    worker = next(w for w in driver.core.workers() if w.job_id == "a")
    assert worker.generation == generation
    record = driver.records["a"]
    assert record.place is not None
    return do.DispatchTo(
        worker.name,
        "a",
        record.attempt,
        worker.generation,
        record.epoch,
        record.place,
        fresh=generation == 1,
        adopt=generation > 1,
    )


def test_a_few_reports_are_made_at_a_time_and_each_gets_its_turn() -> None:
    """Promise 7: each holds its last output and what the job gave back; a backend that is away has a thousand of them wait."""
    driver = Driver(max_concurrent=10)
    jobs = [f"job-{number}" for number in range(10)]
    orders = []
    driver.start_workers()
    for job in jobs:
        driver.bring(job)
        orders += driver.wanted(do.DispatchTo)
    asked = []
    for order in orders:
        driver.end(order)
        asked += [action.job_id for action in driver.wanted(do.Summarize)]
    assert len(orders) == 10
    assert len(asked) == 4
    said: list[do.SayComplete] = []
    for job in asked:
        driver.give(on.SummaryHeard(summary(job)))
        said += driver.wanted(do.SayComplete)
    driver.give(on.Unanswered(said[0].job_id, said[0].key, "503", 30.0))
    assert driver.one(do.Summarize).job_id not in asked
    turns = {action.job_id for action in said[1:]}
    waiting = [driver.one(do.Summarize).job_id]
    for complete in said[1:]:
        driver.take(complete)
        waiting += [action.job_id for action in driver.wanted(do.Summarize)]
    while waiting:
        driver.give(on.SummaryHeard(summary(job := waiting.pop())))
        turns.add(job)
        driver.take(driver.one(do.SayComplete))
        waiting += [action.job_id for action in driver.wanted(do.Summarize)]
    assert turns == {*jobs} - {said[0].job_id}
    driver.tick(40)
    assert said[0].job_id in {action.job_id for action in driver.wanted(do.Summarize)}, "asked anew, as it was not kept"


def test_no_job_is_asked_for_while_much_of_what_jobs_gave_back_waits_for_the_backend() -> None:
    driver = Driver(most_owed_bytes=100)
    order = driver.run()
    given = Results(files=(ResultFile("x", "text/plain", bytes(100)),))
    driver.end(order, replace(outcome(), results=given))
    driver.tick(60)
    assert not driver.wanted(do.Poll)
    driver.restart()
    driver.tick(60)
    assert not driver.wanted(do.Poll)
    driver.give(on.SummaryHeard(summary()))
    driver.take(driver.one(do.SayComplete))
    driver.one(do.Poll)


@pytest.mark.parametrize("gone", [False, True])
def test_what_a_job_gave_back_stays_until_its_report_is_taken_though_it_was_refused(gone: bool) -> None:
    """The backend may bring the job again: its report then has all that belongs to it."""
    driver = Driver()
    given = Results(files=(ResultFile("x", "text/plain", b"1"),))
    driver.end(driver.run(), replace(outcome(), results=given))
    driver.give(on.SummaryHeard(summary()))
    driver.give(on.Refused("a", driver.one(do.SayComplete).key, "no", gone=gone))
    assert driver.state() is JobState.DONE
    assert driver.ended["a"].outcome.results == given
    driver.give(on.WorkerIsIdle("worker-1", "a", 1, 0, True))
    driver.tick(40)
    driver.deliver("a")
    driver.take(driver.one(do.Acknowledge))
    driver.give(on.SummaryHeard(summary()))
    assert driver.ended["a"].outcome.results == given
    driver.take(driver.one(do.SayComplete))
    assert driver.ended["a"].outcome.results == Results()
