"""Whether every promise held: what the queue has of each job, compared with what its script is known to do; and what was left."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from chaos.jobs import RUN, Planned
from chaos.stage import PROGRAM, Stage
from cronium.supervisor.standalone.client import LogLine, StandaloneClient
from peers.world import still_there

GONE_WITHIN_S = 60.0  # promise 8
_SPOOL_EMPTY_BYTES = 4 << 20
_PROCESSES_GONE_S = 15.0
_SHOWN = 3


@dataclass
class Result:
    """Counts, and by promise what did not hold: a text for each case."""

    jobs: int = 0
    containers: int = 0
    on_servers: int = 0
    lines: int = 0
    system: Counter[str] = field(default_factory=Counter)
    exits: Counter[str] = field(default_factory=Counter)
    errors: Counter[str] = field(default_factory=Counter)
    lost: list[str] = field(default_factory=list)
    twice: list[str] = field(default_factory=list)
    wrong_end: list[str] = field(default_factory=list)
    lines_lost: list[str] = field(default_factory=list)
    lines_repeated: list[str] = field(default_factory=list)
    left: list[str] = field(default_factory=list)
    other: list[str] = field(default_factory=list)

    @property
    def broken(self) -> dict[str, list[str]]:
        """By promise, as it is shown."""
        return {
            "jobs lost": self.lost,
            "jobs run twice": self.twice,
            "jobs with a wrong end": self.wrong_end,
            "jobs with lines lost or out of order": self.lines_lost,
            "jobs with lines repeated": self.lines_repeated,
            "left behind": self.left,
            "other": self.other,
        }

    @property
    def held(self) -> bool:
        return not any(self.broken.values())


def check_jobs(stage: Stage, submitted: Sequence[Planned], result: Result) -> None:
    """Each job that was submitted."""
    with stage.queue.client() as client:
        for planned in submitted:
            ran = stage.ran_in_containers if planned.server is None else stage.ran_on_servers
            _check_job(client, planned, ran / planned.id, result)
        result.jobs = len(submitted)
        result.on_servers = sum(1 for planned in submitted if planned.server is not None)
        result.containers = result.jobs - result.on_servers


def _check_job(client: StandaloneClient, planned: Planned, ran: Path, result: Result) -> None:
    """`ran`: the file outside of its place that has a line for each run."""
    job = client.job(planned.id)
    name = f"{planned.id} ({planned.kind}, {'container' if planned.server is None else f'web-{planned.server}'})"
    lines = list(client.logs(planned.id))
    result.lines += len(lines)
    stdout, stderr = _whole(lines, "stdout"), _whole(lines, "stderr")
    runs = [line for line in stdout if line.startswith(f"{RUN} ")]
    marks = ran.read_text().count("\n") if ran.exists() else 0
    if len(runs) > 1 or marks > 1:
        result.twice.append(f"{name}: {runs}, {marks} marks outside of its place")
    if runs and not marks:
        result.other.append(f"{name}: has run and left no mark in {ran}: a second run would not be seen")
    if job["endedAt"] is None:
        result.lost.append(f"{name}: is {job['status']}, {len(lines)} lines")
        return
    wanted = "completed" if planned.exit_code == 0 else "failed"
    end = (job["status"], job["exitCode"], job["terminalReports"], job["refusedReports"], job["attempts"])
    if end != (wanted, planned.exit_code, 1, 0, 1):
        result.wrong_end.append(
            f"{name}: status, exit code, reports, refused, attempts are {end} instead of {(wanted, planned.exit_code, 1, 0, 1)}; "
            f"{job['error']}"
        )
    result.system.update(line.line[:80] for line in lines if line.stream == "system")
    if [line.sequence for line in lines] != list(range(1, len(lines) + 1)) or job["logsComplete"] is not True:
        result.lines_lost.append(f"{name}: {len(lines)} entries, complete: {job['logsComplete']}, {job['logsCheck']}")
    for stream, said, known in (("stdout", stdout[1:], planned.stdout), ("stderr", stderr, planned.stderr)):
        _compare(f"{name} {stream}", said, known, result)


def _compare(name: str, said: list[str], known: Sequence[str], result: Result) -> None:
    if said == list(known):
        return
    counts = Counter(said)
    if repeated := [line for line, count in counts.items() if count > 1]:
        result.lines_repeated.append(f"{name}: {len(repeated)} of {len(known)}, as {_few(repeated)}")
    missing = [line for line in known if line not in counts]
    strange = sorted(set(said) - set(known))
    if missing or strange or not repeated:
        result.lines_lost.append(
            f"{name}: {len(missing)} of {len(known)} missing, as {_few(missing)}; {len(strange)} that were not printed, "
            f"as {_few(strange)}"
        )


def _few(lines: list[str]) -> list[str]:
    shown = lines if len(lines) <= 2 * _SHOWN else [*lines[:_SHOWN], *lines[-_SHOWN:]]
    return [line[:60] for line in shown]


def _whole(lines: Sequence[LogLine], stream: str) -> list[str]:
    """Lines put together from their pieces."""
    whole, pieces = [], []
    for line in lines:
        if line.stream == stream:
            pieces.append(line.line)
            if not line.continued:
                whole.append("".join(pieces))
                pieces.clear()
    return [*whole, "".join(pieces) + " (never finished)"] if pieces else whole


def check_tidy(stage: Stage, result: Result) -> None:
    """Nothing of ended jobs is there a minute later, and nothing at all once the supervisor is stopped."""
    deadline_s = time.monotonic() + GONE_WITHIN_S
    while (left := _left_running(stage)) and time.monotonic() < deadline_s:
        time.sleep(0.2)
    result.left += left
    mine = stage.processes()
    result.other += _stop_problems(stage)
    result.left += [f"process {process}" for process in still_there(mine, _PROCESSES_GONE_S)]
    result.left += [f"socket or file {path}" for path in stage.runtime.glob("**/*") if not path.is_dir()]
    result.left += stage.temporary_files()
    result.left += [f"after the stop: {one}" for one in (*stage.in_engine(), *stage.place_folders())]
    result.left += [f"on a server: {one}" for one in stage.servers.left(GONE_WITHIN_S)]


def note_logs(stage: Stage, result: Result) -> None:
    """How often the supervisor ended by itself, and what our processes have logged as errors. No promise, but worth a look."""
    result.exits.update(stage.exits())
    for line in stage.log.read_text(errors="replace").splitlines():
        try:
            entry = json.loads(line)
        except ValueError:
            if line.startswith("Traceback"):
                result.errors["Traceback (in the log)"] += 1
            continue
        if entry.get("level") in {"error", "critical"}:
            result.errors[f"{entry.get('component')}: {entry.get('message')}"] += 1


def _left_running(stage: Stage) -> list[str]:
    left = [*stage.in_engine(), *stage.place_folders()]
    for path in stage.servers.places():
        state = path / "state"
        if state.exists() and "started" in state.read_text():
            left.append(f"directory {path} of a job on a server")
    if (used := stage.disk.used_bytes()) > _SPOOL_EMPTY_BYTES:
        left.append(f"{used >> 10} KiB in the spool")
    return left


def _stop_problems(stage: Stage) -> list[str]:
    started_s = time.monotonic()
    said = stage.control("stop", PROGRAM)
    problems = [] if "stopped" in said else [f"supervisorctl stop: {said}"]
    supervisor = stage.supervisor()
    if supervisor is not None and supervisor.status() != psutil.STATUS_ZOMBIE:
        problems.append(f"the supervisor runs on after its stop ({time.monotonic() - started_s:.1f} s)")
    return problems
