"""The disk of the state folder is full while jobs run: they are held back, and nothing is lost."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from peers.own_supervisor import until
from peers.pages import Pages
from peers.world import World

SIZE_BYTES = 96 << 20
LINES = 60_000


@pytest.fixture
def state() -> Iterator[Path]:
    """Journal, spool and places on a small file system of their own. (Needs to be root.)"""
    with tempfile.TemporaryDirectory(prefix="cr-", dir="/tmp") as folder:
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={SIZE_BYTES},mode=0700", "none", folder], check=True)
        try:
            yield Path(folder)
        finally:
            subprocess.run(["umount", "--lazy", folder], check=True)


@pytest.fixture
def spool(state: Path) -> Iterator[Path]:
    """The spool on another one: it is full alone."""
    folder = state / "spool"
    folder.mkdir(mode=0o700)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={SIZE_BYTES // 4},mode=0700", "none", folder], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


def fill(path: Path) -> None:
    """Take all that is left, at once and then to the last page."""
    with path.open("ab", buffering=0) as file:
        found = os.statvfs(path)
        os.posix_fallocate(file.fileno(), 0, found.f_bavail * found.f_frsize)
        file.seek(0, os.SEEK_END)
        try:
            while True:
                file.write(bytes(4096))
        except OSError:
            return


def status(world: World, *options: str) -> str:
    """What a person, or a program, is told."""
    command = [sys.executable, "-m", "cronium.supervisor", "status", *options]
    return subprocess.run(command, env=world.started_with, stdout=subprocess.PIPE, timeout=60, check=True, text=True).stdout


@pytest.mark.timeout(200)
def test_a_full_disk_shows_in_status_and_metrics(docker_endpoint: str, runner_images: object, state: Path, spool: Path) -> None:
    """Also while the supervisor itself waits for it: it makes progress, and says what to do."""
    environ = {
        "CRONIUM_STATE_DIR": str(state),
        "CRONIUM_WORKERS_HEARTBEAT_INTERVAL": "200ms",
        "CRONIUM_LOGGING_SPOOL_SEGMENT_SIZE": "1MB",
    }
    with World(docker_endpoint, environ=environ) as world:
        pages = Pages.of(world.log)
        job = world.submit("echo begun; while :; do head -c 6000 /dev/urandom | base64; sleep 0.02; done")
        world.until_said(job, "begun")
        fill(spool / "filler")
        until(lambda: json.loads(status(world, "--json"))["output"]["spoolFull"], "the spool's disk is full")
        code, health = pages.health()
        assert (code, health["status"]) == (200, "degraded")
        assert "the spool is full" in health["reasons"][0]
        assert pages.metrics()["cronium_spool_full",] == 1
        fill(state / "filler")
        other = world.submit("echo hi")
        until(lambda: json.loads(status(world, "--json"))["journalWaitsForDisk"], "the other job cannot be written down")
        text = status(world)
        assert text.startswith("degraded")
        assert "the journal cannot be written" in text
        names = ("cronium_spool_full", "cronium_journal_waits_for_disk", "cronium_supervisor_up")
        assert [pages.metrics()[name,] for name in names] == [1, 1, 1]
        (spool / "filler").unlink()
        (state / "filler").unlink()
        assert world.done(other).stdout == ["hi"]
        world.backend.cancel(job)
        assert world.done(job).job["status"] == "cancelled"
        until(lambda: json.loads(status(world, "--json"))["status"] == "healthy", "all is well again")
        assert pages.metrics()["cronium_spool_full",] == 0


@pytest.mark.timeout(200)
def test_a_job_prints_through_a_full_disk(docker_endpoint: str, runner_images: object, state: Path) -> None:
    """Promises 2 and 3: every line once, the exit code is the script's, and the disk was full for a while."""
    script = (
        f"i=0; while [ $i -lt {LINES} ]; do seq -f 'line %.0f 0123456789012345678901234567890123456789' $((i + 1)) $((i + 500));"
        "i=$((i + 500)); sleep 0.02; done; exit 7"
    )
    with World(docker_endpoint, environ={"CRONIUM_STATE_DIR": str(state)}) as world:
        job = world.submit(script)
        world.until_said(job, "line 2000 ")
        for _ in range(2):
            fill(state / "filler")
            time.sleep(1.5)
            (state / "filler").unlink()
            time.sleep(0.3)
        done = world.done(job, 150)
        assert done.job["report"]["exitCode"] == 7
        expected = [f"line {number} 0123456789012345678901234567890123456789" for number in range(1, LINES + 1)]
        assert done.stdout == expected
        assert not [line for line in done.system if "lost" in line]
        world.assert_nothing_left()
