"""Places for the launcher's tests: its files in a private folder, the launcher on this host, or in a locked-down container.

On the host it always gets a token, so that it can touch nothing but its own job; as root it is run as uid 1000, for whom the
files are what they are in a container: to be written, not to be read.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import psutil
from docker import DockerClient
from docker.models.containers import Container

from cronium.worker.launcher import (
    Credit,
    Drained,
    Ended,
    LaunchSpec,
    StateEvent,
    StateReader,
    format_credit,
    launch_stream,
    launcher_text,
)

T = TypeVar("T")
Event = TypeVar("Event", bound=StateEvent)
PATIENCE_S = 60
UID = 1000
EVERYTHING = Credit(1 << 50, 1 << 50)
"""A credit that never holds a pump back."""


@dataclass(frozen=True, slots=True)
class Shell:
    """One kind of /bin/sh, and the folder that a PATH with it and its tools starts (or is) with."""

    name: str
    program: Path
    path: str


def make_shells(folder: Path) -> dict[str, Shell]:
    """dash and bash with coreutils, and busybox with nothing but itself (and the interpreters that jobs ask for)."""
    shells = {}
    for name in ("dash", "bash"):
        (folder / name).mkdir()
        (folder / name / "sh").symlink_to(_program(name))
        shells[name] = Shell(name, folder / name / "sh", f"{folder / name}:{os.environ['PATH']}")
    busybox = folder / "busybox"
    busybox.mkdir()
    listed = subprocess.run([_program("busybox"), "--list"], stdout=subprocess.PIPE, text=True, timeout=PATIENCE_S, check=True)
    for applet in listed.stdout.split():
        (busybox / applet).symlink_to(_program("busybox"))
    (busybox / "bash").symlink_to(_program("bash"))
    shells["busybox"] = Shell("busybox", busybox / "sh", str(busybox))
    return shells


def _program(name: str) -> Path:
    found = shutil.which(name)
    assert found, f"{name} is needed here: apt-get install {name if name != 'busybox' else 'busybox-static'}"
    return Path(found)


def wait_until(condition: Callable[[], T], what: str) -> T:
    """The condition's first true value. Fails the test when it takes far too long."""
    give_up = time.monotonic() + PATIENCE_S
    while not (value := condition()):
        assert time.monotonic() < give_up, f"waited {PATIENCE_S} s for {what}"
        time.sleep(0.005)
    return value


@dataclass
class Files:
    """A place's files, seen from our side."""

    folder: Path
    events: list[StateEvent] = field(default_factory=list)
    _reader: StateReader = field(default_factory=StateReader)
    _read_bytes: int = 0

    @classmethod
    def make(cls, folder: Path, *, segments: bool = False) -> Files:
        """`segments`: as on a server, where output is in segments that the launcher makes."""
        folder.mkdir()
        folder.chmod(0o755)
        for name in (*(() if segments else ("stdout", "stderr")), "events", "results", "state"):
            (folder / name).touch()
            (folder / name).chmod(0o622)
        (folder / "credit").write_bytes(format_credit(Credit(0, 0)))
        (folder / "credit").chmod(0o644)
        return cls(folder)

    def pay(self, credit: Credit) -> None:
        with (self.folder / "credit").open("r+b", buffering=0) as file:
            file.write(format_credit(credit))

    def segments(self, stream: str) -> list[tuple[int, Path]]:
        """Those that are there, with the offset of each."""
        return sorted((int(path.suffix[1:]), path) for path in self.folder.glob(f"{stream}.*"))

    def read(self, name: str, offset: int = 0) -> bytes:
        """From that offset to the end, over all segments."""
        whole = self.folder / name
        pieces = []
        for start, path in [(0, whole)] if whole.exists() else self.segments(name):
            with path.open("rb") as file:
                file.seek(max(0, offset - start))
                pieces.append(file.read())
        return b"".join(pieces)

    def size(self, name: str) -> int:
        """The offset of its end."""
        whole = self.folder / name
        if whole.exists():
            return whole.stat().st_size
        segments = self.segments(name)
        return segments[-1][0] + segments[-1][1].stat().st_size if segments else 0

    def state(self) -> list[StateEvent]:
        with (self.folder / "state").open("rb") as file:
            file.seek(self._read_bytes)
            data = file.read()
        self._read_bytes += len(data)
        self.events += self._reader.feed(data)
        return self.events

    def find(self, kind: type[Event]) -> list[Event]:
        return [event for event in self.state() if isinstance(event, kind)]

    def wait_for(self, kind: type[Event]) -> Event:
        return wait_until(lambda: self.find(kind), kind.__name__)[0]

    @property
    def ended(self) -> Ended:
        [ended] = self.find(Ended)
        return ended

    def check_drained(self) -> None:
        """The last line is there, and its sizes are those of the files."""
        assert self.state()[-1] == Drained(self.size("stdout"), self.size("stderr")), self.events


@dataclass
class HostPlace:
    """A launcher on this host."""

    home: Path
    shell: Shell
    files: Files
    token: str
    process: subprocess.Popen[bytes]

    @property
    def run(self) -> Path:
        return self.home / "run"

    def send(self, data: bytes) -> None:
        assert self.process.stdin
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.write(data)
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.close()

    def start(self, script: str | bytes, **more: Any) -> None:
        """Sends a bash job, or whatever `more` says of LaunchSpec's fields."""
        spec = {"interpreter": "bash", "grace_s": 30, **more}
        self.send(launch_stream(LaunchSpec(script=script.encode() if isinstance(script, str) else script, **spec)))

    def finish(self) -> int:
        return self.process.wait(PATIENCE_S)

    def run_job(self, script: str | bytes, **more: Any) -> int:
        """The whole life of a job whose output nobody holds back. The launcher's exit code."""
        self.files.pay(EVERYTHING)
        self.start(script, **more)
        code = self.finish()
        self.files.check_drained()
        return code

    def processes(self) -> list[psutil.Process]:
        """Everything that is the launcher's or its job's."""
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error, OSError):
                if process.status() == psutil.STATUS_ZOMBIE:
                    continue
                mine = os.getpgid(process.pid) == self.process.pid or process.environ().get("CRONIUM_TOKEN") == self.token
                if mine:
                    found.append(process)
        return found


@contextlib.contextmanager
def _folder() -> Iterator[Path]:
    """Goes again in every case, also when what should run in it could not be started."""
    with tempfile.TemporaryDirectory(prefix="cr-", dir="/tmp") as name:
        Path(name).chmod(0o711)
        yield Path(name)


@contextlib.contextmanager
def host_place(
    shell: Shell, *, environment: Mapping[str, str] | None = None, stdin: Any = subprocess.PIPE, before: Sequence[str] = ()
) -> Iterator[HostPlace]:
    """`before`: words of a command that runs the rest of its arguments."""
    with _folder() as home:
        files = Files.make(home / "files", segments=True)
        token = secrets.token_hex(16)
        as_user: dict[str, Any] = {}
        if os.geteuid() == 0:
            os.chown(home, UID, UID)
            os.chown(files.folder, UID, UID)
            as_user = {"user": UID, "group": UID, "extra_groups": []}
        process = subprocess.Popen(
            [*before, shell.program, "-c", launcher_text(), "cronium", files.folder, home / "run", token],
            stdin=stdin,
            stdout=subprocess.DEVNULL,
            cwd="/",
            env={"PATH": shell.path, "LANG": "C.UTF-8", **(environment or {})},
            start_new_session=True,
            **as_user,
        )
        place = HostPlace(home, shell, files, token, process)
        try:
            yield place
        finally:
            if process.stdin:
                with contextlib.suppress(BrokenPipeError):
                    process.stdin.close()
            for left in place.processes():
                with contextlib.suppress(psutil.NoSuchProcess):
                    left.send_signal(signal.SIGKILL)
            process.wait(PATIENCE_S)


@dataclass
class ContainerPlace:
    """A launcher in a container that is locked down as the executor's are; its files are ours, mounted one by one."""

    files: Files
    container: Container
    stdin: Any

    def start(self, script: str, **more: Any) -> None:
        spec = {"interpreter": "bash", "grace_s": 30, **more}
        self.stdin.sendall(launch_stream(LaunchSpec(script=script.encode(), **spec)))
        self.stdin.shutdown(1)

    def finish(self) -> int:
        return int(self.container.wait(timeout=PATIENCE_S)["StatusCode"])

    def execute(self, script: str) -> str:
        """What a script says that comes in from outside, by the engine's exec."""
        done = self.container.exec_run(["sh", "-c", script])
        assert done.exit_code == 0, done.output
        assert isinstance(done.output, bytes)
        return done.output.decode()


@contextlib.contextmanager
def container_place(
    client: DockerClient, image: str, *, pids: int = 64, text: str = "", tmpfs: Mapping[str, str] | None = None
) -> Iterator[ContainerPlace]:
    """`text`: shell lines that run before the launcher's first, in the same process."""
    with _folder() as home:
        files = Files.make(home / "files")
        owned = f"rw,exec,nosuid,nodev,uid={UID},gid={UID}"
        body = client.api.create_host_config(
            binds=[
                f"{files.folder / name}:/cronium/{name}:{'ro' if name == 'credit' else 'rw'}"
                for name in sorted(path.name for path in files.folder.iterdir())
            ],
            tmpfs={"/run/cronium": f"{owned},mode=0700,size=8m", "/workspace": f"{owned},size=64m", **(tmpfs or {})},
            init=True,
            read_only=True,
            network_mode="none",
            cap_drop=["ALL"],
            security_opt=["no-new-privileges:true"],
            mem_limit=256 * 1024 * 1024,
            memswap_limit=256 * 1024 * 1024,
            pids_limit=pids,
        )
        made = client.api.create_container(
            image,
            ["sh", "-c", text + "\n" + launcher_text(), "cronium", "/cronium", "/run/cronium"],
            user=f"{UID}:{UID}",
            working_dir="/workspace",
            stdin_open=True,
            host_config=body,
        )
        container = client.containers.get(made["Id"])
        try:
            stdin = client.api.attach_socket(made["Id"], params={"stdin": 1, "stream": 1})
            container.start()
            yield ContainerPlace(files, container, stdin._sock)
            stdin._sock.close()
            stdin.close()
        finally:
            container.remove(force=True)
