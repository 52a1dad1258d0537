"""What signals mean while nothing can be written down: whoever asks to leave can, at once; all else is done later."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator

import pytest

from cronium.supervisor.core import events as on
from cronium.supervisor.stop import StopOrders

NUMBERS = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT)


@pytest.fixture
def told() -> list[str]:
    return []


@pytest.fixture(params=["detach"])
def orders(request: pytest.FixtureRequest, told: list[str]) -> Iterator[StopOrders]:
    before = {number: signal.getsignal(number) for number in NUMBERS}
    made = StopOrders(request.param, told.append)
    made.install()
    yield made
    signal.set_wakeup_fd(-1)
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stuck_supervisor_leaves_at_the_first_word(orders: StopOrders, told: list[str], number: signal.Signals) -> None:
    signal.raise_signal(number)
    assert orders.events(2, stuck=True) == []
    assert orders.leave_now(time.monotonic())
    assert len(told) == (number == signal.SIGINT)


@pytest.mark.parametrize("orders", ["drain"], indirect=True)
def test_a_drain_is_said_to_whoever_remembers_it(orders: StopOrders) -> None:
    """The loop hands it to the core once it can write again."""
    signal.raise_signal(signal.SIGTERM)
    signal.raise_signal(signal.SIGQUIT)
    assert orders.events(2, stuck=True) == [on.DrainRequested(), on.DrainRequested()]
    assert not orders.leave_now(time.monotonic())


def test_otherwise_the_first_interrupt_drains(orders: StopOrders, told: list[str]) -> None:
    signal.raise_signal(signal.SIGINT)
    assert orders.events(2) == [on.DrainRequested()]
    assert not orders.leave_now(time.monotonic())
    assert len(told) == 1
