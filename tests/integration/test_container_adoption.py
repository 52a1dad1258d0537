"""A place outlives its worker: whoever takes it over goes on where the last one was, and starts nothing twice.

A worker's death is a generator that is dropped and an executor that is thrown away; what remains is the engine and the files.
"""

from __future__ import annotations

import contextlib
import io
import tarfile
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import docker
import pytest

from cronium.common.errors import Reason
from cronium.worker.container import moments
from cronium.worker.container.executor import ContainerExecutor
from cronium.worker.executor import Attempt, Log, Status
from peers.container_world import BASH, ExecutionError, LoopControl, Told, World, until
from peers.gate import Gate

COUNT = "for i in $(seq 30); do echo $i; sleep 0.05; done; exit 9"
COUNTED = "".join(f"{n}\n" for n in range(1, 31)).encode()


@pytest.fixture(params=["host", "exec"])
def world(
    request: pytest.FixtureRequest, docker_endpoint: str, installation: str, runner_images: object, tmp_path: Path
) -> Iterator[World]:
    world = World(docker_endpoint, installation, tmp_path, {"files": request.param})
    yield world
    world.close()


@pytest.fixture
def host_world(docker_endpoint: str, installation: str, runner_images: object, tmp_path: Path) -> Iterator[World]:
    world = World(docker_endpoint, installation, tmp_path)
    yield world
    world.close()


def next_worker(world: World) -> None:
    world.executor = ContainerExecutor(world.settings)


def adopt(world: World, attempt: Attempt, offsets: dict[str, int] | None = None) -> Told:
    next_worker(world)
    return world.follow(
        world.attempt(attempt.job, adopt=True, offsets=offsets), LoopControl(offsets=dict(offsets or {"stdout": 0, "stderr": 0}))
    )


def test_a_running_job_is_gone_on_with_from_its_position(world: World) -> None:
    """Promise 5: no line twice, none lost."""
    attempt = world.attempt(world.job(COUNT))
    updates = world.updates(attempt, LoopControl())
    seen = b""
    offset = 0
    for update in updates:
        if isinstance(update, Log):
            seen += update.data
            offset = update.offset
            if offset >= 10:
                break
    updates.close()
    told = adopt(world, attempt, {"stdout": offset, "stderr": 0})
    assert seen + told.stdout == COUNTED
    assert (told.outcome.status, told.outcome.exit_code) == ("failed", 9)
    assert told.statuses == ["running"]


def test_a_job_that_ended_meanwhile_is_read_to_its_end(world: World, docker_client: docker.DockerClient) -> None:
    """Exit code, output and results are all still there."""
    attempt = world.attempt(world.job("echo a; echo b > $CRONIUM_OUTPUT_DIR/f; exit 9"))
    updates = world.updates(attempt, LoopControl())
    next(update for update in updates if isinstance(update, Log | Status) and update != Status("preparing"))
    updates.close()
    until(lambda: docker_client.containers.get(attempt.place).status == "exited")
    told = adopt(world, attempt)
    assert told.stdout == b"a\n"
    assert told.outcome.exit_code == 9
    assert [file.path for file in told.outcome.results.files] == ["f"]


def test_a_worker_that_dies_before_anything_was_made_leaves_nothing_to_adopt(world: World) -> None:
    """Then the place is made as if it were new."""
    attempt = world.attempt(world.job("echo once"))
    updates = world.updates(attempt, LoopControl())
    assert next(updates) == Status("preparing")
    updates.close()
    assert adopt(world, attempt).stdout == b"once\n"


def test_a_container_that_was_created_and_never_started_is_made_anew(world: World, docker_client: docker.DockerClient) -> None:
    """Its owner died between the two requests."""
    attempt = world.attempt(world.job("echo once"))
    control = DiesInCall(until="start")
    with pytest.raises(WorkerDies):
        list(world.updates(attempt, control))
    assert docker_client.containers.get(attempt.place).status == "created"
    assert adopt(world, attempt).stdout == b"once\n"


def test_a_launcher_whose_owner_died_leaves_and_the_job_is_started_anew(
    host_world: World, docker_client: docker.DockerClient
) -> None:
    """Started, and never fed: its stdin has ended."""
    world = host_world
    attempt = world.attempt(world.job("echo once"))
    control = DiesInCall(until="start")
    with pytest.raises(WorkerDies):
        list(world.updates(attempt, control))
    docker_client.containers.get(attempt.place).start()
    told = adopt(world, attempt)
    assert told.stdout == b"once\n"
    assert told.outcome.status == "completed"


def test_a_name_taken_by_a_late_request_is_freed(host_world: World, docker_client: docker.DockerClient) -> None:
    """What a dead worker had asked for may be carried out later."""
    attempt = host_world.attempt(host_world.job("echo once"))
    docker_client.containers.create(BASH, name=attempt.place, command="sleep 60")
    assert host_world.follow(attempt).stdout == b"once\n"


def test_a_place_that_somebody_removed_has_vanished(world: World, docker_client: docker.DockerClient) -> None:
    """It had started: it is not started again behind the retry policy's back."""
    attempt = world.attempt(world.job("echo a; sleep 30"))
    updates = world.updates(attempt, LoopControl())
    next(update for update in updates if isinstance(update, Log))
    updates.close()
    docker_client.containers.get(attempt.place).remove(force=True)
    try:
        error = adopt(world, attempt, {"stdout": 2, "stderr": 0}).outcome.error
    except ExecutionError as raised:  # without its files there is nothing to go on with
        error = raised.report()
    assert error is not None
    assert error.reason == Reason.PLACE_VANISHED
    assert error.retryable


def test_a_running_job_is_adopted_without_the_engine(
    docker_endpoint: str, installation: str, runner_images: object, tmp_path: Path, tmp_runtime_dir: Path
) -> None:
    """Promise 5: worker and engine may be dead at once, and the lines go on coming; the engine is asked for the end only."""
    gate = Gate(tmp_runtime_dir / "engine", docker_endpoint.removeprefix("unix://"))
    world = World(f"unix://{gate.path}", installation, tmp_path)
    attempt = world.attempt(world.job(COUNT))
    updates = world.updates(attempt, LoopControl())
    next(update for update in updates if isinstance(update, Log))
    updates.close()
    gate.shut()
    next_worker(world)
    told = Told()
    for update in world.updates(world.attempt(attempt.job, adopt=True), LoopControl()):
        told.take(update)
        if told.stdout.endswith(b"\n25\n") and not gate.path.exists():
            gate.open()
    assert (told.stdout, told.outcome.exit_code) == (COUNTED, 9)
    assert 1000 <= told.outcome.ended_ms - told.outcome.started_ms < 60_000
    world.close()
    gate.shut()


def test_a_container_removed_under_our_eyes_has_vanished(host_world: World, docker_client: docker.DockerClient) -> None:
    """The follower says so, and what was printed is kept."""
    attempt = host_world.attempt(host_world.job("echo a; sleep 30"))
    told = Told()
    for update in host_world.updates(attempt, LoopControl()):
        told.take(update)
        if isinstance(update, Log):
            docker_client.containers.get(attempt.place).remove(force=True)
    assert told.stdout == b"a\n"
    assert told.reason == "place_vanished"


def test_a_container_ended_from_outside_is_told_from_a_script_that_failed(
    host_world: World, docker_client: docker.DockerClient
) -> None:
    """`docker kill` is not the script's doing."""
    attempt = host_world.attempt(host_world.job("echo a; sleep 30"))
    told = Told()
    for update in host_world.updates(attempt, LoopControl()):
        told.take(update)
        if isinstance(update, Log):
            docker_client.containers.get(attempt.place).kill()
    assert told.reason == "place_vanished"


def test_a_container_that_others_stop_was_not_cancelled(host_world: World, docker_client: docker.DockerClient) -> None:
    """`docker stop`, or an engine that ends without live-restore: SIGTERM, which is our own word for a cancel."""
    attempt = host_world.attempt(host_world.job("trap 'echo bye; exit 5' TERM; echo a; while :; do sleep 0.1; done"))
    told = Told()
    for update in host_world.updates(attempt, LoopControl()):
        told.take(update)
        if isinstance(update, Log) and update.data == b"a\n":
            docker_client.containers.get(attempt.place).stop()
    assert told.stdout == b"a\nbye\n"
    assert (told.outcome.status, told.reason) == ("failed", "place_vanished")
    assert told.outcome.error is not None
    assert told.outcome.error.retryable


def test_an_adopted_job_keeps_its_deadline_and_can_be_cancelled(host_world: World) -> None:
    """The new worker has the old one's duties."""
    attempt = host_world.attempt(host_world.job("trap 'echo bye; exit 5' TERM; echo a; while :; do sleep 0.1; done"))
    updates = host_world.updates(attempt, LoopControl())
    next(update for update in updates if isinstance(update, Log))
    updates.close()
    next_worker(host_world)
    told = host_world.follow(host_world.attempt(attempt.job, adopt=True), LoopControl(cancels=1))
    assert told.outcome.status == "cancelled"
    assert b"bye" in told.stdout


def test_a_cancelled_job_that_is_taken_over_keeps_its_grace(host_world: World) -> None:
    """The new worker does not know what the old one has said, and says it again."""
    script = "trap 'echo tidy; sleep 1.3; echo tidied; exit 5' TERM; echo a; while :; do sleep 0.1; done"
    attempt, control = host_world.attempt(host_world.job(script)), LoopControl()
    updates = host_world.updates(attempt, control)
    seen = b""
    while b"tidy" not in seen:
        update = next(updates)
        if isinstance(update, Log):
            seen += update.data
            control.cancels = 1
    updates.close()
    next_worker(host_world)
    told = host_world.follow(host_world.attempt(attempt.job, adopt=True), LoopControl(cancels=1))
    assert told.stdout == b"a\ntidy\ntidied\n"
    assert (told.outcome.status, told.outcome.exit_code) == ("cancelled", 5)


@pytest.mark.parametrize("boot", ["this host's", "another host's"])
def test_a_clock_that_was_set_makes_no_job_older(
    world: World, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, boot: str
) -> None:
    """A day forward, for us or back for the engine: its deadline is where it was."""
    attempt = world.attempt(world.job("echo a; sleep 2; echo b; exit 9", timeout=60))
    updates = world.updates(attempt, LoopControl())
    next(update for update in updates if isinstance(update, Log))
    updates.close()
    if boot != "this host's":
        other = tmp_path / "boot_id"
        other.write_text("0\n")
        monkeypatch.setattr(moments, "_BOOT_ID", other)
    real_ns = time.time_ns
    monkeypatch.setattr(time, "time_ns", lambda: real_ns() + 24 * 3600 * 10**9)
    told = adopt(world, attempt)
    assert (told.stdout, told.outcome.status, told.outcome.exit_code) == (b"a\nb\n", "failed", 9)
    assert 1000 <= told.outcome.ended_ms - told.outcome.started_ms < 60_000


@pytest.fixture(params=["host", "exec"])
def gated(
    request: pytest.FixtureRequest,
    docker_endpoint: str,
    installation: str,
    runner_images: object,
    tmp_path: Path,
    tmp_runtime_dir: Path,
) -> Iterator[tuple[Gate, World]]:
    gate = Gate(tmp_runtime_dir / "engine", docker_endpoint.removeprefix("unix://"))
    world = World(f"unix://{gate.path}", installation, tmp_path, {"files": request.param})
    yield gate, world
    world.close()
    gate.shut()


def left_with_a_start_on_its_way(gate: Gate, world: World, script: str) -> Attempt:
    """Its worker is gone, and the engine will yet carry out what that one asked for."""
    attempt = world.attempt(world.job(script))
    world.run("true")  # what the image can do is known
    gate.hold(b"/start HTTP/")
    with pytest.raises(WorkerDies):
        list(world.updates(attempt, DiesInCall(until="start", once=gate.holds)))
    next_worker(world)
    return attempt


def test_a_late_start_that_comes_before_the_removal_is_not_run_anew(
    gated: tuple[Gate, World], docker_client: docker.DockerClient
) -> None:
    """'Created' was true when the engine was asked: never started is said only after the place was read once more."""
    gate, world = gated
    attempt = left_with_a_start_on_its_way(gate, world, "echo first; sleep 60")
    control = Meanwhile("remove", lambda: runs(gate, docker_client, attempt.place), first=True)
    with pytest.raises(ExecutionError) as raised:
        world.follow(world.attempt(attempt.job, adopt=True), control)
    assert control.came
    assert (raised.value.reason, raised.value.retryable) == (Reason.PLACE_VANISHED, True)


def test_a_late_start_that_ends_before_the_removal_is_told_from_what_it_left(
    gated: tuple[Gate, World], docker_client: docker.DockerClient
) -> None:
    """All of it is there: output, exit code, results."""
    gate, world = gated
    attempt = left_with_a_start_on_its_way(gate, world, "date +%N; echo b >$CRONIUM_OUTPUT_DIR/f; exit 9")
    said: list[bytes] = []
    control = Meanwhile("remove", lambda: said.append(ran(gate, docker_client, attempt.place)), first=True)
    told = world.follow(world.attempt(attempt.job, adopt=True), control)
    assert [told.stdout] == said
    assert (told.outcome.status, told.outcome.exit_code) == ("failed", 9)
    assert [file.path for file in told.outcome.results.files] == ["f"]


def test_a_late_start_just_after_the_engine_said_created_is_gone_on_with(
    gated: tuple[Gate, World], docker_client: docker.DockerClient
) -> None:
    """What the engine said before is not taken for the job's end."""
    gate, world = gated
    attempt = left_with_a_start_on_its_way(gate, world, "echo a; sleep 2; echo b; exit 9")
    control = Meanwhile("state", lambda: runs(gate, docker_client, attempt.place))
    told = world.follow(world.attempt(attempt.job, adopt=True), control)
    assert control.came
    assert (told.stdout, told.outcome.exit_code) == (b"a\nb\n", 9)


@pytest.mark.parametrize("gated", ["exec"], indirect=True)
def test_a_volume_that_tells_of_an_earlier_container_is_believed(
    gated: tuple[Gate, World], docker_client: docker.DockerClient
) -> None:
    """One worker removes the place after a late start, makes another and dies before it has looked."""
    gate, world = gated
    attempt = left_with_a_start_on_its_way(gate, world, "echo first; sleep 60")
    control = Meanwhile("remove", lambda: runs(gate, docker_client, attempt.place), first=True, dies="fetch")
    with pytest.raises(WorkerDies):
        world.follow(world.attempt(attempt.job, adopt=True), control)
    assert docker_client.containers.get(attempt.place).status == "created"
    next_worker(world)
    with pytest.raises(ExecutionError) as raised:
        world.follow(world.attempt(attempt.job, adopt=True))
    assert raised.value.reason is Reason.PLACE_VANISHED


def test_a_volume_with_a_story_that_nobody_has_read_is_not_taken_for_our_own(
    gated: tuple[Gate, World], docker_client: docker.DockerClient
) -> None:
    """The engine goes away just before the next container is made, which would have shown what the removed one has left."""
    gate, world = gated
    attempt = left_with_a_start_on_its_way(gate, world, "echo first; sleep 60")
    down = ExecutionError(Reason.ENGINE_DOWN, "the connection broke")
    happens = partial(runs, gate, docker_client, attempt.place)
    control = Meanwhile("remove", happens, first=True, dies="create", of=down)
    control.engine_patience = 60
    with pytest.raises(ExecutionError) as raised:
        world.follow(world.attempt(attempt.job, adopt=True), control)
    assert raised.value.reason is Reason.PLACE_VANISHED


def runs(gate: Gate, client: docker.DockerClient, place: str) -> bytes:
    """Let the start through, and wait until the script has said something; what."""
    gate.release()
    until(lambda: bool(stdout_of(client, place)))
    return stdout_of(client, place)


def ran(gate: Gate, client: docker.DockerClient, place: str) -> bytes:
    """The same to its end."""
    runs(gate, client, place)
    until(lambda: client.containers.get(place).status == "exited")
    return stdout_of(client, place)


def stdout_of(client: docker.DockerClient, place: str) -> bytes:
    chunks, _ = client.api.get_archive(place, "/cronium/stdout")
    with tarfile.open(fileobj=io.BytesIO(b"".join(chunks))) as tar:
        member = tar.extractfile("stdout")
        return member.read() if member is not None else b""


class WorkerDies(BaseException):
    """The end of a worker in the middle of a call."""


class DiesInCall(LoopControl):
    """A worker that is killed just before the engine is asked for something; with `once`, when that is set, in the middle."""

    def __init__(self, until: str, once: threading.Event | None = None) -> None:
        super().__init__()
        self._until, self._once = until, once

    def call(self, function: Any, timeout_s: float) -> Any:
        if self._until not in function.__code__.co_names:
            return super().call(function, timeout_s)
        if self._once is not None:
            threading.Thread(target=in_vain, args=(function,), daemon=True).start()
            assert self._once.wait(timeout_s)
        raise WorkerDies


def in_vain(function: Any) -> None:
    with contextlib.suppress(ExecutionError):
        function()


class Meanwhile(LoopControl):
    """Something happens right after the first call with `name` in it, or right before; then it may die before another call, or
    that one may fail once (`of`)."""

    def __init__(
        self, name: str, happens: Callable[[], object], *, first: bool = False, dies: str = "", of: BaseException | None = None
    ) -> None:
        super().__init__()
        self._name, self._happens, self._first = name, happens, first
        self._dies, self._of = dies, of or WorkerDies()
        self.came = False

    def call(self, function: Any, timeout_s: float) -> Any:
        names = (*function.__code__.co_names, function.__name__)  # a lambda that calls it, or itself
        due = not self.came and self._name in names
        if self.came and self._dies in names:
            self._dies = ""
            raise self._of
        if due and self._first:
            self._happens()
        answer = super().call(function, timeout_s)
        if due and not self._first:
            self._happens()
        self.came = self.came or due
        return answer
