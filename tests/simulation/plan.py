"""What a history is made of: the rules of its supervisor, and what goes wrong how often. All of it follows from the seed."""

from __future__ import annotations

import random
from dataclasses import dataclass, replace

from cronium.supervisor.core.decisions import PollRules
from cronium.supervisor.core.rules import Rules


@dataclass(frozen=True, slots=True)
class Plan:
    """Rates are chances for each time that it could happen; times are seconds."""

    rules: Rules
    jobs: int
    trouble_s: float  # after that nothing fails any more
    crash: float  # of the supervisor, each step
    lost_request: float
    lost_answer: float
    late_request: float  # carried out after it was given up
    server_error: float
    outages: int
    worker_death_s: float  # mean time between two
    worker_stop: float  # of those deaths: stopped for a while instead
    worker_start_fails: float
    streamer_death_s: float
    summary_lost: float
    lease_s: float
    offer_s: float
    other_host: bool
    cancels: float  # of the jobs
    retries_asked: float
    poison: float  # complete is refused for good
    invalid: float
    forgets_epochs: bool  # a backend that says no epochs and gives no leases
    ends_with: str  # "drain", "cancel all"
    early_end: bool  # the order comes in the middle of the trouble
    servers: int = 0
    server_jobs: float = 0.0  # of the jobs; the others run in containers
    several: float = 0.0  # of those: on several servers
    server_outages: tuple[int, ...] = (0,)
    server_dies: bool = False  # one of them, for good
    login_fails: float = 0.0
    removal_fails: float = 0.0


def make_plan(chance: random.Random) -> Plan:
    def sometimes(share: float, most: float) -> float:
        return chance.uniform(0, most) if chance.random() < share else 0.0

    rules = Rules(
        installation="test",
        polls=PollRules(chance.choice([0.1, 0.5, 1.0]), chance.choice([2.0, 5.0]), chance.choice([0.0, 3.0, 10.0])),
        batch_size=chance.choice([1, 3, 10]),
        max_concurrent=chance.choice([1, 2, 3, 5]),
        spare_workers=chance.choice([0, 1, 2]),
        recycle_after_jobs=chance.choice([1, 2, 200]),
        recycle_above_bytes=1_000_000,
        worker_start_s=3.0,
        max_worker_deaths=chance.choice([1, 2, 10]),
        status_interval_s=chance.choice([1.0, 2.0, 5.0]),
        retry_first_s=chance.choice([0.2, 1.0]),
        retry_longest_s=5.0,
        most_jobs=chance.choice([3, 1000, 1000]),
        tidy_interval_s=chance.choice([5.0, 30.0]),
    )
    return Plan(
        rules=rules,
        jobs=chance.randint(1, 9),
        trouble_s=chance.uniform(5, 25),
        crash=sometimes(0.5, 0.03),
        lost_request=sometimes(0.5, 0.2),
        lost_answer=sometimes(0.5, 0.3),
        late_request=sometimes(0.3, 0.1),
        server_error=sometimes(0.5, 0.2),
        outages=chance.choice([0, 0, 0, 1, 2]),
        worker_death_s=chance.choice([1e9, 1e9, 8.0, 3.0, 1.0]),
        worker_stop=chance.choice([0.0, 0.3]),
        worker_start_fails=sometimes(0.3, 0.3),
        streamer_death_s=chance.choice([1e9, 1e9, 10.0, 3.0]),
        summary_lost=sometimes(0.3, 0.5),
        lease_s=chance.choice([3.0, 8.0, 60.0]),
        offer_s=chance.choice([1.0, 4.0]),
        other_host=chance.random() < 0.3,
        cancels=sometimes(0.4, 0.5),
        retries_asked=sometimes(0.3, 0.5),
        poison=sometimes(0.15, 0.3),
        invalid=sometimes(0.2, 0.3),
        forgets_epochs=chance.random() < 0.15,
        ends_with=chance.choice(["drain", "drain", "cancel all"]),
        early_end=chance.random() < 0.25,
    )


def with_servers(plan: Plan, chance: random.Random) -> Plan:
    """The same with servers, in half of all histories. The dice are others, so that the rest stays as it was."""
    if chance.random() < 0.5:
        return plan
    rules = replace(
        plan.rules,
        connections_per_server=chance.choice([1, 1, 2, 3]),
        connections_idle_s=chance.choice([5.0, 60.0]),
        connect_s=5.0,
        breaker_failures=chance.choice([1, 2, 5]),
        breaker_recovery_s=chance.choice([2.0, 6.0]),
        breaker_fails=chance.random() < 0.2,
        unreachable_after_s=chance.choice([5.0, 30.0]),
    )
    return replace(
        plan,
        rules=rules,
        servers=chance.randint(1, 4),
        server_jobs=chance.choice([0.4, 0.8, 1.0]),
        several=chance.choice([0.0, 0.3, 0.7]),
        server_outages=chance.choice([(0,), (0, 1), (1, 2, 3)]),
        server_dies=chance.random() < 0.1,
        login_fails=chance.choice([0.0, 0.0, 0.2]),
        removal_fails=chance.choice([0.0, 0.2]),
    )
