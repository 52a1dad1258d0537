"""The numbers that the core decides by, taken from the configuration once."""

from __future__ import annotations

import math
from dataclasses import dataclass

from cronium.supervisor.core.decisions import PollRules


@dataclass(frozen=True, slots=True)
class Rules:
    """Counts, and seconds where the name ends in `_s`."""

    installation: str
    polls: PollRules
    batch_size: int
    max_concurrent: int
    spare_workers: int
    recycle_after_jobs: int
    recycle_above_bytes: int
    worker_start_s: float
    max_worker_deaths: int
    status_interval_s: float
    retry_first_s: float
    retry_longest_s: float
    most_jobs: int = 1000  # here at once, with those whose report was not taken yet
    tidy_interval_s: float = 30.0  # between two looks for places that nobody owns (DESIGN.md, the reaper)
    keep_done_s: float = 86_400.0
    keep_done_jobs: int = 10_000
    keep_done_bytes: int = 64 * 1024 * 1024
    most_owed_bytes: int = 1024 * 1024 * 1024  # of what jobs gave back, in the journal until their reports are taken
    max_results_bytes: int = 64 * 1024 * 1024  # of a job's output files
    status_per_s: float = 5.0  # half of the contract's 600 a minute (PROTOCOL.md), for all jobs together
    connections_per_server: int = 5  # from here on: ssh.* of the configuration
    connections_idle_s: float = 300.0
    connect_s: float = 15.0
    breaker_failures: int = 5
    breaker_recovery_s: float = 60.0
    breaker_fails: bool = False  # a job for a server that is left alone: fails (True), or waits for it
    unreachable_after_s: float = 900.0
    remote_ttl_s: float = 86_400.0
    hung_after_s: float = math.inf  # from here on: workers.* of the configuration; without it nobody is judged
    restart_intensity: int = 1_000_000
    restart_period_s: float = math.inf
