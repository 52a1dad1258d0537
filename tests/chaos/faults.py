"""What is done to the program and to all it depends on: the kinds of faults, how often each, and the thread that does them.

Left out, as no program could keep its promises then: containers or servers' directories taken away, dockerd without live-restore
(its jobs die), outages longer than a job's deadline, a second fault of a kind while the first one lasts, the end of the monitor
while the supervisor that it has to end hangs.
"""

from __future__ import annotations

import math
import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

import psutil

from chaos.pulse import Pulse
from chaos.stage import HUNG_AFTER_S, PROGRAM, Stage
from peers.faulty_proxy import Fault

BACKEND_AWAY_S = 20.0
_ENDED_WITHIN_S = 60.0  # a hung process
_PATIENCE_S = 2.0
_ROLES = ("worker", "worker", "worker", "streamer", "supervisor", "forkserver", "monitor")
_THE_MONITORS = ("monitor", "forkserver")  # it dies with the one that has forked it
_KILLS_THAT_COUNT = ("kill worker", "kill streamer", "kill supervisor")


@dataclass(slots=True)
class Done:
    """A fault that was. Times on the monotonic clock; `over_s`: when its cause was gone again."""

    kind: str
    detail: str
    at_s: float
    over_s: float


@dataclass(frozen=True, slots=True)
class Kind:
    """`act` says what it has done, None when there was nothing to do it to. `lasts`: it takes its time, in a thread.

    `apart_s`: so long after one ended no other begins, or the run would be nothing but this.
    """

    name: str
    weight: float
    act: Callable[[], str | None]
    lasts: bool = False
    apart_s: float = 0.0


@dataclass
class Faults:
    """`run` until `stop`. `done` has all that was; `problems` what should not have been."""

    stage: Stage
    pulse: Pulse
    choose: random.Random
    mean_pause_s: float
    done: list[Done] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    tell: Callable[[float, str], None] = lambda since_s, text: None

    def __post_init__(self) -> None:
        self._over = threading.Event()
        self._monitor_is_needed = False
        self._busy: dict[str, threading.Thread] = {}
        self._kinds = self._table()
        self._thread = threading.Thread(target=self._run, daemon=True, name="faults")

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """No new faults; returns when those that last are over."""
        self._over.set()
        self._thread.join(_ENDED_WITHIN_S + 60)
        for thread in list(self._busy.values()):
            thread.join(_ENDED_WITHIN_S + 60)

    def counts(self) -> Counter[str]:
        """How many of each kind."""
        return Counter(one.kind for one in list(self.done))

    def kills(self) -> int:
        """SIGKILLs of supervisor, streamer, workers."""
        return sum(count for kind, count in self.counts().items() if kind in _KILLS_THAT_COUNT)

    # --- when ------------------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        next_s = time.monotonic()
        while not self._over.wait(max(0.0, next_s - time.monotonic())):
            next_s += self.choose.expovariate(1 / self.mean_pause_s)
            free = [kind for kind in self._kinds if self._is_free(kind)]
            kind = self.choose.choices(free, [one.weight for one in free])[0]
            if kind.lasts:
                self._busy[kind.name] = threading.Thread(target=self._do, args=(kind,), daemon=True, name=kind.name)
                self._busy[kind.name].start()
            else:
                self._do(kind)

    def _is_free(self, kind: Kind) -> bool:
        thread = self._busy.get(kind.name)
        if thread is None:
            return True
        last_s = max((one.over_s for one in self.done if one.kind == kind.name), default=-math.inf)
        return not thread.is_alive() and time.monotonic() - last_s >= kind.apart_s

    def _do(self, kind: Kind) -> None:
        at_s = time.monotonic()
        one = Done(kind.name, "", at_s, at_s)
        try:
            detail = kind.act()
        except Exception as error:
            self.problems.append(f"the driver failed at '{kind.name}': {type(error).__name__}: {error}")
            raise
        if detail is None:
            return
        one.detail, one.over_s = detail, time.monotonic()
        self.done.append(one)
        self.tell(one.over_s - at_s, f"{kind.name}: {detail}")

    def _table(self) -> list[Kind]:
        kinds = [
            Kind("kill worker", 38, lambda: self._kill("worker")),
            Kind("kill streamer", 17, lambda: self._kill("streamer")),
            Kind("kill supervisor", 5, lambda: self._kill("supervisor")),
            Kind("kill forkserver", 4, lambda: self._kill("forkserver")),
            Kind("kill monitor", 2, lambda: self._kill("monitor")),
            Kind("kill all at once", 2, self._kill_all),
            Kind("pause a process", 5, self._pause, lasts=True),
            Kind("dockerd killed", 2.5, self._dockerd, lasts=True, apart_s=10),
            Kind("ssh sessions killed", 8, self._sessions),
            Kind("ssh sessions killed for seconds", 2, self._session_storm, lasts=True, apart_s=10),
            Kind("sshd away", 2, self._sshd_away, lasts=True),
            Kind("websocket cut", 9, self._cut),
            Kind("websocket silent", 2, self._silent, lasts=True),
            Kind("backend misbehaves", 8, self._http, lasts=True),
            Kind("backend away", 1, self._backend_away, lasts=True, apart_s=60),
            Kind("jobs delivered again", 8, self._deliver_again),
            Kind("spool's disk full", 3, self._disk_full, lasts=True),
            Kind("supervisorctl restart", 2, self._restart, lasts=True),
            Kind("supervisorctl stop, start", 1, self._stop_start, lasts=True),
        ]
        if self.stage.hangs_are_ended:
            kinds.append(Kind("hang a process", 4, self._hang, lasts=True))
        return kinds

    def _rest(self, at_least_s: float, at_most_s: float) -> float:
        """Some time, cut short at the end of the run."""
        seconds = self.choose.uniform(at_least_s, at_most_s)
        self._over.wait(seconds)
        return seconds

    # --- our processes ------------------------------------------------------------------------------------------------------

    def _one(self, role: str) -> psutil.Process | None:
        found = self.stage.role(role)
        return self.choose.choice(found) if found else None

    def _kill(self, role: str) -> str | None:
        """One of that role; a supervisor that is being started has none yet, which is waited for a little."""
        if self._monitor_is_needed and role in _THE_MONITORS:
            return None
        until_s = time.monotonic() + _PATIENCE_S
        while (process := self._one(role)) is None:
            if time.monotonic() > until_s or self._over.wait(0.1):
                return None
        return _signal(process, signal.SIGKILL)

    def _kill_all(self) -> str | None:
        processes = self.stage.processes()
        for process in processes:
            _signal(process, signal.SIGKILL)
        return f"{len(processes)} processes" if processes else None

    def _pause(self) -> str | None:
        role = self.choose.choice(_ROLES)
        process = self._one(role)
        if process is None or _signal(process, signal.SIGSTOP) is None:
            return None
        seconds = self._rest(0.2, 5)
        _signal(process, signal.SIGCONT)
        return f"{role} for {seconds:.1f} s"

    def _hang(self) -> str | None:
        roles = [role for role in _ROLES if role != "supervisor" or self.stage.role("monitor")]
        role = self.choose.choice(roles)
        process = self._one(role)
        self._monitor_is_needed = role == "supervisor"
        try:
            return None if process is None else self._until_ended(role, process)
        finally:
            self._monitor_is_needed = False

    def _until_ended(self, role: str, process: psutil.Process) -> str | None:
        if _signal(process, signal.SIGSTOP) is None:
            return None
        started_s = time.monotonic()
        while process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
            if time.monotonic() - started_s > _ENDED_WITHIN_S:
                self.problems.append(f"a {role} that hangs was not ended within {_ENDED_WITHIN_S:g} s")
                _signal(process, signal.SIGCONT)
                break
            time.sleep(0.05)
        return f"{role}, ended after {time.monotonic() - started_s:.1f} s (hungAfter {HUNG_AFTER_S} s)"

    def _restart(self) -> str | None:
        return self.stage.control("restart", PROGRAM).replace("\n", "; ").strip("; ")

    def _stop_start(self) -> str | None:
        said = self.stage.control("stop", PROGRAM)
        seconds = self._rest(0, 5)
        said += self.stage.control("start", PROGRAM)
        return f"after {seconds:.1f} s: {said}".replace("\n", "; ")

    # --- engine and servers -------------------------------------------------------------------------------------------------

    def _dockerd(self) -> str | None:
        self.stage.engine.kill()
        seconds = self._rest(0, 10)
        self.stage.engine.start()
        return f"away for {seconds:.1f} s"

    def _sessions(self) -> str | None:
        count = self.choose.choice(self.stage.servers.all).kill_sessions()
        return f"{count} processes" if count else None

    def _session_storm(self) -> str | None:
        server = self.choose.choice(self.stage.servers.all)
        until_s = time.monotonic() + self.choose.uniform(2, 15)
        count = 0
        while time.monotonic() < until_s and not self._over.wait(0.15):
            count += server.kill_sessions()
        return f"{count} processes"

    def _sshd_away(self) -> str | None:
        server = self.choose.choice(self.stage.servers.all)
        server.stop()
        seconds = self._rest(0.5, 15)
        server.start()
        return f"for {seconds:.1f} s"

    # --- the backend --------------------------------------------------------------------------------------------------------

    def _cut(self) -> str | None:
        count = self.stage.wire.cut()
        return f"{count} connections" if count else None

    def _silent(self) -> str | None:
        self.stage.wire.silent(True)
        seconds = self._rest(1, 8)
        self.stage.wire.silent(False)
        return f"for {seconds:.1f} s"

    def _http(self) -> str | None:
        fault, chance = self.choose.choice(list(Fault)), self.choose.choice((0.5, 1.0))
        choose = random.Random(self.choose.random())
        self.stage.proxy.plan = lambda method, path: fault if choose.random() < chance else None
        seconds = self._rest(0.5, 6)
        self.stage.proxy.plan = lambda method, path: None
        return f"{fault.name.lower()}, {chance:.0%} of requests for {seconds:.1f} s"

    def _backend_away(self) -> str | None:
        self.stage.queue.end(signal.SIGKILL)
        self._over.wait(BACKEND_AWAY_S)
        self.stage.queue.start()
        return f"for {BACKEND_AWAY_S:g} s"

    def _deliver_again(self) -> str | None:
        return "with the next poll" if self.stage.proxy.repeat() else None

    def _disk_full(self) -> str | None:
        self.stage.disk.fill()
        seconds = self._rest(2, 12)
        self.stage.disk.free()
        return f"for {seconds:.1f} s"


def _signal(process: psutil.Process, number: int) -> str | None:
    try:
        process.send_signal(number)
    except psutil.NoSuchProcess:
        return None
    return f"pid {process.pid}"
