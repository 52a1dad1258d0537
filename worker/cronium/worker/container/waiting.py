"""Coming to a running script while the engine may be away: a job that has not begun waits for it, and so does one to be adopted.

Runs in a worker. Whatever a call that broke has left behind is found out as for a dead worker's place, so nothing is made twice;
a script that has begun meanwhile needs no engine, where its files are on this host.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator

from cronium.common.errors import ExecutionError, Reason
from cronium.worker.container.adoption import begun_here
from cronium.worker.container.engine import PING_S
from cronium.worker.container.execution import Execution, Phase, now_ms
from cronium.worker.executor import Progress, Told, Update
from cronium.worker.judgement import cancelled_before_start

TELL_S = 3.0  # a restart of the engine with nothing to do takes less
# Beyond its deadline a launcher has ended its script by itself; so much later there is nothing to adopt any more.
AFTER_DEADLINE_S = 600.0
AT_LEAST_S = 30.0  # the engine may just be starting, as we are
_FIRST_PAUSE_S, _MAX_PAUSE_S = 0.1, 2.0


def with_patience(execution: Execution, phases: Iterable[Phase]) -> Iterator[Update]:
    """These phases; when the engine is away, from the first one again. Raises ExecutionError."""
    patience_s = _patience_s(execution)
    give_up_s: float | None = None
    while True:
        try:
            for phase in phases:
                yield from phase(execution)
        except ExecutionError as error:
            if error.reason is not Reason.ENGINE_DOWN:
                raise
            down = error
        else:
            return
        give_up_s = give_up_s or time.monotonic() + patience_s
        execution.engine_was_away = True
        execution.go_back()
        yield from _until_there_is_a_way(execution, give_up_s, down)


def _patience_s(execution: Execution) -> float:
    """How long to wait for the engine. For a place to adopt since it was named, or every restart of ours would begin anew."""
    patience_s = execution.control.engine_patience_s()
    if not execution.attempt.adopt:
        return patience_s
    named_ms = execution.attempt.placed_ms or now_ms()
    left_s = execution.plan.limits.timeout_s + AFTER_DEADLINE_S - max(0, now_ms() - named_ms) / 1000
    return max(left_s, min(patience_s, AT_LEAST_S))


def _until_there_is_a_way(execution: Execution, give_up_s: float, down: ExecutionError) -> Iterator[Update]:
    """Until the engine answers, or the script is seen to have begun. Raises ExecutionError: cancelled, or given up."""
    endpoint = execution.settings.container.docker.endpoint
    reason = f"waits for the Docker engine at {endpoint}, which does not answer: start it (`systemctl start docker`)"
    away_s, pause_s, told, answers = time.monotonic(), 0.0, False, False
    while not answers:
        begun = execution.touched and begun_here(execution)
        if begun:
            break
        if execution.control.cancelled() > (1 if begun is None else 0):
            raise _cancelled(execution)
        if time.monotonic() >= give_up_s:
            raise _given_up(execution, down)
        if not pause_s:
            yield Progress(None, reason)
        pause_s = min(_MAX_PAUSE_S, pause_s * 2) or _FIRST_PAUSE_S
        execution.control.wait((), pause_s)
        answers = _answers(execution)
        if not (answers or told) and time.monotonic() > away_s + TELL_S:
            told = True
            yield Told(f"the job {reason}")
    if pause_s:
        yield Progress(None, "")
    if told:
        what = "the Docker engine answers again" if answers else "the script has begun, the Docker engine is still away"
        yield Told(f"{what} after {time.monotonic() - away_s:.0f} s")


def _answers(execution: Execution) -> bool:
    try:
        execution.ask(execution.engine.ping, PING_S)
    except ExecutionError:
        return False
    return True


def _cancelled(execution: Execution) -> ExecutionError:
    if not execution.touched:
        return cancelled_before_start()
    text = "the job was cancelled while the Docker engine did not answer; its container is removed when it does"
    return ExecutionError(Reason.CANCELLED, text)


def _given_up(execution: Execution, down: ExecutionError) -> ExecutionError:
    """Its end. What was asked of an engine that hangs may still be done: another attempt could run beside this one."""
    if not execution.touched:
        return down
    endpoint = execution.settings.container.docker.endpoint
    return ExecutionError(
        Reason.ENGINE_DOWN,
        f"the Docker engine at {endpoint} has stopped answering while the job was started or taken over, and nobody knows "
        "whether its script has run: start the engine (its container is then removed), see what the script has done, and run "
        "the job again if that is right",
        retryable=False,
        place=execution.attempt.place,
    )
