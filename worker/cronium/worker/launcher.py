"""The worker's side of the launcher: its texts, what is sent to it, and what it says back.

Used in a worker by both executors. Everything here is a plain value or a pure function: a `LaunchSpec` becomes the bytes of
one tar stream for the launcher's stdin, the bytes of its `state` file become events, and two offsets become the line in `credit`.
It opens no socket or file of a place, and starts nothing.

The other half is `launcher.sh`; its head comment has the same contract from the place's side.
"""

import math
import re
import tarfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from typing import Final, Literal, get_args

Interpreter = Literal["bash", "python3", "node"]
Stream = Literal["stdout", "stderr"]
Why = Literal["exit", "deadline", "cancel"]

SPEC_VERSION: Final = 1
STDIN_WAIT_S: Final = 120
"""A launcher that gets no first byte for so long gives up, unless its own environment has another CRONIUM_STDIN_WAIT_S."""

READ_BYTES: Final = 65536
"""What a pump reads at once: a pipe's capacity on Linux (pipe(7)). The least that can be allowed to lie unread."""
DEFAULT_MAX_UNREAD_BYTES: Final = 64 * 1024 * 1024
DEFAULT_MAX_RESULTS_BYTES: Final = 64 * 1024 * 1024

MAX_VARIABLE_BYTES: Final = 131072 - 1
"""One NAME=value with its NUL: MAX_ARG_STRLEN, 32 pages, in linux/binfmts.h; longer ones make execve fail."""
MAX_ENVIRONMENT_BYTES: Final = 1_500_000
"""All of them: execve allows a quarter of the stack's limit (8 MiB by default) for arguments and environment together."""
MAX_LINE_BYTES: Final = 4096
CREDIT_BYTES: Final = 42

RUNTIME_HELPERS: Final = ("cronium.sh", "cronium.py", "cronium.js")
RUNTIME_COMMANDS: Final = (
    "cronium_input",
    "cronium_output",
    "cronium_get_variable",
    "cronium_set_variable",
    "cronium_set_condition",
    "cronium_event",
    "cronium_progress",
)
RESERVED_HELPERS: Final = frozenset((*RUNTIME_HELPERS, *RUNTIME_COMMANDS))
"""Names in `helpers/` that are always ours: they speak this place's files, which another version of them could not know."""

_ENV_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z", re.ASCII)
_MAX_HELPER_NAME_BYTES: Final = 90  # with "helpers/" it still fits a ustar header's 100 (POSIX pax, "ustar Interchange Format")
_MAX_SECONDS: Final = 10**9


@dataclass(frozen=True, slots=True, kw_only=True)
class LaunchSpec:
    """One attempt, as the launcher in a place is told of it. Raises ValueError (what, and why) when it cannot be said.

    `working_directory` is absolute, or empty to stay where the launcher was started. `deadline_s` 0 means none; it counts from
    the script's start. `interpreter` is a name on the place's PATH, or an absolute path there. `helpers` are the job's own
    files, by plain file name; those named like one of `RESERVED_HELPERS` are left out. The three JSON documents are what the
    runtime helpers answer from.
    """

    interpreter: Interpreter | str
    script: bytes = field(repr=False)
    working_directory: str = ""
    deadline_s: float = 0
    grace_s: float = 10
    max_unread_bytes: int = DEFAULT_MAX_UNREAD_BYTES
    max_results_bytes: int = DEFAULT_MAX_RESULTS_BYTES
    environment: Mapping[str, str] = field(default_factory=dict, repr=False)
    helpers: Mapping[str, bytes] = field(default_factory=dict, repr=False)
    input_json: bytes = field(default=b"{}", repr=False)
    variables_json: bytes = field(default=b"{}", repr=False)
    event_json: bytes = field(default=b"{}", repr=False)

    def __post_init__(self) -> None:
        _check_interpreter(self.interpreter)
        _check_directory(self.working_directory)
        _check_seconds("deadline_s", self.deadline_s)
        _check_seconds("grace_s", self.grace_s)
        if self.max_unread_bytes < READ_BYTES:
            raise ValueError(f"max_unread_bytes {self.max_unread_bytes}: at least {READ_BYTES}, one read of a pump")
        if self.max_results_bytes < 0:
            raise ValueError(f"max_results_bytes {self.max_results_bytes}: must not be negative")
        _check_environment(self.environment)
        for name in self.helpers:
            _check_helper_name(name)


def launcher_text() -> str:
    """The launcher's text, for `sh -c TEXT cronium FILES RUN`. Raises nothing in an intact installation."""
    return _resource("launcher.sh").decode()


def launch_stream(spec: LaunchSpec) -> bytes:
    """The whole tar stream for the launcher's stdin; the sender closes its side after it."""
    members = (_member(name, data) for name, data in _members(spec))
    archive = b"".join((*members, _runtime_members(), _member("complete", b""), bytes(2 * tarfile.BLOCKSIZE)))
    return archive + bytes(-len(archive) % tarfile.RECORDSIZE)


def _members(spec: LaunchSpec) -> Iterator[tuple[str, bytes]]:
    yield "spec", _spec_lines(spec)
    yield "env", "".join(f"command export {name}={_quoted(value)}\n" for name, value in spec.environment.items()).encode()
    yield "script", spec.script
    yield "input.json", spec.input_json
    yield "variables.json", spec.variables_json
    yield "event.json", spec.event_json
    for name, data in spec.helpers.items():
        if name not in RESERVED_HELPERS:
            yield f"helpers/{name}", data


def _spec_lines(spec: LaunchSpec) -> bytes:
    lines = (
        str(SPEC_VERSION),
        spec.interpreter,
        spec.working_directory,
        _decimal(spec.deadline_s),
        _decimal(spec.grace_s),
        str(spec.max_unread_bytes),
        str(spec.max_results_bytes),
    )
    return "".join(f"{line}\n" for line in lines).encode()


def _quoted(value: str) -> str:
    return "'" + value.replace("'", "'\\''") + "'"


def _decimal(seconds: float) -> str:
    return f"{seconds:.3f}".rstrip("0").rstrip(".")


def _member(name: str, data: bytes, *, mode: int = 0o644) -> bytes:
    info = tarfile.TarInfo(name)
    info.size = len(data)
    info.mode = mode
    padding = -len(data) % tarfile.BLOCKSIZE
    return info.tobuf(tarfile.USTAR_FORMAT) + data + b"\0" * padding


@cache
def _runtime_members() -> bytes:
    """The helpers as members: a constant of the installation, so it is made once a process."""
    texts = (_member(f"helpers/{name}", _resource("helpers", name)) for name in RUNTIME_HELPERS)
    commands = (_member(f"helpers/{name}", _command(name), mode=0o755) for name in RUNTIME_COMMANDS)
    return b"".join((*texts, *commands))


def _command(name: str) -> bytes:
    return f'#!/bin/sh\n. "${{CRONIUM_DIR:?is set inside a Cronium job only}}/helpers/cronium.sh"\n{name} "$@"\n'.encode()


def _resource(*path: str) -> bytes:
    return files("cronium.worker").joinpath(*path).read_bytes()


def _check_interpreter(interpreter: str) -> None:
    if interpreter not in get_args(Interpreter) and not interpreter.startswith("/"):
        raise ValueError(f"interpreter {interpreter!r}: use one of {', '.join(get_args(Interpreter))}, or an absolute path")
    if "\n" in interpreter or "\0" in interpreter:
        raise ValueError(f"interpreter {interpreter!r}: must have no newline and no NUL")
    _check_encodable("interpreter", interpreter)


def _check_directory(directory: str) -> None:
    if directory and not directory.startswith("/"):
        raise ValueError(f"working_directory {directory!r}: must be absolute, or empty to stay where the place starts")
    if "\n" in directory or "\0" in directory:
        raise ValueError(f"working_directory {directory!r}: must have no newline and no NUL")
    _check_encodable("working_directory", directory)


def _check_seconds(name: str, seconds: float) -> None:
    if not math.isfinite(seconds) or not 0 <= seconds <= _MAX_SECONDS:
        raise ValueError(f"{name} {seconds}: must be from 0 to {_MAX_SECONDS} seconds")
    if 0 < seconds < 0.001:
        raise ValueError(f"{name} {seconds}: finer than the launcher's clock; use 0.001 or more")


def _check_environment(environment: Mapping[str, str]) -> None:
    total_bytes = 0
    for name, value in environment.items():
        if not _ENV_NAME.match(name):
            raise ValueError(f"environment name {name!r}: letters, digits and _ only, not a digit first")
        if "\0" in value:
            raise ValueError(f"environment value of {name}: has a NUL, which no environment can hold")
        _check_encodable(f"environment value of {name}", value)
        size = len(name) + 1 + len(value.encode()) + 1
        if size > MAX_VARIABLE_BYTES:
            raise ValueError(f"environment value of {name}: {size} bytes; Linux takes {MAX_VARIABLE_BYTES} a variable")
        total_bytes += size
    if total_bytes > MAX_ENVIRONMENT_BYTES:
        raise ValueError(f"environment: {total_bytes} bytes in all; at most {MAX_ENVIRONMENT_BYTES}. Use inputData instead")


def _check_helper_name(name: str) -> None:
    if not name or name in (".", "..") or "/" in name or "\0" in name or "\n" in name:
        raise ValueError(f"helper name {name!r}: must be a plain file name")
    _check_encodable("helper name", name)
    if len(name.encode()) > _MAX_HELPER_NAME_BYTES:
        raise ValueError(f"helper name {name!r}: longer than {_MAX_HELPER_NAME_BYTES} bytes")


def _check_encodable(what: str, text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"{what}: has a lone surrogate at {error.start}, which is no text") from error


@dataclass(frozen=True, slots=True)
class Started:
    """The script is about to start. `start_ticks`: field 22 of /proc/PID/stat; None where the place could not tell."""

    pid: int | None
    start_ticks: int | None
    boot_id: str | None


@dataclass(frozen=True, slots=True)
class Ended:
    """The script has ended with `code` (128 + N after signal N). Its output may still be on its way."""

    code: int
    why: Why


@dataclass(frozen=True, slots=True)
class Usage:
    """What the place as a whole has used; None where unknown.

    `pids_hits`: how often its process limit said no. `oom_kills`: how many of its processes the kernel ended for want of memory
    (`oom_kill` of memory.events, or of memory.oom_control since Linux 4.13).
    """

    peak_memory_bytes: int | None
    cpu_usec: int | None
    rx_bytes: int | None
    tx_bytes: int | None
    pids_hits: int | None
    oom_kills: int | None = None


@dataclass(frozen=True, slots=True)
class Segment:
    """On a server: a stream goes on in the file `STREAM.OFFSET`. All before it was safe with us by then."""

    stream: Stream
    offset: int


@dataclass(frozen=True, slots=True)
class OutputWaits:
    """A stream is not read on until there is room for it. `reason`: disk_full. Said once for each stream."""

    stream: Stream
    reason: str


@dataclass(frozen=True, slots=True)
class OutputLost:
    """Some output of a stream is not in its file. `reason`: disk_full, file_limit, write_error, pump_lost."""

    stream: Stream
    reason: str
    detail: str


@dataclass(frozen=True, slots=True)
class Results:
    """The tar of the output folder is in `results`: whole, cut at `size_bytes` (`too_large`), or not to be had (`failure`)."""

    size_bytes: int | None
    too_large: bool = False
    failure: str | None = None


@dataclass(frozen=True, slots=True)
class Drained:
    """The last line: both pumps have ended, all is in the files, up to these offsets (None where unknown)."""

    stdout_bytes: int | None
    stderr_bytes: int | None


@dataclass(frozen=True, slots=True)
class Failed:
    """The script was not started. `reason`: no_input, incomplete, interpreter_missing, working_directory, …"""

    reason: str
    detail: str


StateEvent = Started | Ended | Usage | Segment | OutputWaits | OutputLost | Results | Drained | Failed


class StateReader:
    """Reads `state` as it grows: bytes in, events out. Never raises for what a place (or its script) wrote there.

    Lines that mean nothing are left out and counted in `ignored_lines`; a line counts only with its newline; one longer than
    4 KiB is skipped without being kept.
    """

    def __init__(self) -> None:
        self.ignored_lines = 0
        self._partial = b""
        self._skipping = False

    def feed(self, data: bytes) -> list[StateEvent]:
        """The events of the lines that `data` completes, in their order."""
        *lines, rest = (self._partial + data).split(b"\n")
        if lines and self._skipping:
            del lines[0]
            self._skipping = False
        events = [event for line in lines if (event := self._event(line)) is not None]
        if self._skipping or len(rest) > MAX_LINE_BYTES:
            self.ignored_lines += not self._skipping
            self._skipping, rest = True, b""
        self._partial = rest
        return events

    def _event(self, line: bytes) -> StateEvent | None:
        event = parse_state_line(line) if len(line) <= MAX_LINE_BYTES else None
        if event is None:
            self.ignored_lines += 1
        return event


def parse_state_line(line: bytes) -> StateEvent | None:
    """One line of `state` without its newline; None for what is not one."""
    try:
        words = line.decode("utf-8", "replace").split(" ")
        match words:
            case ["started", pid, start_ticks, boot_id]:
                return Started(_number(pid), _number(start_ticks), None if boot_id == "-" else boot_id)
            case ["ended", code, ("exit" | "deadline" | "cancel") as why]:
                return Ended(_exit_code(code), why)
            case ["usage", peak, cpu, rx, tx, pids, *oom] if len(oom) <= 1:  # a place older than we are may not say the last
                return Usage(*(_number(word) for word in (peak, cpu, rx, tx, pids, *oom)))
            case ["segment", ("stdout" | "stderr") as stream, offset]:
                return Segment(stream, _offset(offset))
            case ["output_waits", ("stdout" | "stderr") as stream, reason]:
                return OutputWaits(stream, reason)
            case ["output_lost", ("stdout" | "stderr") as stream, reason, *detail]:
                return OutputLost(stream, reason, " ".join(detail))
            case ["results", size]:
                return Results(_number(size))
            case ["results_too_large", size]:
                return Results(_number(size), too_large=True)
            case ["results_failed", *detail]:
                return Results(None, failure=" ".join(detail))
            case ["drained", stdout_bytes, stderr_bytes]:
                return Drained(_number(stdout_bytes), _number(stderr_bytes))
            case ["failed", reason, *detail]:
                return Failed(reason, " ".join(detail))
            case _:
                return None
    except ValueError:
        return None  # a word that should be a number is none: not one of our lines


def _number(word: str) -> int | None:
    if word == "-":
        return None
    if not (word.isascii() and word.isdigit() and len(word) <= 20):
        raise ValueError(word)
    return int(word)


def _offset(word: str) -> int:
    offset = _number(word)
    if offset is None:
        raise ValueError(word)
    return offset


def _exit_code(word: str) -> int:
    code = _number(word)
    if code is None or code > 255:
        raise ValueError(word)
    return code


@dataclass(frozen=True, slots=True)
class Credit:
    """For each stream the offset up to which its bytes are safe with us, so that the place may forget them."""

    stdout_bytes: int
    stderr_bytes: int


def format_credit(credit: Credit) -> bytes:
    """The whole content of `credit`, 42 bytes, to be written in place by one write. Blank-padded: zeros would make it octal."""
    for value in (credit.stdout_bytes, credit.stderr_bytes):
        if not 0 <= value < 2**63:
            raise ValueError(f"credit {value}: must be an offset of a file")
    return b"%20d %20d\n" % (credit.stdout_bytes, credit.stderr_bytes)


def parse_credit(data: bytes) -> Credit:
    """The reverse, for whoever adopts a place. Raises ValueError for anything else."""
    found = re.fullmatch(rb" *(\d+) +(\d+)\n", data)
    if len(data) != CREDIT_BYTES or found is None:
        raise ValueError(f"credit {data[:CREDIT_BYTES]!r}: must be two blank-padded numbers of 20 and a newline")
    return Credit(int(found[1]), int(found[2]))
