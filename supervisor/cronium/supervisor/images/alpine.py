"""Builds the runner images from the Dockerfiles in `etc/images`, for those who can reach an image registry.

The engine does the work and needs the network for it: the base image, then Alpine's packages. Runs in the command line's
process; root is not needed.
"""

import re
import time
from collections.abc import Iterable, Iterator
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

import requests
from docker import DockerClient
from docker.errors import DockerException

from cronium.common.job import ScriptType

from .catalog import Family, parse, reference
from .events import BuildEvent, Built, Detail, ImageBuildError, Step

_STEP = re.compile(r"Step (\d+)/(\d+) : (.*)")  # the engine's own builder, moby builder/dockerfile/evaluator.go
_FROM = re.compile(r"^FROM\s+(\S+)", re.MULTILINE)


def dockerfiles() -> Path:
    """The folder with a folder for each image; in the source tree it is `etc/images`."""
    with as_file(files(__package__) / "dockerfiles") as folder:
        return folder


def registry_image() -> str:
    """Name the one image that must come from a registry: what the bash image is made of."""
    match = _FROM.search((dockerfiles() / "bash-alpine" / "Dockerfile").read_text())
    if match is None:
        raise ImageBuildError("bash-alpine/Dockerfile has no FROM line. Next: put it back as it was.")
    return match[1]


def build(client: DockerClient, scripts: Iterable[ScriptType]) -> Iterator[BuildEvent]:
    """Build the images for these script types, and the bash image first, which is their base. Raises ImageBuildError."""
    for script in (ScriptType.BASH, *(script for script in scripts if script is not ScriptType.BASH)):
        name = reference(script, Family.ALPINE)
        yield from build_folder(client, name, dockerfiles() / name.partition(":")[2])


def build_folder(client: DockerClient, name: str, folder: Path) -> Iterator[BuildEvent]:
    """Build one image from a folder with a Dockerfile. Raises ImageBuildError."""
    begun = time.monotonic()
    try:
        for said in client.api.build(path=str(folder), tag=name, decode=True, rm=True, forcerm=True):
            yield from _events(name, said)
        image = client.images.get(name)
    except (DockerException, requests.RequestException) as error:
        raise ImageBuildError(f"Building {name} failed: {error}. Next: {_next_step(name)}") from error
    yield Built(name, str(image.id), int(image.attrs["Size"]), time.monotonic() - begun)


def _events(name: str, said: dict[str, Any]) -> Iterator[BuildEvent]:
    """Read one message of the engine's builder (Engine API, POST /build): `stream`, `status` of a pull, or `error`."""
    if "error" in said:
        raise ImageBuildError(f"Building {name} failed: {said['error'].strip()}. Next: {_next_step(name)}")
    text = str(said.get("stream") or said.get("status") or "").strip()
    if match := _STEP.match(text):
        yield Step(name, int(match[1]), int(match[2]), match[3])
    elif text:
        yield Detail(name, text)


def _next_step(name: str) -> str:
    ours = parse(name)
    script = ours[0] if ours else "bash"
    return f"look whether the engine reaches its registry, or, as root, `images build {script} --from debian`."
