"""SIGKILL of any process of ours while jobs run: nobody notices but the log."""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from peers.world import World, numbered, still_there

JOBS, LINES = 200, 100
SLOW_LINES = 'for i in $(seq 1 {lines}); do echo "line $i"; sleep {pause}; done'


@pytest.fixture(scope="module")
def world(docker_endpoint: str, runner_images: object) -> Iterator[World]:
    with World(docker_endpoint) as world:
        yield world


class Killer(threading.Thread):
    """Kills a busy worker every two seconds, and the streamer every five."""

    def __init__(self, world: World) -> None:
        super().__init__(daemon=True)
        self.world = world
        self.kills: Counter[str] = Counter()
        self.over = threading.Event()

    def run(self) -> None:
        choose = random.Random(7)
        second = 0
        while not self.over.wait(1):
            second += 1
            busy = [worker for worker in self.world.roles("worker") if "container" in title(worker)]
            if second % 2 == 0 and busy:
                self.kill("worker", choose.choice(busy))
            if second % 5 == 0:
                for streamer in self.world.roles("streamer"):
                    self.kill("streamer", streamer)

    def kill(self, kind: str, process: psutil.Process) -> None:
        try:
            process.kill()
        except psutil.NoSuchProcess:
            return
        self.kills[kind] += 1


def title(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


@contextmanager
def killing(world: World) -> Iterator[Killer]:
    killer = Killer(world)
    killer.start()
    try:
        yield killer
    finally:
        killer.over.set()
        killer.join(10)


@pytest.mark.timeout(400)
def test_two_hundred_jobs_survive_a_kill_every_second(docker_endpoint: str, runner_images: object) -> None:
    """Promises 2, 3, 4, 5 and 8, under load."""
    script = (
        f"seq -f 'line %.0f of {{}}' 1 {LINES // 2}; sleep 0.1; seq -f 'line %.0f of {{}}' {LINES // 2 + 1} {LINES}; seq 5 >&2"
    )
    with World(docker_endpoint) as world:
        started = time.monotonic()
        with killing(world) as killer:
            jobs = [world.submit(script.replace("{}", str(number))) for number in range(JOBS)]
            for number, job in enumerate(jobs):
                done = world.done(job, 300)
                assert done.job["status"] == "completed", done.job["error"]
                assert done.stdout == [f"{line} of {number}" for line in numbered(LINES)]
                assert done.stderr == ["1", "2", "3", "4", "5"]
                assert not done.system
        print(f"{JOBS} jobs in {time.monotonic() - started:.0f} s, killed: {dict(killer.kills)}")
        assert killer.kills["worker"] > 5
        assert killer.kills["streamer"] > 2
        world.assert_nothing_left()


def test_a_killed_forkserver_takes_all_workers_and_no_job(world: World) -> None:
    """Promise 5: all workers die with it, new ones go on with the same containers."""
    jobs = [world.submit(SLOW_LINES.format(lines=60, pause=0.05)) for _ in range(4)]
    for job in jobs:
        world.until_said(job, "line 5")
    before = set(world.running())
    workers = world.roles("worker")
    forkserver = workers[0].parent()
    assert forkserver is not None
    assert forkserver.pid != world.process.pid  # type: ignore[union-attr]
    forkserver.kill()
    assert not still_there(workers, 10)
    assert set(world.running()) == before
    for job in jobs:
        done = world.done(job)
        assert (done.job["status"], done.stdout) == ("completed", numbered(60))


def test_a_killed_supervisor_goes_on_with_what_runs(world: World) -> None:
    """Promises 1, 2, 3 and 5: adopted by its journal, in the same containers, and nothing runs twice."""
    jobs = [world.submit(SLOW_LINES.format(lines=80, pause=0.05)) for _ in range(5)]
    waiting = [world.submit("echo waited") for _ in range(4)]
    short = world.submit("echo over", job={"priority": 9})
    for job in jobs:
        world.until_said(job, "line 10")
    before = set(world.running())
    world.kill()
    time.sleep(1)  # they say something while nobody listens
    assert set(world.running()) == before
    world.start()
    for job in jobs:
        done = world.done(job)
        assert (done.job["status"], done.stdout) == ("completed", numbered(80))
        assert done.job["attempts"] == 1
    assert world.done(short).stdout == ["over"]
    for job in waiting:
        assert world.done(job).stdout == ["waited"]


def test_jobs_that_end_while_nobody_is_there_are_reported(world: World) -> None:
    """Promises 2 and 4: exit code, results and the last line are still in the place."""
    jobs = [world.submit(f"echo go; sleep 1; cronium_output '{{\"n\": {code}}}'; echo end; exit {code}") for code in (0, 7)]
    for job in jobs:
        world.until_said(job, "go")
    world.kill()
    deadline = time.monotonic() + 60
    while world.running():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    world.start()
    for job, code in zip(jobs, (0, 7), strict=True):
        done = world.done(job)
        assert (done.job["status"], done.job["exitCode"]) == ("completed" if code == 0 else "failed", code)
        assert done.stdout == ["go", "end"]
        assert done.report["scriptOutput"] == {"n": code}


def test_everything_killed_again_and_again(world: World) -> None:
    """Promise 5: the supervisor too, at moments that nobody chose, from the poll to the cleanup."""
    choose = random.Random(11)
    jobs = [world.submit(f"seq 1 300; sleep 0.{number}; seq 301 600") for number in range(10)]
    for _ in range(5):
        time.sleep(choose.uniform(0.1, 1.5))
        world.kill()
        world.start()
    for job in jobs:
        done = world.done(job)
        assert (done.job["status"], done.stdout) == ("completed", [str(n) for n in range(1, 601)])
    world.assert_nothing_left()


def test_a_kill_leaves_nothing_in_tmp(docker_endpoint: str, runner_images: object, tmp_path: Path) -> None:
    """Promise 8: multiprocessing has its socket in the runtime directory, where the next supervisor clears up."""
    with World(docker_endpoint, environ={"TMPDIR": str(tmp_path)}) as world:
        world.kill()
        world.start()
        assert world.run("echo hi").stdout == ["hi"]
        assert not list(tmp_path.iterdir())


def test_a_kill_while_an_image_is_tried_leaves_nothing(docker_endpoint: str, runner_images: object) -> None:
    """Promise 8: a trial is in no journal, and its container and folder are found all the same."""
    with World(docker_endpoint, wait_for_images=False) as world:
        deadline = time.monotonic() + 60
        while not world.containers():
            assert time.monotonic() < deadline
        world.kill()
        world.start()
