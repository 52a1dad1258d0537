"""Masks secrets in what we say ourselves: by the name of a value, and by known secret texts wherever they stand.

Pure; used by the logs of every process. A job's own output is masked elsewhere, as a stream; here texts are whole.
"""

import json
import re
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import quote

MASK: Final = "***"

MIN_SECRET_CHARS: Final = 4
"""A shorter secret is masked by its name only: as a text it would be found in every other word and number."""

# `env` and `environment` hold the values of a job's environment: all of them are secrets to us.
_SECRET_NAME: Final = re.compile(
    r"token|passw|passphrase|secret|private_?key|api_?key|authorization|credential|cookie|^env(ironment)?$",
    re.IGNORECASE,
)
_MAX_DEPTH: Final = 8
_MIN_SECRET_LINE_CHARS: Final = 8

Plain = str | int | float | bool | None | list["Plain"] | dict[str, "Plain"]
"""What JSON can hold."""


@dataclass(frozen=True, slots=True)
class Redactor:
    """Makes any value plain and free of secrets. Frozen: more secrets make another one."""

    secrets: frozenset[str] = field(default=frozenset(), repr=False)
    _pattern: re.Pattern[str] | None = field(default=None, repr=False)

    def with_secrets(self, values: Iterable[str]) -> "Redactor":
        """One that masks `values` too: as they are, line by line, and as JSON, Python and URLs quote them."""
        secrets = self.secrets | {form for value in values for form in _forms(value)}
        # The longest first: of two secrets that begin alike, all of the longer one must go.
        ordered = sorted(secrets, key=len, reverse=True)
        return Redactor(secrets, re.compile("|".join(map(re.escape, ordered))) if ordered else None)

    def text(self, text: str) -> str:
        """`text` without the known secrets."""
        return self._pattern.sub(MASK, text) if self._pattern else text

    def plain(self, value: Any) -> Plain:
        """`value` as JSON can hold it, masked. Objects become their `str()`."""
        return self._plain(value, _MAX_DEPTH)

    def entry(self, name: str, value: Any) -> Plain:
        """As `plain`, for a value with a name: masked whole if the name is a secret's."""
        return self._entry(name, value, _MAX_DEPTH)

    def _entry(self, name: str, value: Any, depth: int) -> Plain:
        if _SECRET_NAME.search(name) and not (value is None or isinstance(value, bool)):
            return MASK
        return self._plain(value, depth)

    def _plain(self, value: Any, depth: int) -> Plain:
        match value:
            case None | bool() | float():
                return value
            case int():
                # JSON's own numbers end at 64 bits here; more would fail in the encoder.
                return value if -(2**63) <= value < 2**64 else str(value)
            case str():
                return self.text(str(value))
            case _ if _is_secret(value):
                return MASK
            case bytes() | bytearray() | memoryview():
                return self.text(bytes(value).decode(errors="backslashreplace"))
            case Mapping() if depth:
                return {self.text(str(name)): self._entry(str(name), inner, depth - 1) for name, inner in value.items()}
            case list() | tuple() | set() | frozenset() if depth:
                return [self._plain(inner, depth - 1) for inner in value]
            case BaseException():
                return self.text(f"{type(value).__name__}: {_str(value)}")
            case _:
                return self.text(_str(value))


def _is_secret(value: object) -> bool:
    """Whether it is one of pydantic's secrets; a process that has not loaded pydantic has none, and need not load it to know."""
    pydantic = sys.modules.get("pydantic")
    return pydantic is not None and isinstance(value, pydantic.SecretStr | pydantic.SecretBytes)


def _str(value: object) -> str:
    try:
        return str(value)
    except Exception as wrong:  # noqa: BLE001 - an object's own __str__ may raise anything, and a log entry must not
        return f"<{type(value).__name__} without a text: {type(wrong).__name__}>"


def _forms(secret: str) -> set[str]:
    pieces = {secret, secret.strip()}
    if "\n" in secret:
        pieces |= {line.strip() for line in secret.splitlines() if len(line.strip()) >= _MIN_SECRET_LINE_CHARS}
    forms = {
        form
        for piece in pieces
        for form in (
            piece,
            json.dumps(piece)[1:-1],
            json.dumps(piece, ensure_ascii=False)[1:-1],
            repr(piece)[1:-1],
            quote(piece, safe=""),
        )
    }
    return {form for form in forms if len(form) >= MIN_SECRET_CHARS}
