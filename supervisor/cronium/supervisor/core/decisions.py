"""The rules with a number in them: when a job is tried again, when the queue is asked again. Pure functions, values out."""

from __future__ import annotations

import random
from dataclasses import dataclass

from cronium.common.messages import Outcome, ServerOutcome
from cronium.supervisor.core.state import JobRecord

_LONGEST_RETRY_S = 3600.0
_LEAST_PAUSE_S = 0.05  # a backend that says 0 is not asked in a tight loop
_JITTER = 0.2  # a fifth up or down, so that many hosts do not ask in step


@dataclass(frozen=True, slots=True)
class RetryDecision:
    """Whether a failed attempt is followed by another, after how many seconds."""

    again: bool
    after_s: float = 0.0


def decide_retry(record: JobRecord, outcome: Outcome) -> RetryDecision:
    """What follows an attempt's end. The job's policy decides; the backend can ask for more attempts than it allows."""
    if record.cancelled or record.lost or outcome.status == "cancelled":
        return RetryDecision(again=False)
    if record.extra_attempts > 0:
        return RetryDecision(again=True)
    if outcome.status == "completed" or (outcome.error is not None and not outcome.error.retryable):
        return RetryDecision(again=False)
    if record.attempt >= record.retry.max_attempts:
        return RetryDecision(again=False)
    return RetryDecision(again=True, after_s=_retry_after_s(record))


def longest_retry_ms(record: JobRecord) -> int:
    """How long a job can have to wait for its next attempt."""
    return round(_retry_after_s(record) * 1000)


def _retry_after_s(record: JobRecord) -> float:
    factor = 2.0 ** min(record.attempt - 1, 20) if record.retry.exponential else 1
    return min(record.retry.delay_s * factor, _LONGEST_RETRY_S)


def finished_servers(record: JobRecord, outcome: Outcome) -> tuple[ServerOutcome, ...]:
    """The servers on which the next attempt need not run; all run again where all had succeeded and more is asked for."""
    if outcome.status == "completed":
        return ()
    found = {server.server: server for server in (*record.finished, *outcome.servers) if server.status == "completed"}
    return tuple(found.values())


@dataclass(frozen=True, slots=True)
class PollRules:
    """Seconds: between polls while there are jobs, at most when there are none, and how long a poll may be held open."""

    interval_s: float
    max_interval_s: float
    wait_s: float


def pause_after_poll(
    rules: PollRules, *, empty_polls: int, took_s: float, jobs: int, told_s: float | None, jitter: random.Random
) -> float:
    """How long to wait before the next poll.

    The backend's own word counts. Otherwise: with jobs (also known ones: there may be others behind them) the interval;
    without, it doubles from the interval up to the maximum, unless the backend held the poll open, and so has done the waiting
    for us.
    """
    if told_s is not None:
        return max(told_s, _LEAST_PAUSE_S)
    if jobs:
        return rules.interval_s
    if rules.wait_s > 0 and took_s >= rules.wait_s * 0.5:
        return 0.0
    pause: float = min(rules.interval_s * 2.0 ** min(max(empty_polls - 1, 0), 20), rules.max_interval_s)
    return pause * (1 + jitter.uniform(-_JITTER, _JITTER))


def backoff(failures: int, first_s: float, longest_s: float, jitter: random.Random) -> float:
    """Pause after so many failures in a row (at least 1): doubles, with jitter, up to the longest."""
    pause: float = min(first_s * 2.0 ** min(failures - 1, 20), longest_s)
    return pause * (1 + jitter.uniform(-_JITTER, _JITTER))
