"""What a script says through the runtime helpers: JSON lines of the `events` file.

Pure. They are the script's own words: garbage is counted and told, never an error. Helpers append
`{"type": "output", "data": …}`, `{"type": "variable", "key": …, "value": …}`, `{"type": "condition", "value": true}`,
`{"type": "progress", "percentage": …, "message": …}`; the last word counts.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import orjson

from cronium.worker.executor import Progress

MAX_LINE_BYTES = 8 * 1024 * 1024
MAX_VARIABLES = 10_000
_MAX_MESSAGE = 1000


@dataclass(slots=True)
class Events:
    """All that was said so far. JSON texts are kept as bytes."""

    max_bytes: int
    script_output: bytes | None = None
    condition: bool | None = None
    progress: Progress | None = None
    ignored_lines: int = 0
    taken_bytes: int = 0
    _variables: dict[str, Any] = field(default_factory=dict)
    _partial: bytearray = field(default_factory=bytearray)

    @property
    def variables(self) -> bytes | None:
        """The changed variables as a JSON object."""
        return orjson.dumps(self._variables) if self._variables else None

    @property
    def problems(self) -> tuple[str, ...]:
        """What people should know."""
        said = []
        if self.ignored_lines:
            said.append(f"{self.ignored_lines} lines of the events file were no events")
        if self.taken_bytes >= self.max_bytes:
            said.append(f"more than {self.max_bytes} bytes of events: the rest was left out (container.maxEvents)")
        return tuple(said)

    def feed(self, data: bytes) -> Progress | None:
        """Take more of the file; the newest progress in it."""
        data = data[: max(0, self.max_bytes - self.taken_bytes)]
        self.taken_bytes += len(data)
        self._partial += data
        end = self._partial.rfind(b"\n")
        if end < 0:
            return None
        lines = bytes(self._partial[:end]).split(b"\n")
        del self._partial[: end + 1]
        before, self.progress = self.progress, None
        for line in lines:
            if line.strip() and not self._take(line):
                self.ignored_lines += 1
        fresh, self.progress = self.progress, self.progress or before
        return fresh

    def _take(self, line: bytes) -> bool:
        try:
            event = orjson.loads(line)
        except orjson.JSONDecodeError:
            return False
        match event:
            case {"type": "output", "data": data}:
                self.script_output = orjson.dumps(data)
            case {"type": "condition", "value": bool() as value}:
                self.condition = value
            case {"type": "variable", "key": str() as key, "value": value}:
                if key not in self._variables and len(self._variables) >= MAX_VARIABLES:
                    return False
                self._variables[key] = value
            case {"type": "progress"}:
                self.progress = Progress(_percentage(event.get("percentage")), _message(event.get("message")))
            case _:
                return False
        return True


def _percentage(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return min(100.0, max(0.0, float(value)))


def _message(value: object) -> str | None:
    return value[:_MAX_MESSAGE] if isinstance(value, str) else None
