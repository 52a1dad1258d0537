"""Which image a job gets, and what is said when it cannot have one; and what is left behind and removed again."""

from __future__ import annotations

import io
import secrets
import tarfile
from collections.abc import Iterator
from pathlib import Path

import docker
import pytest

from cronium.common.errors import Reason
from cronium.worker.executor import Log
from peers.container_world import BASH, ExecutionError, LoopControl, World


@pytest.fixture
def empty_image(docker_client: docker.DockerClient) -> Iterator[str]:
    """An image with nothing in it but a file."""
    name = f"cronium-test/empty:{secrets.token_hex(4)}"
    repository, tag = name.split(":")
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        tar.addfile(tarfile.TarInfo("nothing"), io.BytesIO())
    docker_client.api.import_image_from_data(archive.getvalue(), repository=repository, tag=tag)
    yield name
    docker_client.images.remove(name, force=True)


@pytest.fixture
def bare_image(docker_client: docker.DockerClient, runner_images: object, installation: str) -> Iterator[str]:
    """A runner image without mkfifo, and without a workspace."""
    name = f"cronium-test/bare:{secrets.token_hex(4)}"
    repository, tag = name.split(":")
    made = docker_client.containers.run(
        BASH, "rm -rf /usr/bin/mkfifo /bin/mkfifo /workspace", user="0", working_dir="/", detach=True
    )
    made.wait()
    made.commit(repository, tag)
    made.remove()
    yield name
    docker_client.images.remove(name, force=True)


@pytest.fixture
def roomless_image(docker_client: docker.DockerClient, runner_images: object, installation: str) -> Iterator[str]:
    """A runner image without a workspace."""
    name = f"cronium-test/roomless:{secrets.token_hex(4)}"
    repository, tag = name.split(":")
    made = docker_client.containers.run(BASH, "rm -rf /workspace", user="0", working_dir="/", detach=True)
    made.wait()
    made.commit(repository, tag)
    made.remove()
    yield name
    docker_client.images.remove(name, force=True)


def world_with(endpoint: str, installation: str, state_dir: Path, **images: object) -> World:
    return World(endpoint, installation, state_dir, {"images": images})


def refused(world: World, **execution: object) -> ExecutionError:
    attempt = world.attempt(world.job("true", **execution))
    with pytest.raises(ExecutionError) as raised:
        world.follow(attempt)
    world.executor.cleanup(attempt.place)
    return raised.value


def test_a_missing_runner_image_names_the_command_that_makes_it(docker_endpoint: str, installation: str, tmp_path: Path) -> None:
    """And nothing of that name is pulled from strangers."""
    error = refused(world_with(docker_endpoint, installation, tmp_path, bash="cronium/runner:bash-alpine", fallback=False))
    assert error.reason is Reason.IMAGE_MISSING
    assert "cronium-supervisor images build bash" in error.message
    assert not error.retryable


def test_the_twin_of_a_missing_runner_image_is_taken(
    docker_endpoint: str, installation: str, runner_images: object, tmp_path: Path
) -> None:
    """Debian where there is no Alpine."""
    world = world_with(docker_endpoint, installation, tmp_path, bash="cronium/runner:bash-alpine")
    assert world.run("echo hi").stdout == b"hi\n"


def test_an_image_that_may_not_be_pulled_names_the_pull(docker_endpoint: str, installation: str, tmp_path: Path) -> None:
    """pullPolicy never."""
    world = world_with(docker_endpoint, installation, tmp_path, bash="registry.invalid/some:1", pull_policy="never")
    error = refused(world)
    assert error.reason is Reason.IMAGE_MISSING
    assert "docker pull registry.invalid/some:1" in error.message


def test_a_pull_that_fails_is_told_as_such(docker_endpoint: str, installation: str, tmp_path: Path) -> None:
    """A registry that nobody can reach may be reached later."""
    error = refused(world_with(docker_endpoint, installation, tmp_path, bash="127.0.0.1:9/some:1"))
    assert error.reason is Reason.PULL_FAILED
    assert error.retryable


def test_an_image_without_a_shell_is_refused(docker_endpoint: str, installation: str, empty_image: str, tmp_path: Path) -> None:
    """With what it lacks."""
    error = refused(world_with(docker_endpoint, installation, tmp_path, bash=empty_image))
    assert error.reason is Reason.IMAGE_UNSUITABLE
    assert "sh" in error.message


def test_an_image_that_lacks_a_program_is_refused_with_its_name(
    docker_endpoint: str, installation: str, bare_image: str, tmp_path: Path
) -> None:
    """And only with what it lacks."""
    error = refused(world_with(docker_endpoint, installation, tmp_path, bash=bare_image))
    assert error.reason is Reason.IMAGE_UNSUITABLE
    assert error.details["missing"] == ["mkfifo"]


def test_an_image_without_a_workspace_gets_one(
    docker_endpoint: str, installation: str, roomless_image: str, tmp_path: Path
) -> None:
    """It belongs to the job's user."""
    world = world_with(docker_endpoint, installation, tmp_path, bash=roomless_image)
    assert world.run("pwd; touch a && echo made").stdout == b"/workspace\nmade\n"


def test_a_job_may_name_an_image_of_the_list_only(
    docker_endpoint: str, installation: str, runner_images: object, tmp_path: Path
) -> None:
    """Patterns as in file names; what is not on it is a validation problem."""
    world = world_with(
        docker_endpoint, installation, tmp_path, bash="cronium/runner:bash-alpine", allowed=["cronium/runner:*-debian"]
    )
    assert world.executor.validate(world.job("true", image=BASH)) == ()
    assert world.run("echo hi", image=BASH).stdout == b"hi\n"
    (problem,) = world.executor.validate(world.job("true", image="evil/image:1"))
    assert problem.path == "execution.image"
    assert "cronium/runner:*-debian" in problem.message


def test_everything_that_is_left_of_a_place_is_seen_and_can_be_removed(
    docker_endpoint: str, installation: str, runner_images: object, tmp_path: Path
) -> None:
    """Promise 8: containers, volumes and folders, each also on its own, and nobody else's."""
    world = World(docker_endpoint, installation, tmp_path, {"files": "exec"})
    attempt = world.attempt(world.job("echo a; sleep 60"))
    updates = world.updates(attempt, LoopControl())
    next(update for update in updates if isinstance(update, Log))
    updates.close()
    (tmp_path / "places" / "only-a-folder").mkdir()
    assert world.executor.places() == {attempt.place, "only-a-folder"}
    for place in world.executor.places():
        world.executor.cleanup(place)
    assert world.executor.places() == frozenset()
    world.close()
