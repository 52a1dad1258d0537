"""What a superseded attempt, generation or epoch still says is refused: only one worker speaks for a job."""

from __future__ import annotations

from cronium.common.errors import ExecutionError, Reason
from cronium.supervisor.core import actions as do
from cronium.supervisor.core import events as on
from cronium.supervisor.core.state import JobState, RetryRule
from peers.core_driver import Driver, outcome, summary

SERVER = "deploy@web:22#1"


def said_late(order: do.DispatchTo) -> tuple[on.Event, ...]:
    """All that its worker may say of an attempt."""
    error = ExecutionError(Reason.UNREACHABLE, "no answer").report()
    whose = (order.worker, order.job_id, order.generation)
    return (
        on.AttemptOver(*whose, outcome("completed")),
        on.AttemptSaid(*whose, "running", 50.0, "late", place=order.place),
        on.AttemptParked(*whose, SERVER, error, 1, begun=True),
        on.WorkerIsIdle(*whose, 0, removed=True),
    )


def test_an_attempt_that_was_followed_by_another_says_nothing_of_that_one() -> None:
    driver = Driver()
    first = driver.run(retry=RetryRule(3, exponential=False, delay_s=1.0), servers=(SERVER,))
    driver.end(first, outcome("failed", Reason.SCRIPT_EXIT))
    driver.idle(first)
    driver.tick(5)
    second = driver.one(do.DispatchTo)
    assert (second.attempt, second.generation) == (2, 2)
    assert second.place != first.place
    before = driver.records["a"]
    for event in said_late(first):
        assert not driver.give(event).writes
        assert not driver.wanted(do.SettleAt)
        assert not driver.wanted(do.SayStatus)
        assert driver.records["a"] == before
    driver.end(second, outcome("completed"))
    assert driver.ended["a"].attempt == 2


def test_a_generation_of_the_supervisor_before_says_nothing_to_this_one() -> None:
    driver = Driver()
    first = driver.run(servers=(SERVER,))
    driver.restart()
    driver.tick()
    driver.ready(driver.wanted(do.StartWorker)[0].name)
    second = driver.one(do.DispatchTo)
    assert (second.generation, second.place) == (2, first.place)
    before = driver.records["a"]
    for event in said_late(first):
        assert not driver.give(event).writes
        assert driver.records["a"] == before
    assert driver.state() is JobState.RUNNING


def test_a_summary_of_an_earlier_epoch_is_not_reported() -> None:
    # Guards: the check of the backend goes over one host's numbering; that of another epoch would fail it.
    driver = Driver()
    driver.start_workers()
    driver.deliver("a")
    driver.take(driver.one(do.Acknowledge), epoch=2)
    driver.end(driver.one(do.DispatchTo))
    driver.give(on.SummaryHeard(summary("a", epoch=1)))
    assert not driver.wanted(do.SayComplete)
    driver.give(on.SummaryHeard(summary("a", epoch=2)))
    assert driver.one(do.SayComplete).epoch == 2
