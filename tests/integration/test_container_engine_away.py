"""The engine goes away in the middle of a job, and comes back: containers live on (live-restore), and so do their jobs.

The engine here is real; a gate before its socket is shut, which is all that a worker sees of a dead dockerd.
"""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import docker
import pytest

from cronium.common.errors import Reason
from cronium.worker.container import end, rest
from cronium.worker.container.engine import Engine
from cronium.worker.container.executor import ContainerExecutor
from cronium.worker.executor import Log, Progress
from peers.container_world import ExecutionError, LoopControl, Told, World
from peers.gate import Gate

T = TypeVar("T")
OPEN_FILES = Path("/proc/self/fd")


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


def test_a_place_that_was_named_long_ago_is_given_up_though_we_have_just_come(
    gate: Gate, installation: str, tmp_path: Path
) -> None:
    """Beyond its deadline there is nothing to adopt, however often we were started anew meanwhile."""
    world = gated(gate, installation, tmp_path, "host")
    gate.shut()
    long_ago_ms = time.time_ns() // 1_000_000 - 2 * 24 * 3_600_000
    attempt = world.attempt(world.job("true", timeout=60), adopt=True, placed_ms=long_ago_ms)
    with pytest.raises(ExecutionError) as raised:
        world.follow(attempt, LoopControl(engine_patience=0.5))
    assert raised.value.reason is Reason.ENGINE_DOWN
    gate.open()
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
    if moment != "start":  # a script that has begun waits for nobody
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


def test_a_script_that_has_begun_is_followed_though_the_engine_stays_away(gate: Gate, installation: str, tmp_path: Path) -> None:
    """The engine died between the start and its answer: the files say enough, and it is never run twice."""
    world = gated(gate, installation, tmp_path, "host")
    world.run("true")
    control = CutOff(gate, "start", comes_back=False)
    control.engine_patience = 60
    told = Told()
    for update in world.updates(world.attempt(world.job("echo a; sleep 0.3; echo b")), control):
        told.take(update)
        if told.stdout == b"a\nb\n" and not gate.path.exists():
            assert control.cuts == 1
            gate.open()  # only its end is asked for
    assert (told.stdout, told.outcome.status) == (b"a\nb\n", "completed")
    world.close()


@pytest.mark.parametrize(("moment", "retryable"), [("image_id", True), ("create", False)])
def test_what_may_run_when_patience_is_over_is_not_run_beside_itself(
    gate: Gate, installation: str, tmp_path: Path, moment: str, retryable: bool
) -> None:
    """An engine that hangs may still do what it was asked for; where nothing was asked for the retry policy decides."""
    world = gated(gate, installation, tmp_path, "host")
    world.run("true")
    control = CutOff(gate, moment, comes_back=False)
    control.engine_patience = 0.5
    with pytest.raises(ExecutionError) as raised:
        world.follow(world.attempt(world.job("echo once")), control)
    assert (raised.value.reason, raised.value.retryable) == (Reason.ENGINE_DOWN, retryable)
    gate.open()
    world.close()


@pytest.mark.parametrize(("files", "words"), [("host", 1), ("exec", 2)])
def test_a_job_whose_place_was_asked_for_can_be_cancelled_without_the_engine(
    gate: Gate, installation: str, tmp_path: Path, files: str, words: int
) -> None:
    """At the first word where the files say that nothing has begun, else at the second."""
    world = gated(gate, installation, tmp_path, files)
    world.run("true")
    control = CutOff(gate, "create", comes_back=False)
    control.engine_patience = 600
    updates = world.updates(world.attempt(world.job("true")), control)
    next(update for update in updates if isinstance(update, Progress))  # it waits
    control.cancels = words
    with pytest.raises(ExecutionError) as raised:
        list(updates)
    assert raised.value.reason is Reason.CANCELLED
    gate.open()
    world.close()


def test_an_engine_that_hangs_is_not_waited_for_at_each_look(installation: str, tmp_path: Path) -> None:
    """Its own timeout is for work; a look has a short one, for whoever waits may be cancelled."""
    with socket.socket(socket.AF_UNIX) as hung:
        hung.bind(str(tmp_path / "hung"))
        hung.listen(8)
        world = World(f"unix://{tmp_path}/hung", installation, tmp_path)
        engine = Engine(world.settings.container.docker)
        began_s = time.monotonic()
        with pytest.raises(ExecutionError):
            engine.ping()
        assert time.monotonic() - began_s < world.settings.container.docker.timeout / 2


def test_the_volume_of_a_place_that_was_only_half_made_is_no_sign_of_a_start(
    gate: Gate, installation: str, tmp_path: Path, docker_client: docker.DockerClient
) -> None:
    """An engine that is killed in the middle of a create leaves the volume and no container."""
    world = gated(gate, installation, tmp_path, "exec")
    world.run("true")
    attempt = world.attempt(world.job("echo once"))

    def half_made() -> None:
        docker_client.containers.get(attempt.place).remove(force=True)
        assert docker_client.volumes.get(attempt.place)

    control = CutOff(gate, "create", then=half_made)
    control.engine_patience = 60
    assert world.follow(attempt, control).stdout == b"once\n"
    world.close()


@pytest.mark.parametrize("comes_back", [True, False])
def test_a_script_whose_end_was_heard_is_not_run_again_for_an_engine_that_stays_away(
    gate: Gate, installation: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, comes_back: bool
) -> None:
    """Its exit code is known. The rest of what it said is waited for, and then told as lost."""
    world = gated(gate, installation, tmp_path, "exec")
    world.run("true")
    if not comes_back:
        monkeypatch.setattr(rest, "AFTER_DEADLINE_S", -3600.0)
        monkeypatch.setattr(rest, "AT_LEAST_S", 0.5)
    control = AwayAtTheEnd(gate, tries=20 if comes_back else 1_000_000)
    # Time enough to be read along with, and to hear of its end before the container's.
    attempt = world.attempt(
        world.job("echo a; sleep 2; head -c 20000000 /dev/urandom >$CRONIUM_OUTPUT_DIR/f; exit 9", timeout=60)
    )
    told = world.follow(attempt, control)
    assert (told.outcome.status, told.outcome.exit_code, told.reason) == ("failed", 9, "script_exit")
    if comes_back:
        assert (told.stdout, told.gaps) == (b"a\n", [])
        assert [file.path for file in told.outcome.results.files] == ["f"]
        assert control.tries == 0
        assert max(control.left_open) <= 1  # of one try
    else:
        assert all("lost" in gap.message for gap in told.gaps)
        assert any("has not come back" in problem for problem in told.outcome.results.problems)
        gate.open()
    world.close()


def test_an_end_that_nobody_heard_is_not_tried_again_behind_peoples_backs(
    gate: Gate, installation: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The script may have done all of its work."""
    world = gated(gate, installation, tmp_path, "exec")
    world.run("true")
    for module, name, value in ((rest, "AFTER_DEADLINE_S", -3600.0), (rest, "AT_LEAST_S", 0.5), (end, "_PATIENCE_S", -3600.0)):
        monkeypatch.setattr(module, name, value)
    updates = world.updates(world.attempt(world.job("echo a; sleep 30", timeout=60)), LoopControl())
    next(update for update in updates if isinstance(update, Log))
    gate.shut()
    with pytest.raises(ExecutionError) as raised:
        list(updates)
    assert (raised.value.reason, raised.value.retryable) == (Reason.ENGINE_DOWN, False)
    gate.open()
    world.close()


class AwayAtTheEnd(LoopControl):
    """The engine is away when a place's files are to be fetched, that many times."""

    def __init__(self, gate: Gate, tries: int) -> None:
        super().__init__()
        self._gate, self.tries = gate, tries
        self.left_open: list[int] = []

    def call(self, function: Callable[[], T], timeout_s: float) -> T:
        if function.__name__ == "fetch":
            self.left_open.append(sum("/places/" in link for link in open_files()))
            if self.tries and self._gate.path.exists():
                self._gate.shut()
            elif not (self.tries or self._gate.path.exists()):
                self._gate.open()
            self.tries -= bool(self.tries)
        return super().call(function, timeout_s)

    def wait(self, descriptors: tuple[int, ...], timeout_s: float) -> frozenset[int]:
        return super().wait(descriptors, timeout_s if self._gate.path.exists() else 0.05)


def open_files() -> Iterator[str]:
    for descriptor in OPEN_FILES.iterdir():
        with contextlib.suppress(OSError):  # the listing's own
            yield str(descriptor.readlink())


class CutOff(LoopControl):
    """The engine goes away after the call with `name` in it was carried out, before its answer is heard, and comes back."""

    def __init__(self, gate: Gate, name: str, *, comes_back: bool = True, then: Callable[[], None] = lambda: None) -> None:
        super().__init__()
        self._gate, self._name = gate, name
        self._comes_back, self._then = comes_back, then
        self.cuts = 0

    def call(self, function: Callable[[], T], timeout_s: float) -> T:
        answer = super().call(function, timeout_s)
        if not self.cuts and self._name in names_in(function):
            self.cuts += 1
            self._then()
            self._gate.shut()
            raise ExecutionError(Reason.ENGINE_DOWN, "the connection broke")
        return answer

    def wait(self, descriptors: tuple[int, ...], timeout_s: float) -> frozenset[int]:
        if self._comes_back and self.cuts and not self._gate.path.exists():
            self._gate.open()
        return super().wait(descriptors, timeout_s)


def names_in(function: Callable[[], object]) -> set[str]:
    """What a lambda calls; `present` asks for the image's id."""
    code = function.__code__  # type: ignore[attr-defined] # every lambda has one
    return {*code.co_names, *(("image_id",) if "present" in code.co_names else ())}
