"""Servers for jobs with target `server`: real sshds on loopback, and a look at what was left on them."""

from __future__ import annotations

import itertools
import os
import pwd
import shutil
import tempfile
import time
from collections.abc import Iterable, Mapping
from contextlib import ExitStack, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import psutil

from peers.sshd import SSHD, Sshd

# Its home is empty: what a person's own .bashrc does is no part of a test. Nobody else's tests have the same,
# and `Servers` adds a number: what runs as that user is theirs.
USER = f"cronium{os.getpid()}"
_GONE_WITHIN_S = 75.0  # promise 8, and a little for a slow machine
_OURS = ("CRONIUM_PLACE", "CRONIUM_TOKEN", "CRONIUM_READER")
_numbers = itertools.count()


class Servers:
    """`count` sshds (or the given ones), one folder for all their jobs. Use as a context manager: nothing may be left there."""

    def __init__(self, count: int = 1, *, given: Iterable[Sshd] = (), lines: Iterable[str] = ()) -> None:
        user = f"{USER}s{next(_numbers)}"
        self.all = [*given] or [Sshd(*lines, user=user) for _ in range(count)]
        self.folder = Path(tempfile.mkdtemp(prefix="crs-", dir="/tmp"))
        self.folder.chmod(0o1777)  # as /tmp: whoever logs in makes a directory there
        self.known_hosts = self.folder / "known_hosts"
        self._stack = ExitStack()
        self._seen: set[str] = set()  # names of places: what runs for one is ours when its directory is long gone, too
        self._uids: set[int] = set()

    def __enter__(self) -> Self:
        try:
            for server in self.all:
                self._stack.enter_context(server)
        except BaseException:
            self._stack.close()
            shutil.rmtree(self.folder, ignore_errors=True)
            raise
        # Whatever runs as a user of ours is ours. Root has more to do.
        self._uids = {pwd.getpwnam(server.user).pw_uid for server in self.all} - {0}
        self.known_hosts.write_text("".join(server.known_hosts_line() + "\n" for server in self.all))
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        left = self.left(0 if kind is not None else _GONE_WITHIN_S)
        for process in self.processes():
            with suppress(psutil.NoSuchProcess):
                process.kill()
        self._stack.close()
        shutil.rmtree(self.folder, ignore_errors=True)
        assert kind is not None or not left, f"left on the servers: {left}"

    def environ(self, **more: str) -> dict[str, str]:
        """The configuration of a supervisor for these servers."""
        return {
            "CRONIUM_SSH_KNOWN_HOSTS_FILE": str(self.known_hosts),
            "CRONIUM_SSH_EXECUTION_TEMP_DIR": str(self.folder / "jobs"),
            **more,
        }

    def target(self, number: int = 0, **more: Any) -> dict[str, Any]:
        """`execution.target` for one of them."""
        details = self.all[number].server_details(name=f"web-{number}", **more)
        return {"type": "server", "serverDetails": details}

    def several(self, *numbers: int) -> dict[str, Any]:
        """`metadata` for some of them."""
        servers = [self.all[number].server_details(name=f"web-{number}") for number in numbers]
        return {"servers": servers, "multiServer": True}

    def places(self) -> list[Path]:
        """The directories of jobs and waiting launchers."""
        found = [path for base in self.folder.glob("jobs-*") for path in base.iterdir()]
        self._seen.update(path.name for path in found)
        return found

    def wait_until_tidy(self, within_s: float = _GONE_WITHIN_S) -> None:
        """Until there is no place of a job whose script was started (waiting launchers may stay)."""
        deadline_s = time.monotonic() + within_s
        while left := [state for path in self.places() if "started" in (state := _state(path))]:
            assert time.monotonic() < deadline_s, f"left on the servers: {left}"
            time.sleep(0.05)

    def processes(self) -> list[psutil.Process]:
        """Whatever runs there for us, but for sshd's own."""
        self.places()
        return [process for process in psutil.process_iter() if self._is_ours(process)]

    def _is_ours(self, process: psutil.Process) -> bool:
        try:
            if process.exe() == SSHD or process.status() == psutil.STATUS_ZOMBIE:
                return False
            environ: Mapping[str, str] = process.environ()
            return (
                process.uids().real in self._uids
                or any(environ.get(name) in self._seen for name in _OURS)
                or str(self.folder) in " ".join(process.cmdline())
            )
        except psutil.Error:
            return False

    def left(self, within_s: float = _GONE_WITHIN_S) -> list[str]:
        """Wait until nothing is there; what there still is after that time."""
        deadline_s = time.monotonic() + within_s
        while True:
            left = [f"place {path.name} ({_state(path)})" for path in self.places()]
            left += [f"process {process.pid} {' '.join(_cmdline(process))[:100]}" for process in self.processes()]
            if not left or time.monotonic() > deadline_s:
                return left
            time.sleep(0.1)


def _state(place: Path) -> str:
    try:
        return (place / "state").read_text().replace("\n", "; ")
    except OSError as error:
        return str(error)


def _cmdline(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []
