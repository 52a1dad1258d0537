"""The image of a job: which one stands for its name, and that it is here.

Runs in a worker. Names of our own runner images are never pulled: nobody publishes them, so whoever did would be a stranger.
"""

from __future__ import annotations

from cronium.common.errors import ExecutionError, Reason
from cronium.worker.container.engine import Engine
from cronium.worker.container.settings import Settings

_RUNNER = "cronium/runner:"
_FAMILIES = ("-alpine", "-debian")


def twin(name: str) -> str | None:
    """The runner image that stands in for this one; None for an image that is none of ours."""
    if name.startswith(_RUNNER):
        for family, other in (_FAMILIES, _FAMILIES[::-1]):
            if name.endswith(family):
                return name.removesuffix(family) + other
    return None


def present(engine: Engine, name: str, settings: Settings) -> tuple[str, str] | None:
    """Name and id of the image to run for `name`, if it is here already and need not be pulled."""
    other = twin(name)
    if settings.container.images.pull_policy == "always" and other is None:
        return None
    for candidate in (name, other if settings.container.images.fallback else None):
        if candidate is not None and (image_id := engine.image_id(candidate)) is not None:
            return candidate, image_id
    return None


def fetch(engine: Engine, name: str, settings: Settings) -> tuple[str, str]:
    """Pull it; name and id. Raises ExecutionError: image_missing, image_auth, pull_failed."""
    images = settings.container.images
    if twin(name) is not None:
        kind = name.removeprefix(_RUNNER).rpartition("-")[0]
        raise ExecutionError(
            Reason.IMAGE_MISSING,
            f"there is no image {name} on this engine: make it with `cronium-supervisor images build {kind}`",
            image=name,
        )
    if images.pull_policy == "never":
        raise ExecutionError(
            Reason.IMAGE_MISSING,
            f"there is no image {name} on this engine, and container.images.pullPolicy is never: `docker pull {name}`",
            image=name,
        )
    engine.pull(name, images.pull_timeout)
    image_id = engine.image_id(name)
    if image_id is None:
        raise ExecutionError(
            Reason.PULL_FAILED, f"image {name} was pulled and is not there: look with `docker images`", image=name
        )
    return name, image_id
