"""`quickstart`: what a person sees who has just cloned the repository, with a real engine."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil

from cronium.common.job import ScriptType
from cronium.supervisor.cli.own_supervisor import ADDRESS_FILE

_TIMEOUT_S = 110


def quickstart(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "cronium.supervisor", "quickstart", *arguments],
        env={**os.environ, "COLUMNS": "140", "NO_COLOR": "1", **environment},
        capture_output=True,
        text=True,
        timeout=_TIMEOUT_S,
        check=False,
    )


def test_three_jobs_complete_and_nothing_is_left(
    docker_endpoint: str, runner_images: dict[ScriptType, str], installation: str
) -> None:
    # Guards: exit code 0 means that all three jobs completed, each with its output; and it stops cleanly.
    done = quickstart(CRONIUM_DOCKER_HOST=docker_endpoint, CRONIUM_ID=installation)
    assert done.returncode == 0, done.stdout + done.stderr
    for said in ("bash   │ step 5 of 5", "python │ up to 40: 12 primes", "node   │ 5. worker"):
        assert said in done.stdout
    rows = re.findall(r"^ (bash|python|node) +container +\d+ ms +[\d.]+ s +0 +completed", done.stdout, re.MULTILINE)
    assert rows == ["bash", "python", "node"]
    assert "Next: " in done.stdout
    assert not [process for process in psutil.process_iter() if _environment(process).get("CRONIUM_ID") == installation]


def test_keep_leaves_a_supervisor_that_a_signal_ends(
    docker_endpoint: str, runner_images: dict[ScriptType, str], installation: str, tmp_runtime_dir: Path
) -> None:
    state_dir = tmp_runtime_dir / "state"
    done = quickstart(
        "--keep",
        CRONIUM_DOCKER_HOST=docker_endpoint,
        CRONIUM_ID=installation,
        CRONIUM_STATE_DIR=str(state_dir),
        CRONIUM_RUNTIME_DIR=str(tmp_runtime_dir / "run"),
        CRONIUM_STANDALONE_PORT="0",
        CRONIUM_MONITORING_HEALTH_PORT="0",
        CRONIUM_MONITORING_METRICS_PORT="0",
    )
    told = re.search(r"goes on as process (\d+)", done.stdout)
    assert told is not None, done.stdout + done.stderr
    supervisor = psutil.Process(int(told[1]))
    try:
        assert done.returncode == 0
        assert supervisor.is_running()
        assert (state_dir / ADDRESS_FILE).exists()
    finally:
        supervisor.send_signal(signal.SIGTERM)
        _wait_until_gone(supervisor)


def _environment(process: psutil.Process) -> dict[str, str]:
    try:
        return process.environ()
    except psutil.Error:
        return {}


def _wait_until_gone(process: psutil.Process) -> None:
    """It is nobody's child any more: whoever adopted it may collect it late, so a zombie is gone too."""
    deadline = time.monotonic() + _TIMEOUT_S / 2
    while process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < deadline, "still there"
        time.sleep(0.05)
