"""The pages on their ports: real sockets, each in a thread as in the monitor."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable

import pytest
import requests
from structlog.testing import CapturingLogger

from cronium.supervisor.monitor import serving
from cronium.supervisor.monitor.latest import Latest
from cronium.supervisor.monitor.settings import Page
from cronium.supervisor.status.report import Report

HERE = "127.0.0.1"


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serving, "_AFTER_S", 0.0)
    monkeypatch.setattr(serving, "_AGAIN_S", 0.2)


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> CapturingLogger:
    """What is logged: calls with their arguments."""
    logger = CapturingLogger()
    monkeypatch.setattr(serving, "_log", logger)
    return logger


@pytest.fixture
def latest() -> Latest:
    found = Latest()
    found.hears(Report(status="healthy").to_json())
    return found


def pages(health: int, metrics: int) -> tuple[Page, ...]:
    return (
        Page("health", health, "/health", "monitoring.health.port"),
        Page("metrics", metrics, "/metrics", "monitoring.metrics.port"),
    )


def until(condition: Callable[[], object]) -> None:
    deadline_s = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline_s
        time.sleep(0.01)


def served(said: CapturingLogger) -> dict[str, str]:
    found: dict[str, str] = {}
    for call in said.calls:
        if call.method_name == "info":
            found |= call.kwargs
    return found


def free_port() -> int:
    with socket.create_server((HERE, 0)) as found:
        return int(found.getsockname()[1])


def test_both_on_one_port(said: CapturingLogger, latest: Latest) -> None:
    port = free_port()
    serving.start(HERE, pages(port, port), latest)
    until(lambda: served(said))
    assert served(said) == {"health": f"http://{HERE}:{port}/health", "metrics": f"http://{HERE}:{port}/metrics"}
    for url in served(said).values():
        assert requests.get(url, timeout=5).status_code == 200


def test_each_on_a_port_of_its_own_where_any_will_do(said: CapturingLogger, latest: Latest) -> None:
    serving.start("::1", pages(0, 0), latest)
    until(lambda: len(served(said)) == 2)
    health, metrics = served(said)["health"], served(said)["metrics"]
    assert health.split("/")[2] != metrics.split("/")[2]
    assert requests.get(health, timeout=5).json()["status"] == "healthy"
    nothing = requests.get(health + "/x", timeout=5)
    assert (nothing.status_code, nothing.text) == (404, "There is nothing here; there is /health.\n")
    assert requests.post(health, timeout=5).status_code == 405


def test_a_port_that_is_taken_is_told_once_and_taken_when_it_is_free(said: CapturingLogger, latest: Latest) -> None:
    with socket.create_server((HERE, 0)) as other:
        port = other.getsockname()[1]
        serving.start(HERE, pages(0, port), latest)
        until(lambda: any(call.method_name == "warning" for call in said.calls))
        time.sleep(0.7)
        (warning,) = [call for call in said.calls if call.method_name == "warning"]
        assert f"metrics cannot be served, port {port} is taken: set monitoring.metrics.port to another one" in warning.args[0]
        assert requests.get(served(said)["health"], timeout=5).status_code == 200, "the other one is served all the same"
    until(lambda: "metrics" in served(said))
    assert requests.get(served(said)["metrics"], timeout=5).status_code == 200


@pytest.mark.parametrize("host", ["203.0.113.7", "no-such-host.invalid"])
def test_an_address_that_is_not_ours_is_told(host: str) -> None:
    with pytest.raises(OSError) as raised:  # noqa: PT011 - which one is the kernel's, or the resolver's, business
        serving._listener(host, 0)
    assert "see monitoring.host and monitoring.health.port" in serving._advice(host, pages(0, 0)[:1], raised.value)


def test_a_client_that_never_reads_is_let_go_and_holds_up_nobody(said: CapturingLogger, latest: Latest) -> None:
    serving.start(HERE, pages(0, 0), latest)
    until(lambda: len(served(said)) == 2)
    url = served(said)["metrics"]
    host, port = url.split("/")[2].split(":")
    clients = [socket.create_connection((host, int(port)), 5) for _ in range(50)]
    for client in clients:
        client.sendall(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n" * 20)
    began_s = time.monotonic()
    assert requests.get(url, timeout=5).status_code == 200
    assert time.monotonic() - began_s < 3
    for client in clients:
        client.close()


def test_without_pages_there_is_no_thread(latest: Latest) -> None:
    assert serving.by_port(()) == []
    serving.start(HERE, (), latest)
