"""Scripts that print more than anybody takes: they wait, nothing grows, nothing is lost. The streamer is dead in the middle.

At full size, 2 GB and a minute: CRONIUM_TEST_FLOW_BYTES=2000000000 CRONIUM_TEST_AWAY_S=60.
"""

from __future__ import annotations

import os
import threading
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from peers.world import World, memory_bytes

MIB = 1024 * 1024
LINE_BYTES = 1000
LINES = int(os.environ.get("CRONIUM_TEST_FLOW_BYTES", "300000000")) // LINE_BYTES
AWAY_S = float(os.environ.get("CRONIUM_TEST_AWAY_S", "10"))
BOUND_BYTES = 70 * MIB  # of a stream in its place
ROLES_BYTES = 200_000_000  # all our processes together, PSS
PATIENCE_S = 120 + LINES / 5_000

# Lines that all differ: their CRC then tells the order too.
PRINTS = f"seq -f '%0{LINE_BYTES - 1}.0f' 1 {LINES}"
# Its children live for a moment each, so that there is a pid again now and then; with none at all nothing could be read.
FORKS_AND_PRINTS = f"""
import os, signal, sys, time

signal.signal(signal.SIGCHLD, signal.SIG_IGN)

def fork_to_the_limit():
    try:
        while os.fork():
            pass
    except BlockingIOError:
        return
    time.sleep(0.5)
    os._exit(0)

for number in range(1, {LINES} + 1):
    sys.stdout.buffer.write(b"%0{LINE_BYTES - 1}d\\n" % number)
    if number % 5000 == 1:
        fork_to_the_limit()
"""


@dataclass
class Watch(threading.Thread):
    """The most that a stream's file held (blocks on disk), and the most memory of all our roles."""

    world: World
    held_bytes: int = 0
    roles_bytes: int = 0
    over: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        super().__init__(daemon=True)

    __hash__ = threading.Thread.__hash__

    def run(self) -> None:
        round_number = 0
        while not self.over.wait(0.05):
            round_number += 1
            for place in self.world.places():
                for stream in ("stdout", "stderr"):
                    self.held_bytes = max(self.held_bytes, allocated(place / stream))
            if round_number % 10 == 0:
                self.roles_bytes = max(self.roles_bytes, memory_bytes(self.world.processes()))


def allocated(path: Path) -> int:
    try:
        return path.stat().st_blocks * 512
    except FileNotFoundError:
        return 0


@contextmanager
def watched(world: World) -> Iterator[Watch]:
    watch = Watch(world)
    watch.start()
    try:
        yield watch
    finally:
        watch.over.set()
        watch.join(10)


def printed(world: World) -> dict[Path, int]:
    """How much each job has printed so far: offsets do not change when space is given back."""
    return {place: (place / "stdout").stat().st_size for place in world.places()}


def until_printed(world: World, jobs: int, least_bytes: int) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while len(found := printed(world)) < jobs or min(found.values()) < least_bytes:
        assert time.monotonic() < deadline, found
        time.sleep(0.02)


def expected_crc32() -> str:
    crc = 0
    for number in range(1, LINES + 1):
        crc = zlib.crc32(b"%0*d\n" % (LINE_BYTES - 1, number), crc)
    return f"{crc:08x}"


@pytest.mark.timeout(2 * PATIENCE_S)
def test_scripts_wait_for_a_dead_streamer_and_lose_nothing(docker_endpoint: str, runner_images: object) -> None:
    """Promises 3, 5 and 7, for a script that only prints and for one that leaves no pid to its place."""
    limits = {"cpuLimit": 1, "memoryLimit": 128 * MIB}
    queue = {"max_job_log_bytes": 8 * LINES * LINE_BYTES}
    environ = {"CRONIUM_JOBS_MAX_CONCURRENT": "2", "CRONIUM_WORKERS_HUNG_AFTER": "1h"}  # only we end the streamer
    with World(docker_endpoint, environ=environ, queue=queue) as world, watched(world) as watch:
        began = time.monotonic()
        jobs = [
            world.submit(PRINTS, timeout=PATIENCE_S, resources=limits),
            world.submit(FORKS_AND_PRINTS, "python", timeout=PATIENCE_S, resources={**limits, "pidsLimit": 30}),
        ]
        until_printed(world, len(jobs), LINES * LINE_BYTES // 4)
        (streamer,) = world.roles("streamer")
        streamer.suspend()  # a killed one would be there again in a few ms
        time.sleep(AWAY_S * 2 / 3)
        before = printed(world)
        time.sleep(AWAY_S / 3)
        assert printed(world) == before, "scripts went on printing while nobody took it"
        assert max(before.values()) < LINES * LINE_BYTES, "a script had ended already: nothing was tried"
        streamer.kill()
        for job in jobs:
            job_row = world.backend.wait(job, PATIENCE_S)
            assert (job_row["status"], job_row["terminalReports"], job_row["logsComplete"]) == ("completed", 1, True), job_row
            assert job_row["lastSequence"] == LINES
            assert job_row["report"]["logs"]["stdout"] == {
                "lines": LINES,
                "bytes": LINES * LINE_BYTES,
                "crc32": expected_crc32(),
            }
        print(
            f"2 x {LINES * LINE_BYTES / 1e6:.0f} MB in {time.monotonic() - began:.0f} s, {AWAY_S:g} s of them without a "
            f"streamer: a stream held at most {watch.held_bytes / MIB:.1f} MiB, "
            f"our roles {watch.roles_bytes / 1e6:.0f} MB"
        )
    assert watch.held_bytes <= BOUND_BYTES
    assert watch.roles_bytes < ROLES_BYTES
