"""The processes beside the workers: started in order, started again, ended when they hang, and given up when that never ends."""

from __future__ import annotations

from typing import TypeVar

import pytest

from cronium.supervisor.core import actions as do
from cronium.supervisor.core import events as on
from cronium.supervisor.core.roles import FORKSERVER, MONITOR, QUEUE, STREAMER
from cronium.supervisor.core.state import JobState
from peers.core_driver import Driver

A = TypeVar("A")
ALL = (QUEUE, FORKSERVER, STREAMER, MONITOR)
HUNG_S = 8.0


class Watched(Driver):
    """A driver that does what the core wants of processes, and keeps what it has wanted: `all`."""

    def __init__(self, **changes: object) -> None:
        self.all: list[do.Action] = []
        super().__init__(ALL, **changes)

    def give(self, event: on.Event, *, after_s: float = 0.0) -> do.Step:
        step = super().give(event, after_s=after_s)
        self.all += step.actions
        return step

    def obey(self) -> None:
        """Start what was asked for since the last time, until there is nothing more."""
        while asked := [action for action in self.all if isinstance(action, do.StartRole | do.StartWorker)]:
            self.all = [action for action in self.all if action not in asked]
            for action in asked:
                if isinstance(action, do.StartRole):
                    self.give(on.RoleStarted(action.role))
                else:
                    self.ready(action.name)

    def so_far(self, kind: type[A]) -> list[A]:
        found = [action for action in self.all if isinstance(action, kind)]
        self.all.clear()
        return found


def started(step: do.Step) -> list[str]:
    return [action.role for action in step.actions if isinstance(action, do.StartRole)]


@pytest.fixture
def driver() -> Watched:
    """All roles run, and workers are there."""
    driver = Watched(hung_after_s=HUNG_S, restart_intensity=3, restart_period_s=60.0)
    step = driver.tick(0)
    assert started(step) == [QUEUE, FORKSERVER]
    assert not driver.wanted(do.StartWorker), "nobody is forked before there is a forkserver"
    driver.all.clear()
    driver.give(on.RoleStarted(QUEUE))
    assert started(driver.give(on.RoleStarted(FORKSERVER))) == [STREAMER, MONITOR]
    driver.obey()
    assert {worker.ready for worker in driver.core.workers()} == {True}
    driver.all.clear()
    return driver


def test_a_role_that_died_is_started_at_once_the_first_time_and_then_after_pauses(driver: Watched) -> None:
    assert started(driver.give(on.RoleDied(STREAMER, "SIGKILL"))) == [STREAMER]
    driver.give(on.RoleStarted(STREAMER))
    assert started(driver.give(on.RoleDied(STREAMER, "SIGKILL"))) == []
    assert driver.core.next_due_s(driver.now()) <= driver.now_s + 0.4
    assert started(driver.tick(0.5)) == [STREAMER]
    assert driver.core.processes()[STREAMER] == {"restarts": 1, "hung": 0}


def test_the_forkserver_takes_all_that_it_forked_along_and_that_is_one_death(driver: Watched) -> None:
    """Otherwise a few of its deaths would count as many of workers, and end the supervisor."""
    for _ in range(3):
        workers = [worker.name for worker in driver.core.workers()]
        assert started(driver.give(on.RoleDied(FORKSERVER, "SIGKILL"), after_s=3)) == [FORKSERVER]
        for role in (STREAMER, MONITOR):
            assert started(driver.give(on.RoleDied(role, "SIGKILL"))) == []
        for name in workers:
            driver.give(on.WorkerDied(name, "SIGKILL"))
        assert not [action for action in driver.all if isinstance(action, do.StartWorker)]
        driver.obey()
        assert len(driver.core.workers()) == len(workers)
    assert not driver.so_far(do.Exit)
    driver.give(on.RoleDied(FORKSERVER, "SIGKILL"), after_s=3)
    assert driver.one(do.Exit).code == 70


def test_idle_workers_that_die_too_often_end_the_supervisor(driver: Watched) -> None:
    for _ in range(4):
        assert not driver.so_far(do.Exit)
        idle = next(worker for worker in driver.core.workers() if worker.idle())
        driver.give(on.WorkerDied(idle.name, "exited with 1"))
        left = driver.wanted(do.Exit)
        driver.obey()
    assert left[0].code == 70
    assert "exited with 1" in left[0].reason


def test_many_idle_workers_that_die_at_once_are_no_crash_loop(driver: Watched) -> None:
    """Whoever kills all of them kills what has proved itself; only those that die soon after they were ready count."""
    driver.tick(61)
    for _ in range(2):  # the second time they are new
        for worker in driver.core.workers():
            driver.give(on.WorkerDied(worker.name, "SIGKILL"))
        assert not [action for action in driver.all if isinstance(action, do.Exit)]
        driver.obey()
    driver.give(on.WorkerDied(driver.core.workers()[0].name, "SIGKILL"))
    assert driver.one(do.Exit).code == 70


def test_who_is_forked_by_the_next_forkserver_does_not_die_along_with_the_last(driver: Watched) -> None:
    """It was asked for while the old one was dead already, nobody knew it yet: its own death, later, counts."""
    asked_for = ""
    for _ in range(3):  # as many as are allowed
        driver.obey()
        driver.give(on.WorkerDied(driver.core.workers()[-1].name, "SIGKILL"))
        asked_for = driver.one(do.StartWorker).name
    others = [worker.name for worker in driver.core.workers() if worker.name != asked_for]
    driver.give(on.RoleDied(FORKSERVER, "SIGKILL"))
    for name in (*others, STREAMER, MONITOR):
        driver.give(on.RoleDied(name, "SIGKILL") if name in ALL else on.WorkerDied(name, "SIGKILL"))
    driver.obey()
    driver.tick(20)
    driver.give(on.WorkerDied(asked_for, "SIGKILL"))
    assert driver.one(do.Exit).code == 70


def test_a_job_whose_worker_dies_with_the_forkserver_is_not_the_reason(driver: Watched) -> None:
    driver.bring("a")
    for _ in range(driver.rules.max_worker_deaths + 1):
        holder = next(worker.name for worker in driver.core.workers() if worker.job_id == "a")
        driver.give(on.RoleDied(FORKSERVER, "SIGKILL"), after_s=30)
        for worker in driver.core.workers():
            driver.give(on.WorkerDied(worker.name, "SIGKILL"))
        assert holder not in {worker.name for worker in driver.core.workers()}
        driver.obey()
    assert (driver.state(), driver.records["a"].deaths) == (JobState.RUNNING, 0)


def test_workers_that_die_of_a_job_count_against_the_job_alone(driver: Watched) -> None:
    driver.bring("a")
    for _ in range(3):
        holder = next(worker for worker in driver.core.workers() if worker.job_id == "a")
        driver.give(on.WorkerDied(holder.name, "SIGKILL"))
        driver.obey()
    assert not driver.so_far(do.Exit)
    ended = driver.ended["a"].outcome
    assert ended.error is not None
    assert (ended.error.reason, ended.error.details["quarantined"]) == ("worker_lost", True)


def test_one_that_hangs_is_asked_where_and_then_ended(driver: Watched) -> None:
    driver.give(on.Beats(STREAMER, 1))
    for _ in range(8):
        driver.give(on.Looked(driver.core.mute()), after_s=1)
    assert [dump.name for dump in driver.so_far(do.DumpStack)] == [STREAMER]
    driver.give(on.Looked(driver.core.mute()), after_s=0.5)
    (ended,) = driver.so_far(do.EndRole)
    assert ended.role == STREAMER
    assert "no progress" in ended.reason
    assert driver.core.processes()[STREAMER]["hung"] == 1


def test_a_worker_that_hangs_is_ended_too(driver: Watched) -> None:
    driver.bring("a")
    worker = next(worker for worker in driver.core.workers() if worker.job_id == "a")
    driver.give(on.Beats(worker.name, 1))
    for _ in range(10):
        driver.give(on.Looked(driver.core.mute()), after_s=1)
    assert [killed.worker for killed in driver.so_far(do.KillWorker)] == [worker.name]


def test_a_role_that_is_not_started_or_never_beats_is_ended(driver: Watched) -> None:
    driver.give(on.RoleDied(STREAMER, "SIGKILL"))
    driver.look(driver.rules.worker_start_s + 0.1)
    assert [ended.role for ended in driver.wanted(do.EndRole)] == [STREAMER]
    driver.give(on.RoleDied(STREAMER, "not started"))
    driver.tick(1)
    driver.give(on.RoleStarted(STREAMER))
    driver.give(on.Beats(MONITOR, 1))
    driver.give(on.Looked(driver.core.mute()), after_s=500)
    assert not driver.wanted(do.EndRole), "so long nobody was heard at all"
    driver.look(299)
    assert not [ended.role for ended in driver.wanted(do.EndRole) if "beaten" in ended.reason]
    driver.look(2)
    assert [ended.role for ended in driver.wanted(do.EndRole) if "beaten" in ended.reason] == [STREAMER]
