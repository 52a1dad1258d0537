"""`cronium-supervisor drain`: the supervisor finishes what runs and ends; whoever told it sees when."""

from __future__ import annotations

import contextlib
import json
import signal
import time
from pathlib import Path

import pytest

from peers.own_supervisor import PATIENCE_S, CommandLine, Supervisor, until

SLOW = "for i in $(seq 1 20); do echo line $i; sleep 0.1; done"


@pytest.fixture(autouse=True)
def _images(runner_images: object) -> None:
    """Jobs run here."""


@pytest.fixture
def slow_job(supervisor: Supervisor) -> str:
    """A job that runs for two seconds, and has begun."""
    with supervisor.client() as client:
        spec = {"execution": {"network": "none", "script": {"type": "bash", "content": SLOW}}}
        job = client.submit(spec).id
        until(lambda: any(client.logs(job)), "the job has begun")
    return job


def test_it_waits_until_the_supervisor_has_gone(supervisor: Supervisor, slow_job: str) -> None:
    """Exit code 0, and the job was not cut short."""
    assert supervisor.process is not None
    done = supervisor.run("drain", "--json")
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert (said["pid"], said["ended"], said["jobs"]) == (supervisor.process.pid, True, 0)
    assert supervisor.process.wait(5) == 0
    supervisor.start_up()
    with supervisor.client() as client:
        job = client.job(slow_job)
        assert (job["status"], job["attempts"]) == ("completed", 1)


def test_its_patience_can_be_limited(supervisor: Supervisor) -> None:
    """Exit code 1 says that it drains on. The job runs for as long as it takes to say so."""
    assert supervisor.process is not None
    with supervisor.client() as client:
        script = {"type": "bash", "content": "echo begun; sleep 90"}
        job = client.submit({"execution": {"network": "none", "script": script}}).id
        until(lambda: any(client.logs(job)), "the job has begun")
        done = supervisor.run("drain", "--timeout", "200ms")
        assert done.returncode == 1
        assert b"is draining, 1 job to go" in done.stderr
        client.cancel(job)
    assert supervisor.process.wait(PATIENCE_S) == 0


def test_a_supervisor_that_is_killed_meanwhile_is_no_success(supervisor: Supervisor) -> None:
    """Exit code 1: whoever works on the machine next must know that a job is not finished."""
    assert supervisor.process is not None
    with supervisor.client() as client:
        script = {"type": "bash", "content": SLOW.replace("20", "60")}
        job = client.submit({"execution": {"network": "none", "script": script}}).id
        until(lambda: any(client.logs(job)), "the job has begun")
    with supervisor.start("drain") as told:
        until(lambda: _watches_a_process(told.pid), "it has found the supervisor")
        supervisor.process.kill()
        _, said = told.communicate(timeout=60)
    assert told.returncode == 1, said
    assert b"has ended too early, 1 job to go: start it again" in said
    supervisor.process.wait(5)
    supervisor.start_up()
    with supervisor.client() as client:
        assert client.wait(job, 60)["status"] == "completed"
    until(lambda: not any(supervisor.state_dir.glob("places/*")), "its place is removed")


def _watches_a_process(pid: int) -> bool:
    with contextlib.suppress(FileNotFoundError):  # one that was closed meanwhile
        return any("pidfd" in str(link.readlink()) for link in list(Path(f"/proc/{pid}/fd").iterdir()))
    return False


def test_it_can_be_told_only(supervisor: Supervisor, slow_job: str) -> None:
    """--no-wait: back at once."""
    done = supervisor.run("drain", "--no-wait", "--json")
    assert (done.returncode, json.loads(done.stdout)["ended"]) == (0, False)
    assert supervisor.process is not None
    assert supervisor.process.wait(30) == 0


def test_without_a_supervisor_it_says_so(command_line: CommandLine) -> None:
    """Also where the lock names a process that lives: it is held, or nobody is signalled."""
    for prepare in (lambda: None, lambda: (command_line.state_dir / "lock").write_text("1\n")):
        command_line.state_dir.mkdir(exist_ok=True)
        prepare()
        done = command_line.run("drain")
        assert done.returncode == 1
        assert b"no supervisor runs with the state folder" in done.stderr
        assert b"CRONIUM_STATE_DIR" in done.stderr


def test_a_detach_takes_less_than_two_seconds_whatever_runs(supervisor: Supervisor) -> None:
    """SIGTERM, the default: what runs is left to the next start, which goes on with it."""
    with supervisor.client() as client:
        spec = {"execution": {"network": "none", "script": {"type": "bash", "content": SLOW}}}
        jobs = [client.submit(spec).id for _ in range(5)]
        until(lambda: all(any(client.logs(job)) for job in jobs), "the jobs have begun")
    began_s = time.monotonic()
    assert supervisor.stop(signal.SIGTERM) == 0
    took_s = time.monotonic() - began_s
    print(f"detached from 5 jobs in {took_s:.2f} s")
    assert took_s < 2.0 * 3  # a busy machine
    supervisor.start_up()
    with supervisor.client() as client:
        for job in jobs:
            assert client.wait(job, 60)["status"] == "completed"
            assert client.job(job)["attempts"] == 1
