"""Hung is dead: a process of ours that makes no progress is ended and replaced, and no job notices. Nobody else is."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from peers.world import World, numbered, still_there

HUNG_S = 2
LINES = 'for i in $(seq 1 {lines}); do echo "line $i"; sleep 0.05; done'
GATE = """
import sys, time
from pathlib import Path
from peers.gate import Gate
gate = Gate(Path(sys.argv[1]), sys.argv[2])
print("open", flush=True)
sys.stdin.read()
gate.shut()
"""


@pytest.fixture(scope="module")
def world(docker_endpoint: str, runner_images: object) -> Iterator[World]:
    with World(docker_endpoint, environ={"CRONIUM_WORKERS_HUNG_AFTER": f"{HUNG_S}s"}) as world:
        yield world


def until(condition: Callable[[], object], what: str, within_s: float = 60) -> None:
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline, f"not within {within_s:g} s: {what}"
        time.sleep(0.02)


def busy_worker(world: World) -> psutil.Process:
    return next(worker for worker in world.roles("worker") if "container" in worker.cmdline()[0])


def log_since(world: World, size: int) -> str:
    return world.log.read_bytes()[size:].decode(errors="replace")


def stop_and_see(world: World, process: psutil.Process, name: str) -> None:
    """SIGSTOP: it is asked for its stack, ended, and another one takes its place. Nobody else is judged by its silence."""
    size = world.log.stat().st_size
    process.suspend()
    assert not still_there([process], 60)
    until(lambda: [one for one in world.roles(name) if one.pid != process.pid], f"a new {name}")
    until(lambda: "killed by SIGKILL" in log_since(world, size), "the supervisor knows")
    log = log_since(world, size)
    assert log.count("a process hangs") == log.count("ending a process") == 1


@pytest.mark.parametrize("role", ["worker", "streamer", "monitor"])
def test_a_stopped_process_is_replaced_and_no_line_is_lost(world: World, role: str) -> None:
    """Promises 3 and 5."""
    job = world.submit(LINES.format(lines=100))
    world.until_said(job, "line 10")
    stop_and_see(world, busy_worker(world) if role == "worker" else world.roles(role)[0], role)
    done = world.done(job)
    assert (done.job["status"], done.stdout, done.job["attempts"]) == ("completed", numbered(100), 1)


def test_a_stopped_forkserver_is_replaced_with_all_that_it_forked(world: World) -> None:
    """Promise 5: it does not beat; the kernel says that it is stopped."""
    job = world.submit(LINES.format(lines=100))
    world.until_said(job, "line 10")
    forked = [*world.roles("worker"), *world.roles("streamer"), *world.roles("monitor")]
    stop_and_see(world, world.roles("forkserver")[0], "forkserver")
    assert not still_there(forked, 10)
    done = world.done(job)
    assert (done.job["status"], done.stdout, done.job["attempts"]) == ("completed", numbered(100), 1)


def test_a_stopped_supervisor_is_ended_by_the_monitor(world: World) -> None:
    """Promise 5: everything else dies with it, and the next start goes on."""
    job = world.submit(LINES.format(lines=200))
    world.until_said(job, "line 10")
    family, size = world.processes(), world.log.stat().st_size
    assert world.process is not None
    family[0].suspend()
    assert world.process.wait(60) == -signal.SIGKILL
    assert not still_there(family, 10)
    log = log_since(world, size)
    assert "the supervisor hangs and is ended" in log
    assert "ending a process" not in log
    world.start()
    done = world.done(job)
    assert (done.job["status"], done.stdout, done.job["attempts"]) == ("completed", numbered(200), 1)


def test_a_supervisor_that_was_stopped_blames_nobody_else(world: World) -> None:
    """What it did not hear meanwhile was said all the same."""
    size, before = world.log.stat().st_size, {process.pid for process in world.processes()}
    family = world.processes()
    family[0].suspend()
    time.sleep(HUNG_S * 1.5)  # the monitor's patience is twice as long
    family[0].resume()
    time.sleep(HUNG_S * 1.5)
    assert "hangs" not in log_since(world, size)
    assert {process.pid for process in world.processes()} == before


def test_every_process_says_where_it_is_when_asked(world: World) -> None:
    """SIGUSR2 writes the stacks of all threads to the log, and does no harm."""
    for role in ("supervisor", "forkserver", "streamer", "monitor", "worker"):
        process = world.processes()[0] if role == "supervisor" else world.roles(role)[0]
        size = world.log.stat().st_size
        process.send_signal(signal.SIGUSR2)
        until(lambda size=size: "(most recent call first):" in log_since(world, size), f"a dump of the {role}")  # type: ignore[misc]
        assert process.is_running()
    assert world.run("echo hi").stdout == ["hi"]


def test_a_worker_that_blocks_says_where_and_its_job_goes_on(docker_endpoint: str, runner_images: object, tmp_path: Path) -> None:
    """Promise 5: not stopped, but stuck for good in a call of its own, here in opening a file that is a pipe without a writer."""
    profile, whole = tmp_path / "seccomp.json", tmp_path / "whole.json"
    for path in (profile, whole):
        path.write_text('{"defaultAction": "SCMP_ACT_ALLOW"}')
    environ = {"CRONIUM_WORKERS_HUNG_AFTER": f"{HUNG_S}s", "CRONIUM_CONTAINER_SECURITY_SECCOMP_PROFILE": str(profile)}
    with World(docker_endpoint, environ=environ) as world:
        other = world.submit(LINES.format(lines=200))
        world.until_said(other, "line 10")
        size = world.log.stat().st_size
        profile.unlink()
        os.mkfifo(profile)
        job = world.submit("echo once")
        until(lambda: "a process hangs" in log_since(world, size), "it is found hung")
        whole.rename(profile)
        done = world.done(job)
        assert (done.job["status"], done.stdout, done.job["attempts"]) == ("completed", ["once"], 1)
        log = log_since(world, size)
        assert log.count("a process hangs") == log.count("ending a process") == 1
        stack = log[log.index("(most recent call first):") :]
        assert re.search(r'container/phases\.py", line \d+ in create', stack), stack
        assert "killed by SIGKILL" in log
        assert world.done(other).stdout == numbered(200)


@pytest.mark.timeout(120)
def test_who_waits_for_a_slow_engine_is_not_hung(docker_endpoint: str, runner_images: object, tmp_runtime_dir: Path) -> None:
    """A worker beats while it waits, for whatever it waits."""
    path = tmp_runtime_dir / "engine"
    gate = subprocess.Popen(
        [sys.executable, "-c", GATE, str(path), docker_endpoint.removeprefix("unix://")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=Path(__file__).parent.parent,
    )
    assert gate.stdin is not None
    assert gate.stdout is not None
    with gate:
        assert gate.stdout.readline() == b"open\n"
        with World(f"unix://{path}", environ={"CRONIUM_WORKERS_HUNG_AFTER": f"{HUNG_S}s"}) as world:
            gate.send_signal(signal.SIGSTOP)
            job = world.submit("echo hi")
            until(lambda: "dispatched" in world.log.read_text(), "a worker has the job")
            time.sleep(HUNG_S * 2.5)
            gate.send_signal(signal.SIGCONT)
            assert world.done(job).stdout == ["hi"]
            assert "hangs" not in world.log.read_text()
        gate.stdin.close()


def test_a_crash_loop_ends_the_supervisor_and_no_job(docker_endpoint: str, runner_images: object) -> None:
    """Restart intensity: above it the level above decides. Jobs go on in their places, and the next start takes them over."""
    few = {"CRONIUM_WORKERS_RESTART_INTENSITY": "3", "CRONIUM_WORKERS_RESTART_PERIOD": "60s"}
    with World(docker_endpoint, environ=few) as world:
        job = world.submit(LINES.format(lines=200))
        world.until_said(job, "line 10")
        before, seen = world.running(), set()
        assert world.process is not None
        for _ in range(4):
            until(lambda: [s for s in world.roles("streamer") if s.pid not in seen], "a streamer")
            streamer = next(s for s in world.roles("streamer") if s.pid not in seen)
            seen.add(streamer.pid)
            streamer.kill()
        assert world.process.wait(30) == 70
        assert "4 processes of kind 'streamer' died" in world.log.read_text()
        assert world.running() == before
        world.start()
        done = world.done(job)
        assert (done.job["status"], done.stdout, done.job["attempts"]) == ("completed", numbered(200), 1)
