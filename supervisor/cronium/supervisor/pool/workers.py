"""Forks workers and sees them die. Decides nothing: which worker is wanted, and what its death means, is the core's.

The forkserver is started from the main thread (its death signal follows the thread that forked it); it has everything loaded and
holds no token. Asking it for a worker can hang, when it is stopped, so that is done in a thread; the loop gives up after a
while and kills the forkserver, with which all its workers die. Deaths are seen by pidfd, in the loop.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import queue
import select
import shutil
import signal
import tempfile
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from multiprocessing import forkserver
from multiprocessing.context import ForkServerProcess
from pathlib import Path

import structlog

from cronium.common.process import run_by_name

_WORKER_MODULE = "cronium.worker.main"
_PRELOAD_MODULE = "cronium.worker.preload"
_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Started:
    """A worker was forked, or could not be (`error`)."""

    name: str
    pid: int | None
    error: str = ""


@dataclass(slots=True)
class _Process:
    handle: ForkServerProcess
    descriptor: int


class WorkerPool:
    """All workers. `settings` are the fields of WorkerSettings but for the name and number."""

    def __init__(self, settings: Mapping[str, object], runtime_dir: Path) -> None:
        self._settings = settings
        self._context = multiprocessing.get_context("forkserver")
        self._asked: queue.SimpleQueue[tuple[str, int] | None] = queue.SimpleQueue()
        self._answers: queue.SimpleQueue[tuple[Started, ForkServerProcess | None]] = queue.SimpleQueue()
        self._answered = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._processes: dict[str, _Process] = {}
        self._given_up: set[str] = set()
        self._closing = False
        os.environ["CRONIUM_SUPERVISOR_PID"] = str(os.getpid())
        os.environ["CRONIUM_FORKSERVER_DIR"] = str(runtime_dir)
        for left in runtime_dir.glob("pymp-*"):  # of a supervisor that was killed
            shutil.rmtree(left, ignore_errors=True)
        tempfile.tempdir = str(runtime_dir)  # multiprocessing makes a folder for the forkserver's socket
        self._context.set_forkserver_preload([_PRELOAD_MODULE])
        self.ensure_forkserver()
        threading.Thread(target=self._spawn, name="spawner", daemon=True).start()

    def ensure_forkserver(self) -> None:
        """Start the forkserver if there is none (any more). Main thread only."""
        forkserver.ensure_running()

    def fileno(self) -> int:
        """Readable when `started` has something."""
        return self._answered

    def descriptors(self) -> dict[int, str]:
        """The pidfd of each worker: readable when it is dead."""
        return {process.descriptor: name for name, process in self._processes.items()}

    def start(self, name: str, number: int) -> None:
        """Ask for one more worker; `started` tells."""
        self.ensure_forkserver()
        self._asked.put((name, number))

    def started(self) -> list[Started]:
        """Which workers were forked since the last call, or could not be."""
        try:
            os.eventfd_read(self._answered)
        except BlockingIOError:
            return []
        out = []
        while not self._answers.empty():
            answer, handle = self._answers.get()
            if handle is not None and answer.pid is not None:
                try:
                    self._processes[answer.name] = _Process(handle, os.pidfd_open(answer.pid))
                except ProcessLookupError:
                    answer = Started(answer.name, None, "died at once")
                else:
                    if answer.name in self._given_up:
                        self.kill(answer.name)
            out.append(answer)
        return out

    def reap(self, name: str) -> str:
        """Let go of a dead worker; how it ended."""
        process = self._processes.pop(name)
        os.close(process.descriptor)
        process.handle.join(timeout=0.2)  # the forkserver writes the status just after the death
        code = process.handle.exitcode
        if code is None or code == 255:  # 255: what is said when the forkserver itself is gone
            return "ended, its status is unknown"
        return f"killed by {signal.Signals(-code).name}" if code < 0 else f"exited with {code}"

    def kill(self, name: str) -> None:
        """End a worker; its death is seen as any other."""
        process = self._processes.get(name)
        if process is None:  # still being asked for: the forkserver does not answer
            self._given_up.add(name)
            self.kill_forkserver()
            return
        try:
            signal.pidfd_send_signal(process.descriptor, signal.SIGKILL)
        except ProcessLookupError:
            return

    def kill_forkserver(self) -> None:
        """End the forkserver, and with it every worker (PR_SET_PDEATHSIG)."""
        pid = _forkserver_pid()
        if pid is not None:
            _log.warning("ending the forkserver", pid=pid)
            os.kill(pid, signal.SIGKILL)

    def close(self) -> None:
        """End all workers and the forkserver. What runs in their places goes on."""
        self._closing = True
        self._asked.put(None)
        pid = _forkserver_pid()
        if pid is not None:
            os.kill(pid, signal.SIGKILL)
            with contextlib.suppress(ChildProcessError):  # the spawner has asked it for a worker just now, and so seen it dead
                os.waitpid(pid, 0)
        for name in list(self._processes):
            self._wait_dead(self._processes[name].descriptor)
            self.reap(name)

    @staticmethod
    def _wait_dead(descriptor: int) -> None:
        poller = select.poll()
        poller.register(descriptor, select.POLLIN)
        poller.poll(1000)

    def _spawn(self) -> None:
        while (asked := self._asked.get()) is not None and not self._closing:
            name, number = asked
            settings = {**self._settings, "name": name, "number": number}
            try:
                handle = self._context.Process(target=run_by_name, args=(_WORKER_MODULE, settings), name=name, daemon=True)
                handle.start()
            except (OSError, EOFError) as error:
                answer: tuple[Started, ForkServerProcess | None] = (Started(name, None, f"{type(error).__name__}: {error}"), None)
            else:
                answer = (Started(name, handle.pid), handle)
            self._answers.put(answer)
            os.eventfd_write(self._answered, 1)


def _forkserver_pid() -> int | None:
    """multiprocessing has no public name for it (CPython, Lib/multiprocessing/forkserver.py)."""
    pid: int | None = getattr(forkserver._forkserver, "_forkserver_pid", None)
    return pid
