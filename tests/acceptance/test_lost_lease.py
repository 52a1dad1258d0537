"""A job that the backend has given to somebody else is ended here at once, and nobody reports it (promise 2)."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from peers.faulty_proxy import Fault, FaultyProxy
from peers.standalone_queue import eventually
from peers.world import World

LEASE_S = 3.0


@pytest.fixture(scope="module")
def proxy() -> FaultyProxy:
    return FaultyProxy()


@pytest.fixture(scope="module")
def world(docker_endpoint: str, runner_images: object, proxy: FaultyProxy) -> Iterator[World]:
    environ = {"CRONIUM_JOBS_POLL_INTERVAL": "100ms", "CRONIUM_JOBS_POLL_WAIT": "1s", "CRONIUM_JOBS_POLL_MAX_INTERVAL": "1s"}
    with World(docker_endpoint, environ=environ, queue={"lease_s": LEASE_S}, proxy=proxy) as world:
        yield world


@pytest.mark.parametrize("status", [409, 410])
def test_a_job_whose_lease_is_lost_is_ended_and_not_reported(world: World, proxy: FaultyProxy, status: int) -> None:
    """Its script, which does not listen to TERM, is gone, and its place; what the host that has it now reports counts."""
    job = world.submit("trap '' TERM; echo begun; sleep 600 & wait; sleep 600")
    world.until_said(job, "begun")
    assert world.places()
    proxy.plan = lambda method, path: Fault.ERROR_500 if path.endswith("/jobs/queue") else None  # it comes here no more
    proxy.refuse = lambda method, path: status if path.endswith(f"{job}/lease/renew") else None
    try:
        eventually(lambda: not world.places(), "its place is removed")
        assert [line for line in world.log.read_text().splitlines() if job in line and "lost to another host" in line]
        other = world.queue.orchestrator()
        epoch = other.take(job)["epoch"]
        assert other.complete(job, epoch=epoch, exitCode=7).status_code == 200
    finally:
        proxy.plan, proxy.refuse = lambda method, path: None, lambda method, path: None
    assert world.run("echo fine").stdout == ["fine"], "whoever came after it is served"
    assert not [one for one in list(proxy.exchanges) if one.path.endswith(f"{job}/complete")]
    ended = world.queue.job(job)
    assert (ended["exitCode"], ended["terminalReports"], ended["refusedReports"]) == (7, 1, 0)
