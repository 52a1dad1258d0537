"""A job whose server is out of reach waits there without a worker; what is left there is cleaned on the next contact."""

from __future__ import annotations

from dataclasses import replace

import pytest

from cronium.common.errors import ExecutionError, Reason
from cronium.common.messages import Outcome, ResultFile, Results, ServerOutcome
from cronium.supervisor.core import actions as do
from cronium.supervisor.core import events as on
from cronium.supervisor.core.state import JobState, Lease, RetryRule
from peers.core_driver import Driver, outcome

WEB, DB = "deploy@web:22#1", "deploy@db:22#1"


def said_running(driver: Driver, order: do.DispatchTo) -> None:
    driver.give(on.AttemptSaid(order.worker, order.job_id, order.generation, "running"))


def parked(driver: Driver, *, begun: bool = True, give_up_s: float = 600.0) -> do.DispatchTo:
    order = driver.run("a", servers=(WEB,))
    driver.park(order, begun=begun, give_up_s=give_up_s)
    driver.one(do.SettleAt)
    driver.idle(order, removed=False)
    return order


def first_dispatch_after_a_restart(driver: Driver) -> do.DispatchTo:
    driver.restart()
    driver.tick()
    for action in driver.wanted(do.StartWorker):
        driver.ready(action.name)
        if driver.wanted(do.DispatchTo):
            break
    return driver.one(do.DispatchTo)


def test_it_keeps_its_place_and_goes_on_in_it_once_its_server_answers() -> None:
    driver = Driver(breaker_failures=100)
    order = parked(driver)
    record = driver.records["a"]
    assert (record.state, record.place, record.begun) == (JobState.READY, order.place, True)
    assert all(worker.job_id is None for worker in driver.core.workers()), "it waits without a worker"
    assert not driver.wanted(do.DispatchTo)
    driver.give(on.ServerSeen("worker-2", WEB, reached=True), after_s=0.5)
    again = driver.one(do.DispatchTo)
    assert (again.place, again.generation, again.attempt) == (order.place, 2, 1)
    assert (again.adopt, again.begun) == (True, True)
    assert driver.records["a"].parked is None


def test_it_is_tried_again_by_itself_ever_more_seldom() -> None:
    driver = Driver(breaker_failures=1000)
    order = parked(driver)
    pauses = []
    for _ in range(9):
        waited_s = 0.0
        while not driver.wanted(do.DispatchTo):
            driver.tick(after_s=0.25)
            waited_s += 0.25
        pauses.append(waited_s)
        order = driver.one(do.DispatchTo)
        driver.park(order, begun=True)
        driver.idle(order, removed=False)
    assert pauses[0] <= 0.75
    assert pauses[-1] >= 24
    assert max(pauses) <= 37


def test_it_does_not_go_on_before_its_last_worker_has_let_go() -> None:
    driver = Driver()
    order = driver.run("a", servers=(WEB,))
    driver.park(order, begun=True)
    driver.give(on.ServerSeen("worker-2", WEB, reached=True), after_s=10)
    assert not driver.wanted(do.DispatchTo)
    driver.park(order, begun=True)
    driver.one(do.SettleAt)  # what is said again is answered again
    driver.idle(order, removed=False)
    driver.one(do.DispatchTo)


def test_it_survives_a_restart() -> None:
    driver = Driver()
    order = parked(driver)
    again = first_dispatch_after_a_restart(driver)
    assert (again.place, again.generation, again.begun) == (order.place, 2, True)


def test_what_is_over_on_some_servers_is_kept_and_reported_when_the_others_are_given_up() -> None:
    driver = Driver(breaker_failures=100)
    order = driver.run("a", servers=(WEB, DB))
    over = ServerOutcome(DB, "db", "failed", 5, "script_exit", "exit code 5")
    missing = ServerOutcome(WEB, "web", "failed", None, "unreachable", "no answer")
    driver.park(order, begun=True, give_up_s=5, finished=(over,), missing=(missing,), results=Results(b"1", condition=True))
    driver.idle(order, removed=False)
    again = first_dispatch_after_a_restart(driver)
    assert again.finished == (over,)
    driver.park(again, begun=True, give_up_s=5, missing=(missing,))
    driver.idle(again, removed=False)
    driver.tick(after_s=6)
    ended = driver.ended["a"].outcome
    assert (ended.status, ended.exit_code, ended.servers) == ("failed", 5, (over, missing))
    assert ended.results == Results(b"1", condition=True)
    assert ended.error is not None
    assert ended.error.message == "2 of 2 servers did not succeed: db: exit code 5; web: no answer"
    assert driver.records["a"].results is None


def test_what_was_over_before_it_was_parked_is_part_of_its_end() -> None:
    driver = Driver(breaker_failures=100)
    order = driver.run("a", servers=(WEB, DB))
    parts = [ServerOutcome(key, key, "completed", 0) for key in (DB, WEB)]
    first = Results(b"1", True, files=(ResultFile("db/f", "text/plain", b"1"),))
    driver.park(order, begun=True, finished=(parts[0],), results=first)
    driver.idle(order, removed=False)
    again = first_dispatch_after_a_restart(driver)
    driver.end(again, replace(outcome(), servers=tuple(parts), results=Results(b"2", condition=False)))
    ended = driver.ended["a"].outcome
    assert ended.servers == tuple(parts)
    assert ended.results == Results(b"2", condition=False, files=first.files)


def test_that_the_script_was_started_is_written_down_once_and_only_for_servers() -> None:
    driver = Driver()
    order = driver.run("a", servers=(WEB,))
    said_running(driver, order)
    assert driver.records["a"].begun
    assert not driver.give(on.AttemptSaid(order.worker, "a", 1, "running")).writes
    container = Driver()
    order = container.run("b")
    assert not container.give(on.AttemptSaid(order.worker, "b", 1, "running")).writes


def test_the_backend_hears_why_it_stands_still_and_its_lease_is_renewed() -> None:
    driver = Driver()
    order = driver.run("a", servers=(WEB,))
    said_running(driver, order)
    driver.take(driver.one(do.SayStatus))
    driver.park(order, begun=True)
    said = driver.one(do.SayStatus)
    assert (said.status, said.message) == ("running", "no answer")
    driver.take(said)
    driver.idle(order, removed=False)
    driver.give(on.LeaseRenewed("a", Lease("t", driver.now().unix_ms + 30_000)))
    driver.tick(after_s=25)
    driver.one(do.RenewLease)


def test_what_it_says_while_a_place_that_never_was_is_named_anew_is_of_no_earlier_attempt() -> None:
    """The backend refuses that, and nobody would read why it waits."""
    driver = Driver()
    order = driver.run("a", servers=(WEB,))
    driver.give(on.AttemptSaid(order.worker, "a", 1, "preparing"))
    driver.take(driver.one(do.SayStatus))
    error = ExecutionError(Reason.UNREACHABLE, "no answer").report()
    driver.give(on.AttemptParked(order.worker, "a", 1, WEB, error, driver.now().unix_ms + 10_000, begun=False, touched=False))
    said = driver.one(do.SayStatus)
    assert (said.attempt, said.message) == (1, "no answer")


def test_if_nobody_gets_there_it_ends_as_it_was_said_and_its_place_is_remembered() -> None:
    driver = Driver(breaker_failures=1, breaker_recovery_s=1e6)
    order = parked(driver, give_up_s=50)
    driver.reached(WEB, reached=False)
    driver.tick(after_s=48)
    assert driver.state() is JobState.READY
    driver.tick(after_s=3)
    ended = driver.ended["a"].outcome
    assert (ended.status, ended.error and ended.error.message) == ("failed", "no answer")
    assert (driver.records["a"].place, driver.records["a"].leftovers) == (None, (order.place,))


def test_a_job_that_never_got_to_its_server_waits_no_longer_for_each_time_it_was_tried() -> None:
    """Nothing of its place is there, so it is named anew for each try; its limit is the first one's."""
    driver = Driver(breaker_failures=5, breaker_recovery_s=60.0)
    order: do.DispatchTo | None = driver.run("a", servers=(WEB,))
    began_s, tries = driver.now_s, 0
    while "a" not in driver.ended:
        if order is not None:
            tries += 1
            driver.reached(WEB, reached=False)
            driver.park(order, begun=False, give_up_s=900.0, touched=False)  # each worker counts from its own start
            driver.idle(order)
        driver.tick(after_s=1.0)
        order = next(iter(driver.wanted(do.DispatchTo)), None)
        assert driver.now_s < began_s + 1000, f"{tries} tries, and no end"
    assert driver.now_s >= began_s + 900
    error = driver.ended["a"].outcome.error
    assert error is not None
    assert (error.reason, error.message) == (Reason.UNREACHABLE, "no answer")


def test_it_is_not_given_up_after_a_restart_before_somebody_has_tried() -> None:
    """Promises 2 and 5: its server may be back, and its script have ended, with an exit code and output that wait there."""
    driver = Driver(breaker_failures=100)
    order = parked(driver, give_up_s=50)
    driver.now_s += 3600
    again = first_dispatch_after_a_restart(driver)
    assert (again.place, again.adopt) == (order.place, True)
    driver.park(again, begun=True, give_up_s=-1)
    driver.idle(again, removed=False)
    driver.tick(61)
    assert driver.state() is JobState.ENDED, "nobody got there"


def test_nor_is_it_while_no_slot_is_free_to_try_it() -> None:
    driver = Driver(max_concurrent=1, breaker_failures=1, breaker_recovery_s=1e6)
    order = parked(driver, give_up_s=50)
    driver.reached(WEB, reached=False)
    driver.bring("b")
    first = driver.one(do.DispatchTo)
    driver.give(on.AttemptSaid(first.worker, "b", 1, "running"))
    driver.now_s += 10
    other = first_dispatch_after_a_restart(driver)
    assert other.job_id == "b"
    driver.tick(100)
    driver.end(other)
    driver.idle(other)
    assert driver.one(do.DispatchTo).place == order.place


@pytest.mark.parametrize("begun", [True, False])
def test_cancelled_it_ends_at_once_only_if_it_never_began(begun: bool) -> None:
    driver = Driver(breaker_failures=1, breaker_recovery_s=1e6)
    order = parked(driver, begun=begun, give_up_s=50)
    driver.reached(WEB, reached=False)
    driver.give(on.CancelRequested("a"))
    if not begun:
        assert driver.ended["a"].outcome.status == "cancelled"
        assert driver.records["a"].leftovers == (order.place,)
        return
    record = driver.core.job("a")
    assert record is not None
    assert record.state is JobState.READY
    assert "cancelled" in (record.waits_for or "")
    driver.reached(WEB)
    driver.tick()
    again = driver.one(do.DispatchTo)
    assert driver.one(do.CancelAt).generation == 2
    driver.park(again, begun=True, give_up_s=-1)
    driver.idle(again, removed=False)
    assert driver.ended["a"].outcome.status == "cancelled"


def test_lost_to_another_host_it_is_only_stopped_where_it_began() -> None:
    driver = Driver()
    parked(driver, begun=False)
    driver.give(on.LeaseLost("a", "409"))
    assert driver.state() is JobState.DONE
    assert "a" not in driver.ended


def test_parked_jobs_take_no_slot_from_others() -> None:
    driver = Driver(max_concurrent=1, breaker_failures=1, breaker_recovery_s=1e6)
    parked(driver)
    driver.reached(WEB, reached=False)
    driver.bring("b")
    assert driver.one(do.DispatchTo).job_id == "b"


# --- leftovers -------------------------------------------------------------------------------------------------------


def left(driver: Driver) -> do.DispatchTo:
    """A job that has ended, whose place could not be removed; the report is taken."""
    order = driver.run("a", servers=(WEB,))
    driver.end(order)
    driver.idle(order, removed=False)
    return order


def test_what_could_not_be_removed_is_remembered_and_cleaned_on_contact() -> None:
    driver = Driver()
    order = left(driver)
    clean = driver.one(do.CleanUpAt)
    assert clean.places == (order.place,)
    driver.tick()
    assert not driver.wanted(do.CleanUpAt), "one at a time"
    driver.give(on.LeftoversCleaned(clean.worker, "a", ()))
    assert driver.records["a"].leftovers == (order.place,)
    assert not driver.wanted(do.CleanUpAt)
    driver.give(on.ServerSeen("worker-1", WEB, reached=True), after_s=4)
    again = driver.one(do.CleanUpAt)
    assert driver.core.servers()["connections"] == {"deploy@web:22": 1}
    driver.give(on.LeftoversCleaned(again.worker, "a", again.places))
    assert driver.records["a"].leftovers == ()
    assert driver.core.servers()["connections"] == {}


def test_it_is_remembered_over_a_restart_and_when_the_job_is_done() -> None:
    driver = Driver()
    order = driver.run("a", servers=(WEB,))
    driver.give(on.LeaseLost("a", "409"))
    driver.end(order, outcome("cancelled", Reason.CANCELLED))
    assert driver.state() is JobState.DONE
    assert driver.records["a"].is_unclean(), "so its payload is kept"
    driver.restart()
    driver.start_workers()
    driver.tick()
    assert driver.wanted(do.CleanUpAt) or driver.core.servers()["leftovers"] == 1


def test_a_worker_that_dies_over_the_removal_leaves_it_to_others() -> None:
    driver = Driver()
    order = driver.run("a", servers=(WEB,))
    driver.end(order)
    driver.give(on.WorkerDied(order.worker, "SIGKILL"))
    assert driver.records["a"].leftovers == (order.place,)


def test_a_done_job_is_not_forgotten_before_it_is_clean_or_its_server_has_cleaned_up() -> None:
    driver = Driver(keep_done_s=10.0, remote_ttl_s=1000.0, breaker_failures=1, breaker_recovery_s=1e6)
    order = driver.run("a", servers=(WEB,))
    driver.reached(WEB, reached=False)
    driver.give(on.LeaseLost("a", "409"))
    driver.end(order, outcome("cancelled", Reason.CANCELLED))
    driver.idle(order, removed=False)
    driver.tick(after_s=500)
    assert driver.records["a"].leftovers == (order.place,)
    driver.tick(after_s=600)
    driver.tick()
    assert "a" not in driver.records


def test_room_that_nobody_waits_for_any_more_is_there_for_the_removal() -> None:
    driver = Driver(connections_per_server=1)
    order = driver.run("a", servers=(WEB,))
    driver.bring("b", servers=(WEB,))
    driver.give(on.CancelRequested("b"))
    driver.end(order)
    driver.idle(order, removed=False)
    driver.one(do.CleanUpAt)


def test_unused_connections_in_the_way_of_the_removal_are_given_back() -> None:
    driver = Driver(connections_per_server=1)
    order = driver.run("a", servers=(WEB, DB))
    driver.give(on.WorkerIsConnected("worker-3", (WEB,)))
    driver.end(order)
    driver.give(on.WorkerIsConnected("worker-1", (DB,)))
    driver.idle(order, removed=False)
    release = driver.one(do.ReleaseAt)
    driver.give(on.WorkerIsConnected(release.worker, ()))
    driver.one(do.CleanUpAt)


def test_a_container_job_leaves_nothing_to_remember() -> None:
    driver = Driver()
    order = driver.run("a")
    driver.end(order)
    driver.give(on.WorkerDied(order.worker, "SIGKILL"))
    assert (driver.records["a"].place, driver.records["a"].leftovers) == (None, ())


# --- several servers -------------------------------------------------------------------------------------------------


def test_a_retry_runs_only_where_it_did_not_succeed() -> None:
    driver = Driver()
    order = driver.run("a", retry=RetryRule(3, exponential=False, delay_s=0.0), servers=(WEB, DB))
    good = ServerOutcome(WEB, "web", "completed", 0)
    bad = ServerOutcome(DB, "db", "failed", 3)
    failed = outcome("failed", Reason.SCRIPT_EXIT)
    driver.end(order, Outcome(failed.status, 3, failed.error, 1, 2, servers=(good, bad)))
    driver.idle(order)
    again = first_dispatch_after_a_restart(driver)
    assert (again.attempt, again.finished, again.begun) == (2, (good,), False)
    assert again.place != order.place


def test_the_files_of_all_its_servers_are_bounded_together_though_it_was_parked_between_them() -> None:
    """Each worker's part is within the bound; parked several times, they would add up without any."""
    driver = Driver(max_results_bytes=100)
    order = driver.run("a", servers=(WEB, DB))
    parts = [ServerOutcome(key, key[:3], "completed", 0) for key in (WEB, DB)]
    given = [Results(files=(ResultFile(f"{name}/f", "text/plain", bytes(60)),)) for name in ("web", "db")]
    driver.park(order, begun=True, finished=(parts[0],), results=given[0])
    driver.idle(order, removed=False)
    driver.give(on.ServerSeen("worker-2", WEB, reached=True), after_s=0.5)
    driver.end(driver.one(do.DispatchTo), replace(outcome(), servers=tuple(parts), results=given[1]))
    results = driver.ended["a"].outcome.results
    assert [file.path for file in results.files] == ["web/f"]
    assert "db/f" in results.problems[0]
