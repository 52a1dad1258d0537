"""What acceptance tests start from: a command line of one's own, or a whole supervisor with its queue.

`command_line` is `cronium-supervisor` with folders that no other module's tests have: `command_line.run("exec", script)`.

`supervisor` is the same, and `run --standalone` is up: `supervisor.run("submit", script)`, `supervisor.client()`,
`supervisor.stop()`. `shared_supervisor` is one for all tests of a module, which is quicker. Settings go by the environment:

    @pytest.mark.parametrize("supervisor", [{"CRONIUM_JOBS_ON_STOP": "cancel"}], indirect=True)

Each fails the test if something is left: a process, a container, network or volume of the installation, a socket, a place. A test
that leaves jobs running when it stops the supervisor ends them first.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from cronium.common.job import ScriptType
from peers.own_supervisor import CommandLine, Supervisor, until

_SHOWN_LOG_BYTES = 20_000
Left = Callable[[str], dict[str, list[str]]]


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    """A folder for a module's tests, with a path that is short enough for sockets."""
    path = Path(tempfile.mkdtemp(prefix="cr-", dir="/tmp"))
    yield path
    shutil.rmtree(path)


@pytest.fixture
def command_line(
    docker_endpoint: str, runner_images: dict[ScriptType, str], folder: Path, left_in_engine: Left
) -> Iterator[CommandLine]:
    """The program, with folders and an engine, and nothing that runs."""
    program = CommandLine(folder, docker_endpoint)
    yield program
    _nothing_is_left(program, left_in_engine)


@pytest.fixture
def supervisor(
    request: pytest.FixtureRequest,
    docker_endpoint: str,
    runner_images: dict[ScriptType, str],
    tmp_runtime_dir: Path,
    left_in_engine: Left,
) -> Iterator[Supervisor]:
    """A supervisor with the standalone queue that is ready for jobs; it is stopped by SIGTERM if it still runs."""
    with _running(Supervisor(tmp_runtime_dir, docker_endpoint, getattr(request, "param", None)), left_in_engine) as program:
        yield program


@pytest.fixture(scope="module")
def shared_supervisor(
    docker_endpoint: str, runner_images: dict[ScriptType, str], folder: Path, left_in_engine: Left
) -> Iterator[Supervisor]:
    """One for all tests of a module: they leave it running, and look only at their own jobs."""
    with _running(Supervisor(folder / "shared", docker_endpoint), left_in_engine) as program:
        yield program


@contextmanager
def _running(program: Supervisor, left_in_engine: Left) -> Iterator[Supervisor]:
    try:
        program.start_up()
        yield program
        assert program.stop() == 0
    finally:
        program.end()
        print(program.log.read_text()[-_SHOWN_LOG_BYTES:])  # pytest shows it when the test fails
    _nothing_is_left(program, left_in_engine)


def _nothing_is_left(program: CommandLine, left_in_engine: Left) -> None:
    for installation in program.installations():
        left = left_in_engine(installation)
        assert not any(left.values()), f"left in the engine by {installation}: {left}"
    until(lambda: not program.processes(), "its processes have ended")  # some notice its end by a pipe, a moment later
    assert list(program.runtime_dir.glob("*")) == [], "left in the runtime directory"
    places = [*program.state_dir.glob("places/*"), *program.state_dir.glob("exec/places/*")]
    assert places == [], "left of a job's place"
