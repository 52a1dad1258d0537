"""Fixtures that everybody shares: the engine, the images, short folders for sockets, and a look at what was left behind."""

import os
import shutil
import signal
import subprocess
import tempfile
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import docker
import pytest
from docker import DockerClient
from docker.errors import APIError

from cronium.common.job import ScriptType
from cronium.supervisor.images.build import build_missing
from cronium.supervisor.images.catalog import Family, reference
from cronium.worker.container.spec import LABEL_INSTALLATION

ROOT = Path(__file__).resolve().parent.parent
_ENGINE_TIMEOUT_S = 900
_CALL_TIMEOUT_S = 120


def pytest_configure() -> None:
    """A shell that starts the tests in the background has Ctrl-C ignored, also by what they start; some send it."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def docker_endpoint() -> str:
    """A real engine: the one that DOCKER_HOST or CRONIUM_DOCKER_HOST names, otherwise what `bin/engine` finds or makes."""
    done = subprocess.run([ROOT / "bin/engine"], stdout=subprocess.PIPE, text=True, timeout=_ENGINE_TIMEOUT_S, check=True)
    return done.stdout.strip()


@pytest.fixture(scope="session")
def docker_client(docker_endpoint: str) -> Iterator[DockerClient]:
    """A client of that engine."""
    client = docker.DockerClient(base_url=docker_endpoint, timeout=_CALL_TIMEOUT_S)
    yield client
    client.close()


@pytest.fixture(scope="session")
def runner_images(docker_endpoint: str) -> dict[ScriptType, str]:
    """The names of the runner images from Debian packages, by script type; built if they are missing."""
    for _ in build_missing(docker_endpoint, list(ScriptType), family=Family.DEBIAN):
        pass
    return {script: reference(script, Family.DEBIAN) for script in ScriptType}


@pytest.fixture
def tmp_runtime_dir() -> Iterator[Path]:
    """A private folder with a short path: the path of a unix socket ends at 107 bytes, and pytest's own are longer."""
    folder = Path(tempfile.mkdtemp(prefix="cr-", dir="/tmp"))
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(scope="session")
def left_in_engine(docker_client: DockerClient) -> Callable[[str], dict[str, list[str]]]:
    """Says by kind what carries an installation's label, and removes it: one test's leftovers are not the next one's."""

    def take(installation: str) -> dict[str, list[str]]:
        left = leftovers(docker_client, installation)
        for kind, found in left.items():
            for one in found:
                _remove(docker_client, kind, one)
        return left

    return take


@pytest.fixture
def installation(left_in_engine: Callable[[str], dict[str, list[str]]]) -> Iterator[str]:
    """An installation's id that nobody else has. What carries it in the engine after the test fails the test."""
    name = f"test-{os.getpid()}-{uuid.uuid4().hex[:8]}"
    yield name
    left = left_in_engine(name)
    assert not any(left.values()), f"left in the engine: {left}"


def leftovers(client: DockerClient, installation: str) -> dict[str, list[str]]:
    """Everything in the engine that carries an installation's label, by kind."""
    chosen = {"label": f"{LABEL_INSTALLATION}={installation}"}
    return {
        "container": [one["Id"] for one in client.api.containers(all=True, filters=chosen)],
        "network": [one["Id"] for one in client.api.networks(filters=chosen)],
        "volume": [one["Name"] for one in client.api.volumes(filters=chosen)["Volumes"] or ()],
    }


def _remove(client: DockerClient, kind: str, name: str) -> None:
    try:
        match kind:
            case "container":
                client.api.remove_container(name, force=True, v=True)
            case "network":
                client.api.remove_network(name)
            case "volume":
                client.api.remove_volume(name, force=True)
    except APIError as error:
        print(f"{kind} {name} could not be removed: {error}")
