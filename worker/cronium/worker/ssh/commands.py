"""The commands that we run on a server, and what they say: `remote.sh` from the worker's side.

Used in a worker. Pure: a command is a string for one `exec` request, what comes back is bytes, made into plain values here. It
opens no connection and trusts nothing that a server says: what is no answer of ours raises `RemoteError`, or is left out.

A command is one line that any login shell takes as it is (sh, bash, fish, csh): the text is a single-quoted word of printable
characters for `printf %b`, decoded by the POSIX shell that it starts. What the login shell's own files print comes before our
first line, which `Marker` finds.
"""

from __future__ import annotations

import math
import re
import shlex
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Final, Literal

from cronium.worker.launcher import launcher_text

MARK: Final = b"@cronium "
MAX_BEFORE_MARKER_BYTES: Final = 64 * 1024
"""What a login shell may print before our first line."""
MAX_LINE_BYTES: Final = 4096
KEEP_WAIT_S: Final = 3.0
"""How long `keep` waits for a place that is just being made."""

_NAME = re.compile(r"cronium-[A-Za-z0-9._-]{1,200}\Z", re.ASCII)
_READER = re.compile(r"[A-Za-z0-9]{1,64}\Z", re.ASCII)
_FUNCTION = re.compile(r"\\n([a-z_]+)[^\\\n]*'\Z")  # of the last line, as `printf %b` takes it
_OF_PLACE = re.compile(r"exec env CRONIUM_READER=(\S+) ")
_SIGN = re.compile(r"[0-9a-f]{1,64}\Z", re.ASCII)
_ROUND_S: Final = 0.02
_MAX_NUMBER: Final = 10**18

Begun = Literal["started", "failed", "no"]


class RemoteError(Exception):
    """A server's command did not do what it should. `code`: one of `remote.sh`'s, or `garbage` when it was no answer of ours."""

    def __init__(self, code: str, detail: str) -> None:
        super().__init__(f"{code}: {detail}")
        self.code, self.detail = code, detail


# --- commands ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class RemotePlace:
    """The directory `<temp_dir>-<uid>/<name>` on a server; the uid is found there. Raises ValueError for what cannot be one."""

    temp_dir: str
    name: str

    def __post_init__(self) -> None:
        _check_temp_dir(self.temp_dir)
        _check_name(self.name)


def run_command(place: RemotePlace, stdin_wait_s: float, remote_ttl_s: float, reader: str) -> str:
    """Makes the place, starts its launcher on the channel's stdin, follows stdout and stderr from 0.

    Markers on both streams. Errors: taken, base_not_ours, cannot_make, read_only, no_space. `remote_ttl_s` counts in whole
    seconds, at least one: so long after its end a place waits for somebody to come back. `reader`: an id that no other command on
    this place has had.
    """
    values = {
        "launcher": _small(launcher_text()),
        "stdin_wait_s": f"{stdin_wait_s:.3f}",
        "remote_ttl_s": str(max(1, math.ceil(remote_ttl_s))),
    }
    return _as_reader(place, _command("run", _of(place, reader) | values))


def read_command(place: RemotePlace, offsets: Mapping[str, int], reader: str) -> str:
    """Follows stdout and stderr from `offsets`. Markers on both streams.

    Errors: gone (the place, or the segment), base_not_ours, no_space.
    """
    values = {f"{stream}_offset": _number(offsets[stream]) for stream in ("stdout", "stderr")}
    return _as_reader(place, _command("read_on", _of(place, reader) | values))


def keep_command(place: RemotePlace, state_offset: int, events_offset: int, reader: str) -> str:
    """Follows `state` on stdout and `events` on stderr, and takes the words of `Words` on stdin until that ends.

    Markers on both streams; when that says that the place is not there, the command has ended. `reader`: the id of the run or
    read command on the same connection, which ends with it. A place that we have not read from yet is waited for `KEEP_WAIT_S`.
    """
    rounds = 0 if state_offset else math.ceil(KEEP_WAIT_S / _ROUND_S)
    values = {"state_offset": _number(state_offset), "events_offset": _number(events_offset), "wait_rounds": str(rounds)}
    return _as_reader(place, _command("keep", _of(place, reader) | values))


def results_command(place: RemotePlace) -> str:
    """The marker, then the bytes of `results`. Errors: gone, base_not_ours."""
    return _as_reader(place, _command("fetch", _of(place)))


def clean_command(temp_dir: str, names: Iterable[str]) -> str:
    """Ends all that runs for these places, our readers too, and removes them, or what there is of them. See `parse_cleaned`."""
    _check_temp_dir(temp_dir)
    chosen = tuple(names)
    for name in chosen:
        _check_name(name)
    return _command("clean", {"temp_dir": temp_dir, "name": "-"}, *chosen)


def discard_command(temp_dir: str, names: Iterable[str]) -> str:
    """Removes those of these places whose launcher still waits for a job; a place with a job in it is left alone. No answer."""
    _check_temp_dir(temp_dir)
    chosen = tuple(names)
    for name in chosen:
        _check_name(name)
    return _command("discard", {"temp_dir": temp_dir, "name": "-"}, *chosen)


def list_command(temp_dir: str, installation: str) -> str:
    """The names of this installation's places. See `parse_listed`."""
    _check_temp_dir(temp_dir)
    prefix = f"cronium-{installation}-"
    _check_name(prefix)
    return _command("list", {"temp_dir": temp_dir, "name": "-", "prefix": prefix})


class Words:
    """What `keep` takes on its stdin."""

    LOOK: Final = b"look\n"
    """Answered by `Look`. Puts off the place's removal of itself, too."""
    CLAIM: Final = b"claim\n"
    """Answered by `Reply("claim", "won" | "lost")`: won is that the script never started, and that the place is gone."""
    KILL: Final = b"kill\n"
    """KILL to all processes of the place, its launcher too. Answered by `Reply("kill", "done")`."""

    @staticmethod
    def sign(secret: str) -> bytes:
        """No answer; each later one carries it. Hexadecimal digits. `KeepReader` has to know it."""
        if not _SIGN.match(secret):
            raise ValueError("sign: hexadecimal digits only")
        return f"sign {secret}\n".encode()

    @staticmethod
    def cancel(number: int) -> bytes:
        """1 lets the script tidy up for its grace, 2 does not. Answered by `Reply("cancel", "told" | "gone")`.

        Said again, as by whoever does not know what was told before, each changes nothing.
        """
        return f"cancel {_number(number)}\n".encode()

    @staticmethod
    def credit(stdout_bytes: int, stderr_bytes: int) -> bytes:
        """No answer. A full segment is gone on from only when credit says its very end: say it also when nothing more comes."""
        return f"credit {_number(stdout_bytes)} {_number(stderr_bytes)}\n".encode()

    @staticmethod
    def next(stream: str, offset: int) -> bytes:
        """After the state event `Segment(stream, offset)`, once all before it was read from the channel. No answer."""
        return f"next {stream} {_number(offset)}\n".encode()


def _of(place: RemotePlace, reader: str = "") -> dict[str, str]:
    if reader and not _READER.match(reader):
        raise ValueError(f"reader {reader!r}: letters and digits only, at most 64")
    return {"temp_dir": place.temp_dir, "name": place.name, "reader": reader}


def _command(function: str, values: Mapping[str, str], *arguments: str) -> str:
    given = "".join(f"{name}={shlex.quote(value)}\n" for name, value in values.items())
    text = given + _small(_remote_text()) + " ".join((function, *map(shlex.quote, arguments)))
    return f"""exec sh -c 'eval "$(printf %b "$0")"' '{_encoded(text)}'"""


def _as_reader(place: RemotePlace, command: str) -> str:
    """`clean` finds it then, also when it is one of a connection that has died silently."""
    return command.replace("exec ", f"exec env CRONIUM_READER={place.name} ", 1)


def described(command: str) -> dict[str, str]:
    """What a command of ours is, for the audit log: `command`, and `place` where it is for one alone."""
    function, place = _FUNCTION.search(command), _OF_PLACE.match(command)
    return {"command": function[1] if function else "other"} | ({"place": place[1]} if place else {})


@cache
def _remote_text() -> str:
    return files("cronium.worker.ssh").joinpath("remote.sh").read_text()


@cache
def _small(text: str) -> str:
    """Without what only a reader needs: comment lines, blank lines, indentation. (No string in our texts has such lines.)"""
    return re.sub(r"^[ ]*(?:#[^\n]*)?\n|^[ ]+", "", text, flags=re.MULTILINE)


_PLAIN = frozenset(b'"$%&()*+,-./0123456789:;<=>?ABCDEFGHIJKLMNOPQRSTUVWXYZ[]^_`abcdefghijklmnopqrstuvwxyz{|}~# ')


@cache
def _codes() -> tuple[str, ...]:
    codes = [chr(byte) if byte in _PLAIN else f"\\0{byte:03o}" for byte in range(256)]
    codes[ord("\n")] = "\\n"
    return tuple(codes)


def _encoded(text: str) -> str:
    """For `printf %b` between single quotes, so without quote, newline, double backslash and `!`.

    Without `@` too: were the login shell to trace its commands, that would look like our first line.
    """
    codes = _codes()
    return "".join([codes[byte] for byte in text.encode()])


def _check_temp_dir(temp_dir: str) -> None:
    if not temp_dir.startswith("/") or temp_dir.endswith("/") or any(ord(letter) < 32 for letter in temp_dir):
        raise ValueError(f"temp_dir {temp_dir!r}: must be an absolute path of printable characters, without a slash at its end")


def _check_name(name: str) -> None:
    if not _NAME.match(name):
        raise ValueError(f"place {name!r}: must be cronium-… of letters, digits, dots, dashes and underscores")


def _number(value: int) -> str:
    if not 0 <= value < _MAX_NUMBER:
        raise ValueError(f"offset {value}: must be an offset of a file")
    return str(value)


# --- what they say -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Facts:
    """The first line. `boot_id`, `up_s` (since the host was booted): None where the server could not tell. `there`: the place is
    (false from `clean` and `list`).
    """

    uid: int
    boot_id: str | None
    there: bool
    up_s: int | None = None


class Marker:
    """Finds a command's first line behind what the login shell printed. One for each stream that carries data."""

    def __init__(self) -> None:
        self._seen = b""

    def feed(self, data: bytes) -> tuple[Facts, bytes] | None:
        """The facts and what follows the line, or None while it is not there. Raises RemoteError: the command's, or `garbage`."""
        self._seen += data
        start = self._seen.find(MARK)
        if start > MAX_BEFORE_MARKER_BYTES or (start < 0 and len(self._seen) > MAX_BEFORE_MARKER_BYTES):
            raise RemoteError(
                "garbage", f"more than {MAX_BEFORE_MARKER_BYTES} bytes before our first line: what does its login shell print?"
            )
        if start < 0:
            return None
        end = self._seen.find(b"\n", start, start + MAX_LINE_BYTES)
        if end < 0:
            if len(self._seen) - start >= MAX_LINE_BYTES:
                raise RemoteError("garbage", "its first line does not end")
            return None
        return _parse_first(self._seen[start + len(MARK) : end]), self._seen[end + 1 :]

    def missing(self) -> RemoteError:
        """The error for a channel that ended before the line came: with the end of what it said instead."""
        said = self._seen[-300:].decode("utf-8", "replace").strip()
        return RemoteError("garbage", f"it did not run our command; it said {said!r}")


def _parse_first(line: bytes) -> Facts:
    words = line.decode("utf-8", "replace").split(" ")
    match words:
        case ["error", code, *detail]:
            raise RemoteError(code[:40], " ".join(detail))
        case ["ready", *_]:
            facts = _pairs(words[1:])
            uid = facts.get("uid", "")
            if facts.keys() == {"uid", "boot", "up", "place"} and uid.isascii() and uid.isdigit() and len(uid) <= 10:
                return Facts(int(uid), _boot_id(facts["boot"]), facts["place"] == "yes", _seconds(facts["up"]))
    raise RemoteError("garbage", f"its first line means nothing: {line[:200]!r}")


@dataclass(frozen=True, slots=True)
class Look:
    """The answer to `look`. `begun`: what `state` begins with. `gate`: taken, by the launcher or who gave it up."""

    launcher_alive: bool
    begun: Begun
    gate: bool
    there: bool
    boot_id: str | None


@dataclass(frozen=True, slots=True)
class Reply:
    """The answer to any other word."""

    word: str
    answer: str


class KeepReader:
    """Takes our replies out of `keep`'s stdout; the rest are the bytes of `state`. Never raises for what a server sends.

    A reply is one write, but may fall between two halves of a line of `state`, so it is found wherever it begins. The script can
    write to `state`: without the `sign` that only the keeper was told (`Words.sign`), no text is a reply.
    """

    def __init__(self, sign: str = "") -> None:
        self._mark = MARK + (f"{sign} ".encode() if sign else b"")
        self._held = b""

    def feed(self, data: bytes) -> tuple[bytes, list[Look | Reply]]:
        """The bytes of `state` (in order, none lost), and the replies."""
        data, state, replies = self._held + data, [], []
        self._held = b""
        while (start := data.find(self._mark)) >= 0:
            end = data.find(b"\n", start, start + MAX_LINE_BYTES)
            if end < 0:
                if len(data) - start < MAX_LINE_BYTES:
                    break
                end = start  # no line of ours: the mark is kept as what it is
            reply = parse_reply(data[start + len(self._mark) : end])
            if reply is None:
                state.append(data[: start + 1])
                data = data[start + 1 :]
            else:
                state.append(data[:start])
                replies.append(reply)
                data = data[end + 1 :]
        held = start if start >= 0 else _begun_mark(data, self._mark)
        state.append(data[:held])
        self._held = data[held:]
        return b"".join(state), replies


def _begun_mark(data: bytes, mark: bytes) -> int:
    """Where a mark begins that the end of the data cuts off."""
    at = data.rfind(mark[:1], max(0, len(data) - len(mark)))
    return at if at >= 0 and mark.startswith(data[at:]) else len(data)


def parse_reply(line: bytes) -> Look | Reply | None:
    """One line of ours without its mark and its newline; None for what is not one."""
    words = line.decode("utf-8", "replace").split(" ")
    match words:
        case ["claim", ("won" | "lost") as answer]:
            return Reply("claim", answer)
        case ["cancel", ("told" | "gone") as answer]:
            return Reply("cancel", answer)
        case ["kill", "done"]:
            return Reply("kill", "done")
        case ["look", *_]:
            return _parse_look(_pairs(words[1:]))
        case _:
            return None


def _parse_look(facts: Mapping[str, str]) -> Look | None:
    match facts:
        case {
            "launcher": ("alive" | "gone") as launcher,
            "begun": ("started" | "failed" | "no") as begun,
            "gate": ("yes" | "no") as gate,
            "place": ("yes" | "no") as there,
            "boot": boot_id,
        }:
            return Look(launcher == "alive", begun, gate == "yes", there == "yes", _boot_id(boot_id))
        case _:
            return None


@dataclass(frozen=True, slots=True)
class Named:
    """Places by name, from `clean_command` (those that are gone) and `list_command` (those that are there)."""

    facts: Facts
    names: frozenset[str]


def parse_cleaned(said: bytes) -> Named:
    """All that `clean_command` said on stdout; what is not in `names` is still there. Raises RemoteError."""
    return _parse_named(said, "gone")


def parse_listed(said: bytes) -> Named:
    """All that `list_command` said on stdout. Raises RemoteError, also when its end is missing."""
    return _parse_named(said, "place")


def _parse_named(said: bytes, word: str) -> Named:
    marker = Marker()
    first = marker.feed(said)
    if first is None:
        raise marker.missing()
    facts, rest = first
    names, ended = set(), False
    for line in rest.split(b"\n"):
        if not line.startswith(MARK) or len(line) > MAX_LINE_BYTES:
            continue
        match line[len(MARK) :].decode("utf-8", "replace").split(" "):
            case [said_word, name] if said_word == word and _NAME.match(name):
                names.add(name)
            case ["end"]:
                ended = True
    if not ended and word == "place":
        raise RemoteError("garbage", "the list of its places was cut off")
    return Named(facts, frozenset(names))


def _pairs(words: Iterable[str]) -> dict[str, str]:
    return {key: value for key, equals, value in (word.partition("=") for word in words) if equals}


def _seconds(word: str) -> int | None:
    return int(word) if re.fullmatch(r"[0-9]{1,12}", word) else None


def _boot_id(word: str) -> str | None:
    return word if re.fullmatch(r"[0-9a-f-]{8,64}", word) else None
