"""The engine goes away in the middle of a job, and comes back: containers live on (live-restore), and so do their jobs.

The engine here is real; a gate before its socket is shut, which is all that a worker sees of a dead dockerd.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from cronium.common.errors import Reason
from cronium.worker.container.executor import ContainerExecutor
from cronium.worker.executor import Log
from peers.container_world import ExecutionError, LoopControl, Told, World
from peers.gate import Gate


@pytest.fixture
def gate(docker_endpoint: str, tmp_runtime_dir: Path) -> Iterator[Gate]:
    gate = Gate(tmp_runtime_dir / "engine", docker_endpoint.removeprefix("unix://"))
    yield gate
    gate.shut()


def gated(gate: Gate, installation: str, tmp_path: Path, files: str) -> World:
    return World(f"unix://{gate.path}", installation, tmp_path, {"files": files})


@pytest.mark.parametrize("files", ["host", "exec"])
def test_a_job_survives_an_engine_that_goes_and_comes(gate: Gate, installation: str, tmp_path: Path, files: str) -> None:
    """Promise 5: nothing is lost, and its end is still told."""
    world = gated(gate, installation, tmp_path, files)
    attempt = world.attempt(world.job("for i in $(seq 20); do echo $i; sleep 0.1; done; exit 9"))
    told = Told()
    shut = False
    for update in world.updates(attempt, LoopControl()):
        told.take(update)
        lines = told.stdout.count(b"\n")
        if lines >= 5 and not shut:
            shut = True
            gate.shut()
            if files == "exec":  # nothing can be read without the engine
                gate.open()
        if lines >= 15 and not gate.path.exists():  # read while it was away
            gate.open()
    assert told.stdout == "".join(f"{n}\n" for n in range(1, 21)).encode()
    assert told.outcome.exit_code == 9
    world.close()


def test_an_engine_that_comes_back_after_the_end_still_tells_it(gate: Gate, installation: str, tmp_path: Path) -> None:
    """Output is read without it; the exit code comes from the place, its confirmation from the engine."""
    world = gated(gate, installation, tmp_path, "host")
    attempt = world.attempt(world.job("echo a; sleep 0.5; echo b; exit 9"))
    told = Told()
    for update in world.updates(attempt, LoopControl()):
        told.take(update)
        if isinstance(update, Log) and update.data == b"a\n":
            gate.shut()
        if isinstance(update, Log) and update.data == b"b\n":
            gate.open()
    assert (told.stdout, told.outcome.exit_code, told.reason) == (b"a\nb\n", 9, "script_exit")
    world.close()


def test_an_engine_that_does_not_answer_is_named(gate: Gate, installation: str, tmp_path: Path, docker_endpoint: str) -> None:
    """With its address, and what to do."""
    world = gated(gate, installation, tmp_path, "host")
    gate.shut()
    with pytest.raises(ExecutionError) as raised:
        world.run("true")
    gate.open()
    assert raised.value.reason is Reason.ENGINE_DOWN
    assert raised.value.retryable
    assert str(gate.path) in raised.value.message
    world.close()


def test_an_engine_that_is_restarting_is_waited_for_when_a_job_is_adopted(gate: Gate, installation: str, tmp_path: Path) -> None:
    """Both may have died at once."""
    world = gated(gate, installation, tmp_path, "host")
    attempt = world.attempt(world.job("echo a; sleep 1; echo b"))
    updates = world.updates(attempt, LoopControl())
    next(update for update in updates if isinstance(update, Log))
    updates.close()
    gate.shut()
    world.executor = ContainerExecutor(world.settings)
    control = LoopControl(offsets={"stdout": 2, "stderr": 0})
    waited = control.wait

    def wait(descriptors: tuple[int, ...], timeout_s: float) -> frozenset[int]:
        if not gate.path.exists():
            gate.open()
        return waited(descriptors, timeout_s)

    control.wait = wait  # type: ignore[method-assign] # the moment the engine is back
    told = world.follow(world.attempt(attempt.job, adopt=True, offsets={"stdout": 2}), control)
    assert (told.stdout, told.outcome.status) == (b"b\n", "completed")
    world.close()
