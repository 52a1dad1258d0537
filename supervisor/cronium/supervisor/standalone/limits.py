"""Rate limits by orchestrator (PROTOCOL, "Rate limits"): a bucket each that refills steadily. Pure; the clock is passed in."""

from __future__ import annotations

import math
from collections import OrderedDict
from dataclasses import dataclass
from enum import Enum

_MAX_BUCKETS = 1000


class Limit(Enum):
    """What is counted: requests, and the seconds they are counted over."""

    POLL = (60, 60.0)
    STATUS = (600, 60.0)
    LOGS = (1000, 60.0)
    HEALTH = (60, 300.0)


@dataclass(frozen=True, slots=True)
class Allowance:
    """Whether a request may pass, and what is told of it: `retry_after_s` is 0 when it may, in `full_in_s` nothing is used."""

    allowed: bool
    limit: int
    remaining: int
    full_in_s: float
    retry_after_s: float

    def headers(self, now_unix_s: float) -> dict[str, str]:
        """As headers of the answer."""
        headers = {
            "X-RateLimit-Limit": str(self.limit),
            "X-RateLimit-Remaining": str(self.remaining),
            "X-RateLimit-Reset": str(math.ceil(now_unix_s + self.full_in_s)),
        }
        if not self.allowed:
            headers["Retry-After"] = str(max(1, math.ceil(self.retry_after_s)))
        return headers


class RateLimits:
    """The buckets of all who ask; the longest unused are forgotten."""

    def __init__(self, factor: float) -> None:
        self._factor = factor
        self._buckets: OrderedDict[tuple[str, Limit], tuple[float, float]] = OrderedDict()

    def take(self, who: str, limit: Limit, now_s: float) -> Allowance:
        """Count one request; `now_s` is monotonic."""
        requests, period_s = limit.value
        size = max(1, int(requests * self._factor))
        rate = size / period_s
        tokens, seen_s = self._buckets.pop((who, limit), (float(size), now_s))
        tokens = min(size, tokens + (now_s - seen_s) * rate)
        allowed = tokens >= 1
        if allowed:
            tokens -= 1
        self._buckets[who, limit] = (tokens, now_s)
        if len(self._buckets) > _MAX_BUCKETS:
            self._buckets.popitem(last=False)
        retry_after_s = 0.0 if allowed else (1 - tokens) / rate
        return Allowance(allowed, size, int(tokens), (size - tokens) / rate, retry_after_s)
