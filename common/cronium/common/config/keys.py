"""The model as one flat table of keys, by which files, environment, errors and documents know them.

Pure: derived from `model`, so that a key added there is known everywhere. Nothing here holds a value.
"""

import difflib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from types import MappingProxyType, UnionType
from typing import Any, Final, Literal, Union, get_args, get_origin

from annotated_types import Ge, Le
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from cronium.common.config.fields import Env, Kind, Passphrase, Token
from cronium.common.config.model import Config

ROOT: Final = "orchestrator"
"""The YAML's only top-level key; it is not part of a key's path."""
ENV_PREFIX: Final = "CRONIUM_"
FILE_SUFFIX: Final = "_FILE"
"""Ends the name of a variable that holds a secret's file instead of the secret."""

_ALIKE: Final = 0.78
"""From here on a known name is offered for an unknown one; tried with misspellings, and with names of other tools."""


@dataclass(frozen=True, slots=True)
class Key:
    """One key: `path` as in the YAML (`jobs.maxConcurrent`), `attributes` as in the model."""

    path: str
    attributes: tuple[str, ...]
    kind: Kind
    allowed: str
    description: str
    default: Any
    secret: bool
    env: tuple[str, ...]
    """Variables that win over the file, the first that is set: the key's own name, then its short ones."""
    env_last: tuple[str, ...]
    """Variables that count only where the file is silent too."""

    def value_in(self, config: Config) -> Any:
        """This key's value; a secret as SecretStr."""
        value: Any = config
        for attribute in self.attributes:
            value = getattr(value, attribute)
        return value

    def show(self, value: Any) -> str:
        """`value` as one would write it in YAML, secrets hidden; `null` when there is none."""
        match value:
            case None:
                return "null"
            case bool():
                return str(value).lower()
            case _:
                return self.kind.show(value)


@cache
def all_keys() -> Mapping[str, Key]:
    """Every key by its path, in the model's order."""
    return MappingProxyType({key.path: key for key in _walk(Config, (), ())})


@cache
def all_sections() -> frozenset[str]:
    """Paths of all sections: everything that has keys below it."""
    return frozenset(path.rsplit(".", depth)[0] for path in all_keys() for depth in range(1, path.count(".") + 1))


def nearest(path: str) -> str | None:
    """The known key or section that an unknown `path` most likely means, or None if none is like it."""
    parent, _, name = path.rpartition(".")

    def likeness(known: str) -> float:
        beside, _, leaf = known.rpartition(".")
        # The right name in the wrong section beats a similar name beside it; the whole path decides between equals.
        return _likeness(name, leaf) + (0.15 if beside == parent else 0) + 0.05 * _likeness(path, known)

    best = max([*all_keys(), *sorted(all_sections())], key=likeness)
    return best if likeness(best) >= _ALIKE else None


def _likeness(one: str, other: str) -> float:
    return difflib.SequenceMatcher(None, _plain(one), _plain(other)).ratio()


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())


def _walk(model: type[BaseModel], path: tuple[str, ...], attributes: tuple[str, ...]) -> Iterator[Key]:
    for attribute, field in model.model_fields.items():
        here = (*path, field.alias or attribute)
        names = (*attributes, attribute)
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from _walk(field.annotation, here, names)
        else:
            yield _key(field, here, names)


def _key(field: FieldInfo, path: tuple[str, ...], attributes: tuple[str, ...]) -> Key:
    marks = [*_marks(field.annotation), *field.metadata]
    env = next((mark for mark in marks if isinstance(mark, Env)), Env())
    kind = next((mark for mark in marks if isinstance(mark, Kind)), None) or _builtin_kind(field.annotation)
    return Key(
        path=".".join(path),
        attributes=attributes,
        kind=kind,
        allowed=kind.allowed + _range(kind, marks),
        description=field.description or "",
        default=None if field.default is PydanticUndefined else field.default,
        secret=kind in (*_marks(Token), *_marks(Passphrase)),
        env=(ENV_PREFIX + "_".join(attributes).upper(), *env.names),
        env_last=env.last,
    )


def _marks(annotation: Any) -> list[Any]:
    """What stands in Annotated[...], also within `... | None`."""
    marks = list(getattr(annotation, "__metadata__", ()))
    if get_origin(annotation) in (Union, UnionType):
        for option in get_args(annotation):
            marks += _marks(option)
    return marks


def _builtin_kind(annotation: Any) -> Kind:
    if get_origin(annotation) is Literal:
        return Kind(f"one of {', '.join(get_args(annotation))}")
    # `:g` would round a number of many digits; repr never does.
    return {
        bool: Kind("true or false"),
        int: Kind("a whole number"),
        float: Kind("a number", lambda n: repr(n).removesuffix(".0")),
    }[annotation]


def _range(kind: Kind, marks: list[Any]) -> str:
    low = next((mark.ge for mark in marks if isinstance(mark, Ge)), None)
    high = next((mark.le for mark in marks if isinstance(mark, Le)), None)
    return "" if low is None or high is None else f" from {kind.show(low)} to {kind.show(high)}"
