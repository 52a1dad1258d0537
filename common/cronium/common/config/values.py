"""Values as they were given, each with its source, and the `${VAR}` in them.

Pure. Every value is text here (`0.5`, `true`, `30s`, `1.40`); only its key knows what it means. So file and environment
follow the same rules, and YAML's guesses (1.40 is 1.4, 1:30 is 90) are never made. An empty value is 'not set'.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from cronium.common.config.problems import ConfigProblem

Given = str | tuple[str, ...] | dict[str, str]
"""A value as it was written: a text, a list of texts, or texts by name."""

_REFERENCE: Final = re.compile(r"(\$?)\$\{(?:([A-Za-z_][A-Za-z0-9_]*)(?:(:-)([^{}]*))?\})?")


@dataclass(frozen=True, slots=True)
class Value:
    """A value and its source: `FILE:LINE` or `environment NAME`."""

    given: Given
    source: str


@dataclass(frozen=True, slots=True)
class Found:
    """What a source had to say: values by path, and what was wrong with it."""

    values: Mapping[str, Value]
    problems: tuple[ConfigProblem, ...] = ()


def expand(value: Value, environ: Mapping[str, str]) -> Value | ValueError | None:
    """`value` with each `${VAR}` and `${VAR:-default}` filled in; `$${` stands for `${`.

    None when nothing is left of it ('not set'); a ValueError that says which variable is missing or what is malformed.
    """
    names: list[str] = []

    def fill(found: re.Match[str]) -> str:
        escape, name, has_default, default = found.groups()
        if escape:
            return found[0][1:]
        if name is None:
            raise ValueError("has a `${` that is neither ${NAME} nor ${NAME:-default} (write $${ for `${` itself)")
        names.append(name)
        if has_default:
            return environ.get(name) or default
        if name not in environ:
            raise ValueError(f"refers to {name}, which is not set: set it, or write ${{{name}:-default}}")
        return environ[name]

    try:
        match value.given:
            case str(text):
                given: Given = _REFERENCE.sub(fill, text)
            case dict(pairs):
                given = {name: _REFERENCE.sub(fill, text) for name, text in pairs.items()}
            case tuple(items):
                given = tuple(_REFERENCE.sub(fill, text) for text in items)
    except ValueError as wrong:
        return wrong
    if given == "":
        return None
    via = "".join(f" ${{{name}}}" for name in dict.fromkeys(names))
    return Value(given, value.source + via)
