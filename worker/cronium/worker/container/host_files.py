"""A place's files on this host, bind-mounted one by one into its container.

Runs in a worker. They are opened before the script starts and read by offset, woken by inotify (or every 10 ms where no instance
is left). Space is reserved ahead of the pumps, and given back as a hole behind what is durable; offsets never change.
A script may do anything to these files: what is read here is bounded and believed only as the script's own word.
"""

from __future__ import annotations

import errno
import os
from collections import deque
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import structlog
from inotify_simple import INotify, flags

from cronium.common.errors import ExecutionError, Reason
from cronium.worker.container import space
from cronium.worker.container.files import CREDIT, MAX_STATE_BYTES, SLACK_BYTES, STREAMS, WRITABLE
from cronium.worker.container.spec import FILES_DIR
from cronium.worker.executor import Gap, Log
from cronium.worker.launcher import CREDIT_BYTES, Credit, format_credit, parse_credit
from cronium.worker.results import Readable

_MIB = 1024 * 1024
_POLL_S = 0.01
_LOOK_S = 0.2
_HOLE_BYTES = 4096  # from here on NULs are looked at twice: are they written ones?
_APPENDABLE = 0o622  # the place may write, and not read what it wrote
_READABLE = 0o644
_MODE = {CREDIT: _READABLE}
_log = structlog.get_logger()


def make_host_files(folder: Path) -> None:
    """The folder and empty files of a new place, with the first space reserved.

    Raises ExecutionError (disk_full).
    """
    try:
        folder.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        folder.mkdir(mode=0o700, exist_ok=True)
        for name in (*WRITABLE, CREDIT):
            descriptor = os.open(folder / name, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
            try:
                os.fchmod(descriptor, _MODE.get(name, _APPENDABLE))
                if name == CREDIT:
                    os.pwrite(descriptor, format_credit(Credit(0, 0)), 0)
                else:
                    _reserve(descriptor, 0, _MIB if name in STREAMS else 4096)
            finally:
                os.close(descriptor)
    except OSError as error:
        raise no_disk(folder.parent, error) from error


def no_disk(folder: Path, error: OSError) -> ExecutionError:
    """What a disk of ours that takes nothing more means to a job, and what to do; as the spool tells it."""
    if error.errno in {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}:
        advice = "free some space on this disk, or move stateDir"
    else:
        advice = "see to this disk (is it mounted read-only?), or move stateDir"
    return ExecutionError(Reason.DISK_FULL, f"no place for the output of a job in {folder} ({error.strerror or error}): {advice}")


def host_mounts(folder: Path) -> list[dict[str, Any]]:
    """The files as `Mounts` of a container. (`Binds` would make a directory of a missing file.)"""
    return [
        {"Type": "bind", "Source": str(folder / name), "Target": f"{FILES_DIR}/{name}", "ReadOnly": name == CREDIT}
        for name in (*WRITABLE, CREDIT)
    ]


class HostFiles:
    """The open files of one place. `offsets`: where reading of each stream goes on."""

    kind = "host"

    def __init__(self, folder: Path, offsets: Mapping[str, int], max_unread_bytes: int, caps: Mapping[str, int]) -> None:
        self._folder = folder
        self._max_unread = max_unread_bytes
        self._caps = {"state": MAX_STATE_BYTES, **caps}
        self._step = min(_MIB, max_unread_bytes // 8)
        self._files: dict[str, int] = {}
        with ExitStack() as half:  # a folder that was only half made lacks some of them
            half.callback(self._close_files)
            for name in (*WRITABLE, CREDIT):
                self._files[name] = os.open(folder / name, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
            half.pop_all()
        self._offsets = {**dict.fromkeys(("state", "events"), 0), **{name: offsets.get(name, 0) for name in STREAMS}}
        self._punched = dict.fromkeys(STREAMS, 0)
        self._reserved = dict.fromkeys(STREAMS, _MIB)
        self._credit = self._read_credit()
        self._queue: deque[str] = deque(STREAMS)
        self._watched: dict[int, str] = {}
        self._inotify = self._watch()

    def descriptors(self) -> tuple[int, ...]:
        """See `Files`."""
        return () if self._inotify is None else (self._inotify.fileno(),)

    def look_after_s(self) -> float:
        """See `Files`."""
        return _POLL_S if self._inotify is None else _LOOK_S

    def take(self, limit: int) -> Log | Gap | None:
        """See `Files`."""
        self._hear()
        while self._queue:
            piece = self._read(self._queue[0], limit)
            if piece is not None:
                self._queue.rotate(-1)  # the other stream has its turn
                return piece
            self._queue.popleft()
        return None

    def news(self, name: str) -> bytes:
        """See `Files`."""
        offset = self._offsets[name]
        data = os.pread(self._files[name], max(0, min(_MIB, self._caps[name] - offset)), offset)
        self._offsets[name] = offset + len(data)
        return data

    def give_back(self, durable: Mapping[str, int]) -> None:
        """See `Files`."""
        if any(durable[name] - self._credit[name] >= self._step or durable[name] < self._credit[name] for name in STREAMS):
            self._credit = {name: durable[name] for name in STREAMS}
            os.pwrite(self._files[CREDIT], format_credit(Credit(durable["stdout"], durable["stderr"])), 0)
        for name in STREAMS:
            self._punch(name, durable[name])
            self._reserve_ahead(name)

    def overfull(self) -> str | None:
        """See `Files`."""
        for name in WRITABLE:
            most = max(self._max_unread, self._caps.get(name, 0)) + SLACK_BYTES
            held = os.fstat(self._files[name]).st_blocks * 512  # st_blocks counts 512 bytes: stat(2)
            if held > most:
                return f"its file '{name}' holds {held} bytes; at most {most}"
        return None

    def leave_out(self, stream: str) -> Gap | None:
        """See `Files`."""
        size, offset = os.fstat(self._files[stream]).st_size, self._offsets[stream]
        if size - offset <= self._max_unread:
            return None
        self._offsets[stream] = size
        return Gap(stream, f"{size - offset} bytes of {stream} were left out: the script wrote past the bound", size)

    @property
    def drained(self) -> bool:
        """See `Files`: nothing is ever on its way."""
        return True

    def fetch(self) -> None:
        """See `Files`: all is here; look at both streams once more."""
        self._queue = deque(STREAMS)

    def results(self) -> Readable | None:
        """See `Files`."""
        descriptor = self._files["results"]
        if os.fstat(descriptor).st_size == 0:
            return None
        os.lseek(descriptor, 0, os.SEEK_SET)
        return os.fdopen(os.dup(descriptor), "rb")

    def close(self) -> None:
        """See `Files`."""
        if self._inotify is not None:
            self._inotify.close()
            self._inotify = None
        self._close_files()

    def _close_files(self) -> None:
        for descriptor in self._files.values():
            os.close(descriptor)
        self._files.clear()

    def _watch(self) -> Any:
        try:
            inotify = INotify(nonblocking=True)
            for name in (*STREAMS, "state", "events"):
                self._watched[inotify.add_watch(str(self._folder / name), flags.MODIFY)] = name
        except OSError as error:  # fs.inotify.max_user_instances or max_user_watches: then we look every 10 ms
            _log.info("no inotify left, polling instead", error=str(error))
            return None
        return inotify

    def _hear(self) -> None:
        if self._inotify is None:
            self._enqueue(STREAMS)
            return
        for event in self._inotify.read(timeout=0):
            if event.wd == -1:  # the queue was full: anything may have changed
                self._enqueue(STREAMS)
            else:
                self._enqueue((self._watched[event.wd],))

    def _enqueue(self, names: Iterable[str]) -> None:
        self._queue.extend(name for name in names if name in STREAMS and name not in self._queue)

    def _read(self, stream: str, limit: int) -> Log | Gap | None:
        descriptor, offset = self._files[stream], self._offsets[stream]
        data = os.pread(descriptor, limit, offset)
        if not data:
            return self._cut(stream, offset)
        if len(data) >= _HOLE_BYTES and data.count(0) == len(data):
            behind = _next_data(descriptor, offset)
            if behind - offset > len(data):
                self._offsets[stream] = behind
                return Gap(stream, f"{behind - offset} bytes of {stream} were never written: the script moved its end", behind)
        self._offsets[stream] = offset + len(data)
        return Log(stream, data, offset + len(data))

    def _cut(self, stream: str, offset: int) -> Gap | None:
        size = os.fstat(self._files[stream]).st_size
        if size >= offset:
            return None
        self._offsets[stream] = size
        self._punched[stream] = min(self._punched[stream], size)
        self._reserved[stream] = size
        return Gap(stream, f"the script has cut its own {stream} from {offset} bytes to {size}", size)

    def _punch(self, stream: str, durable: int) -> None:
        start = self._punched[stream]
        if durable - start < self._step:
            return
        try:
            space.give_back(self._files[stream], start, durable - start)
        except OSError as error:
            _log.info("space of durable output is not given back", error=str(error), stream=stream)
        self._punched[stream] = durable

    def _reserve_ahead(self, stream: str) -> None:
        size = os.fstat(self._files[stream]).st_size
        ahead = min(self._max_unread, max(_MIB, size // 4))
        end = min(size + ahead, self._credit[stream] + self._max_unread)
        start = max(size, self._reserved[stream])
        if end - start >= ahead // 2:
            self._reserved[stream] = end
            try:
                _reserve(self._files[stream], start, end - start)
            except OSError as error:  # the pump will meet it, say so, and try again
                _log.warning("no space to reserve for output", error=str(error), stream=stream)

    def _read_credit(self) -> dict[str, int]:
        try:
            credit = parse_credit(os.pread(self._files[CREDIT], CREDIT_BYTES, 0))
        except ValueError:  # a kill in the middle of making the place
            return dict.fromkeys(STREAMS, 0)
        return {"stdout": credit.stdout_bytes, "stderr": credit.stderr_bytes}


def _next_data(descriptor: int, offset: int) -> int:
    """Where written bytes go on at or behind `offset`; the end of the file when none do."""
    try:
        return os.lseek(descriptor, offset, os.SEEK_DATA)
    except OSError as error:
        if error.errno != errno.ENXIO:  # lseek(2): no data behind
            raise
        return os.fstat(descriptor).st_size


def _reserve(descriptor: int, offset: int, length: int) -> None:
    try:
        space.reserve(descriptor, offset, length)
    except OSError as error:
        if error.errno not in {errno.EOPNOTSUPP, errno.ENOSYS}:  # a file system that cannot
            raise
