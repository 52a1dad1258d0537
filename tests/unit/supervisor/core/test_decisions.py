"""The rules with a number in them, as the job's own policy and SEED.md have them."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cronium.common.errors import ExecutionError, Reason
from cronium.common.messages import Outcome
from cronium.supervisor.core.decisions import PollRules, RetryDecision, backoff, decide_retry, pause_after_poll
from cronium.supervisor.core.state import JobRecord, RetryRule

_RULES = PollRules(interval_s=1.0, max_interval_s=30.0, wait_s=20.0)


def record(attempt: int = 1, retry: RetryRule | None = None, **more: object) -> JobRecord:
    return JobRecord("job", 5, 0, attempt=attempt, retry=retry or RetryRule(3, exponential=True, delay_s=5.0)).but(**more)


def outcome(status: str, reason: Reason | None = Reason.SCRIPT_EXIT, *, retryable: bool | None = None) -> Outcome:
    error = None if reason is None else ExecutionError(reason, "m", retryable=retryable).report()
    return Outcome(status, 1, error, 0, 1)


@pytest.mark.parametrize(("attempt", "after_s"), [(1, 5.0), (2, 10.0)])
def test_a_failed_attempt_is_followed_by_another_after_a_growing_pause(attempt: int, after_s: float) -> None:
    assert decide_retry(record(attempt), outcome("failed")) == RetryDecision(again=True, after_s=after_s)
    assert decide_retry(record(attempt), outcome("timeout", Reason.TIMEOUT)).again


def test_a_fixed_pause_stays() -> None:
    assert decide_retry(record(2, RetryRule(3, exponential=False, delay_s=5.0)), outcome("failed")).after_s == 5.0


def test_no_pause_is_longer_than_an_hour() -> None:
    assert decide_retry(record(90, RetryRule(100, exponential=True, delay_s=86_400.0)), outcome("failed")).after_s == 3600.0


@pytest.mark.parametrize(
    ("known", "ended"),
    [
        (record(3), outcome("failed")),
        (record(), outcome("completed", None)),
        (record(), outcome("cancelled", Reason.CANCELLED)),
        (record(), outcome("failed", Reason.IMAGE_MISSING)),
        (record(), outcome("failed", retryable=False)),
        (record(cancelled=True), outcome("failed")),
        (record(lost=True), outcome("failed")),
        (record(cancelled=True, extra_attempts=1), outcome("failed")),
    ],
)
def test_when_no_other_attempt_follows(known: JobRecord, ended: Outcome) -> None:
    assert not decide_retry(known, ended).again


@pytest.mark.parametrize("ended", [outcome("completed", None), outcome("failed"), outcome("failed", Reason.IMAGE_MISSING)])
def test_the_backend_may_ask_for_one_more_than_the_policy_allows(ended: Outcome) -> None:
    assert decide_retry(record(3, extra_attempts=1), ended) == RetryDecision(again=True, after_s=0.0)


def pause(**more: object) -> float:
    given: dict[str, object] = {"empty_polls": 1, "took_s": 0.01, "jobs": 0, "told_s": None, "jitter": random.Random(1)}
    return pause_after_poll(_RULES, **{**given, **more})  # type: ignore[arg-type]


def test_polls_are_quick_while_there_are_jobs_and_slow_down_without() -> None:
    assert pause(jobs=3) == 1.0
    pauses = [pause(empty_polls=n) for n in range(1, 12)]
    assert all(0.8 * 2 ** min(n, 4.9) <= p <= 36.0 for n, p in enumerate(pauses))
    assert pauses[-1] >= 24.0


def test_a_long_poll_has_done_the_waiting() -> None:
    assert pause(took_s=20.0) == 0.0


def test_the_backend_says_when_it_wants_to_be_asked_but_not_in_a_tight_loop() -> None:
    assert pause(told_s=7.5, jobs=3) == 7.5
    assert pause(told_s=0.0) > 0


@given(failures=st.integers(1, 10_000), seed=st.integers())
def test_a_pause_after_failures_doubles_up_to_the_longest(failures: int, seed: int) -> None:
    seconds = backoff(failures, 0.5, 60.0, random.Random(seed))
    base = min(0.5 * 2 ** min(failures - 1, 20), 60.0)
    assert 0.8 * base <= seconds <= 1.2 * base
