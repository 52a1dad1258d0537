"""Somebody sets the host's clock: no deadline comes hours too early or too late (promise 5)."""

from __future__ import annotations

import pytest

from cronium.common.errors import Reason
from cronium.supervisor.core import actions as do
from cronium.supervisor.core import events as on
from cronium.supervisor.core.clocks import Clocks
from cronium.supervisor.core.state import JobState, Lease, RetryRule
from peers.core_driver import Driver, outcome, summary

_HOUR_MS = 3_600_000
_RETRY = RetryRule(2, exponential=False, delay_s=5.0)


def test_a_clock_that_is_slewed_was_not_set() -> None:
    clocks = Clocks()
    steps = [(1.0, 1000), (2.0, 2500), (3.0, 2900), (4.0, 4900)]
    assert [clocks.jumped_ms(on.Now(mono_s, unix_ms)) for mono_s, unix_ms in steps] == [0, 0, 0, 0]


@pytest.mark.parametrize("by_ms", [_HOUR_MS, -_HOUR_MS, 3000])
def test_a_clock_that_was_set_is_noticed_once(by_ms: int) -> None:
    clocks = Clocks()
    assert clocks.jumped_ms(on.Now(10.0, 10_000)) == 0
    assert clocks.jumped_ms(on.Now(11.0, 11_000 + by_ms)) == by_ms
    assert clocks.jumped_ms(on.Now(12.0, 12_000 + by_ms)) == 0


@pytest.mark.parametrize("by_ms", [_HOUR_MS, -_HOUR_MS])
def test_a_retry_is_neither_put_off_nor_brought_forward(by_ms: int) -> None:
    driver = Driver()
    order = driver.run(retry=_RETRY)
    driver.end(order, outcome("failed", Reason.SCRIPT_EXIT))
    driver.idle(order)
    driver.set_clock(by_ms)
    driver.tick(3)
    assert driver.state() is JobState.WAITING
    driver.tick(3)
    assert driver.one(do.DispatchTo).attempt == 2


def test_a_clock_set_back_while_nobody_lived_puts_a_retry_off_by_its_own_delay_at_most() -> None:
    driver = Driver()
    order = driver.run(retry=_RETRY)
    driver.end(order, outcome("failed", Reason.SCRIPT_EXIT))
    driver.idle(order)
    driver.set_clock(-_HOUR_MS)
    driver.restart()
    driver.start_workers()
    driver.give(on.LeaseRenewed("a", Lease("next", driver.now().unix_ms + 60_000)))  # its old one seems to last for an hour
    driver.tick(6)
    assert driver.state() is JobState.RUNNING


def test_a_parked_job_is_not_given_up_because_the_clock_was_set() -> None:
    driver = Driver()
    order = driver.run(servers=("u@h:22#k",))
    driver.park(order, begun=True, give_up_s=600.0)
    driver.set_clock(_HOUR_MS)
    driver.tick(1)
    assert driver.state() is not JobState.ENDED


@pytest.mark.parametrize("by_ms", [30 * _HOUR_MS, -30 * _HOUR_MS])
@pytest.mark.parametrize("restarts", [False, True])
def test_a_job_that_is_done_is_remembered_as_long_as_it_would_be_with_the_old_clock(by_ms: int, restarts: bool) -> None:
    """Promise 2: one that is delivered again must not run again."""
    driver = Driver()
    driver.end(driver.run())
    driver.give(on.SummaryHeard(summary()))
    driver.take(driver.one(do.SayComplete))
    driver.set_clock(by_ms)
    driver.tick()
    if restarts:
        driver.restart()
    driver.tick(driver.rules.keep_done_s - 10)
    assert driver.state() is JobState.DONE
    driver.tick(20)
    assert not driver.records


@pytest.mark.parametrize("by_ms", [_HOUR_MS, -_HOUR_MS])
def test_a_place_is_as_old_as_it_was(by_ms: int) -> None:
    """It is compared with when its server booted: a clock that was set must neither look like a reboot nor hide one."""
    driver = Driver()
    order = driver.run(servers=("u@h:22#k",))
    driver.park(order, begun=True)
    driver.idle(order, removed=False)
    driver.set_clock(by_ms)
    driver.tick(20)
    assert driver.one(do.DispatchTo).placed_ms == order.placed_ms + by_ms


def test_a_backend_whose_clock_is_hours_ahead_gets_its_leases_renewed() -> None:
    driver = Driver()
    driver.run()
    driver.give(on.LeaseRenewed("a", Lease("next", driver.now().unix_ms + 5 * _HOUR_MS)))
    driver.tick(21)
    assert driver.one(do.RenewLease).token == "next"
