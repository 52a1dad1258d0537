"""The engine dies, restarts or is meddled with while jobs run: a real dockerd of these tests' own, under a whole supervisor.

Promise 5. What a job says does not pass through the engine, so only what needs it waits, and says for what.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator

import pytest

from peers.gate import Gate
from peers.own_engine import OwnEngine
from peers.world import Done, World, numbered

BASH = "cronium/runner:bash-debian"
DEAD_S = 10.0
JOBS = 10
# Ends while dockerd is dead, ends afterwards: odd and even ones.
SLOW = 'for i in $(seq 1 {lines}); do echo "line $i"; sleep 0.1; done; exit {code}'
ENVIRON = {
    "CRONIUM_JOBS_MAX_CONCURRENT": "13",
    "CRONIUM_JOBS_STATUS_INTERVAL": "1s",
    "CRONIUM_CONTAINER_IMAGES_BASH": BASH,
    "CRONIUM_CONTAINER_NETWORK_DEFAULT": "none",
}
# A whole minute only where somebody wants to wait for it; each of these is over within 15 s.
AWAY_S = 60 if os.environ.get("CRONIUM_TEST_LONG") else 20
IMPATIENT = {"CRONIUM_CONTAINER_DOCKER_TIMEOUT": "1s", "CRONIUM_WORKERS_HUNG_AFTER": "3s"}
RETRY = {"maxAttempts": 2, "backoffType": "fixed", "backoffDelay": 0}


@pytest.fixture(scope="module")
def engine(docker_endpoint: str, runner_images: object) -> Iterator[OwnEngine]:
    with OwnEngine(docker_endpoint, [BASH]) as engine:
        yield engine


@pytest.fixture(scope="module")
def gate(engine: OwnEngine) -> Iterator[Gate]:
    gate = Gate(engine.folder / "gate", str(engine.socket))
    yield gate
    gate.shut()


@pytest.fixture(scope="module")
def world(engine: OwnEngine, gate: Gate) -> Iterator[World]:
    """Its supervisor reaches the engine through the gate, the tests themselves do not."""
    with World(engine.endpoint, environ={**ENVIRON, "CRONIUM_DOCKER_HOST": f"unix://{gate.path}"}) as world:
        yield world


def said(world: World, job: str) -> int:
    """How many lines the backend has of this job."""
    return sum(1 for _ in world.backend.logs(job))


def until_message(world: World, job: str, text: str, within_s: float = 30) -> None:
    """Wait until the backend has this text as the job's word on how it is."""
    deadline_s = time.monotonic() + within_s
    while text not in (world.backend.job(job)["details"].get("message") or ""):
        assert time.monotonic() < deadline_s, world.backend.job(job)
        time.sleep(0.1)


def whole(done: Done, lines: int, code: int) -> None:
    """Ran once, every line once and in order, the exit code right."""
    assert (done.job["attempts"], done.job["exitCode"], done.stdout) == (1, code, numbered(lines)), done.job


@pytest.mark.timeout(200)
def test_a_dead_engine_stops_no_running_job(world: World, engine: OwnEngine) -> None:
    """Lines arrive while it is dead, exit codes are right, what needs it waits and says so; then all goes on."""
    lines = [60 if number % 2 else 160 for number in range(JOBS)]
    jobs = [world.submit(SLOW.format(lines=count, code=number)) for number, count in enumerate(lines)]
    for job in jobs:
        world.until_said(job, "line 5")
    engine.kill()
    killed_s = time.monotonic()
    before = [said(world, job) for job in jobs]
    waiting = world.submit("echo waited; exit 3")
    until_message(world, waiting, "waits for the Docker engine")
    time.sleep(max(0.0, killed_s + DEAD_S - time.monotonic()))
    after = [said(world, job) for job in jobs]
    assert not engine.running
    assert all(now >= min(then + 30, count) for now, then, count in zip(after, before, lines, strict=True)), (before, after)
    assert world.backend.job(waiting)["status"] not in ("failed", "completed")
    engine.start()
    for number, job in enumerate(jobs):
        whole(world.done(job), lines[number], number)
    done = world.done(waiting)
    assert (done.stdout, done.job["exitCode"], done.job["attempts"]) == (["waited"], 3, 1)
    assert "does not answer" in done.system[0]
    world.assert_nothing_left()


def test_an_engine_that_restarts_with_live_restore_costs_nothing(world: World, engine: OwnEngine) -> None:
    """As an upgrade of Docker does it."""
    jobs = [world.submit(SLOW.format(lines=60, code=code)) for code in (0, 7)]
    for job in jobs:
        world.until_said(job, "line 5")
    engine.restart()
    for job, code in zip(jobs, (0, 7), strict=True):
        whole(world.done(job), 60, code)


@pytest.mark.timeout(120)
def test_an_engine_that_takes_its_containers_along_is_told_from_a_script_that_fails(world: World, engine: OwnEngine) -> None:
    """Without live-restore: the job says so, is retried only if its policy allows, and nobody takes it for a cancel."""
    script = "echo begin; sleep 8; echo end"
    once, twice = world.submit(script), world.submit(script, retryPolicy=RETRY)
    for job in (once, twice):
        world.until_said(job, "begin")
    engine.restart(live_restore=False)
    try:
        done = world.done(once)
        assert (done.job["status"], done.reason, done.job["attempts"]) == ("failed", "place_vanished", 1)
        assert "live-restore" in done.report["error"]["message"]
        assert done.stdout == ["begin"]
        done = world.done(twice)
        assert (done.job["status"], done.job["attempts"], done.stdout) == ("completed", 2, ["begin", "begin", "end"])
    finally:
        engine.restart(live_restore=True)


def test_an_engine_that_was_killed_ends_the_containers_it_finds(world: World, engine: OwnEngine) -> None:
    """SIGKILL, and a start without live-restore."""
    job = world.submit("echo begin; sleep 60", retryPolicy=None)
    world.until_said(job, "begin")
    engine.kill()
    engine.start(live_restore=False)
    try:
        done = world.done(job)
        assert (done.job["status"], done.reason, done.stdout) == ("failed", "place_vanished", ["begin"])
    finally:
        engine.restart(live_restore=True)


@pytest.mark.parametrize("moment", ["start", "run", "end"])
def test_an_engine_that_cannot_be_reached_for_a_while_costs_nothing(world: World, gate: Gate, moment: str) -> None:
    """The way to it is cut in each phase of a job."""
    if moment == "start":
        gate.shut()
    job = world.submit(SLOW.format(lines=30, code=5))
    match moment:
        case "start":
            until_message(world, job, "waits for the Docker engine")
        case "run":
            world.until_said(job, "line 3")
            gate.shut()
            world.until_said(job, "line 20")
        case _:
            world.until_said(job, "line 20")
            gate.shut()
            world.until_said(job, "line 30")
            time.sleep(1)
    gate.open()
    whole(world.done(job), 30, 5)
    world.assert_nothing_left()


@pytest.mark.timeout(AWAY_S + 180)
@pytest.mark.parametrize("files", ["host", "exec"])
def test_an_engine_that_is_out_of_reach_for_longer_than_anybody_waits_ends_no_job(engine: OwnEngine, files: str) -> None:
    """Longer than a call, a hung process or an end may take: jobs that run, end or wait meanwhile all go on afterwards."""
    gate = Gate(engine.folder / f"gate-{files}", str(engine.socket))
    environ = {**ENVIRON, **IMPATIENT, "CRONIUM_CONTAINER_FILES": files, "CRONIUM_DOCKER_HOST": f"unix://{gate.path}"}
    try:
        with World(engine.endpoint, environ=environ) as world:
            counts = {0: 60, 7: (AWAY_S + 10) * 10}  # ends meanwhile, outlasts it; by exit code
            jobs = {code: world.submit(SLOW.format(lines=count, code=code)) for code, count in counts.items()}
            for job in jobs.values():
                world.until_said(job, "line 5")
            gate.shut()
            shut_s = time.monotonic()
            waiting = world.submit("echo waited; exit 3")
            until_message(world, waiting, "waits for the Docker engine")
            time.sleep(max(0.0, shut_s + AWAY_S - time.monotonic()))
            assert world.backend.job(waiting)["endedAt"] is None
            assert world.backend.job(jobs[7])["endedAt"] is None
            gate.open()
            for code, count in counts.items():
                whole(world.done(jobs[code]), count, code)
            done = world.done(waiting)
            assert (done.stdout, done.job["exitCode"], done.job["attempts"]) == (["waited"], 3, 1)
            assert "a process hangs" not in world.log.read_text()
    finally:
        gate.shut()


@pytest.mark.parametrize("how", ["kill", "stop", "remove"])
def test_a_container_that_somebody_else_ends_is_said_to_be(world: World, engine: OwnEngine, how: str) -> None:
    """`docker kill`, `docker stop`, `docker rm -f`: all that was printed is there, and a retry is the policy's."""
    job = world.submit("echo one; sleep 2; echo two", retryPolicy=RETRY)
    world.until_said(job, "one")
    (name,) = world.running()
    with engine.client() as client:
        container = client.containers.get(name)
        match how:
            case "kill":
                container.kill()
            case "stop":
                container.stop()
            case _:
                container.remove(force=True)
    done = world.done(job)
    assert (done.job["status"], done.job["attempts"], done.stdout) == ("completed", 2, ["one", "one", "two"])
    again = world.submit("echo one; sleep 60")
    world.until_said(again, "one")
    (name,) = world.running()
    with engine.client() as client:
        client.containers.get(name).remove(force=True)
    done = world.done(again)
    assert (done.job["status"], done.reason, done.stdout) == ("failed", "place_vanished", ["one"])
    assert "docker events" in done.report["error"]["message"]


def test_an_image_that_is_removed_ends_no_running_job_and_fails_the_next_with_the_step(
    world: World, engine: OwnEngine, docker_endpoint: str
) -> None:
    """The one that runs has it; the next one cannot be helped by another try."""
    job = world.submit(SLOW.format(lines=30, code=4))
    world.until_said(job, "line 3")
    with engine.client() as client:
        try:
            client.images.remove(BASH, force=True)  # in use: it loses its name only
        finally:
            assert not any(BASH in image.tags for image in client.images.list())
    try:
        whole(world.done(job), 30, 4)
        done = world.run("echo never", retryPolicy=RETRY)
        assert (done.job["status"], done.reason, done.stdout, done.job["attempts"]) == ("failed", "image_missing", [], 1)
        assert "images build" in done.report["error"]["message"]
    finally:
        engine.copy_image(BASH)
    assert world.run("echo again").stdout == ["again"]
