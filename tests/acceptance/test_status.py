"""How the supervisor is: the `status` command, `/health` and `/metrics` of a real one say the same, also when it goes badly."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing

import psutil
import pytest

from cronium.common import VERSION
from peers.faulty_proxy import FaultyProxy
from peers.keygen import keypair
from peers.own_supervisor import CommandLine, Supervisor, until
from peers.pages import Pages
from peers.world import World


@pytest.fixture
def pages(shared_supervisor: Supervisor) -> Pages:
    """Those of the module's supervisor."""
    return Pages.of(shared_supervisor.log)


def status_of(supervisor: CommandLine) -> dict[str, object]:
    done = supervisor.run("status", "--json")
    assert done.returncode == 0, done.stderr
    found: dict[str, object] = json.loads(done.stdout)
    return found


def test_all_say_that_it_is_well(shared_supervisor: Supervisor, pages: Pages) -> None:
    with shared_supervisor.client() as client:
        job = client.submit({"execution": {"network": "none", "script": {"type": "bash", "content": "exit 3"}}}).id
        assert client.wait(job, 60)["status"] == "failed"
    until(lambda: pages.health()[1]["endedJobs"]["failed"] == 1, "the report was taken")
    said = status_of(shared_supervisor)
    assert (said["status"], said["reasons"], said["draining"]) == ("healthy", [], False)
    assert shared_supervisor.process is not None
    assert (said["pid"], said["version"]) == (shared_supervisor.process.pid, VERSION)
    code, health = pages.health()
    assert code == 200
    assert {**health, "timestamp": 0, "uptimeS": 0, "output": 0} == {**said, "timestamp": 0, "uptimeS": 0, "output": 0}
    metrics = pages.metrics()
    assert metrics["cronium_supervisor_up",] == metrics["cronium_backend_up",] == metrics["cronium_websocket_connected",] == 1
    assert (metrics["cronium_jobs", "running"], metrics["cronium_jobs_ended_total", "failed"]) == (0, 1)
    assert metrics["cronium_build_info", VERSION] == 1
    assert metrics["cronium_process_restarts_total", "worker"] == metrics["cronium_reports_set_aside",] == 0


def test_a_person_sees_it_at_a_glance(shared_supervisor: Supervisor) -> None:
    done = shared_supervisor.run("status")
    assert done.returncode == 0, done.stderr
    text = done.stdout.decode()
    assert text.startswith("healthy")
    assert "WebSocket connected" in text
    assert "answers" in text


def test_clients_that_say_nothing_hold_up_nobody(shared_supervisor: Supervisor, pages: Pages) -> None:
    """Neither others who ask, nor the monitor's judging, which the supervisor would notice."""
    host, port = pages.health_url.split("/")[2].split(":")
    monitors = monitors_of(shared_supervisor)
    with ExitStack() as silent:
        clients = [silent.enter_context(closing(socket.create_connection((host, int(port)), 5))) for _ in range(100)]
        for client in clients[-20:]:
            client.sendall(b"GET /health HT")
        began_s = time.monotonic()
        for _ in range(20):
            assert pages.health()[0] == 200
        assert time.monotonic() - began_s < 5
        for client in clients:  # each is let go in the end
            client.settimeout(30)
            try:
                assert client.recv(1000) == b""
            except ConnectionResetError:
                continue
    assert monitors_of(shared_supervisor) == monitors


def monitors_of(supervisor: Supervisor) -> list[psutil.Process]:
    found = [process for process in supervisor.processes() if (process.cmdline() or [""])[0] == "cronium: monitor"]
    assert len(found) == 1
    return found


@pytest.mark.parametrize("supervisor", [{"CRONIUM_WORKERS_HUNG_AFTER": "5m"}], indirect=True)  # long before it is ended
def test_a_supervisor_that_makes_no_progress_is_unhealthy(supervisor: Supervisor) -> None:
    pages, process = Pages.of(supervisor.log), supervisor.process
    assert process is not None
    process.send_signal(signal.SIGSTOP)
    try:
        until(lambda: pages.health()[0] == 503, "no report for a few seconds")
        said = pages.health()[1]
        assert said["status"] == "unhealthy"
        assert "makes no progress" in said["reasons"][0]
        metrics = pages.metrics()
        assert metrics["cronium_supervisor_up",] == 0
        assert ("cronium_jobs", "running") not in metrics, "figures of the past are no figures of now"
        done = supervisor.run("status")
        assert done.returncode == 1
        assert b"says nothing for 3 s" in done.stderr
        assert b"its jobs go on" in done.stderr
        done = supervisor.run("status", "--json")
        assert (done.returncode, json.loads(done.stdout)["status"]) == (1, "unhealthy")
    finally:
        process.send_signal(signal.SIGCONT)
    until(lambda: pages.health()[0] == 200, "it goes on")
    until(lambda: status_of(supervisor)["status"] == "healthy", "all is well again")


def test_without_a_supervisor_it_says_what_to_do(command_line: CommandLine) -> None:
    done = command_line.run("status")
    assert done.returncode == 1
    assert b"no supervisor runs with the state folder" in done.stderr
    assert b"start it" in done.stderr
    done = command_line.run("status", "--json")
    assert (done.returncode, json.loads(done.stdout)["status"]) == (1, "unhealthy")


BREAKS = {"CRONIUM_SSH_CIRCUIT_BREAKER_FAILURE_THRESHOLD": "1", "CRONIUM_SSH_CIRCUIT_BREAKER_RECOVERY_TIMEOUT": "10m"}


@pytest.fixture
def refusing_port() -> Iterator[int]:
    """Bound, so that nobody else gets it, and nobody listens."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield bound.getsockname()[1]


@pytest.mark.parametrize("supervisor", [BREAKS], indirect=True)
def test_a_server_that_is_left_alone_is_named(supervisor: Supervisor, refusing_port: int) -> None:
    server = {
        "id": "1",
        "name": "web",
        "host": "127.0.0.1",
        "port": refusing_port,
        "username": "u",
        "privateKey": keypair("ed25519")[0],
    }
    spec = {
        "type": "ssh",
        "execution": {"target": {"type": "server", "serverDetails": server}, "script": {"type": "bash", "content": "true"}},
    }
    name = f"127.0.0.1:{refusing_port}"
    with supervisor.client() as client:
        job = client.submit(spec).id
        until(lambda: name in str(status_of(supervisor)["servers"]), "its breaker opens")
        said = status_of(supervisor)
        assert said["status"] == "degraded"
        assert any(name in reason for reason in said["reasons"])  # type: ignore[attr-defined]
        pages = Pages.of(supervisor.log)
        code, health = pages.health()
        assert (code, health["status"], health["servers"]["openBreakers"]) == (200, "degraded", [name])
        metrics = pages.metrics()
        assert metrics["cronium_ssh_breaker_state", name, "open"] == metrics["cronium_ssh_breakers", "open"] == 1
        assert name in supervisor.run("status").stdout.decode()
        client.cancel(job)
        assert client.wait(job, 60)["status"] == "cancelled"


def test_what_the_backend_refuses_and_that_it_is_away_shows(docker_endpoint: str, runner_images: object) -> None:
    """Promise 2: a report that is refused for good is set aside with its reason, is seen, and blocks nobody."""
    environ = {"CRONIUM_JOBS_POLL_WAIT": "1s", "CRONIUM_JOBS_POLL_MAX_INTERVAL": "1s", "CRONIUM_API_RETRY_MAX_DELAY": "1s"}
    proxy = FaultyProxy(refuses=("/complete",))
    with World(docker_endpoint, environ=environ, proxy=proxy) as world:
        pages = Pages.of(world.log)
        job = world.submit("true")
        until(lambda: pages.health()[1]["setAsideCount"], "its report was refused")
        code, health = pages.health()
        assert (code, health["status"]) == (200, "healthy")
        (aside,) = health["setAside"]
        assert aside["jobId"] == job
        assert "refused on purpose" in aside["reason"]
        assert pages.metrics()["cronium_reports_set_aside",] == 1
        command = [sys.executable, "-m", "cronium.supervisor", "status"]
        shown = subprocess.run(command, env=world.started_with, stdout=subprocess.PIPE, timeout=60, check=True).stdout.decode()
        assert job in shown
        proxy.refuses = ()
        assert world.run("echo hi").stdout == ["hi"]
        proxy.stop()
        until(lambda: not pages.health()[1]["backend"]["works"], "the backend is away")
        code, health = pages.health()
        assert (code, health["status"]) == (200, "degraded")
        assert health["reasons"][0].startswith("the backend does not answer as it should")
        assert pages.metrics()["cronium_backend_up",] == 0
        proxy.start()
        until(lambda: pages.health()[1]["status"] == "healthy", "it is back")


@pytest.fixture
def taken_port() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as other:
        yield other.getsockname()[1]


def test_a_supervisor_whose_ports_are_taken_works_all_the_same(
    taken_port: int, docker_endpoint: str, runner_images: object, tmp_runtime_dir: object
) -> None:
    environ = {"CRONIUM_MONITORING_HEALTH_PORT": str(taken_port), "CRONIUM_MONITORING_METRICS_PORT": str(taken_port)}
    supervisor = Supervisor(tmp_runtime_dir, docker_endpoint, environ)  # type: ignore[arg-type]
    try:
        supervisor.start_up()
        until(lambda: f"port {taken_port} is taken" in supervisor.log.read_text(), "the monitor says so")
        assert "set monitoring.health.port and monitoring.metrics.port to another one" in supervisor.log.read_text()
        assert status_of(supervisor)["status"] == "healthy"
        assert len(monitors_of(supervisor)) == 1
        assert supervisor.stop() == 0
    finally:
        supervisor.end()
