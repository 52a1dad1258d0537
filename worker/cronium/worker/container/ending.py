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
    ended_ms = engine_ms(execution.fate.finished_at) if execution.fate is not None else None
    started_ms = execution.started_ms or now_ms()
    outcome = Outcome(
        status=ending.status,
        exit_code=ending.exit_code,
        error=ending.error.report() if ending.error is not None else None,
        started_ms=started_ms,
        ended_ms=max(started_ms, min(ended_ms or now_ms(), now_ms())),
        results=_results(execution),
        usage=_usage(execution, started_ms),
    )
    execution.let_go()
    yield Complete(outcome)


def _results(execution: Execution) -> Results:
    files: tuple[ResultFile, ...] = ()
    problems: list[str] = list(execution.events.problems)
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


def _usage(execution: Execution, started_ms: int) -> Usage:
    used = execution.story.usage
    peak_cpu = execution.peak_cpu_percent
    if used is None:
        return Usage(peak_cpu_percent=peak_cpu)
    if peak_cpu is None and used.cpu_usec is not None:  # too short to be sampled: its average is its peak
        peak_cpu = round(used.cpu_usec / max(1, now_ms() - started_ms) / 10, 1)
    return Usage(peak_cpu, used.peak_memory_bytes, used.rx_bytes, used.tx_bytes)
