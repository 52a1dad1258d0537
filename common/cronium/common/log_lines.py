"""Entries of our own log as lines, and their way to stderr.

Used by `logging` in every process. An entry arrives here plain and masked. A line has at most PIPE_BUF bytes: so it is
written whole between those of the other roles, which share our stderr, and never blocks once there is room (pipe(7)).
"""

import os
import select
from collections.abc import Callable, Mapping
from typing import Any, Final, cast

import orjson
from structlog.typing import WrappedLogger

from cronium.common.redact import Plain

NAMED: Final = ("job_id", "error", "duration")
"""What stands beside level, time, message and component; all else is metadata."""

MAX_LINE_BYTES: Final = select.PIPE_BUF
_CUT_TEXTS_AT_CHARS: Final = (1500, 400, 80)
"""Longest text within an entry that is too long: the first of these that makes it fit."""
_MAX_WAIT_MS: Final = 1000
"""How long an entry may wait for a reader of stderr that does not read; then it is left out, and counted."""

_COLOURS: Final = {"debug": "2", "info": "32", "warning": "33", "error": "31", "critical": "31"}
_CONTROL: Final = {code: f"\\x{code:02x}" for code in (*range(0x20), 0x7F, *range(0x80, 0xA0))} | {10: "\\n", 9: "\\t"}


def json_line(_logger: WrappedLogger, _method: str, entry: Mapping[str, Any]) -> bytes:
    """`entry` as a line of JSON; one that is too long with its texts cut, or without its metadata."""
    return _fitting(entry, _encoded)


class ConsoleLine:
    """An entry as a line for people: time, level, component, message, then name=value; a traceback below it."""

    def __init__(self, *, colours: bool) -> None:
        self._colours = colours

    def __call__(self, _logger: WrappedLogger, _method: str, entry: Mapping[str, Any]) -> bytes:
        """The line, with control characters made visible."""
        return _fitting(entry, self._line)

    def _line(self, entry: Mapping[str, Any]) -> bytes:
        metadata = dict(entry.get("metadata", {}))
        trace = str(metadata.pop("traceback", ""))
        level = f"{entry['level']:<7}"
        if self._colours:
            level = f"\x1b[{_COLOURS.get(entry['level'], '0')}m{level}\x1b[0m"
        values = {name: entry[name] for name in NAMED if name in entry} | metadata
        parts = [
            entry["time"][11:23],
            level,
            f"{_printable(entry['component']):<10}",
            _printable(entry["message"]),
            *(f"{_printable(name)}={_printable(value)}" for name, value in values.items()),
        ]
        below = "".join(f"\n    {_printable(line)}" for line in trace.splitlines())
        return f"{' '.join(parts)}{below}\n".encode(errors="backslashreplace")


class LineWriter:
    """Writes lines to a descriptor, one `write` each, and does not wait long for a reader.

    (It still can be made to, if another process takes the room between the look and the write. O_NONBLOCK would close
    that gap, but belongs to everybody who shares this stderr: the shell we were started from, too.)
    `tell_lost` makes the line that says how many were left out before.
    """

    def __init__(self, fd: int, tell_lost: Callable[[int], bytes]) -> None:
        self._fd = fd
        self._tell_lost = tell_lost
        self._lost = 0

    def write(self, line: bytes) -> None:
        """Write `line`; when nobody reads, leave it out and say so before the next one that gets through."""
        if self._lost and self._write(self._tell_lost(self._lost)):
            self._lost = 0
        if not self._write(line):
            self._lost += 1

    # The names under which structlog hands over a finished line.
    debug = info = warning = error = critical = write

    def _write(self, line: bytes) -> bool:
        try:
            # One of its own each time: threads must not share one.
            room = select.poll()
            room.register(self._fd, select.POLLOUT)
            # Once somebody was too slow, nobody waits for him again.
            if not room.poll(0 if self._lost else _MAX_WAIT_MS):
                return False
            os.write(self._fd, line)
        except OSError:
            # Closed, or a full disk: nobody is left to be told; the work goes on.
            return False
        return True


def _fitting(entry: Mapping[str, Any], encode: Callable[[Mapping[str, Any]], bytes]) -> bytes:
    line = encode(entry)
    if len(line) <= MAX_LINE_BYTES:
        return line
    for longest in _CUT_TEXTS_AT_CHARS:
        shorter = encode(cast(dict[str, Any], _cut(cast(Plain, entry), longest)))
        if len(shorter) <= MAX_LINE_BYTES:
            return shorter
    named = {
        name: value if isinstance(value, int | float) else _cut(str(value), _CUT_TEXTS_AT_CHARS[-1])
        for name, value in entry.items()
        if name != "metadata"
    }
    return encode({**named, "metadata": {"left_out": f"metadata, as the entry had {len(line)} bytes"}})


def _cut(value: Plain, longest: int) -> Plain:
    match value:
        case str() if len(value) > longest:
            # Both ends: a traceback says what happened in its last lines.
            return f"{value[: longest // 3]} … {value[-(longest - longest // 3) :]}"
        case list():
            return [_cut(inner, longest) for inner in value]
        case dict():
            return {str(_cut(name, longest)): _cut(inner, longest) for name, inner in value.items()}
        case _:
            return value


def _encoded(entry: Mapping[str, Any]) -> bytes:
    try:
        return orjson.dumps(entry, option=orjson.OPT_APPEND_NEWLINE)
    except orjson.JSONEncodeError:
        return orjson.dumps(_utf8(cast(Plain, entry)), option=orjson.OPT_APPEND_NEWLINE)


def _utf8(value: Plain) -> Plain:
    """Without lone surrogates: as such come file names that are not UTF-8."""
    match value:
        case str():
            return value.encode(errors="backslashreplace").decode()
        case list():
            return [_utf8(inner) for inner in value]
        case dict():
            return {str(_utf8(name)): _utf8(inner) for name, inner in value.items()}
        case _:
            return value


def _printable(value: Any) -> str:
    """`value` without control characters: what a script or a server said must not move the reader's cursor."""
    text = value if isinstance(value, str) else _encoded(value).decode().rstrip("\n")
    return text.translate(_CONTROL)
