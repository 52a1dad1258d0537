"""Connections are leased: over all workers never more than `maxPerServer`, and a job goes where its connection already is."""

from __future__ import annotations

from cronium.common.messages import Slot
from cronium.supervisor.core import actions as do
from cronium.supervisor.core import events as on
from cronium.supervisor.core.state import JobState
from peers.core_driver import Driver

WEB, DB = "deploy@web:22#1", "deploy@db:22#1"


def team(**changes: object) -> Driver:
    given: dict[str, object] = {"max_concurrent": 4, "spare_workers": 0, "connections_per_server": 1}
    driver = Driver(**{**given, **changes})
    driver.start_workers()
    return driver


def connected(driver: Driver, worker: str, *servers: str, slots: tuple[Slot, ...] = ()) -> None:
    driver.give(on.WorkerIsConnected(worker, servers, slots))


def test_a_job_goes_to_the_worker_that_is_connected_to_its_server() -> None:
    driver = team()
    connected(driver, "worker-3", WEB)
    driver.bring("a", servers=(WEB,))
    assert driver.one(do.DispatchTo).worker == "worker-3"


def test_first_to_the_one_where_a_launcher_waits_in_the_place_that_it_has() -> None:
    driver = team(connections_per_server=3)
    connected(driver, "worker-2", WEB)
    connected(driver, "worker-3", WEB, slots=(Slot(WEB, "cronium-test-slot"),))
    assert "cronium-test-slot" in driver.core.places()
    driver.bring("a", servers=(WEB,))
    order = driver.one(do.DispatchTo)
    assert (order.worker, order.place) == ("worker-3", "cronium-test-slot")
    assert driver.records["a"].place == "cronium-test-slot", "written down with the dispatch"


def test_a_slot_is_used_once_though_its_worker_still_says_it() -> None:
    """A Connected that was on its way when the job was given."""
    driver = team()
    slots = (Slot(WEB, "cronium-test-slot"),)
    connected(driver, "worker-3", WEB, slots=slots)
    driver.bring("a", servers=(WEB,))
    order = driver.one(do.DispatchTo)
    connected(driver, "worker-3", WEB, slots=slots)
    driver.end(order)
    driver.idle(order)
    driver.bring("b", servers=(WEB,))
    again = driver.one(do.DispatchTo)
    assert again.worker == "worker-3"
    assert again.place != "cronium-test-slot"
    assert again.place.startswith("cronium-test-")


def test_never_more_connections_than_allowed_whatever_workers_say_late() -> None:
    driver = team()
    driver.bring("a", servers=(WEB,))
    order = driver.one(do.DispatchTo)
    connected(driver, order.worker)  # said before it had the job
    driver.bring("b", servers=(WEB,))
    assert not driver.wanted(do.DispatchTo)
    record = driver.core.job("b")
    assert record is not None
    assert record.waits_for == "all 1 connections to deploy@web:22 are in use (ssh.connectionPool.maxPerServer)"
    driver.bring("c")
    assert driver.one(do.DispatchTo).job_id == "c", "it holds up nobody"
    connected(driver, order.worker, WEB)
    driver.end(order)
    driver.idle(order)
    assert driver.one(do.DispatchTo).worker == order.worker


def test_a_dead_worker_holds_nothing() -> None:
    driver = team(max_worker_deaths=0)
    driver.bring("a", servers=(WEB,))
    order = driver.one(do.DispatchTo)
    driver.bring("b", servers=(WEB,))
    driver.give(on.WorkerDied(order.worker, "SIGKILL"))
    assert driver.one(do.DispatchTo).job_id == "b"
    connected(driver, order.worker, WEB, DB)
    assert driver.core.servers()["connections"] == {"deploy@web:22": 1}


def test_an_unused_connection_in_the_way_is_given_back_once() -> None:
    driver = team()
    connected(driver, "worker-1", WEB)
    connected(driver, "worker-2", DB)
    driver.bring("a", servers=(WEB, DB))
    release = driver.one(do.ReleaseAt)
    assert not driver.wanted(do.DispatchTo), "all of its connections or none"
    driver.tick()
    assert not driver.wanted(do.ReleaseAt)
    connected(driver, release.worker)
    order = driver.one(do.DispatchTo)
    assert order.worker == {"worker-1": "worker-2", "worker-2": "worker-1"}[release.worker]


def test_a_job_on_several_servers_is_not_starved_by_those_behind_it() -> None:
    driver = team()
    driver.bring("a", servers=(DB,))
    first = driver.one(do.DispatchTo)
    driver.bring("b", servers=(WEB, DB))
    assert not driver.wanted(do.DispatchTo)
    driver.bring("c", servers=(WEB,))
    assert not driver.wanted(do.DispatchTo), "there would be room for it, but b waits for that"
    connected(driver, first.worker, DB)
    driver.end(first)
    driver.idle(first)
    assert driver.one(do.DispatchTo).job_id == "b"


def test_a_job_in_a_container_leaves_the_connected_workers_alone() -> None:
    driver = team()
    for worker in ("worker-1", "worker-2", "worker-4"):
        connected(driver, worker, WEB)
    driver.bring("a")
    assert driver.one(do.DispatchTo).worker == "worker-3"


def test_where_jobs_follow_each_other_the_next_connection_is_warmed_up() -> None:
    driver = team(connections_per_server=2)
    driver.bring("a", servers=(WEB,))
    assert not driver.wanted(do.WarmUpAt), "it may be the only one"
    first = driver.one(do.DispatchTo)
    driver.bring("b", servers=(WEB,))
    second = driver.one(do.DispatchTo)
    assert not driver.wanted(do.WarmUpAt), "there is no room"
    for order in (first, second):
        connected(driver, order.worker)
        driver.end(order)
        driver.idle(order)
    driver.bring("c", servers=(WEB,))
    warm = driver.one(do.WarmUpAt)
    assert warm.worker != driver.one(do.DispatchTo).worker
    assert warm.job_id == "c"
    connected(driver, warm.worker)  # said before it heard of it
    driver.bring("d", servers=(WEB,))
    assert driver.one(do.DispatchTo).worker == warm.worker, "that is where the second connection is"


def test_a_warm_up_of_which_nothing_is_heard_has_failed() -> None:
    driver = team(connections_per_server=2, connect_s=15.0, connections_idle_s=1000.0)
    driver.bring("a", servers=(WEB,))
    order = driver.one(do.DispatchTo)
    driver.end(order)
    driver.idle(order)
    driver.bring("b", servers=(WEB,))
    driver.one(do.WarmUpAt)
    assert driver.core.servers()["connections"] == {"deploy@web:22": 2}
    driver.tick(after_s=21)
    assert driver.core.servers()["connections"] == {"deploy@web:22": 1}


def test_places_of_a_job_on_several_servers_are_known_by_their_first_part() -> None:
    driver = team()
    driver.bring("a", servers=(WEB, DB))
    place = driver.one(do.DispatchTo).place
    driver.give(on.WorkerSaw("worker-4", (f"{place}.0", f"{place}.1", place, "cronium-test-other.0")))
    assert driver.one(do.RemoveAt).places == ("cronium-test-other.0",)


def test_jobs_that_wait_for_connections_do_not_fill_the_queue() -> None:
    driver = team(max_concurrent=2, most_jobs=4)
    for job_id in "abcd":
        driver.bring(job_id, servers=(WEB,))
    assert [driver.state(job_id) for job_id in "abcd"].count(JobState.RUNNING) == 1
    driver.tick(after_s=60)
    assert not driver.wanted(do.Poll), "but there is a limit to what is taken in"
