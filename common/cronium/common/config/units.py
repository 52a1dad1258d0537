"""Durations and sizes as people write them, in both directions.

Pure functions, used in every process that reads the configuration or a command line. They must not know any key.

A duration is `100ms`, `30s`, `5m`, `1h` or several of these in a row as Go writes them (`1h30m`); a plain number is seconds.
A size is `512MB`, `2GB`, `512Mi`, `512m`; a plain number is bytes. All of K, KB, Ki and KiB are 1024 bytes, as with
`docker run --memory`, whose limits these sizes become: a limit must not change its meaning on the way to the engine.
"""

import re
from decimal import Decimal
from typing import Final

KIB: Final = 1024
MIB: Final = 1024 * KIB
GIB: Final = 1024 * MIB
TIB: Final = 1024 * GIB

MINUTE_S: Final = 60.0
HOUR_S: Final = 3600.0

_SECONDS_OF: Final = {"ms": Decimal("0.001"), "s": Decimal(1), "m": Decimal(60), "h": Decimal(3600)}
_BYTES_OF: Final = {"": 1, "k": KIB, "m": MIB, "g": GIB, "t": TIB}

# The digits are bounded: a number of a million digits is no configuration, and would take its time to be refused.
_NUMBER: Final = r"[0-9]{1,20}(?:\.[0-9]{1,40})?"
_DURATION_PART: Final = re.compile(rf"({_NUMBER})(ms|s|m|h)", re.ASCII)
_DURATION: Final = re.compile(rf"(?:{_NUMBER}(?:ms|s|m|h))+|{_NUMBER}", re.ASCII)
_SIZE: Final = re.compile(rf"({_NUMBER})\s*(?:([kmgt])i?b?|b)?", re.ASCII | re.IGNORECASE)


def parse_duration(value: object) -> float:
    """Seconds of `value`: a number, or text like `100ms`, `30s`, `5m`, `1h`, `1h30m`, `2.5`.

    Raises ValueError for anything else: an unknown unit, a negative or an infinite one.
    """
    match value:
        case bool():
            pass
        case int() | float() if 0 <= value < float("inf"):
            return float(value)
        case str() if _DURATION.fullmatch(text := value.strip()):
            parts = _DURATION_PART.findall(text)
            total = sum((Decimal(number) * _SECONDS_OF[unit] for number, unit in parts), Decimal(0))
            return float(total if parts else Decimal(text))
    raise ValueError("is not a duration like 100ms, 30s, 5m or 1h (a plain number is seconds)")


def format_duration(seconds: float) -> str:
    """The shortest text that `parse_duration` reads back as exactly `seconds` (0 or more)."""
    exact = Decimal(repr(float(seconds)))
    for unit in ("h", "m"):
        if exact and exact % _SECONDS_OF[unit] == 0:
            return f"{exact / _SECONDS_OF[unit]:.0f}{unit}"
    if 0 < exact < 1 and exact % _SECONDS_OF["ms"] == 0:
        return f"{exact / _SECONDS_OF['ms']:.0f}ms"
    return f"{_plain(exact)}s"


def parse_size(value: object) -> int:
    """Bytes of `value`: a whole number, or text like `512MB`, `2GB`, `512Mi`, `1.5g`, `4096`.

    Raises ValueError for anything else: an unknown unit, a negative one, or one that is no whole number of bytes.
    """
    match value:
        case bool():
            pass
        case int() if value >= 0:
            return value
        case str() if found := _SIZE.fullmatch(value.strip()):
            size = Decimal(found[1]) * _BYTES_OF[(found[2] or "").lower()]
            if size == size.to_integral_value():
                return int(size)
    raise ValueError("is not a size like 512MB, 2GB or 512Mi (1MB = 1024 * 1024 bytes; a plain number is bytes)")


def format_size(size_bytes: int) -> str:
    """The shortest text that `parse_size` reads back as exactly `size_bytes` (0 or more)."""
    for unit in ("t", "g", "m", "k"):
        if size_bytes and size_bytes % _BYTES_OF[unit] == 0:
            return f"{size_bytes // _BYTES_OF[unit]}{unit.upper()}B"
    return str(size_bytes)


def _plain(number: Decimal) -> str:
    text = format(number, "f")
    return text.rstrip("0").rstrip(".") if "." in text else text
