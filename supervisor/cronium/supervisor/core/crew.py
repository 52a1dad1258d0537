"""The workers: how many there are, what each does, when one is replaced. Pure; part of the core.

A worker holds its job until it says that it is idle again, also while it cleans up after it; so a job's holder is not always
the one that may still speak for it (`Core` asks for the generation too).
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from dataclasses import replace

from cronium.supervisor.core import actions as do
from cronium.supervisor.core.decisions import backoff
from cronium.supervisor.core.events import Now, WorkerDied, WorkerIsIdle
from cronium.supervisor.core.intensity import longest_pause_s
from cronium.supervisor.core.rules import Rules
from cronium.supervisor.core.state import Worker

_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.2, 30.0  # after workers that died before they were ready
_TIDIED_WITHIN_S = 300.0  # a worker that does not come back from it is ended: it blocks a slot
_READIED_WITHIN_S = 6 * 3600.0  # at start, when images may have to be pulled


class Crew:
    """All workers."""

    def __init__(self, rules: Rules, jitter: random.Random, draft: do.Draft) -> None:
        self._rules = rules
        self._random = jitter
        self._draft = draft
        self._workers: dict[str, Worker] = {}
        self._holders: dict[str, str] = {}
        self._next_number = 1
        self._start_failures = 0
        self._start_at_s = 0.0
        self._tidy_at_s: float | None = None
        self._looked_s = 0.0  # when the last look was over
        self._tidied = False

    def __iter__(self) -> Iterator[Worker]:
        return iter(tuple(self._workers.values()))

    def busy(self) -> int:
        """How many have a job."""
        return len(self._holders)

    def holder(self, job_id: str) -> str | None:
        """The worker that has a job."""
        return self._holders.get(job_id)

    def holds(self, worker: str, job_id: str, generation: int) -> bool:
        """Whether this worker has this job in this generation."""
        known = self._workers.get(worker)
        return known is not None and (known.job_id, known.generation) == (job_id, generation)

    def give(self, worker: str, job_id: str, generation: int, now: Now) -> None:
        """It has the job from now on."""
        self._change(worker, job_id=job_id, generation=generation, given_s=now.mono_s)
        self._holders[job_id] = worker

    def is_known(self, worker: str) -> bool:
        """Whether it lives, as far as we know."""
        return worker in self._workers

    def clean(self, worker: str, now: Now) -> None:
        """It is busy with what is left on a server."""
        self._change(worker, tidying=True, due_s=now.mono_s + _TIDIED_WITHIN_S)

    # --- what workers say, and what is seen of them ------------------------------------------------------------------

    def ready(self, name: str, now: Now) -> None:
        """It can take a job."""
        self._start_failures = 0
        self._change(name, ready=True, ready_s=now.mono_s, due_s=math.inf)

    def beats(self, name: str, memory_bytes: int) -> None:
        """What it holds."""
        if (worker := self._workers.get(name)) is not None and worker.memory_bytes != memory_bytes:
            self._change(name, memory_bytes=memory_bytes)

    def has_looked(self, name: str, now: Now) -> None:
        """It has finished its look for leftovers; jobs come first for a while, however long it took."""
        self._looked_s = now.mono_s
        self.tidied(name)

    def tidied(self, name: str) -> None:
        """It can take a job again."""
        self._change(name, tidying=False, due_s=math.inf)

    def idle(self, event: WorkerIsIdle, now: Now) -> bool:
        """It has finished with its job; whether it was this one. A worn one is told to leave."""
        if not self.holds(event.worker, event.job_id, event.generation):
            return False
        self._holders.pop(event.job_id, None)
        worker = self._workers[event.worker]
        worker = replace(worker, job_id=None, jobs_done=worker.jobs_done + 1, memory_bytes=event.memory_bytes)
        if worker.jobs_done >= self._rules.recycle_after_jobs or event.memory_bytes > self._rules.recycle_above_bytes:
            worker = replace(worker, retiring=True, due_s=now.mono_s + self._rules.worker_start_s)
            self._draft.actions.append(do.StopWorkerProcess(worker.name))
        self._workers[worker.name] = worker
        return True

    def died(self, event: WorkerDied, now: Now) -> Worker | None:
        """It is gone, or could not be started; what it was."""
        worker = self._workers.pop(event.worker, None)
        if worker is None:
            return None
        if not worker.ready:
            self._start_failures += 1
            longest_s = longest_pause_s(_LONGEST_PAUSE_S, self._rules.restart_intensity, self._rules.restart_period_s)
            pause = backoff(self._start_failures, min(_FIRST_PAUSE_S, longest_s), longest_s, self._random)
            self._start_at_s = now.mono_s + pause
        if not worker.retiring:
            self._draft.note("warning", "worker died", worker.job_id, worker=worker.name, error=event.reason)
        if worker.job_id is not None:
            self._holders.pop(worker.job_id, None)
        return worker

    def tidy_soon(self, now: Now) -> None:
        """A place was left behind: do not wait for the next round."""
        self._tidy_at_s = now.mono_s

    # --- what follows from the state ---------------------------------------------------------------------------------

    def tidy(self, now: Now, *, before_jobs: bool) -> None:
        """Every now and then have an idle one look for places that nobody owns.

        `before_jobs`: if nobody has had the time for as long again, it comes before the next job; else with a full queue and no
        spare worker nobody ever would. Not to make ready for the first job, which may take long: jobs run already.
        """
        if self._tidy_at_s is None:
            self._tidy_at_s = now.mono_s
        due_s = max(self._tidy_at_s, self._looked_s) + self._rules.tidy_interval_s if before_jobs else self._tidy_at_s
        if now.mono_s < due_s:
            return
        idle = [worker for worker in self if worker.idle()]
        if not idle:
            return
        name = min(idle, key=lambda worker: worker.tidied_s).name  # each in turn: it sees only the servers it is connected to
        self._tidy_at_s = now.mono_s + self._rules.tidy_interval_s
        starting = not self._tidied and not before_jobs
        self._tidied = self._tidied or starting
        within_s = _READIED_WITHIN_S if starting else _TIDIED_WITHIN_S
        self._change(name, tidying=True, tidied_s=now.mono_s, due_s=now.mono_s + within_s)
        self._draft.actions.append(do.TidyAt(name, starting))

    def end_overdue(self, now: Now, late_s: float) -> None:
        """In a look (`Vitals`), so that everybody was heard: end those that have not done in time what they were to do.

        `late_s`: for so long nobody could be heard, and everybody gets it back.
        """
        for known in self:
            worker = known
            if late_s:
                self._change(known.name, due_s=known.due_s + late_s)
                worker = self._workers[known.name]
            if now.mono_s > worker.due_s:
                missed = "did not come back from tidying"
                if not worker.ready or worker.retiring:
                    missed = "did not leave" if worker.ready else "was not ready"
                self._draft.actions.append(do.KillWorker(worker.name, f"{missed} in time"))
                self._change(worker.name, due_s=now.mono_s + self._rules.worker_start_s)

    def keep(self, wanted: int, now: Now, *, may_start: bool) -> None:
        """Have as many as are wanted. After failed starts, one at a time."""
        if not may_start or now.mono_s < self._start_at_s:
            return
        if self._start_failures and any(not worker.ready for worker in self):
            return
        missing = wanted - sum(1 for worker in self if not worker.retiring)
        for _ in range(min(missing, 1) if self._start_failures else missing):
            name = f"worker-{self._next_number}"
            self._workers[name] = Worker(name, self._next_number, now.mono_s + self._rules.worker_start_s)
            self._draft.actions.append(do.StartWorker(name, self._next_number))
            self._next_number += 1

    def _change(self, name: str, **changes: object) -> None:
        if worker := self._workers.get(name):
            self._workers[name] = replace(worker, **changes)  # type: ignore[arg-type]  # names are checked by replace itself
