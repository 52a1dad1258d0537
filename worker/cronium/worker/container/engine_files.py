"""A place's files on a volume of its container, read through the engine: for an engine whose files this host cannot see.

Runs in a worker. Two `exec`s as root follow the files from where we are: one carries stdout and stderr, the other state and
events, and takes credit on its stdin; both leave when their stdin ends, that is when we do. They are made anew when the engine
comes back. What they did not bring before the container ended is fetched from the volume, into files that have no name.
"""

from __future__ import annotations

import io
import os
import tarfile
import tempfile
import time
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import IO, Any, cast

import structlog

from cronium.common.errors import ExecutionError, Reason
from cronium.worker.container.engine import Engine
from cronium.worker.container.files import CREDIT, MAX_STATE_BYTES, READ_BYTES, SLACK_BYTES, STREAMS, WRITABLE
from cronium.worker.container.host_files import no_disk
from cronium.worker.container.spec import FILES_DIR, LABEL_INSTALLATION, LABEL_PLACE
from cronium.worker.container.stream import STDOUT, Stream
from cronium.worker.errand import Errand
from cronium.worker.executor import Gap, Log
from cronium.worker.launcher import Credit, format_credit
from cronium.worker.results import Readable

# GNU tail looks every 10 ms when told so, others once a second if at all: there a moved descriptor is read again and again.
# `ready` comes first and is answered: when the engine cannot run a command it says why where the command's output would be.
_FOLLOW = r"""
follow() {
    case $(tail --version 2>/dev/null) in
        *GNU*) exec tail -c "+$(($2 + 1))" -s 0.01 -f "$1" 2>/dev/null ;;
    esac
    exec 3<"$1"
    dd bs=1 skip="$2" count=0 <&3 2>/dev/null
    while :; do
        cat <&3
        sleep 0.02 || sleep 1
    done
}
echo ready
read -r _
follow "$1" "$2" </dev/null &
first=$!
follow "$3" "$4" </dev/null >&2 &
second=$!
"""
_READ = (
    _FOLLOW
    + r"""
while read -r _; do :; done
kill -KILL $first $second
"""
)
# `1<>` opens without cutting, so credit is rewritten in place by one write.
_KEEP = (
    _FOLLOW
    + r"""
while read -r word name start length; do
    case $word in
        credit) printf '%20s %20s\n' "$name" "$start" 1<>"$5/credit" ;;
        punch) fallocate -p -o "$start" -l "$length" "$5/$name" 2>/dev/null ;;
    esac
done
kill -KILL $first $second
"""
)
_BLOCK = 512
_ROOT = "0:0"
_READY, _READY_S = b"ready\n", 10.0
_FIRST_PAUSE_S, _MAX_PAUSE_S = 0.05, 2.0
_SIZES_EVERY_S = 5.0
_SEND_S = 5.0
_MIB = 1024 * 1024
_log = structlog.get_logger()


def volume_mounts(place: str, installation: str) -> list[dict[str, Any]]:
    """The volume as `Mounts` of a container."""
    labels = {LABEL_INSTALLATION: installation, LABEL_PLACE: place}
    return [{"Type": "volume", "Source": place, "Target": FILES_DIR, "VolumeOptions": {"Labels": labels}}]


def empty_files() -> bytes:
    """The files of a new place, as a tar for `put_archive`."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name in (*WRITABLE, CREDIT):
            data = format_credit(Credit(0, 0)) if name == CREDIT else b""
            member = tarfile.TarInfo(name)
            member.size, member.mode = len(data), 0o644 if name == CREDIT else 0o622
            tar.addfile(member, io.BytesIO(data))
    return buffer.getvalue()


class EngineFiles:
    """The files of one place. `offsets`: where reading of each stream goes on; `scratch`: a folder of ours with space."""

    kind = "exec"

    def __init__(
        self,
        engine: Engine,
        container: str,
        offsets: Mapping[str, int],
        max_unread_bytes: int,
        caps: Mapping[str, int],
        scratch: Path,
    ) -> None:
        self._engine, self._container, self._scratch = engine, container, scratch
        self._max_unread = max_unread_bytes
        self._step = min(_MIB, max_unread_bytes // 8)
        self._caps = {"state": MAX_STATE_BYTES, **caps}
        self._offsets = {**dict.fromkeys(("state", "events"), 0), **{name: offsets.get(name, 0) for name in STREAMS}}
        self._news: dict[str, bytearray] = {"state": bytearray(), "events": bytearray()}
        self._credit = dict.fromkeys(STREAMS, 0)
        self._punched = dict(self._offsets)
        self._output: Stream | None = None
        self._words: Stream | None = None
        self._open: Errand[tuple[Stream, Stream]] = Errand()
        self._open_at_s, self._pause_s = 0.0, _FIRST_PAUSE_S
        self._sizes: Errand[bytes] = Errand()
        self._sizes_at_s = time.monotonic() + _SIZES_EVERY_S
        self._too_much: str | None = None
        self._fetched: dict[str, IO[bytes]] = {}
        self._cuts: list[Gap] = []
        self._over = False
        self._keep = ExitStack()

    @property
    def drained(self) -> bool:
        """See `Files`."""
        return self._over or (not self._open.out and _ended(self._output))

    def descriptors(self) -> tuple[int, ...]:
        """See `Files`."""
        streams = (stream.descriptor for stream in (self._output, self._words) if stream is not None and not stream.ended)
        return (*streams, self._open.descriptor, self._sizes.descriptor)

    def look_after_s(self) -> float:
        """See `Files`."""
        return 0.05 if self._output is None else 0.2

    def take(self, limit: int) -> Log | Gap | None:
        """See `Files`."""
        if self._over:
            return self._take_fetched(limit)
        self._reopen()
        if self._output is None:
            return None
        piece = self._output.take(limit)
        if piece is None:
            return None
        channel, data = piece
        stream = "stdout" if channel == STDOUT else "stderr"
        self._offsets[stream] += len(data)
        return Log(stream, data, self._offsets[stream])

    def news(self, name: str) -> bytes:
        """See `Files`."""
        if not self._over:
            self._reopen()
        while self._words is not None and (piece := self._words.take(READ_BYTES)) is not None:
            channel, data = piece
            self._add_news("state" if channel == STDOUT else "events", data)
        fresh = bytes(self._news[name])
        self._news[name].clear()
        return fresh

    def give_back(self, durable: Mapping[str, int]) -> None:
        """See `Files`."""
        words = self._words
        if words is None or words.ended:
            self._credit = dict.fromkeys(STREAMS, 0)  # to be said again
            return
        commands = []
        if any(durable[name] - self._credit[name] >= self._step for name in STREAMS):
            self._credit = {name: durable[name] for name in STREAMS}
            commands.append(f"credit {durable['stdout']} {durable['stderr']}\n")
            for name in STREAMS:
                commands.append(f"punch {name} {self._punched[name]} {max(1, durable[name] - self._punched[name])}\n")
                self._punched[name] = durable[name]
        if commands:
            try:
                words.send("".join(commands).encode(), _SEND_S)
            except OSError as error:
                _log.info("credit not said, trying again", error=str(error))
                words.ended = True

    def overfull(self) -> str | None:
        """See `Files`. Asked for in the background, so it tells what was true a moment ago."""
        now_s = time.monotonic()
        back = self._sizes.take()
        if back is not None and back[0] is not None:
            self._too_much = self._judge(back[0])
        if now_s >= self._sizes_at_s and not self._sizes.out:
            self._sizes_at_s = now_s + _SIZES_EVERY_S
            command = ["stat", "-c", "%b %n", *(f"{FILES_DIR}/{name}" for name in WRITABLE)]
            self._sizes.send(lambda: self._engine.run(self._container, command, _ROOT))
        return self._too_much

    def leave_out(self, stream: str) -> Gap | None:  # noqa: ARG002 - the protocol's signature
        """See `Files`. What is left is fetched with a bound of its own."""
        return None

    def fetch(self) -> None:
        """See `Files`: blocks while what is left comes from the volume. Raises ExecutionError."""
        for stream in (self._output, self._words):  # what they still hold is not counted, and comes from the volume
            if stream is not None:
                stream.close()
        self._output = self._words = None
        self._cuts.clear()
        self._fetched.clear()
        self._keep.close()  # what an earlier try has left
        for name in ("state", "events"):
            self._add_news(name, self._fetch(name, self._caps[name]).read())
        for name in (*STREAMS, "results"):
            most = self._caps.get(name, self._max_unread) + SLACK_BYTES
            self._fetched[name] = self._fetch(name, most)
        self._over = True

    def results(self) -> Readable | None:
        """See `Files`."""
        file = self._fetched.pop("results", None)
        if file is None or file.seek(0, os.SEEK_END) == 0:
            return None
        file.seek(0)
        return file

    def close(self) -> None:
        """See `Files`."""
        self._over = True
        for stream in (self._output, self._words):
            if stream is not None:
                stream.close()
        self._open.close()
        self._sizes.close()
        self._keep.close()

    # --- while the container runs --------------------------------------------------------------------------------------

    def _reopen(self) -> None:
        back = self._open.take()
        now_s = time.monotonic()
        if back is not None:
            opened, error = back
            if opened is not None:
                self._output, self._words = opened
                self._pause_s = _FIRST_PAUSE_S
            else:
                _log.debug("place not readable yet", error=str(error))
                self._open_at_s = now_s + self._pause_s
                self._pause_s = min(_MAX_PAUSE_S, self._pause_s * 2)
        if self._open.out or now_s < self._open_at_s or not (_ended(self._output) or _ended(self._words)):
            return
        if self._output is not None and not self._output.ended:
            return  # it brings what it has; then both are made anew
        for stream in (self._output, self._words):
            if stream is not None:
                stream.close()
        self._output = self._words = None
        self._open_at_s = now_s + self._pause_s
        offsets = dict(self._offsets)
        self._open.send(lambda: self._opened(offsets))

    def _opened(self, offsets: Mapping[str, int]) -> tuple[Stream, Stream]:
        """Both connections. In the errand's thread."""
        output = self._follow(_READ, STREAMS, offsets)
        try:
            return output, self._follow(_KEEP, ("state", "events"), offsets)
        except ExecutionError:
            output.close()
            raise

    def _follow(self, script: str, names: tuple[str, ...], offsets: Mapping[str, int]) -> Stream:
        pairs = [word for name in names for word in (f"{FILES_DIR}/{name}", str(offsets[name]))]
        command = ["sh", "-c", script, "cronium", *pairs, FILES_DIR]
        stream = self._engine.execute(self._container, command, _ROOT, stdin=True)
        said = _first_word(stream)
        try:
            stream.send(b"go\n", _SEND_S)
        except OSError as error:
            said = str(error).encode()
        if said == _READY:
            return stream
        stream.close()
        raise ExecutionError(Reason.ENGINE_ERROR, f"the place's files cannot be read by exec ({said!r}): see the engine's log")

    def _add_news(self, name: str, data: bytes) -> None:
        room = max(0, self._caps[name] - self._offsets[name])
        self._news[name] += data[:room]
        self._offsets[name] += len(data)

    def _judge(self, sizes: bytes) -> str | None:
        for line in sizes.decode("utf-8", "replace").splitlines():
            blocks, _, path = line.partition(" ")
            name = path.rpartition("/")[2]
            most = max(self._max_unread, self._caps.get(name, 0)) + SLACK_BYTES
            if name in STREAMS:  # where holes cannot be made, all that was printed is still there
                most += self._punched[name]
            if blocks.isdigit() and int(blocks) * _BLOCK > most:
                return f"its file '{name}' holds {int(blocks) * _BLOCK} bytes; at most {most}"
        return None

    # --- after its end ---------------------------------------------------------------------------------------------------

    def _fetch(self, name: str, most: int) -> IO[bytes]:
        """What of a file lies behind our offset, at most so much of it. Raises ExecutionError."""
        skip = self._offsets.get(name, 0)
        try:
            file = tempfile.TemporaryFile(dir=self._scratch, buffering=0)  # noqa: SIM115 - closed by `close`
        except OSError as error:
            raise no_disk(self._scratch, error) from error
        self._keep.callback(file.close)
        target = _OnDisk(file)
        size = self._engine.copy_out(self._container, f"{FILES_DIR}/{name}", skip, most, cast("IO[bytes]", target))
        if target.error is not None:
            raise no_disk(self._scratch, target.error)
        if size is not None and name in STREAMS and size < skip:
            self._cuts.append(Gap(name, f"the script has cut its own {name} from {skip} bytes to {size}", size))
        if size is not None and name in STREAMS and size - skip > most:
            text = f"{size - skip - most} bytes of {name} were left behind: more than a place may hold"
            self._cuts.append(Gap(name, text, size))
        file.seek(0)
        return file

    def _take_fetched(self, limit: int) -> Log | Gap | None:
        for stream in STREAMS:
            data = self._fetched[stream].read(limit) if stream in self._fetched else b""
            if data:
                self._offsets[stream] += len(data)
                return Log(stream, data, self._offsets[stream])
        return self._cuts.pop() if self._cuts else None


class _OnDisk:
    """Takes what is written, and keeps the error of a disk that does not: that is no fault of the engine, which holds its
    container until the whole archive was read."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.error: OSError | None = None

    def write(self, data: bytes) -> None:
        """All of it, or nothing more after an error."""
        try:
            while data and self.error is None:
                data = data[self._file.write(data) :]
        except OSError as error:
            self.error = error


def _ended(stream: Stream | None) -> bool:
    return stream is None or stream.ended


def _first_word(stream: Stream) -> bytes:
    said = b""
    deadline_s = time.monotonic() + _READY_S
    while len(said) < len(_READY) and not stream.ended and time.monotonic() < deadline_s:
        piece = stream.take(len(_READY) - len(said))
        if piece is None:
            stream.wait(0.1)
        else:
            said += piece[1]
    return said
