"""Single transitions of the core that the random histories meet rarely, or that say best what is meant."""

from __future__ import annotations

import itertools

import pytest

from cronium.common.errors import Reason
from cronium.common.messages import Results
from cronium.supervisor.core import actions as do
from cronium.supervisor.core import events as on
from cronium.supervisor.core.state import JobState, Lease, RetryRule
from peers.core_driver import Driver, outcome, summary


def test_a_poll_carries_a_key_that_is_written_down_and_kept_until_it_is_answered() -> None:
    """Promise 1: an answer that was lost on the way gives the same jobs again, after a crash too."""
    driver = Driver()
    driver.tick()
    key = driver.one(do.Poll).key
    assert driver.poll_key == key
    driver.give(on.PollFailed(key, "no answer"))
    driver.tick(5)
    assert driver.one(do.Poll).key == key
    driver.restart()
    driver.tick()
    assert driver.one(do.Poll).key == key
    driver.give(on.Polled(key, ()))
    assert driver.poll_key is None
    driver.tick(5)
    assert driver.one(do.Poll).key != key


def test_an_answer_under_another_key_is_not_taken_for_the_one_that_is_awaited() -> None:
    driver = Driver()
    driver.tick()
    key = driver.poll_key
    for event in (on.Polled("old", (on.QueuedJob("a", b"", 5, RetryRule()),)), on.PollFailed("old", "x")):
        assert not driver.give(event).writes
    assert driver.poll_key == key
    driver.tick(60)
    assert not driver.wanted(do.Poll)


def test_no_more_is_polled_than_there_are_free_slots() -> None:
    driver = Driver(max_concurrent=3, batch_size=10)
    driver.start_workers()
    driver.deliver("a", "b")
    driver.tick(5)
    assert driver.one(do.Poll).limit == 1
    driver.deliver("c")
    driver.tick(60)
    assert not driver.wanted(do.Poll)


def test_a_poll_without_an_answer_waits_for_a_slot_too() -> None:
    driver = Driver(max_concurrent=1)
    order = driver.run(retry=RetryRule(2, exponential=False, delay_s=1.0))
    driver.end(order, outcome("failed", Reason.SCRIPT_EXIT))  # waits for its next attempt: a slot is free
    driver.tick(1.5)
    key = driver.one(do.Poll).key
    driver.idle(order)
    driver.tick(2)
    driver.give(on.PollFailed(key, "no answer"))
    driver.tick(60)
    assert driver.state() is JobState.RUNNING
    assert not driver.wanted(do.Poll)


def test_too_many_reports_that_nobody_takes_stop_the_polls() -> None:
    driver = Driver(most_jobs=2, max_concurrent=2)
    driver.start_workers()
    driver.deliver("a", "b", refusal=outcome("failed", Reason.INVALID_JOB))
    driver.tick(60)
    assert not driver.wanted(do.Poll)


def test_a_worker_that_dies_is_replaced_and_its_place_goes_to_another_under_a_new_generation() -> None:
    driver = Driver()
    order = driver.run()
    assert (order.fresh, order.adopt) == (True, False)
    driver.give(on.WorkerDied(order.worker, "SIGKILL"))
    again = driver.one(do.DispatchTo)
    assert (again.place, again.attempt, again.generation) == (order.place, 1, 2)
    assert (again.fresh, again.adopt) == (False, True)
    announced = driver.one(do.AnnounceWriter)
    assert (announced.worker, announced.generation) == (again.worker, 2)
    assert driver.actions.index(announced) < driver.actions.index(again)
    assert len(driver.wanted(do.StartWorker)) == 1


def test_what_an_old_worker_says_of_an_old_generation_changes_nothing() -> None:
    driver = Driver()
    order = driver.run()
    driver.give(on.WorkerDied(order.worker, "SIGKILL"))
    again = driver.one(do.DispatchTo)
    for worker, generation in itertools.product((order.worker, again.worker, "nobody"), (1, 2, 3)):
        if (worker, generation) == (again.worker, 2):
            continue
        for event in (
            on.AttemptOver(worker, "a", generation, outcome()),
            on.AttemptSaid(worker, "a", generation, "running"),
            on.WorkerIsIdle(worker, "a", generation, 0),
            on.WorkerDied("nobody", "?"),
        ):
            assert not driver.give(event).writes
            assert not driver.wanted(do.SettleAt)
    assert driver.state() is JobState.RUNNING


def test_a_job_that_kills_its_workers_is_given_up() -> None:
    driver = Driver(max_worker_deaths=2)
    driver.run()
    for _ in range(3):
        worker = next(w for w in driver.core.workers() if w.job_id == "a")
        driver.give(on.WorkerDied(worker.name, "SIGSEGV"))
    record = driver.records["a"]
    assert (record.state, record.place) == (JobState.ENDED, None)
    error = driver.ended["a"].outcome.error
    assert error is not None
    assert (error.reason, error.details["deaths"]) == ("worker_lost", 3)
    assert "SIGSEGV" in error.message


def test_deaths_that_lie_hours_apart_do_not_end_a_job() -> None:
    """Whatever kills them, it is not the job: each of them had it for long."""
    driver = Driver(max_worker_deaths=1, restart_period_s=60.0)
    driver.run()
    for after_s in (10, 61, 10, 3600, 3600, 10):
        worker = next(w for w in driver.core.workers() if w.job_id == "a")
        driver.give(on.WorkerDied(worker.name, "SIGKILL"), after_s=after_s)
        for action in driver.wanted(do.StartWorker):
            driver.ready(action.name)
    assert (driver.state(), driver.records["a"].deaths) == (JobState.RUNNING, 1)
    worker = next(w for w in driver.core.workers() if w.job_id == "a")
    driver.give(on.WorkerDied(worker.name, "SIGKILL"), after_s=59)
    assert driver.state() is JobState.ENDED


def test_a_cancelled_job_that_kills_its_workers_ends_as_cancelled() -> None:
    driver = Driver(max_worker_deaths=0)
    order = driver.run()
    driver.give(on.CancelRequested("a"))
    driver.give(on.WorkerDied(order.worker, "SIGSEGV"))
    ended = driver.ended["a"].outcome
    assert ended.status == "cancelled"
    assert ended.error is not None
    assert "before it was started" not in ended.error.message
    assert "attempt 1" in ended.error.message


def test_the_end_of_an_attempt_is_settled_as_often_as_it_is_said() -> None:
    """The worker repeats it until it hears that it is in the journal; also when the report was taken meanwhile."""
    driver = Driver()
    order = driver.run()
    for _ in range(2):
        driver.end(order)
        assert driver.one(do.SettleAt).generation == 1
    driver.give(on.SummaryHeard(summary()))
    driver.take(driver.one(do.SayComplete))
    assert driver.state() is JobState.DONE
    driver.end(order)
    driver.one(do.SettleAt)
    assert driver.records["a"].place == order.place
    assert order.place in driver.core.places()
    driver.idle(order)
    assert driver.records["a"].place is None
    assert order.place not in driver.core.places()


def test_a_new_streamer_hears_who_writes_and_nothing_of_who_has_ended() -> None:
    driver = Driver()
    first, second = driver.run("a"), None
    driver.tick(5)
    driver.deliver("b")
    driver.take(driver.one(do.Acknowledge))
    second = driver.one(do.DispatchTo)
    driver.end(first)
    driver.give(on.SummaryHeard(summary()))
    driver.take(driver.one(do.SayComplete))  # done, but its worker still removes the place
    driver.give(on.StreamerIsReady())
    assert [(a.job_id, a.worker) for a in driver.wanted(do.AnnounceWriter)] == [("b", second.worker)]


def test_the_next_attempt_waits_until_the_old_place_is_gone() -> None:
    driver = Driver()
    order = driver.run(retry=RetryRule(2, exponential=False, delay_s=1.0))
    driver.end(order, outcome("failed", Reason.SCRIPT_EXIT))
    driver.tick(10)
    assert driver.state() is JobState.WAITING
    assert driver.core.next_due_s(driver.now()) >= driver.now_s + 0.5
    driver.idle(order)
    again = driver.one(do.DispatchTo)
    assert (again.attempt, again.generation, again.adopt) == (2, 2, False)
    assert again.place != order.place


def test_a_drain_goes_on_although_all_workers_die() -> None:
    driver = Driver(max_concurrent=1, spare_workers=0)
    order = driver.run()
    driver.give(on.DrainRequested())
    driver.give(on.WorkerDied(order.worker, "SIGKILL"))
    driver.ready(driver.one(do.StartWorker).name)
    again = driver.one(do.DispatchTo)
    driver.end(again)
    driver.idle(again)
    assert not driver.wanted(do.Exit)
    driver.give(on.SummaryHeard(summary()))
    driver.take(driver.one(do.SayComplete))
    driver.one(do.Exit)


def test_jobs_that_come_after_the_order_to_drain_are_left_to_the_next_supervisor() -> None:
    driver = Driver()
    driver.start_workers()
    driver.give(on.DrainRequested())
    key = driver.poll_key
    assert key is not None
    driver.deliver("a")
    assert driver.poll_key == key
    assert not driver.records
    driver.one(do.Exit)
    driver.restart()
    driver.start_workers()
    driver.deliver("a")
    assert driver.state() is JobState.RECEIVED


def test_cancel_ends_what_waits_at_once_and_what_runs_through_its_worker() -> None:
    driver = Driver(max_concurrent=1)
    order = driver.run("a")
    driver.give(on.CancelAll())
    assert driver.one(do.CancelAt).generation == 1
    driver.give(on.CancelRequested("a"))
    assert not driver.wanted(do.CancelAt), "a second one would mean SIGKILL"
    driver.give(on.WorkerDied(order.worker, "SIGKILL"))
    assert driver.one(do.CancelAt).generation == 2


@pytest.mark.parametrize(("said_before", "words"), [(False, 2), (True, 1)])
def test_cancel_at_once_says_it_to_the_worker_for_the_second_time(said_before: bool, words: int) -> None:
    driver = Driver(max_concurrent=1)
    driver.run("a")
    if said_before:
        driver.give(on.CancelAll())
        driver.one(do.CancelAt)
    driver.give(on.CancelAll(at_once=True))
    assert len(driver.wanted(do.CancelAt)) == words


@pytest.mark.parametrize("acknowledged", [True, False])
def test_a_job_that_was_not_started_is_cancelled_without_a_worker(acknowledged: bool) -> None:
    driver = Driver()
    driver.tick()
    driver.deliver("a")
    if acknowledged:
        driver.take(driver.one(do.Acknowledge))
    driver.give(on.CancelRequested("a"))
    ended = driver.ended["a"].outcome
    assert ended.status == "cancelled"
    assert ended.error is not None
    assert "before it was started" in ended.error.message
    assert driver.ended["a"].attempt == 1


def test_a_job_that_is_cancelled_between_two_attempts_is_not_said_never_to_have_run() -> None:
    driver = Driver()
    driver.end(driver.run(retry=RetryRule(3)), outcome("failed", Reason.SCRIPT_EXIT))
    driver.give(on.CancelRequested("a"))
    error = driver.ended["a"].outcome.error
    assert error is not None
    assert "nothing was started after attempt 1" in error.message


def test_a_job_that_comes_again_after_its_report_was_taken_alarms_nobody() -> None:
    """The backend may refuse what it has already: that is no loss, and nothing that somebody has to look after."""
    driver = Driver(max_concurrent=3)
    driver.end(driver.run())
    driver.give(on.SummaryHeard(summary()))
    driver.take(driver.one(do.SayComplete))
    driver.tick(40)
    driver.deliver("a")
    driver.give(on.Refused("a", driver.one(do.Acknowledge).key, "409: it has ended", gone=True))
    assert driver.state() is JobState.DONE
    assert {note.level for note in driver.wanted(do.Note)} == {"info"}
    driver.tick(40)
    driver.deliver("b")
    driver.give(on.Refused("b", driver.one(do.Acknowledge).key, "409: another host has it", gone=True))
    assert {note.level for note in driver.wanted(do.Note)} == {"error", "warning"}


def test_a_job_that_another_host_has_is_ended_at_once_and_not_reported() -> None:
    driver = Driver()
    order = driver.run()
    driver.give(on.LeaseLost("a", "409"))
    assert len(driver.wanted(do.CancelAt)) == 2
    driver.end(order, outcome("cancelled", Reason.CANCELLED))
    driver.one(do.SettleAt)
    assert (driver.records["a"].state, driver.records["a"].lost) == (JobState.DONE, True)
    assert "a" not in driver.ended
    driver.tick(100)
    assert not driver.wanted(do.SayComplete)
    assert not driver.wanted(do.Summarize)


def test_a_lost_job_that_comes_back_runs_again_only_when_its_old_place_is_gone() -> None:
    driver = Driver(max_concurrent=3)
    order = driver.run()
    driver.tick(5)
    driver.give(on.LeaseLost("a", "409"))
    for _ in range(2):
        driver.deliver("a")
        assert driver.records["a"].lost
        assert not driver.wanted(do.Acknowledge)
        driver.end(order, outcome("cancelled", Reason.CANCELLED))
        driver.tick(5)
    driver.idle(order)
    driver.deliver("a")
    driver.take(driver.one(do.Acknowledge), epoch=3)
    again = driver.one(do.DispatchTo)
    assert (again.attempt, again.generation, again.epoch, again.fresh) == (2, 2, 3, False)


def test_a_job_that_runs_here_and_is_delivered_again_goes_on_under_a_new_acknowledgement() -> None:
    driver = Driver(max_concurrent=3)
    order = driver.run()
    first = driver.records["a"]
    driver.tick(5)
    driver.deliver("a")
    acknowledge = driver.one(do.Acknowledge)
    driver.take(acknowledge)
    record = driver.records["a"]
    assert (record.state, record.generation, record.epoch, record.acknowledged) == (JobState.RUNNING, 1, 1, True)
    assert record.delivered_ms > first.delivered_ms
    driver.end(order)
    driver.one(do.SettleAt)


def test_an_attempt_whose_job_was_elsewhere_in_between_is_stopped() -> None:
    """Its lines are numbered in an epoch that is over."""
    driver = Driver(max_concurrent=3)
    driver.run()
    driver.tick(5)
    driver.deliver("a")
    driver.take(driver.one(do.Acknowledge), epoch=3)
    assert driver.records["a"].lost
    assert len(driver.wanted(do.CancelAt)) == 2


def test_a_result_that_was_refused_as_superseded_is_reported_again_when_the_job_comes_back() -> None:
    """A job that the journal knows is reported again, never run anew because it came again."""
    driver = Driver(max_concurrent=3)
    order = driver.run()
    driver.tick(5)
    driver.end(order)
    driver.give(on.SummaryHeard(summary()))
    old = driver.one(do.SayComplete)
    driver.give(on.Refused("a", old.key, "409: superseded", gone=True))
    driver.idle(order)
    driver.deliver("a")
    driver.take(driver.one(do.Acknowledge), epoch=3)
    assert driver.one(do.Summarize).epoch == 3
    driver.give(on.SummaryHeard(summary(epoch=3)))
    complete = driver.one(do.SayComplete)
    assert (complete.epoch, complete.outcome.status) == (3, "completed")
    assert complete.key != old.key


def test_results_are_kept_until_the_report_is_taken_and_no_longer() -> None:
    driver = Driver()
    order = driver.run()
    with_results = outcome()
    driver.end(order, type(with_results)("completed", 0, None, 1, 2, Results(script_output=b'"x"')))
    driver.restart()
    driver.tick()
    driver.give(on.SummaryHeard(summary()))
    assert driver.one(do.SayComplete).outcome.results == Results(), "a thousand may wait for a backend: not in memory"
    assert driver.ended["a"].outcome.results.script_output == b'"x"'
    driver.take(driver.one(do.SayComplete))
    assert driver.ended["a"].outcome.results == Results()


def test_leases_are_renewed_early_enough_for_two_more_tries() -> None:
    driver = Driver()
    driver.run()  # a lease of 60 s
    driver.tick(19)
    assert not driver.wanted(do.RenewLease)
    driver.tick(2)
    assert driver.one(do.RenewLease).token == "token-1"
    driver.tick(1)
    assert not driver.wanted(do.RenewLease), "one is on its way"
    driver.give(on.LeaseUnanswered("a"))
    driver.tick(1.1)
    driver.one(do.RenewLease)
    driver.give(on.LeaseRenewed("a", Lease("next", driver.now().unix_ms + 60_000)))
    assert driver.records["a"].lease == Lease("next", driver.now().unix_ms + 60_000)
    driver.tick(21)
    assert driver.one(do.RenewLease).token == "next"


@pytest.mark.parametrize("away_s", [70.0, -3600.0])
@pytest.mark.parametrize("placed", [True, False])
def test_what_had_not_begun_waits_until_the_backend_says_that_it_is_still_ours(placed: bool, away_s: float) -> None:
    """Promise 5: a lease that may have run out while we were away may be another host's by now."""
    driver = Driver()
    order = driver.run(retry=RetryRule(2, exponential=False, delay_s=1.0))
    if not placed:
        driver.end(order, outcome("failed", Reason.SCRIPT_EXIT))
        driver.idle(order)
    driver.restart()
    driver.set_clock(round(away_s * 1000))  # so our clock says, be it right or wrong
    driver.tick()
    assert driver.one(do.RenewLease).token == "token-1", "asked at once"
    for action in driver.wanted(do.StartWorker):
        driver.ready(action.name)
        assert not driver.wanted(do.DispatchTo)
    driver.give(on.LeaseUnanswered("a"), after_s=10)
    assert not driver.wanted(do.DispatchTo), "nobody has said that it is ours"
    driver.tick(1.1)
    driver.one(do.RenewLease)
    driver.give(on.LeaseRenewed("a", Lease("next", driver.now().unix_ms + 60_000)))
    assert driver.one(do.DispatchTo).adopt is placed


def test_what_had_begun_is_taken_over_at_once_whatever_became_of_its_lease() -> None:
    driver = Driver()
    order = driver.run()
    driver.give(on.AttemptSaid(order.worker, "a", 1, "running"))
    driver.give(on.LeaseRenewed("a", Lease("next", driver.now().unix_ms + 60_000)), after_s=20)
    driver.restart()
    driver.tick(300)
    assert driver.one(do.RenewLease).token == "next"
    driver.ready(driver.wanted(do.StartWorker)[0].name)
    assert driver.one(do.DispatchTo).adopt


def test_another_host_has_it_by_now_and_it_never_begins_here() -> None:
    driver = Driver()
    driver.tick()
    driver.bring("a")
    driver.restart()
    driver.tick(70)
    driver.give(on.LeaseLost("a", "409"))
    assert driver.state() is JobState.DONE
    driver.start_workers()
    assert not driver.wanted(do.DispatchTo)


def test_a_backend_whose_clock_is_behind_is_not_asked_in_a_tight_loop() -> None:
    driver = Driver()
    driver.run()
    asked = 0
    for _ in range(100):
        driver.tick(0.1)
        for _action in driver.wanted(do.RenewLease):
            asked += 1
            driver.give(on.LeaseRenewed("a", Lease("t", 0)))
    assert asked <= 10


def test_one_more_attempt_is_made_when_the_backend_asks_for_it() -> None:
    driver = Driver()
    order = driver.run()
    driver.give(on.AttemptSaid(order.worker, "a", 1, "running"))
    driver.take(driver.one(do.SayStatus), next_action="retry")
    driver.end(order)
    assert driver.state() is JobState.WAITING
    driver.idle(order)
    again = driver.one(do.DispatchTo)
    assert again.attempt == 2
    driver.end(again)
    assert driver.state() is JobState.ENDED


def test_a_worker_is_recycled_and_one_that_does_not_leave_is_ended() -> None:
    driver = Driver(recycle_after_jobs=1)
    order = driver.run()
    driver.end(order)
    driver.idle(order)
    assert driver.one(do.StopWorkerProcess).worker == order.worker
    assert len(driver.wanted(do.StartWorker)) == 1
    driver.ready(driver.one(do.StartWorker).name)
    driver.look(11)
    assert driver.one(do.KillWorker).worker == order.worker
    driver.look(1)
    assert not driver.wanted(do.KillWorker), "once is enough for a while"


def test_a_worker_that_needs_too_much_memory_is_recycled() -> None:
    driver = Driver(recycle_above_bytes=1000)
    order = driver.run()
    driver.end(order)
    driver.idle(order, memory_bytes=2000)
    driver.one(do.StopWorkerProcess)


def test_a_worker_that_does_not_become_ready_is_ended_and_starts_are_tried_one_by_one() -> None:
    driver = Driver()
    driver.tick()
    names = [action.name for action in driver.wanted(do.StartWorker)]
    assert len(names) == 3
    driver.look(11)
    assert [action.worker for action in driver.wanted(do.KillWorker)] == names
    for name in names:
        driver.give(on.WorkerDied(name, "was not ready"))
    started = 0
    for _ in range(50):
        driver.tick(0.1)
        started += len(driver.wanted(do.StartWorker))
    assert started == 1


def test_workers_whose_readiness_waits_to_be_heard_are_not_ended_for_our_own_absence() -> None:
    """The loop stood still (the journal's disk was full, or it was stopped itself): what they said meanwhile is read first."""
    driver = Driver(hung_after_s=30.0)
    driver.tick()
    names = [action.name for action in driver.wanted(do.StartWorker)]
    driver.look(2)
    driver.give(on.PollFailed("none", ""), after_s=3600)
    assert not driver.wanted(do.KillWorker)
    driver.ready(names[0])
    driver.give(on.Looked(driver.core.mute()))
    assert not driver.wanted(do.KillWorker), "and whoever was not heard yet has all the rest of the time again"
    driver.look(7)
    assert not driver.wanted(do.KillWorker)
    driver.look(4)
    assert [action.worker for action in driver.wanted(do.KillWorker)] == names[1:]


def test_places_without_a_worker_get_one_each_also_when_fewer_jobs_are_allowed_now() -> None:
    driver = Driver(max_concurrent=5)
    driver.start_workers()
    driver.deliver(*"abcde")
    for action in driver.wanted(do.Acknowledge):
        driver.take(action)
    assert all(driver.records[job_id].state is JobState.RUNNING for job_id in "abcde")
    driver.rules = Driver(max_concurrent=1, spare_workers=0).rules
    driver.restart()
    driver.tick()
    assert len(driver.wanted(do.StartWorker)) == 5


def test_a_restart_leaves_places_of_ended_attempts_to_the_reaper() -> None:
    """Promise 8: their workers are gone, so nobody else will remove them."""
    driver = Driver()
    order = driver.run()
    driver.end(order)
    driver.restart()
    assert not driver.core.places()
    driver.tick()
    driver.give(on.SummaryHeard(summary()))
    driver.take(driver.one(do.SayComplete))
    driver.restart()
    assert not driver.core.places()


def test_what_is_done_is_remembered_for_a_while() -> None:
    driver = Driver(keep_done_jobs=2, keep_done_s=100.0, max_concurrent=3)
    driver.start_workers()
    driver.deliver("a", "b", "c", refusal=outcome("failed", Reason.INVALID_JOB))
    for action in driver.wanted(do.Acknowledge):
        driver.take(action)
        driver.give(on.SummaryHeard(summary(action.job_id)))
        driver.take(driver.one(do.SayComplete))
        driver.now_s += 1
    assert set(driver.records) == {"b", "c"}
    driver.tick(101)
    assert not driver.records


def test_urgent_jobs_go_first_then_the_oldest_and_places_before_all() -> None:
    driver = Driver(max_concurrent=3, spare_workers=0)
    driver.tick()
    names = [action.name for action in driver.wanted(do.StartWorker)]
    assert driver.poll_key is not None
    jobs = [("old", 5), ("urgent", 9), ("new", 5)]
    driver.give(on.Polled(driver.poll_key, tuple(on.QueuedJob(j, b"x", p, RetryRule()) for j, p in jobs)))
    for action in driver.wanted(do.Acknowledge):
        driver.take(action)
    given = []
    for name in names:
        driver.ready(name)
        given.append(driver.one(do.DispatchTo).job_id)
    assert given == ["urgent", "old", "new"]
    driver.restart()
    driver.tick()
    for start in driver.wanted(do.StartWorker):
        driver.ready(start.name)
        assert driver.one(do.DispatchTo).adopt


def test_a_worker_that_tidies_gets_no_job_and_is_ended_when_it_does_not_come_back() -> None:
    driver = Driver(max_concurrent=1, spare_workers=0, tidy_interval_s=30.0)
    driver.start_workers()
    driver.tick(31)
    worker = driver.one(do.TidyAt).worker
    driver.deliver("a")
    driver.take(driver.one(do.Acknowledge))
    assert not driver.wanted(do.DispatchTo)
    driver.give(on.WorkerSaw(worker, ("left behind",)))
    assert driver.one(do.RemoveAt).places == ("left behind",)
    driver.look(301)
    assert driver.one(do.KillWorker).worker == worker
    driver.give(on.WorkerHasTidied(worker))
    assert driver.one(do.DispatchTo).worker == worker


def test_the_reaper_gets_its_turn_also_where_jobs_never_let_a_worker_be_idle() -> None:
    """Promise 8. With no spare worker and a full queue the next job took each worker at once."""
    driver = Driver(max_concurrent=1, spare_workers=0, tidy_interval_s=30.0)
    order = driver.run("job-0")
    looks: list[float] = []
    for number in range(1, 30):
        driver.end(order)
        driver.bring(f"job-{number}")
        driver.now_s += 10
        driver.idle(order)
        if tidies := driver.wanted(do.TidyAt):
            assert not driver.wanted(do.DispatchTo)
            looks.append(driver.now_s)
            driver.give(on.WorkerHasTidied(tidies[0].worker))
        order = driver.one(do.DispatchTo)
    gaps = [later - earlier for earlier, later in itertools.pairwise(looks)]
    assert len(looks) >= 3
    assert all(60 <= gap <= 70 for gap in gaps), gaps
