"""Everything of ours is killed in the middle of many jobs, and started again after a while: all of them go on, soon.

Promise 5. Jobs are nobody's children here, and the journal knows where they are.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator

import pytest

from cronium.worker.container.spec import LABEL_FILES, LABEL_INSTALLATION, LABEL_JOB, LABEL_PLACE
from peers.ssh_world import Servers
from peers.world import World, numbered, still_there

EACH = 10  # in containers, and as many on servers
SERVERS = 2
NOTHING_S = 10.0
TIMEOUT_S = 20
# What is promised is 2 s on an idle machine. A busy one is slower, also with a start that has nothing to adopt: adoption takes
# two to three times as long as that.
SOON = 6.0
UNTIL_TOLD = 'i=0; until [ -e {stop} ]; do i=$((i + 1)); echo "line $i"; sleep 0.5; done; echo "end $i"; exit {code}'
BASH = "cronium/runner:bash-debian"
STOP_IN_CONTAINER = "/tmp/stop"
ENVIRON = {
    "CRONIUM_JOBS_MAX_CONCURRENT": str(2 * EACH + 1),
    "CRONIUM_SSH_CONNECTION_POOL_MAX_PER_SERVER": "8",
    "CRONIUM_JOBS_STATUS_INTERVAL": "1s",
}


@pytest.fixture(scope="module")
def servers() -> Iterator[Servers]:
    with Servers(SERVERS) as servers:
        yield servers


@pytest.fixture(scope="module")
def world(docker_endpoint: str, runner_images: object, servers: Servers) -> Iterator[World]:
    with World(docker_endpoint, environ=servers.environ(**ENVIRON)) as world:
        yield world
        servers.wait_until_tidy()


def kill_everything(world: World) -> None:
    """SIGKILL to each process of ours at once, not only to the one that takes the others along."""
    mine = world.processes()
    for process in mine:
        process.kill()
    assert world.process is not None
    world.process.wait(10)
    assert not still_there(mine, 10)


def tell_containers(world: World) -> None:
    """Let the jobs in containers end."""
    for container in world.running():
        made = world.docker.exec_create(container, ["touch", STOP_IN_CONTAINER])
        world.docker.exec_start(made["Id"])


def last_lines(world: World, jobs: list[str]) -> dict[str, int]:
    """The number of the last line that the backend has of each job. One question for all: asking is work, too."""
    last = {summary.id: summary.raw["lastSequence"] for summary in world.backend.jobs(limit=100)}
    return {job: last[job] for job in jobs}


@pytest.fixture
def idle(docker_endpoint: str) -> Iterator[World]:
    """A supervisor without any jobs, to compare with."""
    with World(docker_endpoint, wait_for_images=False) as idle:
        yield idle


def start_s(idle: World) -> float:
    """How long it takes here and now until it has a worker. It is stopped then."""
    took_s = []
    for _ in range(2):
        idle.stop()
        began_s = time.monotonic()
        idle.start()
        took_s.append(time.monotonic() - began_s)
    idle.stop()
    return statistics.mean(took_s)


def running(world: World, *, but: str) -> list[str]:
    """The containers of all jobs but one."""
    return sorted(one["Id"] for one in world.containers() if one["State"] == "running" and one["Labels"].get(LABEL_JOB) != but)


@pytest.mark.timeout(240)
def test_twenty_jobs_go_on_after_everything_was_killed(idle: World, world: World, servers: Servers) -> None:
    """Adopted within two seconds, output complete, exit codes right, nothing started twice, deadlines counted on."""
    stop = servers.folder / "stop"
    jobs = [world.submit(UNTIL_TOLD.format(stop=STOP_IN_CONTAINER, code=code)) for code in range(EACH)]
    jobs += [world.submit(UNTIL_TOLD.format(stop=stop, code=code), target=servers.target(code % SERVERS)) for code in range(EACH)]
    late = world.submit("echo on; sleep 100", timeout=TIMEOUT_S)
    for job in (*jobs, late):
        world.until_said(job, "line 3" if job != late else "on")
    containers = running(world, but=late)
    kill_everything(world)
    killed_s = time.monotonic()
    usual_s = start_s(idle)
    time.sleep(max(0.0, killed_s + NOTHING_S - time.monotonic()))
    assert running(world, but=late) == containers
    assert len(containers) == EACH
    heard = last_lines(world, jobs)
    started_s = time.monotonic()
    down_s = started_s - killed_s
    world.launch()  # to look what runs is work, too
    waiting = dict(heard)
    while waiting:
        assert time.monotonic() < started_s + 60, f"not adopted: {waiting}"
        time.sleep(0.1)
        waiting = {job: last for job, last in last_lines(world, list(waiting)).items() if last == heard[job]}
    took_s = time.monotonic() - started_s
    print(
        f"{len(jobs)} jobs adopted {took_s:.2f} s after the start of the new supervisor; one without jobs needs {usual_s:.2f} s"
    )
    assert took_s < SOON * usual_s
    done = world.done(late)
    assert (done.job["status"], done.job["attempts"]) == ("timeout", 1)
    assert TIMEOUT_S - 1 < done.took_s < TIMEOUT_S + down_s, "it went on counting while nothing of ours was there"
    stop.touch()
    tell_containers(world)
    for number, job in enumerate(jobs):
        done = world.done(job)
        assert (done.job["attempts"], done.job["exitCode"]) == (1, number % EACH)
        lines = len(done.stdout) - 1
        assert done.stdout == [*numbered(lines), f"end {lines}"]
    world.assert_nothing_left()


def orphan(world: World, place: str) -> str:
    """A container with the labels of a job that the journal does not know, and a folder of its files; its id."""
    labels = {LABEL_INSTALLATION: world.installation, LABEL_PLACE: place, LABEL_JOB: "nobody", LABEL_FILES: "host"}
    host = world.docker.create_host_config(network_mode="none")
    made = world.docker.create_container(BASH, entrypoint=["sleep", "300"], name=place, labels=labels, host_config=host)
    world.docker.start(made["Id"])
    (world.state / "places" / place).mkdir(parents=True)
    return str(made["Id"])


@pytest.mark.timeout(180)
def test_what_carries_our_labels_and_belongs_to_no_job_is_removed(world: World, servers: Servers) -> None:
    """Promise 8: at the start, and every 30 s. On a server its own launcher sees to it (`ssh.execution.remoteTtl`)."""
    world.stop()
    orphan(world, f"cronium-{world.installation}-before")
    world.start()
    world.assert_nothing_left(30)
    orphan(world, f"cronium-{world.installation}-meanwhile")
    world.assert_nothing_left(60)


@pytest.mark.timeout(120)
def test_two_installations_on_one_engine_leave_each_other_alone(docker_endpoint: str, world: World, servers: Servers) -> None:
    """Each looks for its own label only: at start, when it tidies up, and when it stops."""
    mine = world.submit(UNTIL_TOLD.format(stop=STOP_IN_CONTAINER, code=0))
    world.until_said(mine, "line 3")
    containers = sorted(world.running())
    with World(docker_endpoint) as other:
        job = other.submit(UNTIL_TOLD.format(stop=STOP_IN_CONTAINER, code=0))
        other.until_said(job, "line 3")
        stranger = orphan(world, f"cronium-{world.installation}-not-theirs")
        other.kill()
        other.start()  # looks for what is left behind
        assert set(containers) <= set(world.running())
        assert len(other.running()) == 1
        theirs = other.running()
        world.stop()
        world.start()  # removes what is its own, and nobody's job
        deadline_s = time.monotonic() + 60
        while stranger in world.running():
            assert time.monotonic() < deadline_s
            time.sleep(0.1)
        assert other.running() == theirs
        tell_containers(other)
        assert other.done(job).job["attempts"] == 1
    assert sorted(world.running()) == containers
    tell_containers(world)
    assert world.done(mine).job["attempts"] == 1
