"""What happens while an image is built, as values. Builders yield them; the command line shows them.

Nothing here acts or prints.
"""

from dataclasses import dataclass

from cronium.common.errors import CroniumError

from .catalog import Family


@dataclass(frozen=True, slots=True)
class Chosen:
    """A family was chosen, for a reason that a person can read."""

    family: Family
    reason: str


@dataclass(frozen=True, slots=True)
class Skipped:
    """The image is there already; nothing is done."""

    reference: str


@dataclass(frozen=True, slots=True)
class Step:
    """A builder begins step `number` (from 1) of `total` for an image."""

    reference: str
    number: int
    total: int
    text: str


@dataclass(frozen=True, slots=True)
class Detail:
    """One line of what the tool underneath says."""

    reference: str
    line: str


@dataclass(frozen=True, slots=True)
class Retrying:
    """Something that may go better the next time failed; it is tried again after `delay_s`."""

    reference: str
    reason: str
    delay_s: float


@dataclass(frozen=True, slots=True)
class Built:
    """The image is in the engine. `size_bytes` counts all its layers, also shared ones."""

    reference: str
    image_id: str
    size_bytes: int
    duration_s: float


BuildEvent = Chosen | Skipped | Step | Detail | Retrying | Built


class ImageBuildError(CroniumError):
    """An image could not be built. The message ends with what to do next."""
