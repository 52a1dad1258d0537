"""A server that does not answer is left alone for a while, and nobody else notices (issue: circuit breaker per server)."""

from __future__ import annotations

import pytest

from cronium.supervisor.core import actions as do
from cronium.supervisor.core.breakers import Breakers
from cronium.supervisor.core.events import Now
from cronium.supervisor.core.state import JobState
from peers.core_driver import Driver, rules

WEB, DB = "web:22", "db:22"
KEY, OTHER = "deploy@web:22#1", "deploy@db:22#1"


def at(second: float) -> Now:
    return Now(second, round(second * 1000))


def made(failures: int = 3) -> Breakers:
    return Breakers(rules(breaker_failures=failures, breaker_recovery_s=60.0), do.Draft())


def fail(breakers: Breakers, times: int, second: float) -> None:
    for _ in range(times):
        breakers.seen(WEB, reached=False, reason="no route", now=at(second))


def test_it_opens_after_the_threshold_of_failures_in_a_row_and_says_why() -> None:
    breakers = made()
    fail(breakers, 2, 0)
    breakers.seen(WEB, reached=True, reason="", now=at(0))
    fail(breakers, 2, 0)
    assert breakers.obstacle([WEB]) is None
    fail(breakers, 1, 0)
    obstacle = breakers.obstacle([DB, WEB])
    assert obstacle is not None
    assert obstacle.open
    assert "web:22" in obstacle.reason
    assert "no route" in obstacle.reason
    assert breakers.obstacle([DB]) is None
    assert breakers.states() == {WEB: "open"}
    assert [note.message for note in breakers.draft.actions if isinstance(note, do.Note)] == ["server is left alone"]


def test_after_the_recovery_time_one_tries_at_a_time() -> None:
    breakers = made()
    fail(breakers, 3, 0)
    breakers.tick(at(59.9))
    assert breakers.obstacle([WEB]) is not None
    breakers.tick(at(60))
    assert breakers.obstacle([WEB]) is None
    breakers.begins("w1", [WEB])
    obstacle = breakers.obstacle([WEB])
    assert obstacle is not None
    assert not obstacle.open
    breakers.over("w1")
    assert breakers.obstacle([WEB]) is None, "whoever stopped trying makes room for the next"


@pytest.mark.parametrize("proof", ["login", "the job runs"])
def test_a_trial_that_succeeds_closes_it(proof: str) -> None:
    breakers = made()
    fail(breakers, 3, 0)
    breakers.tick(at(60))
    breakers.begins("w1", [WEB])
    if proof == "login":
        breakers.seen(WEB, reached=True, reason="", now=at(61))
    else:
        breakers.got_there("w1", at(61))
    assert breakers.states() == {}
    fail(breakers, 2, 62)
    assert breakers.obstacle([WEB]) is None, "it counts from the start"


def test_a_trial_that_fails_opens_it_for_as_long_again() -> None:
    breakers = made()
    fail(breakers, 3, 0)
    breakers.tick(at(60))
    breakers.begins("w1", [WEB])
    fail(breakers, 1, 61)
    breakers.tick(at(120))
    assert breakers.states() == {WEB: "open"}
    breakers.tick(at(121))
    assert breakers.states() == {WEB: "half-open"}


def test_failures_of_those_that_were_on_the_way_do_not_prolong_it() -> None:
    breakers = made()
    fail(breakers, 3, 0)
    fail(breakers, 5, 30)
    breakers.tick(at(60))
    assert breakers.states() == {WEB: "half-open"}


def test_what_failed_now_and_then_is_not_remembered_for_ever() -> None:
    breakers = made()
    for number in range(5000):
        breakers.seen(f"host{number}:22", reached=False, reason="", now=at(number))
    assert len(breakers._breakers) <= 1001


# --- with jobs -------------------------------------------------------------------------------------------------------


def with_a_dead_server(**changes: object) -> Driver:
    driver = Driver(**{"breaker_failures": 1, "breaker_recovery_s": 60.0, "max_concurrent": 2, **changes})
    driver.start_workers()
    driver.reached(KEY, reached=False)
    return driver


def test_while_it_is_open_its_jobs_wait_with_a_reason_and_others_run() -> None:
    driver = with_a_dead_server()
    for job_id in "abc":
        driver.bring(job_id, servers=(KEY,))
        assert not driver.wanted(do.DispatchTo)
        driver.tick()
    record = driver.core.job("a")
    assert record is not None
    assert "does not answer" in (record.waits_for or "")
    driver.bring("d", servers=(OTHER,))
    assert driver.one(do.DispatchTo).job_id == "d"
    driver.bring("e")
    assert driver.one(do.DispatchTo).job_id == "e", "and for their slots others are polled"
    assert driver.core.servers()["openBreakers"] == [WEB]
    assert driver.core.servers()["waitingJobs"] == 3


def test_when_it_may_be_tried_one_job_goes_and_then_all() -> None:
    driver = with_a_dead_server()
    driver.bring("a", servers=(KEY,))
    driver.tick()
    driver.bring("b", servers=(KEY,))
    driver.tick(after_s=60)
    assert driver.one(do.DispatchTo).job_id == "a"
    driver.reached(KEY)
    assert driver.one(do.DispatchTo).job_id == "b"


def test_by_configuration_its_jobs_fail_at_once_unless_they_have_begun() -> None:
    driver = Driver(breaker_failures=1, breaker_fails=True, breaker_recovery_s=600.0)
    order = driver.run("a", servers=(KEY,))
    driver.park(order, begun=True)
    driver.idle(order, removed=False)
    driver.reached(KEY, reached=False)
    driver.bring("b", servers=(KEY,))
    assert driver.ended["b"].outcome.error is not None
    assert driver.ended["b"].outcome.error.reason == "unreachable"
    assert driver.state("b") is JobState.ENDED
    driver.tick(after_s=50)
    assert driver.state("a") is JobState.READY


def test_a_job_that_was_never_started_does_not_wait_for_ever() -> None:
    driver = with_a_dead_server(unreachable_after_s=100.0, breaker_recovery_s=600.0)
    driver.bring("a", servers=(KEY,))
    driver.tick(after_s=99)
    assert driver.state("a") is JobState.READY
    driver.tick(after_s=2)
    outcome = driver.ended["a"].outcome
    assert (outcome.status, outcome.error and outcome.error.reason) == ("failed", "unreachable")
