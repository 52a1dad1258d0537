"""What a job's Python script may say to Cronium: `import cronium`.

It runs inside a job's place, with the script's own interpreter: standard library only, no network. What it answers from lies in
$CRONIUM_DIR; what it says goes as one JSON line, by one write, to $CRONIUM_EVENTS, which can be written but not read. Variables
that the job has set are kept in $CRONIUM_DIR/variables.set (the same lines), so that all helpers of the job see them.
"""

from __future__ import annotations

import json
import os

TYPE_CHECKING = False  # as typing's; not imported, for a script's start should not pay for it
if TYPE_CHECKING:
    from typing import Any

__all__ = [
    "event",
    "getVariable",
    "get_variable",
    "input",
    "output",
    "progress",
    "setCondition",
    "setVariable",
    "set_condition",
    "set_variable",
]


def input() -> Any:  # noqa: A001  the name is the product's
    """The job's input data."""
    return _read("input.json")


def event() -> Any:
    """What this run is: job id, event id, name, attempt."""
    return _read("event.json")


def output(data: object) -> None:
    """Make `data` the job's output; the last one counts. TypeError for what JSON cannot hold."""
    _say({"type": "output", "data": data})


def get_variable(key: str, default: Any = None) -> Any:
    """The variable's value, as this job has set it or as it was at the job's start; `default` where there is none."""
    found = _read("variables.json").get(key, default)
    try:
        with open(_path("variables.set"), "rb") as lines:  # noqa: PTH123  a script's start should not pay for pathlib
            for line in lines:
                said = json.loads(line.decode("utf-8", "replace"))
                if said["key"] == key:
                    found = said["value"]
    except FileNotFoundError:
        pass  # nothing was set yet
    return found


def set_variable(key: str, value: object) -> None:
    """Set a variable, for this job and for those after it. TypeError for what JSON cannot hold."""
    line = _say({"type": "variable", "key": str(key), "value": value})
    _append(_path("variables.set"), line)


def set_condition(value: object) -> None:
    """Set the job's condition, which decides what runs after it."""
    _say({"type": "condition", "value": bool(value)})


def progress(percentage: float, message: object = None) -> None:
    """Tell how far the job is: 0 to 100, and a word to it if you like."""
    said: dict[str, object] = {"type": "progress", "percentage": min(100, max(0, percentage))}
    if message is not None:
        said["message"] = str(message)
    _say(said)


getVariable = get_variable  # noqa: N816  the same names in all languages
setVariable = set_variable  # noqa: N816
setCondition = set_condition  # noqa: N816


def _path(name: str) -> str:
    directory = os.environ.get("CRONIUM_DIR")
    if not directory:
        raise RuntimeError("CRONIUM_DIR is not set: cronium works inside a Cronium job only")
    return directory + "/" + name


def _read(name: str) -> Any:
    with open(_path(name), "rb") as file:  # noqa: PTH123
        return json.loads(file.read().decode("utf-8"))


def _say(said: dict[str, object]) -> bytes:
    path = os.environ.get("CRONIUM_EVENTS")
    if not path:
        raise RuntimeError("CRONIUM_EVENTS is not set: cronium works inside a Cronium job only")
    text = json.dumps(said, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    line = text.encode("utf-8", "surrogateescape" if _is_from_bytes(text) else "replace") + b"\n"
    _append(path, line)
    return line


def _is_from_bytes(text: str) -> bool:
    """Whether each surrogate in it stands for a byte that was no UTF-8 (file names, arguments): then it can be said as it was."""
    try:
        text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return False
    return True


def _append(path: str, line: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        os.write(descriptor, line)
    finally:
        os.close(descriptor)
