"""Workers are forked, and their deaths are seen, whoever dies: a worker, the forkserver, or both by being stopped."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

PROGRAM = """
import json, os, resource, select, signal, sys, time
from pathlib import Path
from cronium.common.config.load import load_config
from cronium.common.logging import configure_logging
from cronium.supervisor.pool.forks import Forks
from cronium.supervisor.pool.settings import worker_settings

if __name__ == "__main__":
    configure_logging("pool", "info", "console")
    os.environ["CRONIUM_SERVICE_TOKEN"] = "the-service-token"
    config = load_config(None, os.environ, standalone=True).config
    os.environ.pop("CRONIUM_SERVICE_TOKEN")
    pool = Forks(config.runtime_dir)
    pool.ensure_forkserver()
    worker = worker_settings(config, "pool-test")
    print(json.dumps(["ready"]), flush=True)
    known = {}
    while True:
        readable, _, _ = select.select([sys.stdin, pool.fileno(), *known], [], [])
        for descriptor in [d for d in known if d in readable]:
            name = known.pop(descriptor)
            print(json.dumps(["died", name, pool.reap(name)]), flush=True)
        if pool.fileno() in readable:
            for started in pool.started():
                print(json.dumps(["started", started.name, started.pid, started.error]), flush=True)
            known = pool.descriptors()
        if sys.stdin in readable:
            data = os.read(0, 4096)
            if not data:
                pool.close()
                break
            for order, *words in map(str.split, data.decode().splitlines()):
                if order == "limit":
                    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
                    resource.setrlimit(resource.RLIMIT_NOFILE, (int(words[0]) or hard, hard))
                elif order == "starved":
                    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
                    pool.start(words[0], "cronium.worker.main", {**worker, "name": words[0], "number": int(words[1])})
                    select.select([pool.fileno()], [], [])
                    resource.setrlimit(resource.RLIMIT_NOFILE, (3, limits[1]))
                    (started,) = pool.started()
                    resource.setrlimit(resource.RLIMIT_NOFILE, limits)
                    print(json.dumps(["started", started.name, started.pid, started.error]), flush=True)
                elif order == "unpicklable":
                    pool.start(words[0], "cronium.worker.main", {"name": lambda: None})
                elif order == "start":
                    settings = {**worker, "name": words[0], "number": int(words[1])}
                    pool.start(words[0], "cronium.worker.main", settings)
                else:
                    pool.kill(words[0])
"""


class Pool:
    """A process with a real pool in it, spoken to by lines."""

    def __init__(self, folder: Path) -> None:
        program = folder / "pool_program.py"
        program.write_text(PROGRAM)
        (folder / "run").mkdir()
        environ = {**os.environ, "CRONIUM_STATE_DIR": str(folder / "state"), "CRONIUM_RUNTIME_DIR": str(folder / "run")}
        self.process = subprocess.Popen(
            [sys.executable, str(program)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environ
        )
        assert self.hear() == ["ready"]

    def say(self, line: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()

    def hear(self) -> list[object]:
        import json

        assert self.process.stdout is not None
        heard: list[object] = json.loads(self.process.stdout.readline())
        return heard

    def start(self, name: str, number: int) -> psutil.Process:
        self.say(f"start {name} {number}")
        _, said, pid, failure = self.hear()
        assert (said, failure) == (name, "")
        return psutil.Process(int(str(pid)))

    def forkserver(self) -> psutil.Process:
        def found() -> psutil.Process | None:
            children = psutil.Process(self.process.pid).children()
            return next((c for c in children if c.cmdline()[:1] == ["cronium: forkserver"]), None)

        deadline = time.monotonic() + 20
        while (process := found()) is None:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        return process


@pytest.fixture
def pool(tmp_runtime_dir: Path) -> Iterator[Pool]:
    made = Pool(tmp_runtime_dir)
    family = psutil.Process(made.process.pid).children(recursive=True)
    yield made
    family += psutil.Process(made.process.pid).children(recursive=True)
    assert made.process.stdin is not None
    made.process.stdin.close()
    made.process.wait(20)
    assert made.process.stdout is not None
    made.process.stdout.close()
    _, alive = psutil.wait_procs(family, timeout=10)
    assert alive == []


def test_a_killed_worker_is_seen_with_its_signal_and_nobody_else_notices(pool: Pool) -> None:
    first, second = pool.start("worker-1", 1), pool.start("worker-2", 2)
    first.kill()
    assert pool.hear() == ["died", "worker-1", "killed by SIGKILL"]
    assert second.is_running()
    pool.say("kill worker-2")
    assert pool.hear() == ["died", "worker-2", "killed by SIGKILL"]


def test_a_killed_forkserver_takes_its_workers_along_and_a_new_one_forks_on(pool: Pool) -> None:
    workers = [pool.start(f"worker-{n}", n) for n in (1, 2)]
    pool.forkserver().kill()
    assert sorted(str(pool.hear()[1]) for _ in workers) == ["worker-1", "worker-2"]
    psutil.wait_procs(workers, timeout=5)
    assert pool.start("worker-3", 3).is_running()


def test_a_stopped_forkserver_does_not_hang_us_and_is_ended_by_giving_up(pool: Pool) -> None:
    forkserver = pool.forkserver()
    forkserver.suspend()
    pool.say("start worker-1 1")
    pool.say("kill worker-1")  # what the core orders when a worker is not ready in time
    assert pool.hear()[:2] == ["started", "worker-1"]  # with an error, or from a new forkserver and then ended
    deadline = time.monotonic() + 5
    while forkserver.is_running() and forkserver.status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_no_worker_outlives_its_supervisor(tmp_runtime_dir: Path) -> None:
    made = Pool(tmp_runtime_dir)
    worker, forkserver = made.start("worker-1", 1), made.forkserver()
    made.process.send_signal(signal.SIGKILL)
    made.process.wait()
    _, alive = psutil.wait_procs([worker, forkserver], timeout=5)
    assert alive == []
    for pipe in (made.process.stdin, made.process.stdout):
        assert pipe is not None
        pipe.close()


def test_without_descriptors_no_worker_is_started_and_none_dies(pool: Pool) -> None:
    """A forkserver that is asked for a process with half of what it needs dies, with all that it has forked."""
    worker, forkserver = pool.start("worker-1", 1), pool.forkserver()
    used = len(list(Path(f"/proc/{pool.process.pid}/fd").iterdir()))
    for room in range(1, 9):
        pool.say(f"limit {used + room}")
        pool.say("start worker-2 2")
        _, name, pid, failure = pool.hear()
        if pid is not None:
            pool.say("kill worker-2")
            assert pool.hear() == ["died", "worker-2", "killed by SIGKILL"]
        else:
            assert (name, "Too many open files" in str(failure)) == ("worker-2", True)
    pool.say("limit 0")
    assert pool.start("worker-2", 2).is_running()
    assert worker.is_running()
    assert pool.forkserver() == forkserver


def test_a_worker_that_cannot_be_watched_does_not_live(pool: Pool) -> None:
    """The last descriptor has gone between its start and its pidfd: nobody would see it die."""
    worker = pool.start("worker-1", 1)
    pool.say("starved worker-2 2")
    _, name, pid, failure = pool.hear()
    assert (name, pid) == ("worker-2", None)
    assert "could not be watched" in str(failure)
    forked = pool.forkserver().children()
    psutil.wait_procs([process for process in forked if process != worker], timeout=20)
    assert [process for process in pool.forkserver().children() if process.status() != psutil.STATUS_ZOMBIE] == [worker]


def test_a_process_that_cannot_be_asked_for_ends_nobody_else(pool: Pool) -> None:
    """Whatever the reason: the forkserver would die with the thread that has started it."""
    worker = pool.start("worker-1", 1)
    pool.say("unpicklable worker-2")
    _, name, pid, failure = pool.hear()
    assert (name, pid) == ("worker-2", None)
    assert "pickle" in str(failure)
    assert pool.start("worker-3", 3).is_running()
    assert worker.is_running()


def test_a_worker_holds_no_service_token(pool: Pool) -> None:
    worker = pool.start("worker-1", 1)
    assert "the-service-token" not in " ".join(worker.environ().values())
    assert "the-service-token" not in " ".join(pool.forkserver().environ().values())
