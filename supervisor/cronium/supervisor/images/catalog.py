"""Which runner images there are, what they are called, and which one stands in for another.

Pure: names in, names out. Whether an image exists is asked elsewhere and handed in as `present`.
"""

from collections.abc import Collection
from enum import StrEnum

from cronium.common.job import ScriptType

REPOSITORY = "cronium/runner"


class Family(StrEnum):
    """What a runner image is made of: Alpine from a registry, or Debian packages where none can be reached."""

    ALPINE = "alpine"
    DEBIAN = "debian"

    @property
    def other(self) -> "Family":
        """The family that stands in for this one."""
        return Family.DEBIAN if self is Family.ALPINE else Family.ALPINE


def reference(runner: ScriptType, family: Family) -> str:
    """Name a runner image, e.g. `cronium/runner:bash-alpine`."""
    return f"{REPOSITORY}:{runner}-{family}"


def parse(name: str) -> tuple[ScriptType, Family] | None:
    """Read a name that `reference` gave; None for an image that is none of ours."""
    repository, _, tag = name.partition(":")
    runner, _, family = tag.partition("-")
    if repository != REPOSITORY:
        return None
    try:
        return ScriptType(runner), Family(family)
    except ValueError:
        return None


def resolve(name: str, present: Collection[str]) -> str:
    """Choose what to run for `name`: itself if it is present, otherwise its twin of the other family.

    A name that is none of ours, or of which neither twin is present, comes back as it is: whoever pulls or refuses it
    then speaks of what the person wrote. `present` holds names with tag, as the engine lists them.
    """
    if name in present or (ours := parse(name)) is None:
        return name
    runner, family = ours
    for candidate in (reference(runner, family), reference(runner, family.other)):
        if candidate in present:
            return candidate
    return name
