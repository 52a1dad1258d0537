"""A backend that fails in every way between us and it: jobs complete exactly once all the same."""

from __future__ import annotations

import os
import random
import time
import uuid
from collections.abc import Callable, Iterator

import pytest

from peers.faulty_proxy import Fault, FaultyProxy
from peers.standalone_queue import eventually
from peers.world import World, numbered

AWAY_S = float(os.environ.get("CRONIUM_TEST_AWAY_S", "10"))
MIXED_JOBS = 15
SCRIPT = "seq -f 'line %.0f' 1 50; sleep 0.2; seq -f 'line %.0f' 51 100"
KINDS = {"poll": "/jobs/queue", "acknowledge": "/acknowledge", "status": "/status", "complete": "/complete"}


def nothing(method: str, path: str) -> Fault | None:
    return None


def first_ones(fault: Fault, times: int) -> Callable[[str, str], Fault | None]:
    """Each kind of request meets the fault that many times."""
    left = dict.fromkeys(KINDS, times)

    def plan(method: str, path: str) -> Fault | None:
        for kind, end in KINDS.items():
            if path.endswith(end) and left[kind] > 0:
                left[kind] -= 1
                return fault
        return None

    return plan


def answered(proxy: FaultyProxy, path: str) -> bool:
    return any(one.path.endswith(path) and one.fault is None for one in list(proxy.exchanges))


def at_random(chance: float, seed: int) -> Callable[[str, str], Fault | None]:
    choose = random.Random(seed)
    faults = list(Fault)
    return lambda method, path: choose.choice(faults) if choose.random() < chance else None


@pytest.fixture(scope="module")
def proxy() -> FaultyProxy:
    return FaultyProxy()


@pytest.fixture(scope="module")
def world(docker_endpoint: str, runner_images: object, proxy: FaultyProxy) -> Iterator[World]:
    environ = {
        "CRONIUM_API_TIMEOUT": "2s",
        "CRONIUM_API_RETRY_INITIAL_DELAY": "100ms",
        "CRONIUM_API_RETRY_MAX_DELAY": "1s",
        "CRONIUM_JOBS_POLL_INTERVAL": "100ms",
        "CRONIUM_JOBS_POLL_MAX_INTERVAL": "1s",
        "CRONIUM_JOBS_POLL_WAIT": "1s",
    }
    with World(docker_endpoint, environ=environ, proxy=proxy) as world:
        yield world


def check(world: World, jobs: list[str]) -> None:
    """Once each: one report, one attempt, each line once (a second run would say them again)."""
    for job in jobs:
        done = world.done(job)
        assert (done.job["status"], done.job["attempts"], done.stdout) == ("completed", 1, numbered(100))


@pytest.mark.parametrize("fault", list(Fault), ids=lambda fault: fault.name.lower())
def test_each_fault_of_each_request_is_survived(world: World, proxy: FaultyProxy, fault: Fault) -> None:
    """Promises 1 and 2: poll, acknowledge, status and complete each meet it twice."""
    before = proxy.count(fault)
    proxy.plan = first_ones(fault, 2)
    try:
        check(world, [world.submit(SCRIPT) for _ in range(2)])
    finally:
        proxy.plan = nothing
    assert proxy.count(fault) - before >= len(KINDS)


def test_statements_are_repeated_with_their_key(world: World, proxy: FaultyProxy) -> None:
    """Promise 2: the same Idempotency-Key with every repetition, another one for each statement."""
    job = f"job-{uuid.uuid4().hex}"
    faults = first_ones(Fault.CUT_AFTER, 3)
    proxy.plan = lambda method, path: faults(method, path) if job in path else None  # repetitions of earlier jobs may still come
    try:
        world.submit(SCRIPT, job={"id": job})
        check(world, [job])
        eventually(lambda: answered(proxy, f"{job}/complete"), "complete is answered")  # the backend took its first
    finally:
        proxy.plan = nothing
    keys = {
        kind: {one.key for one in proxy.exchanges if one.path.endswith(f"{job}{end}")}
        for kind, end in KINDS.items()
        if kind in {"acknowledge", "complete"}
    }
    assert all(len(found) == 1 for found in keys.values()), keys
    assert keys["acknowledge"] != keys["complete"]
    assert sum(1 for one in proxy.exchanges if one.path.endswith(f"{job}/complete")) == 4


def test_a_backend_that_is_bad_all_the_time(world: World, proxy: FaultyProxy) -> None:
    """Every third request fails, in whatever way."""
    proxy.plan = at_random(1 / 3, 5)
    try:
        check(world, [world.submit(SCRIPT) for _ in range(MIXED_JOBS)])
    finally:
        proxy.plan = nothing


def test_a_backend_that_is_away_for_a_while(world: World, proxy: FaultyProxy) -> None:
    """Jobs that run go on, those that end meanwhile are reported when it is back."""
    long = world.submit(f"seq -f 'line %.0f' 1 50; sleep {AWAY_S + 2}; seq -f 'line %.0f' 51 100")
    short = [world.submit(SCRIPT) for _ in range(3)]
    world.until_said(long, "line 50")
    proxy.stop()
    away = [world.submit(SCRIPT) for _ in range(3)]
    time.sleep(AWAY_S)
    assert all(world.backend.job(job)["terminalReports"] == 0 for job in (long, *away))
    proxy.start()
    check(world, [long, *short, *away])


def test_a_supervisor_killed_while_the_backend_fails(world: World, proxy: FaultyProxy) -> None:
    """Promises 1, 2 and 5 together."""
    proxy.plan = at_random(1 / 3, 9)
    try:
        jobs = [world.submit(SCRIPT) for _ in range(8)]
        for _ in range(2):
            time.sleep(1)
            world.kill()
            world.start()
        check(world, jobs)
    finally:
        proxy.plan = nothing
