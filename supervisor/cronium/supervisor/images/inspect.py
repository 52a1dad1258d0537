"""Finds out whether an image has what the launcher needs, by asking it in a short container without network.

Runs wherever an image is first used or listed. An image never changes under its id, so an answer is kept for good in a
small file of the state directory.
"""

import json
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path

import requests
from docker import DockerClient
from docker.errors import APIError, DockerException, ImageNotFound

from cronium.common.errors import CroniumError

# What launcher.sh calls (DESIGN.md, 'One launcher for both executors').
NEEDED = ("sh", "tar", "dd", "mkfifo", "stat")
LABEL = {"cronium.purpose": "image-check"}
_CACHE_FILE = "images.json"
_ASK = f'for name in {" ".join(NEEDED)}; do command -v "$name" >/dev/null || echo "$name"; done'
_ASK_TIMEOUT_S = 30
_NO_SHELL = ("executable file not found", "no such file or directory", "exec format error")


class ImageCheckError(CroniumError):
    """An image could not be asked. The message ends with what to do next."""


@dataclass(frozen=True, slots=True)
class Fitness:
    """What of NEEDED an image lacks; nothing: the launcher runs in it."""

    image_id: str
    missing: tuple[str, ...]

    @property
    def fit(self) -> bool:
        """Whether the launcher runs in it."""
        return not self.missing


def inspect_image(client: DockerClient, reference: str, state_dir: Path) -> Fitness:
    """Say what an image that is present lacks, from the cache or by asking it (about 0.4 s).

    Raises ImageCheckError when it is not there or the engine fails.
    """
    try:
        image_id = str(client.images.get(reference).id)
        known = _read(state_dir)
        if image_id not in known:
            known[image_id] = _missing_in(client, image_id)
            _write(state_dir, known)
    except ImageNotFound as error:
        raise ImageCheckError(f"There is no image {reference}. Next: `cronium-supervisor images build`.") from error
    except (DockerException, requests.RequestException) as error:
        raise ImageCheckError(f"Image {reference} could not be asked: {error}. Next: see `docker info`.") from error
    return Fitness(image_id, tuple(known[image_id]))


def _missing_in(client: DockerClient, image_id: str) -> list[str]:
    """Run the question as a job would be run: no network, no capabilities, an ordinary user."""
    container = client.containers.create(
        image_id,
        entrypoint=["sh", "-c", _ASK],
        command=[],
        user="1000:1000",
        working_dir="/",
        network_mode="none",
        cap_drop=["ALL"],
        security_opt=["no-new-privileges"],
        pids_limit=32,
        mem_limit="64m",
        labels=LABEL,
    )
    try:
        container.start()
        ended = container.wait(timeout=_ASK_TIMEOUT_S)
        said = container.logs(stdout=True, stderr=False).decode().split()
    except APIError as error:
        if any(words in str(error).lower() for words in _NO_SHELL):
            return list(NEEDED)  # nothing else can be asked
        raise
    finally:
        container.remove(force=True)
    if ended["StatusCode"] != 0:
        raise DockerException(f"its sh ended with exit code {ended['StatusCode']}")
    return [name for name in NEEDED if name in said]


def _read(state_dir: Path) -> dict[str, list[str]]:
    try:
        known: dict[str, list[str]] = json.loads((state_dir / _CACHE_FILE).read_bytes())
    except (FileNotFoundError, ValueError):
        return {}
    return known


def _write(state_dir: Path, known: dict[str, list[str]]) -> None:
    """Replace the file in one step, so that a reader or a crash never meets half of it."""
    state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(prefix=f"{_CACHE_FILE}.", dir=state_dir)
    with os.fdopen(descriptor, "w") as file:
        json.dump(known, file)
    Path(name).replace(state_dir / _CACHE_FILE)
