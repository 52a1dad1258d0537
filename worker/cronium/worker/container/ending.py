"""The last phase: what the job gave back, how it ended, what it used.

Runs in a worker.
"""

from __future__ import annotations

from collections.abc import Iterator

from cronium.common.messages import Outcome, Usage
from cronium.worker.container.execution import Execution, now_ms
from cronium.worker.container.moments import engine_ms
from cronium.worker.container.outcome import Facts, decide
from cronium.worker.executor import Complete, Update
from cronium.worker.gather import results_of


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
        results=results_of(
            execution.story,
            execution.events,
            execution.files.results() if execution.files is not None else None,
            execution.settings.container.max_results,
        ),
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


def _usage(execution: Execution, duration_ms: int) -> Usage:
    used = execution.story.usage
    peak_cpu = execution.peak_cpu_percent
    if used is None:
        return Usage(peak_cpu_percent=peak_cpu)
    if peak_cpu is None and used.cpu_usec is not None:  # too short to be sampled: its average is its peak
        peak_cpu = round(used.cpu_usec / max(1, duration_ms) / 10, 1)
    return Usage(peak_cpu, used.peak_memory_bytes, used.rx_bytes, used.tx_bytes)
