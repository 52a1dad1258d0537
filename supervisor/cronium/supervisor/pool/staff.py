"""All our processes by their names, however each of them is started: what the loop does with them, and how it sees them die.

Runs in the supervisor's loop. Decides nothing: which is wanted, which hangs, and what a death means is the core's.
"""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from cronium.supervisor.core.roles import FORKSERVER
from cronium.supervisor.pool.forks import Forks, Started
from cronium.supervisor.pool.roles import Role

_WORKER_MODULE = "cronium.worker.main"


@dataclass(frozen=True, slots=True)
class Forked:
    """A role that is forked: its module, and what its `main` is told, asked for at each start."""

    module: str
    settings: Callable[[], Mapping[str, object]]


class Staff:
    """`worker`: the fields of WorkerSettings but for name and number. `queue`: the standalone queue, which may run already."""

    def __init__(
        self, forks: Forks, worker: Mapping[str, object], forked: Mapping[str, Forked], queue: Role | None = None
    ) -> None:
        self._forks = forks
        self._worker = worker
        self._forked = forked
        self._queue = queue

    @property
    def roles(self) -> tuple[str, ...]:
        """The names of all but the workers."""
        queue = () if self._queue is None else (self._queue.name,)
        return (*queue, FORKSERVER, *self._forked)

    def fileno(self) -> int:
        """Readable when `started` has something."""
        return self._forks.fileno()

    def started(self) -> list[Started]:
        """Which were forked since the last call, or could not be."""
        return self._forks.started()

    def descriptors(self) -> dict[int, str]:
        """The pidfd of each process that lives, as far as we know: readable when it is dead."""
        found = self._forks.descriptors()
        if (server := self._forks.forkserver()) is not None:
            found[server[1]] = FORKSERVER
        if self._queue is not None and self._queue.descriptor >= 0:
            found[self._queue.descriptor] = self._queue.name
        return found

    def start_worker(self, name: str, number: int) -> None:
        """Ask for a worker; `started` tells."""
        self._forks.start(name, _WORKER_MODULE, {**self._worker, "name": name, "number": number})

    def start_role(self, name: str) -> Started | None:
        """Start a role, if it does not run; what came of it, or None: `started` tells."""
        try:
            if name == FORKSERVER:
                return Started(name, self._forks.ensure_forkserver())
            if self._queue is not None and name == self._queue.name:
                if self._queue.descriptor < 0:
                    self._queue.start()
                assert self._queue.process is not None  # noqa: S101 - started just now, or before
                return Started(name, self._queue.process.pid)
            role = self._forked[name]
            self._forks.start(name, role.module, role.settings())
        except OSError as error:  # no process, no memory, no descriptor left
            return Started(name, None, str(error))
        return None

    def reap(self, name: str) -> str:
        """Let go of a dead process; how it ended."""
        if name == FORKSERVER:
            return self._forks.forkserver_died()
        return self._queue.reap() if self._is_queue(name) and self._queue is not None else self._forks.reap(name)

    def kill(self, name: str) -> None:
        """SIGKILL; its death is seen as any other."""
        if name == FORKSERVER:
            self._forks.kill_forkserver()
        elif self._is_queue(name):
            self.signal(name, signal.SIGKILL)
        else:
            self._forks.kill(name)

    def signal(self, name: str, number: signal.Signals) -> None:
        """Send a signal to a process, if it is there."""
        if name == FORKSERVER:
            if (server := self._forks.forkserver()) is not None:
                with contextlib.suppress(ProcessLookupError):
                    signal.pidfd_send_signal(server[1], number)
        elif self._is_queue(name) and self._queue is not None:
            self._queue.signal(number)
        else:
            self._forks.signal(name, number)

    def awake(self, names: Iterable[str]) -> tuple[str, ...]:
        """Which of these are not stopped, as the kernel says."""
        return tuple(name for name in names if (pid := self._pid(name)) is None or not is_stopped(pid))

    def close(self, deadline_s: float) -> None:
        """End all: the roles by SIGTERM, with time until then (monotonic). What runs in places goes on."""
        for name in self._forked:
            self._forks.signal(name, signal.SIGTERM)
        if self._queue is not None:
            self._queue.signal(signal.SIGTERM)
        for name in self._forks.descriptors().values():
            if name not in self._forked:
                self._forks.kill(name)
        for name in self._forked:
            self._forks.wait_dead(name, deadline_s)
        self._forks.close()
        if self._queue is not None:
            self._queue.stop(deadline_s)

    def _is_queue(self, name: str) -> bool:
        return self._queue is not None and name == self._queue.name

    def _pid(self, name: str) -> int | None:
        if name == FORKSERVER:
            server = self._forks.forkserver()
            return None if server is None else server[0]
        if self._is_queue(name) and self._queue is not None:
            return None if self._queue.process is None else self._queue.process.pid
        return self._forks.pid(name)


def is_stopped(pid: int) -> bool:
    """Whether a process is stopped (proc(5), `stat`: the letter behind the last parenthesis). False when it is gone."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return stat[stat.rindex(b")") + 2 :][:1] in (b"T", b"t")  # by a signal, by a tracer
