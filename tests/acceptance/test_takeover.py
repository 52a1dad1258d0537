"""A worker that takes over a job goes on exactly where the streamer is: after much output, and in the middle of a long line."""

from __future__ import annotations

from collections.abc import Iterator

import psutil
import pytest

from peers.own_supervisor import until
from peers.ssh_world import Servers
from peers.world import World

MB = 1_000_000
PRINTED_BYTES = 300 * MB
LINE_BYTES = 10 * MB


@pytest.fixture(scope="module")
def servers() -> Iterator[Servers]:
    with Servers() as servers:
        yield servers


@pytest.fixture(scope="module")
def world(docker_endpoint: str, runner_images: object, servers: Servers) -> Iterator[World]:
    with World(docker_endpoint, environ=servers.environ(), queue={"max_job_log_bytes": 8 * PRINTED_BYTES}) as world:
        yield world
        servers.wait_until_tidy()


def kill_worker(world: World, executor: str = "container") -> None:
    """The one that has a job, known by its title, and that has read files. (What came over a socket is not counted.)"""
    working = [one for one in world.roles("worker") if executor in " ".join(one.cmdline())]
    if executor == "container":
        working = [worker for worker in working if reads(worker) > MB]
    assert working
    for worker in working:
        worker.kill()


def reads(process: psutil.Process) -> int:
    """Bytes that a process has read in its life, from wherever."""
    try:
        return int(process.io_counters().read_chars)
    except psutil.Error:
        return 0


def test_after_much_output_nothing_is_read_again(world: World) -> None:
    """Promise 5: also gigabytes are no reason to begin at the start, and the space of what was safe is long given back."""
    job = world.submit(f"yes {'x' * 999} | head -c {PRINTED_BYTES}; echo half; sleep 3; echo end")
    lines = PRINTED_BYTES // 1000
    until(lambda: list(world.backend.logs(job, first=lines + 1)), "the last line before the kill")
    before = {worker.pid: reads(worker) for worker in world.roles("worker")}
    assert max(before.values()) > PRINTED_BYTES // 2
    kill_worker(world)
    ended = world.backend.wait(job, 120)
    assert (ended["status"], ended["attempts"], ended["logsComplete"]) == ("completed", 1, True)
    assert ended["lastSequence"] == lines + 2
    others = [worker for worker in world.roles("worker") if worker.pid not in before]
    grown = [reads(worker) - before[worker.pid] for worker in world.roles("worker") if worker.pid in before]
    assert max([*grown, *map(reads, others)]) < PRINTED_BYTES // 20


@pytest.mark.parametrize("executor", ["container", "ssh"])
def test_in_the_middle_of_a_long_line_not_a_byte_is_lost_or_repeated(world: World, servers: Servers, executor: str) -> None:
    """Promise 3: the pieces of one line of 10 MB, over three workers and two streamers."""
    step = LINE_BYTES // 100
    write = f"for n in $(seq 100); do head -c {step - 3} /dev/zero | tr '\\0' x; printf %03d $n; sleep 0.02; done; echo; echo end"
    job = world.submit(write, **({"target": servers.target()} if executor == "ssh" else {}))
    for share in (1, 2):
        until(lambda: arrived(world, job) > share * LINE_BYTES // 4, "pieces of the line")  # noqa: B023 - called at once
        kill_worker(world, executor)
        if share == 2:
            for streamer in world.roles("streamer"):
                streamer.kill()
    done = world.done(job, 120)
    assert (done.job["status"], done.job["attempts"], done.job["logsComplete"]) == ("completed", 1, True)
    line, end = done.stdout
    assert end == "end"
    assert line == "".join("x" * (step - 3) + f"{number:03d}" for number in range(1, 101))


def arrived(world: World, job: str) -> int:
    return sum(len(entry.line) for entry in world.backend.logs(job))
