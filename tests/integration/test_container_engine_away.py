"""The engine goes away in the middle of a job, and comes back: containers live on (live-restore), and so do their jobs.

The engine here is real; a gate before its socket is shut, which is all that a worker sees of a dead dockerd.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import pytest

from cronium.common.errors import Reason
from cronium.worker.container.executor import ContainerExecutor
from cronium.worker.executor import Log
from peers.container_world import ExecutionError, LoopControl, Told, World
from peers.gate import Gate

T = TypeVar("T")


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


@pytest.mark.parametrize("moment", ["prepare", "create", "start"])
def test_a_job_that_has_not_begun_waits_for_the_engine(gate: Gate, installation: str, tmp_path: Path, moment: str) -> None:
    """It says why, and is started once, whatever of the request that broke was carried out."""
    world = gated(gate, installation, tmp_path, "host")
    world.run("true")  # what the image can do is known
    control = CutOff(gate, {"prepare": "image_id", "create": "create", "start": "start"}[moment])
    control.engine_patience = 60
    attempt = world.attempt(world.job("echo once"))
    told = world.follow(attempt, control)
    assert control.cuts == 1
    assert (told.stdout, told.outcome.status) == (b"once\n", "completed")
    assert told.progress[0].message is not None
    assert str(gate.path) in told.progress[0].message
    assert told.progress[-1].message == ""
    world.close()


def test_a_job_that_waits_for_the_engine_can_be_cancelled(gate: Gate, installation: str, tmp_path: Path) -> None:
    """Nothing of it is there yet."""
    world = gated(gate, installation, tmp_path, "host")
    gate.shut()
    with pytest.raises(ExecutionError) as raised:
        world.follow(world.attempt(world.job("true")), LoopControl(cancels=1, engine_patience=60))
    assert raised.value.reason is Reason.CANCELLED
    gate.open()
    world.close()


class CutOff(LoopControl):
    """The engine goes away after the call with `name` in it was carried out, before its answer is heard, and comes back."""

    def __init__(self, gate: Gate, name: str) -> None:
        super().__init__()
        self._gate, self._name = gate, name
        self.cuts = 0

    def call(self, function: Callable[[], T], timeout_s: float) -> T:
        answer = super().call(function, timeout_s)
        if not self.cuts and self._name in names_in(function):
            self.cuts += 1
            self._gate.shut()
            raise ExecutionError(Reason.ENGINE_DOWN, "the connection broke")
        return answer

    def wait(self, descriptors: tuple[int, ...], timeout_s: float) -> frozenset[int]:
        if self.cuts and not self._gate.path.exists():
            self._gate.open()
        return super().wait(descriptors, timeout_s)


def names_in(function: Callable[[], object]) -> set[str]:
    """What a lambda calls; `present` asks for the image's id."""
    code = function.__code__  # type: ignore[attr-defined] # every lambda has one
    return {*code.co_names, *(("image_id",) if "present" in code.co_names else ())}
