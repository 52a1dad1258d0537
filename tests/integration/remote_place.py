"""A server for the tests of what runs there: commands are started as by sshd (`$SHELL -c COMMAND`), with pipes for a channel.

As root the commands run as a user of their own, whom nothing else on this machine belongs to; whatever that user still has at the
end fails the test.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import psutil

from cronium.worker.launcher import Credit, LaunchSpec, Segment, StateEvent, StateReader, launch_stream
from cronium.worker.ssh.commands import (
    Facts,
    KeepReader,
    Look,
    Marker,
    RemotePlace,
    Reply,
    Words,
    clean_command,
    keep_command,
    parse_cleaned,
    read_command,
    run_command,
)

from .launcher_place import PATIENCE_S, Shell, wait_until

Event = TypeVar("Event", bound=StateEvent)


@dataclass
class Channel:
    """One command. `out` and `err`: all that came behind the marker lines."""

    process: subprocess.Popen[bytes]
    facts: Facts | None = None
    out: bytes = b""
    err: bytes = b""
    _markers: dict[str, Marker | None] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._markers = {"out": Marker(), "err": Marker()}
        for pipe in (self.process.stdout, self.process.stderr):
            assert pipe
            os.set_blocking(pipe.fileno(), False)

    def take(self) -> None:
        """All that is there now. Raises RemoteError."""
        for name, pipe in (("out", self.process.stdout), ("err", self.process.stderr)):
            assert pipe
            while not pipe.closed and (data := pipe.read()):
                marker = self._markers[name]
                if marker is not None:
                    found = marker.feed(data)
                    if found is None:
                        continue
                    self.facts, data = found
                    self._markers[name] = None
                setattr(self, name, getattr(self, name) + data)

    def wait_for(self, condition: Callable[[], Any], what: str) -> None:
        def met() -> bool:
            self.take()
            return bool(condition())

        wait_until(met, what)

    def ready(self) -> Facts:
        self.wait_for(lambda: self.facts and not any(self._markers.values()), "both markers")
        assert self.facts
        return self.facts

    def send(self, data: bytes) -> None:
        assert self.process.stdin
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.write(data)
            self.process.stdin.flush()

    def send_end(self) -> None:
        assert self.process.stdin
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.close()

    def finish(self) -> int:
        """Waits for its end, with all it said taken."""

        def over() -> bool:
            self.take()
            return self.process.poll() is not None

        wait_until(over, "the command's end")
        self.take()
        return self.process.wait(PATIENCE_S)

    def drop(self) -> None:
        """The connection is lost: every pipe ends. What the command does then is its own affair."""
        self.send_end()
        for pipe in (self.process.stdout, self.process.stderr):
            assert pipe
            pipe.close()


@dataclass
class Keep:
    """A keep command: the place's state, and words."""

    channel: Channel
    events: list[StateEvent] = field(default_factory=list)
    replies: list[Look | Reply] = field(default_factory=list)
    state_bytes: int = 0
    _reader: StateReader = field(default_factory=StateReader)
    _replies: KeepReader = field(default_factory=KeepReader)

    def take(self) -> None:
        self.channel.take()
        state, replies = self._replies.feed(self.channel.out)
        self.channel.out = b""
        self.state_bytes += len(state)
        self.events += self._reader.feed(state)
        self.replies += replies

    def find(self, kind: type[Event]) -> list[Event]:
        self.take()
        return [event for event in self.events if isinstance(event, kind)]

    def wait_for(self, kind: type[Event]) -> Event:
        return wait_until(lambda: self.find(kind), kind.__name__)[0]

    def ask(self, word: bytes) -> Look | Reply:
        """The answer to one word."""
        count = len(self.replies)
        self.channel.send(word)

        def answered() -> bool:
            self.take()
            return len(self.replies) > count

        wait_until(answered, f"the answer to {word!r}")
        return self.replies[count]

    def look(self) -> Look:
        answer = self.ask(Words.LOOK)
        assert isinstance(answer, Look)
        return answer

    def pay(self, credit: Credit) -> None:
        self.channel.send(Words.credit(credit.stdout_bytes, credit.stderr_bytes))


@dataclass
class RemoteServer:
    """A user's login on a server."""

    home: Path
    uid: int
    shell: Shell
    environment: dict[str, str]
    place: RemotePlace
    before: Sequence[str] = ()
    channels: list[Channel] = field(default_factory=list)

    @property
    def base(self) -> Path:
        return Path(f"{self.place.temp_dir}-{self.uid}")

    @property
    def files(self) -> Path:
        return self.base / self.place.name

    def _as_user(self) -> dict[str, Any]:
        return {"user": self.uid, "group": self.uid, "extra_groups": []} if os.geteuid() == 0 else {}

    def exec(self, command: str) -> Channel:
        process = subprocess.Popen(
            [*self.before, self.shell.program, "-c", command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=self.home,
            env=self.environment,
            start_new_session=True,
            **self._as_user(),
        )
        channel = Channel(process)
        self.channels.append(channel)
        return channel

    @contextlib.contextmanager
    def background(self, *arguments: str, **environment: str) -> Iterator[subprocess.Popen[bytes]]:
        """Something else that the user runs there."""
        world = {**self.environment, **environment}
        with subprocess.Popen(arguments, stdin=subprocess.PIPE, cwd=self.home, env=world, **self._as_user()) as process:
            try:
                yield process
            finally:
                process.kill()

    def finished(self, command: str) -> bytes:
        """What a short command says on stdout, from its first byte on."""
        done = subprocess.run(
            [*self.before, self.shell.program, "-c", command],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            cwd=self.home,
            env=self.environment,
            timeout=PATIENCE_S,
            check=False,
            **self._as_user(),
        )
        assert done.stderr == b"" or self.before
        return bytes(done.stdout)

    def run(self, reader: str = "r1", *, stdin_wait_s: float = PATIENCE_S, ttl_s: float = 3600) -> Channel:
        return self.exec(run_command(self.place, stdin_wait_s, ttl_s, reader))

    def read(self, stdout: int, stderr: int, reader: str) -> Channel:
        return self.exec(read_command(self.place, {"stdout": stdout, "stderr": stderr}, reader))

    def keep(self, reader: str = "r1", state_offset: int = 0) -> Keep:
        return Keep(self.exec(keep_command(self.place, state_offset, 0, reader)))

    def start(self, script: str, *, ttl_s: float = 3600, **more: Any) -> tuple[Channel, Keep]:
        """A job with its two channels."""
        run = self.run(ttl_s=ttl_s)
        keep = self.keep()
        run.send(stream(script, **more))
        run.send_end()
        return run, keep

    def clean(self) -> bool:
        said = self.finished(clean_command(self.place.temp_dir, [self.place.name]))
        return self.place.name in parse_cleaned(said).names

    def processes(self) -> list[psutil.Process]:
        """All that the user runs here."""
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error, OSError):
                if process.status() == psutil.STATUS_ZOMBIE or process.uids().real != self.uid:
                    continue
                if os.geteuid() == 0 or self.place.name in (*process.cmdline(), *process.environ().values()):
                    found.append(process)
        return found


def stream(script: str, **more: Any) -> bytes:
    """The tar of a bash job."""
    return launch_stream(LaunchSpec(**{"interpreter": "bash", "grace_s": 30, "script": script.encode(), **more}))


def follow_segments(run: Channel, keep: Keep, told: int = 0) -> int:
    """What a reader does: everything that came is safe, and a new segment is gone on with. The number of segments said so far."""
    run.take()
    keep.pay(Credit(len(run.out), len(run.err)))
    segments = keep.find(Segment)
    for segment in segments[told:]:
        have = len(run.out if segment.stream == "stdout" else run.err)
        assert segment.offset <= have
        keep.channel.send(Words.next(segment.stream, segment.offset))
    return len(segments)


@contextlib.contextmanager
def remote_server(
    shell: Shell, *, environment: Mapping[str, str] | None = None, before: Sequence[str] = (), at: Path | None = None
) -> Iterator[RemoteServer]:
    """`before`: words of a command that runs the rest of its arguments. `at`: where its places are, if not in its home."""
    uid = 50_000 + secrets.randbelow(10_000) if os.geteuid() == 0 else os.getuid()
    with tempfile.TemporaryDirectory(prefix="cr-", dir="/tmp") as name:
        home = Path(name)
        if os.geteuid() == 0:
            os.chown(home, uid, uid)
        world = {"PATH": shell.path, "HOME": str(home), "LANG": "C.UTF-8", **(environment or {})}
        place = RemotePlace(str((at or home) / "places"), f"cronium-test-{secrets.token_hex(8)}")
        server = RemoteServer(home, uid, shell, world, place, before)
        try:
            yield server
            assert server.clean()
            for channel in server.channels:
                channel.drop()
            wait_until(lambda: not server.processes(), "everything gone")
            assert not server.files.exists()
        finally:
            for left in server.processes():
                with contextlib.suppress(psutil.NoSuchProcess):
                    left.send_signal(signal.SIGKILL)
            for channel in server.channels:
                channel.drop()
                channel.process.wait(PATIENCE_S)
