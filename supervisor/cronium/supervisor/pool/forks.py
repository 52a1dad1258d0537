"""Forks processes by name (a module and what its `main` is told), and sees them die. Decides nothing: that is the core's.

The forkserver is started from the main thread (its death signal follows the thread that forked it); it has everything loaded and
holds no token. What a process is told goes through the forkserver's pipe to the child alone. Asking for a process can hang, when
the forkserver is stopped, so that is done in a thread; the loop gives up after a while and kills the forkserver, with which
all that it forked dies. Deaths are seen by pidfd, in the loop.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import queue
import shutil
import signal
import tempfile
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from multiprocessing import forkserver
from multiprocessing.context import ForkServerProcess
from pathlib import Path

import structlog

from cronium.common.process import run_forked
from cronium.supervisor.pool.descriptors import check_room, wait_readable

_PRELOAD_MODULES = ("cronium.worker.preload", "cronium.supervisor.preload")
_UNKNOWN = "ended, its status is unknown"
_LAST_WAIT_S, _REAP_PAUSE_S = 1.0, 0.002
_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Started:
    """A process was forked, or could not be (`error`)."""

    name: str
    pid: int | None
    error: str = ""


@dataclass(frozen=True, slots=True)
class _Asked:
    name: str
    module: str
    settings: Mapping[str, object]


@dataclass(frozen=True, slots=True)
class _Process:
    handle: ForkServerProcess
    pid: int
    descriptor: int


class Forks:
    """All that was forked, and the forkserver."""

    def __init__(self, runtime_dir: Path) -> None:
        self._context = multiprocessing.get_context("forkserver")
        self._asked: queue.SimpleQueue[_Asked | None] = queue.SimpleQueue()
        self._answers: queue.SimpleQueue[tuple[Started, ForkServerProcess | None]] = queue.SimpleQueue()
        self._answered = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._processes: dict[str, _Process] = {}
        self._given_up: set[str] = set()
        self._closing = False
        self._server: tuple[int, int] | None = None  # the forkserver's pid and pidfd
        os.environ["CRONIUM_SUPERVISOR_PID"] = str(os.getpid())
        os.environ["CRONIUM_FORKSERVER_DIR"] = str(runtime_dir)
        for left in runtime_dir.glob("pymp-*"):  # of a supervisor that was killed
            shutil.rmtree(left, ignore_errors=True)
        tempfile.tempdir = str(runtime_dir)  # multiprocessing makes a folder for the forkserver's socket
        self._context.set_forkserver_preload(list(_PRELOAD_MODULES))
        forkserver.ensure_running()
        threading.Thread(target=self._spawn, name="spawner", daemon=True).start()

    # --- the forkserver ----------------------------------------------------------------------------------------------

    def ensure_forkserver(self) -> int:
        """Start the forkserver if there is none (any more), and watch it; its pid. Main thread only. Raises OSError."""
        forkserver.ensure_running()
        pid = _forkserver_pid()
        assert pid is not None  # noqa: S101 - it was started just now
        if self._server is None:  # else the last one's death is still to be told
            self._server = (pid, os.pidfd_open(pid))
        return pid

    def forkserver(self) -> tuple[int, int] | None:
        """Its pid and pidfd, which is readable when it is dead; None once that is known."""
        return self._server

    def forkserver_died(self) -> str:
        """Let go of a dead forkserver; how it ended."""
        if self._server is None:
            return _UNKNOWN
        descriptor, self._server = self._server[1], None
        try:
            found = os.waitid(
                os.P_PIDFD, descriptor, os.WEXITED | os.WNOWAIT | os.WNOHANG
            )  # its status is left to whoever reaps it
        except ChildProcessError:
            return _UNKNOWN
        finally:
            os.close(descriptor)
        if found is None:
            return _UNKNOWN
        return _ending(found.si_status if found.si_code == os.CLD_EXITED else -found.si_status)

    def kill_forkserver(self) -> None:
        """End the forkserver, and with it all that it has forked (PR_SET_PDEATHSIG)."""
        if self._server is not None:
            _log.warning("ending the forkserver", pid=self._server[0])
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._server[1], signal.SIGKILL)

    # --- what it forks -----------------------------------------------------------------------------------------------

    def fileno(self) -> int:
        """Readable when `started` has something."""
        return self._answered

    def descriptors(self) -> dict[int, str]:
        """The pidfd of each process: readable when it is dead."""
        return {process.descriptor: name for name, process in self._processes.items()}

    def pid(self, name: str) -> int | None:
        """None before it is forked."""
        process = self._processes.get(name)
        return None if process is None else process.pid

    def start(self, name: str, module: str, settings: Mapping[str, object]) -> None:
        """Ask for one more process that calls `main(settings)` of `module`; `started` tells. Main thread only."""
        self._given_up.discard(name)
        try:
            forkserver.ensure_running()
        except OSError as error:
            self._answer(Started(name, None, f"no forkserver: {error}"), None)
        else:
            self._asked.put(_Asked(name, module, settings))

    def started(self) -> list[Started]:
        """Which were forked since the last call, or could not be."""
        try:
            os.eventfd_read(self._answered)
        except BlockingIOError:
            return []
        out = []
        while not self._answers.empty():
            answer, handle = self._answers.get()
            if handle is not None and answer.pid is not None:
                answer = self._taken(answer.name, answer.pid, handle)
            out.append(answer)
        return out

    def _taken(self, name: str, pid: int, handle: ForkServerProcess) -> Started:
        try:
            descriptor = os.pidfd_open(pid)
        except ProcessLookupError:
            return Started(name, None, "died at once")
        except OSError as error:
            handle.kill()  # nobody could see it die
            return Started(name, None, f"it could not be watched: {error}")
        if (code := handle.exitcode) is not None:  # it is dead, and its number may be somebody else's by now
            os.close(descriptor)
            return Started(name, None, f"died at once: {_status(code)}")
        self._processes[name] = _Process(handle, pid, descriptor)
        if name in self._given_up:
            self.kill(name)
        return Started(name, pid)

    def reap(self, name: str) -> str:
        """Let go of a dead one; how it ended."""
        process = self._processes.pop(name, None)
        if process is None:
            return _UNKNOWN
        os.close(process.descriptor)
        process.handle.join(timeout=0.2)  # the forkserver writes the status just after the death
        return _status(process.handle.exitcode)

    def kill(self, name: str) -> None:
        """End one; its death is seen as any other."""
        if name in self._processes:
            self.signal(name, signal.SIGKILL)
        else:  # still being asked for: the forkserver does not answer
            self._given_up.add(name)
            self.kill_forkserver()

    def signal(self, name: str, number: signal.Signals) -> None:
        """Send a signal to one that is there."""
        if (process := self._processes.get(name)) is not None:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(process.descriptor, number)

    def wait_dead(self, name: str, deadline_s: float) -> bool:
        """Whether it is dead, at the latest at a monotonic time."""
        process = self._processes.get(name)
        return process is None or wait_readable(process.descriptor, deadline_s - time.monotonic())

    def close(self) -> None:
        """End the forkserver and all that is left. What runs in places goes on."""
        self._closing = True
        self._asked.put(None)
        pid = _forkserver_pid()
        if pid is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            _reap_child(pid, _LAST_WAIT_S)
        for name in list(self._processes):
            wait_readable(self._processes[name].descriptor, _LAST_WAIT_S)
            self.reap(name)

    def _spawn(self) -> None:
        while (asked := self._asked.get()) is not None and not self._closing:
            try:
                check_room()
                arguments = (asked.module, asked.settings)
                handle = self._context.Process(target=run_forked, args=arguments, name=asked.name, daemon=True)
                handle.start()
            except Exception as error:  # noqa: BLE001 - the forkserver dies with the thread that has started it, and all with it
                if not isinstance(error, OSError | EOFError):  # which say all there is to be said
                    _log.exception("a process could not be asked for", process=asked.name)
                self._answer(Started(asked.name, None, f"{type(error).__name__}: {error}"), None)
            else:
                self._answer(Started(asked.name, handle.pid), handle)

    def _answer(self, answer: Started, handle: ForkServerProcess | None) -> None:
        self._answers.put((answer, handle))
        os.eventfd_write(self._answered, 1)


def _reap_child(pid: int, timeout_s: float) -> None:
    """Take a child's status, for so long as that: one that hangs in the kernel is left behind."""
    deadline_s = time.monotonic() + timeout_s
    with contextlib.suppress(ChildProcessError):  # the spawner has asked it for a process just now, and so seen it dead
        while os.waitpid(pid, os.WNOHANG) == (0, 0) and time.monotonic() < deadline_s:
            time.sleep(_REAP_PAUSE_S)


def _status(code: int | None) -> str:
    """How a forked process ended, as multiprocessing says it: 255 when the forkserver itself is gone."""
    return _UNKNOWN if code is None or code == 255 else _ending(code)


def _ending(code: int) -> str:
    """How a process ended, by its exit code; of a signal the negative number."""
    return f"killed by {signal.Signals(-code).name}" if code < 0 else f"exited with {code}"


def _forkserver_pid() -> int | None:
    """multiprocessing has no public name for it (CPython, Lib/multiprocessing/forkserver.py)."""
    pid: int | None = getattr(forkserver._forkserver, "_forkserver_pid", None)
    return pid
