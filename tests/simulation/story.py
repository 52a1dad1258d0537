"""Tells a history to a person: what happened, in order, with times; on request only what led to a broken promise."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable
from enum import Enum

from cronium.supervisor.core import actions as do

_JOB = re.compile(r"job-\d+")
Told = tuple[float, object, object]


def tell(told: Iterable[Told], about: frozenset[str] = frozenset(), last: int | None = None) -> str:
    """One line an event, a write, an action. `about`: only what names one of these jobs, and what befell everybody."""
    lines: list[str] = []
    for at_s, what, more in told:
        if not isinstance(more, do.Step):
            text = f"{what} {more}"
            if _concerns(text, about):
                lines.append(f"{at_s:10.3f}  -- {text}")
            continue
        inner = [f"{'':14}write {short(write)}" for write in more.writes]
        inner += [f"{'':14}do    {short(action)}" for action in more.actions if not isinstance(action, do.Note)]
        event = short(what)
        if about and not _names(event, about):
            inner = [line for line in inner if _names(line, about)]
        if not about or inner or _names(event, about):
            lines.append("\n".join([f"{at_s:10.3f}  {event}", *inner]))
    left_out = [] if last is None or len(lines) <= last else [f"({len(lines) - last} earlier ones left out)"]
    return "\n".join(left_out + (lines if last is None else lines[-last:]))


def jobs_in(text: str) -> frozenset[str]:
    """The jobs that are named in it."""
    return frozenset(_JOB.findall(text))


def short(value: object) -> str:
    """A dataclass with only those fields that say something."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = []
        for field in dataclasses.fields(value):
            held = getattr(value, field.name)
            if held not in (field.default, None, "", (), 0, False):
                fields.append(f"{field.name}={short(held)}")
        return f"{type(value).__name__}({', '.join(fields)})"
    if isinstance(value, Enum):
        return str(value.value)
    if isinstance(value, tuple):
        return f"({', '.join(map(short, value))})"
    return repr(value)


def _concerns(text: str, about: frozenset[str]) -> bool:
    named = jobs_in(text)
    return not about or not named or bool(named & about)


def _names(text: str, about: frozenset[str]) -> bool:
    return bool(jobs_in(text) & about)
