"""A server that does not answer is left alone for a while, and nobody else notices (issue: circuit breaker per server)."""

from __future__ import annotations

import pytest

from cronium.supervisor.core import actions as do
from cronium.supervisor.core import events as on
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


# --- before it is open -----------------------------------------------------------------------------------------------


def crowd(count: int = 5) -> tuple[Driver, list[do.DispatchTo]]:
    """So many jobs for a server that nobody is connected to, with room for five; those that were sent there."""
    driver = Driver(max_concurrent=5, breaker_failures=5, connect_s=15.0)
    driver.start_workers()
    return driver, bring_all(driver, [f"web{number}" for number in range(count)], KEY)


def bring_all(driver: Driver, job_ids: list[str], *servers: str) -> list[do.DispatchTo]:
    """So many at once; what was sent to workers then."""
    sent = []
    if driver.poll_key is None:
        driver.tick()
    driver.deliver(*job_ids, servers=servers)
    for acknowledge in driver.wanted(do.Acknowledge):
        driver.take(acknowledge)
        sent += driver.wanted(do.DispatchTo)
    return sent


def waits_for(driver: Driver, job_id: str) -> str | None:
    record = driver.core.job(job_id)
    assert record is not None
    return record.waits_for


def test_not_every_worker_goes_to_a_server_that_was_not_heard_yet() -> None:
    """It may drop what is sent to it, and each would hang there for connectTimeout: the jobs of others are not slowed."""
    driver, sent = crowd()
    assert [order.job_id for order in sent] == ["web0", "web1"]
    assert "has not answered yet" in (waits_for(driver, "web2") or "")
    assert [order.job_id for order in bring_all(driver, ["db"], OTHER)] == ["db"], "they hold up nobody behind them"


def test_once_somebody_is_connected_all_go() -> None:
    driver, sent = crowd()
    driver.give(on.ServerSeen(sent[0].worker, KEY, reached=True))
    driver.give(on.WorkerIsConnected(sent[0].worker, (KEY,)))
    given = {order.job_id for order in sent} | {"web2", "web3", "web4"}
    assert {record.job_id for record in driver.core.jobs() if record.state is JobState.RUNNING} == given
    assert waits_for(driver, "web4") is None


def test_after_a_failure_one_goes_at_a_time_until_it_is_left_alone() -> None:
    driver, sent = crowd(count=10)
    tried = 0
    while WEB not in driver.core.servers()["openBreakers"]:  # type: ignore[operator]
        order = sent.pop(0)
        tried += 1
        driver.give(on.ServerSeen(order.worker, KEY, reached=False, reason="no answer"), after_s=10)
        sent += driver.wanted(do.DispatchTo)
        driver.park(order, begun=False)
        sent += driver.wanted(do.DispatchTo)
        driver.idle(order)
        sent += driver.wanted(do.DispatchTo)
        assert len(sent) <= 1
    assert tried == 5


def test_what_has_its_place_on_a_server_is_taken_over_at_once_by_all_workers() -> None:
    """20 jobs, two servers, all good: each is given a worker, though nobody is connected after a restart."""
    driver = Driver(max_concurrent=20, connections_per_server=20)
    driver.start_workers()
    for key in (KEY, OTHER):
        sent = bring_all(driver, [f"{key}-{number}" for number in range(10)], key)
        while sent:
            order = sent.pop()
            driver.give(on.WorkerIsConnected(order.worker, (key,)))
            sent += driver.wanted(do.DispatchTo)
            driver.give(on.AttemptSaid(order.worker, order.job_id, order.generation, "running"))
    driver.restart()
    driver.tick()
    given = []
    for action in driver.wanted(do.StartWorker):
        driver.ready(action.name)
        given += driver.wanted(do.DispatchTo)
    driver.tick()
    given += driver.wanted(do.DispatchTo)
    assert sum(order.adopt for order in given) == 20


def test_who_was_held_there_for_longer_than_a_login_lasts_keeps_nobody_away() -> None:
    driver, _ = crowd()
    driver.tick(after_s=21)
    assert {order.job_id for order in driver.wanted(do.DispatchTo)} == {"web2", "web3"}
