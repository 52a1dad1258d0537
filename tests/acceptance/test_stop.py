"""How the supervisor stops: promptly, with nothing of it left, and without harm to what runs."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping

import pytest

from peers.world import World, numbered, still_there

# What is promised; what a busy machine adds is not ours.
IDLE_S, ALWAYS_S, SLACK_S = 2.0, 4.0, 1.5
COUNT = 40
SLOW = f'for i in $(seq 1 {COUNT}); do echo "line $i"; sleep 0.1; done'
STUBBORN = "trap '' TERM INT; echo on; while :; do sleep 0.1; done"
POLITE = "trap 'echo bye; exit 3' TERM; echo on; while :; do sleep 0.1; done"


@pytest.fixture(scope="module")
def shared(docker_endpoint: str, runner_images: object) -> Iterator[World]:
    with World(docker_endpoint) as world:
        yield world


@pytest.fixture
def world(shared: World) -> Iterator[World]:
    """The one world of these tests, with a supervisor that runs and has nothing to do."""
    if shared.process is None or shared.process.poll() is not None:
        shared.start()
    yield shared
    if shared.environ:
        restart(shared, {})


def restart(world: World, environ: Mapping[str, str]) -> None:
    """The same state folder with another configuration."""
    world.stop()
    world.environ = dict(environ)
    world.start()


def stopped(world: World, *signals: signal.Signals, within_s: float, pause_s: float = 0.3) -> tuple[int, float]:
    """Send the signals; the exit code, and how long it took from the last one. Nothing of it is left in ps or its directory."""
    assert world.process is not None
    mine = world.processes()
    assert len(mine) > 3
    for number in signals[:-1]:
        world.process.send_signal(number)
        time.sleep(pause_s)
    began = time.monotonic()
    code = world.stop(signals[-1])
    took_s = time.monotonic() - began
    print(f"stopped in {took_s:.2f} s")
    assert took_s < within_s + SLACK_S
    assert not still_there(mine, 2)
    assert not list(world.runtime.iterdir())
    return code, took_s


def test_idle_it_ends_at_once(world: World) -> None:
    """Within two seconds, exit code 0; its network is gone too (`World` looks)."""
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT):
        assert world.run("echo hi", network="bridge").stdout == ["hi"]
        world.assert_nothing_left()
        code, _ = stopped(world, number, within_s=IDLE_S)
        assert code == 0
        assert world.networks() == []
        world.start()


def test_a_second_interrupt_ends_the_jobs_and_leaves_nothing(world: World) -> None:
    """Also jobs that ignore SIGTERM. What could not be said any more is said by the next start."""
    jobs = [world.submit(STUBBORN) for _ in range(3)]
    for job in jobs:
        world.until_said(job, "on")
    stopped(world, signal.SIGINT, signal.SIGINT, within_s=ALWAYS_S)
    assert world.containers() == []
    assert world.places() == []
    world.start()
    for job in jobs:
        done = world.done(job)
        assert (done.job["status"], done.reason, done.stdout) == ("cancelled", "cancelled", ["on"])


def test_one_interrupt_waits_for_the_jobs_and_takes_no_new_ones(world: World) -> None:
    """Ctrl-C once: drain, and say so."""
    job = world.submit(SLOW)
    world.until_said(job, "line 3")
    assert world.process is not None
    world.process.send_signal(signal.SIGINT)
    time.sleep(0.3)
    late = world.submit("echo late")
    assert world.process.wait(60) == 0
    assert "Waiting for 1 running job; press Ctrl-C again" in world.log.read_text()
    done = world.done(job)
    assert (done.job["status"], done.stdout) == ("completed", numbered(COUNT))
    assert world.backend.job(late)["status"] in {"queued", "claimed"}  # the last poll may have brought it, and left it there
    assert world.containers() == []
    world.start()
    assert world.done(late).stdout == ["late"]


def test_detached_jobs_go_on_and_are_adopted(world: World) -> None:
    """onStop detach, the default: a restart for an upgrade costs no job and no line."""
    jobs = [world.submit(SLOW) for _ in range(2)]
    for job in jobs:
        world.until_said(job, "line 3")
    before = world.running()
    code, _ = stopped(world, signal.SIGTERM, within_s=IDLE_S)
    assert code == 0
    assert sorted(world.running()) == sorted(before)
    time.sleep(1)
    world.start()
    for job in jobs:
        done = world.done(job)
        assert (done.job["status"], done.stdout, done.job["attempts"]) == ("completed", numbered(COUNT), 1)


def test_drain_waits_for_the_jobs(world: World) -> None:
    """onStop drain."""
    restart(world, {"CRONIUM_JOBS_ON_STOP": "drain"})
    job = world.submit(SLOW)
    world.until_said(job, "line 3")
    assert world.stop() == 0
    assert world.backend.job(job)["status"] == "completed"
    assert world.done(job).stdout == numbered(COUNT)
    assert world.containers() == []


def test_cancel_ends_the_jobs_in_good_order(world: World) -> None:
    """onStop cancel: SIGTERM to each job, its grace, its report, then we leave."""
    restart(world, {"CRONIUM_JOBS_ON_STOP": "cancel", "CRONIUM_JOBS_CANCEL_GRACE": "1s"})
    polite, stubborn = world.submit(POLITE), world.submit(STUBBORN)
    for job in (polite, stubborn):
        world.until_said(job, "on")
    assert world.stop() == 0
    for job, code, said in ((polite, 3, ["on", "bye"]), (stubborn, 137, ["on"])):
        assert world.backend.job(job)["status"] == "cancelled"
        done = world.done(job)
        assert (done.job["exitCode"], done.stdout) == (code, said)
    assert world.containers() == []
    assert world.places() == []


def test_it_stops_while_the_backend_is_away(world: World) -> None:
    """SIGINT twice always: no request that hangs holds it up."""
    job = world.submit(STUBBORN)
    world.until_said(job, "on")
    world.queue.process.send_signal(signal.SIGSTOP)
    try:
        stopped(world, signal.SIGINT, signal.SIGINT, within_s=ALWAYS_S)
    finally:
        world.queue.process.send_signal(signal.SIGCONT)
    assert world.running() == []
    world.start()
    assert world.done(job).job["status"] == "cancelled"


def test_it_stops_while_a_role_is_stopped(world: World) -> None:
    """A streamer, a forkserver and a worker that do not answer hold nothing up."""
    worker = world.roles("worker")[0]
    forkserver = worker.parent()
    assert forkserver is not None
    for process in (*world.roles("streamer"), forkserver, worker):
        process.send_signal(signal.SIGSTOP)
    stopped(world, signal.SIGTERM, within_s=IDLE_S)


def test_a_second_supervisor_on_the_same_folder_is_refused(world: World) -> None:
    """One owner; the text says what to do, and the first one is not disturbed."""
    second = subprocess.run(
        [sys.executable, "-m", "cronium.supervisor", "run"],
        env=world.started_with,
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert second.returncode != 0
    assert b"another supervisor uses the state folder" in second.stderr
    assert b"CRONIUM_STATE_DIR" in second.stderr
    assert world.run("echo hi").stdout == ["hi"]
