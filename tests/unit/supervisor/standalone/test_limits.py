"""Rate limits let through what they promise, and no more."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from cronium.supervisor.standalone.limits import Limit, RateLimits


@given(st.lists(st.floats(0, 10), min_size=1, max_size=300))
def test_no_window_lets_more_through_than_the_bucket_and_what_refilled(gaps_s: list[float]) -> None:
    """However requests are spread, at most limit + rate times seconds of them pass."""
    limits = RateLimits(0.2)  # 12 a minute
    now_s, passed = 0.0, 0
    for gap_s in gaps_s:
        now_s += gap_s
        allowance = limits.take("host", Limit.POLL, now_s)
        passed += allowance.allowed
        assert passed <= 12 + now_s * 12 / 60 + 1e-6
        assert 0 <= allowance.remaining <= 12


@given(st.integers(1, 40))
def test_whoever_waits_as_long_as_told_is_let_through(extra: int) -> None:
    """Retry-After is the truth."""
    limits = RateLimits(0.1)
    refused = None
    for _ in range(6 + extra):
        refused = limits.take("host", Limit.POLL, 0.0)
    assert refused is not None
    assert not refused.allowed
    after_s = int(refused.headers(0.0)["Retry-After"])
    assert limits.take("host", Limit.POLL, float(after_s)).allowed
    assert limits.take("another", Limit.POLL, 0.0).allowed
