"""The last phase: what the job gave back, how it ended, what it used.

Runs in a worker.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing

from cronium.common.messages import Outcome, ResultFile, Results, Usage
from cronium.worker.container.execution import Execution, now_ms
from cronium.worker.container.moments import engine_ms
from cronium.worker.container.outcome import Facts, decide
from cronium.worker.container.results import read_results
from cronium.worker.executor import Complete, Update


def conclude(execution: Execution) -> Iterator[Update]:
    """The outcome."""
    ending = decide(
        Facts(
            plan=execution.plan,
            story=execution.story,
            fate=execution.fate,
            verdict=execution.verdict,
            cancelled=execution.control.cancelled() > 0,
            overdue=execution.overdue,
            engine_was_away=execution.engine_was_away,
            said=execution.said.decode("utf-8", "replace").strip(),
        )
    )
    started_ms, ended_ms = _times(execution)
    outcome = Outcome(
        status=ending.status,
        exit_code=ending.exit_code,
        error=ending.error.report() if ending.error is not None else None,
        started_ms=started_ms,
        ended_ms=ended_ms,
        results=_results(execution),
        usage=_usage(execution, ended_ms - started_ms),
    )
    execution.let_go()
    yield Complete(outcome)


def _times(execution: Execution) -> tuple[int, int]:
    """When the script began and ended, Unix ms: as we saw it, or as the engine did where we saw it late."""
    fate = execution.fate
    ended = (execution.ended_ms, engine_ms(fate.finished_at) if fate is not None else None, now_ms())
    ended_ms = min(moment for moment in ended if moment)
    began = engine_ms(fate.started_at) if fate is not None else None
    started_ms = execution.started_ms or began or ended_ms
    if started_ms >= ended_ms and began is not None:
        started_ms = began
    return min(started_ms, ended_ms), ended_ms


def _results(execution: Execution) -> Results:
    files: tuple[ResultFile, ...] = ()
    lost = (f"some of {one.stream} was lost in its place: {one.reason.replace('_', ' ')}" for one in execution.story.lost)
    problems: list[str] = [*execution.events.problems, *lost]
    said = execution.story.results
    if said is not None and said.too_large:
        problems.append(
            f"the output files hold more than {execution.settings.container.max_results} bytes: not all came back "
            "(container.maxResults)"
        )
    if said is not None and said.failure is not None:
        problems.append(f"the output files could not be packed: {said.failure}")
    archive = execution.files.results() if execution.files is not None else None
    if archive is not None:
        with closing(archive):
            files, damages = read_results(archive, execution.settings.container.max_results + 1)
        problems.extend(damages)
    events = execution.events
    return Results(events.script_output, events.condition, events.variables, files, tuple(problems))


def _usage(execution: Execution, duration_ms: int) -> Usage:
    used = execution.story.usage
    peak_cpu = execution.peak_cpu_percent
    if used is None:
        return Usage(peak_cpu_percent=peak_cpu)
    if peak_cpu is None and used.cpu_usec is not None:  # too short to be sampled: its average is its peak
        peak_cpu = round(used.cpu_usec / max(1, duration_ms) / 10, 1)
    return Usage(peak_cpu, used.peak_memory_bytes, used.rx_bytes, used.tx_bytes)
