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
    step_crash: int = 0  # the supervisor dies at exactly this step
    worker_step_death: float = 0.0  # a worker dies, each time that it is about to do something
    message_lost: float = 0.0  # of what workers say again, and of what they hear again
    message_twice: float = 0.0
    late_words: float = 0.0  # of a worker's deaths: what it said before is heard after it
    delivered_again: float = 0.0  # each poll: a job that runs here or has ended
    batch_lost: float = 0.0  # on its way to the streamer; or late, or twice
    disk_full: int = 0
    spool_full: int = 0
    engine_away: int = 0
    engine_crashes: int = 0
    removed_by_others: int = 0
    clock_jumps: int = 0
    reboots: int = 0
    server_reboots: int = 0
    worker_hangs: float = 0.0  # of those that are stopped for a while: for ever
    forkserver_kills: int = 0
    forkserver_hangs: int = 0
    streamer_hangs: int = 0


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
        jobs=chance.randint(1, 7),
        trouble_s=chance.uniform(4, 12),
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


def with_trouble(plan: Plan, chance: random.Random) -> Plan:
    """The same on a host that has its own troubles, in three of four histories."""
    if chance.random() < 0.25:
        return plan

    def sometimes(share: float, most: float) -> float:
        return chance.uniform(0, most) if chance.random() < share else 0.0

    def some(*counts: int) -> int:
        return chance.choice(counts)

    delivered_again = sometimes(0.4, 0.4)
    may_come_again = delivered_again or plan.other_host or plan.poison  # and would run anew if it were forgotten
    keep = 10_000 if may_come_again else chance.choice([1, 3, 10_000])
    return replace(
        plan,
        rules=replace(plan.rules, keep_done_jobs=keep, keep_done_s=86_400.0 if may_come_again else 3600.0),
        step_crash=chance.randint(1, 120) if chance.random() < 0.4 else 0,
        worker_step_death=sometimes(0.3, 0.05),
        message_lost=sometimes(0.4, 0.3),
        message_twice=sometimes(0.4, 0.3),
        late_words=sometimes(0.5, 0.5),
        delivered_again=delivered_again,
        batch_lost=sometimes(0.5, 0.4),
        disk_full=some(0, 0, 1, 2),
        spool_full=some(0, 0, 1),
        engine_away=some(0, 0, 1),
        engine_crashes=some(0, 0, 0, 1),
        removed_by_others=some(0, 0, 1, 2),
        clock_jumps=some(0, 0, 1, 3),
        reboots=some(0, 0, 0, 1, 2),
        server_reboots=some(0, 0, 1) if plan.servers else 0,
    )


def with_watched(plan: Plan, chance: random.Random) -> Plan:
    """The same where processes are watched, and hang, in a fifth of all histories: beats are many events."""
    if chance.random() < 0.8:
        return plan
    rules = replace(
        plan.rules,
        hung_after_s=chance.choice([4.0, 6.0]),
        restart_intensity=chance.choice([3, 20]),
        restart_period_s=chance.choice([5.0, 60.0]),
    )
    return replace(
        plan,
        rules=rules,
        worker_stop=chance.choice([0.0, 0.5, 1.0]),
        worker_hangs=chance.choice([0.0, 0.5, 1.0]),
        forkserver_kills=chance.choice([0, 0, 1, 2]),
        forkserver_hangs=chance.choice([0, 0, 1]),
        streamer_hangs=chance.choice([0, 0, 1]),
    )
