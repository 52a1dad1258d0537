"""Chooses how the runner images are built, and has them built: what `images build` does.

Runs in the command line's process. Which images exist is asked of the engine; what happens is told as events.
"""

from collections.abc import Generator, Iterator, Sequence

import requests
from docker import DockerClient
from docker.errors import APIError, DockerException

from cronium.common.job import ScriptType

from . import alpine, debian
from .catalog import Family, reference, resolve
from .engine import connect
from .events import BuildEvent, Chosen, ImageBuildError, Skipped

_REGISTRY_TIMEOUT_S = 15


def present_images(client: DockerClient) -> frozenset[str]:
    """Every name with a tag that the engine has an image for."""
    return frozenset(tag for image in client.api.images() for tag in image.get("RepoTags") or ())


def build_missing(
    endpoint: str, scripts: Sequence[ScriptType], *, family: Family | None = None, force: bool = False
) -> Generator[BuildEvent, None, None]:
    """Build what is missing of the images for these script types, or all of them with `force`.

    Without a `family`, an image of either counts as present, and one is chosen: Alpine when the engine reaches its
    registry, Debian packages otherwise, also when the first did not work out. Raises ImageBuildError and
    EngineUnreachableError.
    """
    client = connect(endpoint)
    try:
        missing = []
        for script, name in _present(client, scripts, family):
            if name is None or force:
                missing.append(script)
            else:
                yield Skipped(name)
        if missing:
            yield from _build(client, endpoint, missing, family)
    finally:
        client.close()


def _present(
    client: DockerClient, scripts: Sequence[ScriptType], family: Family | None
) -> Iterator[tuple[ScriptType, str | None]]:
    present = present_images(client)
    for script in dict.fromkeys(scripts):
        wanted = reference(script, family or Family.ALPINE)
        name = resolve(wanted, present) if family is None else wanted
        yield script, name if name in present else None


def _build(client: DockerClient, endpoint: str, scripts: Sequence[ScriptType], family: Family | None) -> Iterator[BuildEvent]:
    chosen = Chosen(family, "as asked for") if family is not None else _choose(endpoint)
    yield chosen
    if chosen.family is Family.DEBIAN:
        yield from debian.build(client, scripts)
        return
    try:
        yield from alpine.build(client, scripts)
    except ImageBuildError as error:
        if family is not None:
            raise
        yield Chosen(Family.DEBIAN, f"the registry answered, but: {str(error).partition(' Next:')[0]}")
        yield from debian.build(client, scripts)


def _choose(endpoint: str) -> Chosen:
    """Ask the engine itself whether it reaches the registry: it has its own proxy, mirrors and names."""
    image = alpine.registry_image()
    try:
        client = connect(endpoint, timeout_s=_REGISTRY_TIMEOUT_S)
        try:
            if image not in present_images(client):
                client.images.get_registry_data(image)
        finally:
            client.close()
    except APIError as error:
        return Chosen(Family.DEBIAN, f"the engine cannot get {image}: {error.explanation}")
    except (DockerException, requests.RequestException) as error:
        return Chosen(Family.DEBIAN, f"the engine cannot get {image}: {error}")
    return Chosen(Family.ALPINE, f"the engine can get {image}")
