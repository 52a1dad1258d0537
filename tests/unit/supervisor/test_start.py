"""What is found out before anything is started: who has the state folder, and whether there are descriptors enough."""

from __future__ import annotations

import fcntl
import os
import resource
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from cronium.supervisor.pool.descriptors import needed, wait_readable
from cronium.supervisor.start import StartError, _only_one

_RAISES = """
import resource
from cronium.supervisor.pool.descriptors import raise_limit
_, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (64, hard))
assert raise_limit() == hard
print(resource.getrlimit(resource.RLIMIT_NOFILE) == (hard, hard))
"""


def test_who_only_looks_at_the_lock_stops_no_start(tmp_path: Path) -> None:
    """`drain` holds it for a moment to see whether a supervisor does."""
    with (tmp_path / "lock").open("a") as file:
        fcntl.flock(file, fcntl.LOCK_SH)
        threading.Timer(0.2, fcntl.flock, (file, fcntl.LOCK_UN)).start()
        with _only_one(tmp_path):
            assert (tmp_path / "lock").read_text() == f"{os.getpid()}\n"


def test_a_second_supervisor_is_refused(tmp_path: Path) -> None:
    refused = pytest.raises(StartError, match=r"another supervisor uses .*CRONIUM_STATE_DIR")
    with _only_one(tmp_path), refused, _only_one(tmp_path):
        pass


def test_the_soft_limit_is_raised_to_the_hard_one() -> None:
    done = subprocess.run([sys.executable, "-c", _RAISES], capture_output=True, text=True, timeout=30, check=True)
    assert done.stdout == "True\n"


def test_more_workers_than_there_can_be_descriptors_for_are_refused(tmp_runtime_dir: Path) -> None:
    """Guards: no forkserver dies in the middle, with all that it has forked, of what is known at the start."""
    environ = {name: value for name, value in os.environ.items() if not name.startswith("CRONIUM_")}
    folders = {"CRONIUM_STATE_DIR": str(tmp_runtime_dir / "state"), "CRONIUM_RUNTIME_DIR": str(tmp_runtime_dir / "run")}
    done = subprocess.run(
        [sys.executable, "-m", "cronium.supervisor", "run", "--standalone"],
        env={**environ, **folders, "CRONIUM_MAX_CONCURRENT": "100", "CRONIUM_WORKERS_SPARE": "1"},
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (needed(101) - 1, needed(101) - 1)),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1
    said = " ".join(done.stderr.split())
    assert f"jobs.maxConcurrent (100) and workers.spare (1) need up to {needed(101)} open files" in said
    assert f"may have {needed(101) - 1}: raise its hard limit" in said
    assert not (tmp_runtime_dir / "state").exists()


def test_one_can_wait_for_any_descriptor() -> None:
    """Guards: numbers from 1024 on, which select(2) cannot wait for."""
    reader, writer = os.pipe()
    high = fcntl.fcntl(reader, fcntl.F_DUPFD_CLOEXEC, 2000)
    try:
        assert high >= 2000
        assert not wait_readable(high, 0)
        os.write(writer, b"x")
        began_s = time.monotonic()
        assert wait_readable(high, 60)
        assert time.monotonic() < began_s + 60
    finally:
        for descriptor in (reader, writer, high):
            os.close(descriptor)
