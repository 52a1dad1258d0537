"""Coming to a running script while the engine may be away: a job that has not begun waits for it, and so does one to be adopted.

Runs in a worker. Whatever a call that broke has left behind is found out as for a dead worker's place, so nothing is made twice.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator

from cronium.common.errors import ExecutionError, Reason
from cronium.worker.container.execution import Execution, Phase
from cronium.worker.executor import Progress, Told, Update

_FIRST_PAUSE_S, _MAX_PAUSE_S = 0.1, 2.0
_TELL_S = 3.0  # a restart of the engine with nothing to do takes less
# Beyond its deadline a launcher has ended its script by itself; so much later there is nothing to adopt any more.
_AFTER_DEADLINE_S = 600.0


def with_patience(execution: Execution, phases: Iterable[Phase]) -> Iterator[Update]:
    """These phases; when the engine is away, from the first one again. Raises ExecutionError."""
    adopts = execution.attempt.adopt
    patience_s = execution.plan.limits.timeout_s + _AFTER_DEADLINE_S if adopts else execution.control.engine_patience_s()
    give_up_s: float | None = None
    while True:
        try:
            for phase in phases:
                yield from phase(execution)
        except ExecutionError as error:
            if error.reason is not Reason.ENGINE_DOWN:
                raise
            give_up_s = give_up_s or time.monotonic() + patience_s
            if time.monotonic() >= give_up_s:
                raise
        else:
            return
        execution.engine_was_away = True
        yield from _until_it_answers(execution, give_up_s)
        execution.go_back()


def _until_it_answers(execution: Execution, give_up_s: float) -> Iterator[Update]:
    endpoint = execution.settings.container.docker.endpoint
    reason = f"waits for the Docker engine at {endpoint}, which does not answer: start it (`systemctl start docker`)"
    yield Progress(None, reason)
    away_s, pause_s, told = time.monotonic(), _FIRST_PAUSE_S, False
    while True:
        if execution.control.cancelled() and not execution.touched:
            raise ExecutionError(Reason.CANCELLED, "the job was cancelled before its script was started")
        execution.control.wait((), pause_s)
        pause_s = min(_MAX_PAUSE_S, pause_s * 2)
        try:
            execution.ask(execution.engine.ping)
        except ExecutionError:
            if time.monotonic() >= give_up_s:
                raise
        else:
            break
        if not told and time.monotonic() > away_s + _TELL_S:
            told = True
            yield Told(f"the job {reason}")
    yield Progress(None, "")
    if told:
        yield Told(f"the Docker engine answers again after {time.monotonic() - away_s:.0f} s")
