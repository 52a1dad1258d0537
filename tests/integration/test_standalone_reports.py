"""Each job gets exactly one terminal report, and whoever has it hears at once when it is to be cancelled."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from cronium.common.config.model import Config
from cronium.common.messages import Outcome, Position, ResultFile, Results, Summary
from cronium.supervisor.backend.contract import ContractBackend
from cronium.supervisor.backend.http import BackendSession
from cronium.supervisor.core import actions as do
from cronium.supervisor.core import events as on
from cronium.supervisor.serve import _largest_report_bytes
from cronium.supervisor.standalone.client import StandaloneError
from peers.standalone_queue import Queue, eventually, lines, running_queue


@pytest.fixture(scope="module")
def queue(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Queue]:
    with running_queue(tmp_path_factory.mktemp("queue")) as queue:
        yield queue


def test_a_job_from_submit_to_its_report(queue: Queue) -> None:
    """What a supervisor says of a job is what its owner sees."""
    job_id = queue.submit(environment={"KEY": "hush"})
    orchestrator = queue.orchestrator()
    orchestrator.take(job_id)
    assert queue.job(job_id)["status"] == "acknowledged"
    for status in ("preparing", "running"):
        answer = orchestrator.status(job_id, status, epoch=1, details={"message": status}).json()
        assert (answer["success"], answer["nextAction"]) == (True, "continue")
        assert queue.job(job_id)["status"] == status
    orchestrator.complete(
        job_id,
        "failed",
        "end",
        epoch=1,
        exitCode=3,
        attempt=2,
        condition=False,
        scriptOutput={"x": None},
        error={"type": "script", "message": "exit code 3"},
    )
    job = queue.job(job_id)
    assert (job["status"], job["exitCode"], job["attempts"], job["terminalReports"]) == ("failed", 3, 2, 1)
    assert job["startedAt"] <= job["endedAt"]
    assert job["report"]["scriptOutput"] == {"x": None}
    assert job["error"]["message"] == "exit code 3"
    assert job["details"]["message"] == "running"
    assert job["logsComplete"] is None


def test_the_same_report_again_succeeds_and_another_is_refused(queue: Queue) -> None:
    """Exactly one terminal report counts (promise 2); a refused one is counted, so that it can be seen."""
    job_id = queue.submit()
    orchestrator = queue.orchestrator()
    orchestrator.take(job_id)
    assert orchestrator.complete(job_id, "completed", "key-1", epoch=1).status_code == 200
    assert orchestrator.complete(job_id, "completed", "key-1", epoch=1).status_code == 200
    for key in ("key-2", None):
        refused = orchestrator.complete(job_id, "failed", key, epoch=1)
        assert refused.status_code == 409
        assert refused.json()["error"]["code"] == "RESOURCE_ALREADY_PROCESSED"
    job = queue.job(job_id)
    assert (job["status"], job["terminalReports"], job["refusedReports"]) == ("completed", 1, 2)


def test_of_many_reports_at_once_one_counts(queue: Queue) -> None:
    """Races do not make two ends."""
    job_id = queue.submit()
    queue.orchestrator("racer").take(job_id)
    codes: list[int] = []
    racers = [
        threading.Thread(
            target=lambda key=f"key-{n}": codes.append(
                queue.orchestrator("racer").complete(job_id, "completed", key, epoch=1).status_code
            )
        )
        for n in range(8)
    ]
    for racer in racers:
        racer.start()
    for racer in racers:
        racer.join()
    assert sorted(codes) == [200] + [409] * 7
    assert queue.job(job_id)["terminalReports"] == 1


def test_a_statement_repeated_with_its_key_is_answered_the_same(queue: Queue) -> None:
    """A retry after a lost answer changes nothing, also when the job has gone on meanwhile."""
    job_id = queue.submit()
    orchestrator = queue.orchestrator()
    orchestrator.take(job_id)
    first = orchestrator.status(job_id, "preparing", "status-1", epoch=1)
    orchestrator.status(job_id, "running", "status-2", epoch=1)
    again = orchestrator.status(job_id, "preparing", "status-1", epoch=1)
    assert again.json() == first.json()
    assert queue.job(job_id)["status"] == "running"


def test_what_is_said_of_an_earlier_attempt_is_refused_and_costs_nobody_the_job(queue: Queue) -> None:
    """A request that was given up may be carried out late: it must not hide how the attempt does that runs now."""
    job_id = queue.submit()
    orchestrator = queue.orchestrator()
    orchestrator.take(job_id)

    def says(attempt: int, percentage: float) -> requests.Response:
        details = {"attempt": attempt, "progress": {"percentage": percentage}}
        return orchestrator.status(job_id, "running", epoch=1, details=details)

    assert [says(1, 50).status_code, says(2, 10).status_code] == [200, 200]
    late = says(1, 90)
    assert (late.status_code, late.json()["error"]["details"]) == (409, {"attempt": 2})
    assert queue.job(job_id)["details"] == {"attempt": 2, "progress": {"percentage": 10}}
    session = BackendSession(queue.ready["apiUrl"], queue.token, orchestrator.name, 10.0)
    backend = ContractBackend(session, orchestrator.name, ())
    assert backend.status(do.SayStatus(job_id, "key-1", 1, "running", 1, None, None)) == on.Taken(job_id, "key-1")
    stranger = ContractBackend(BackendSession(queue.ready["apiUrl"], queue.token, "stranger", 10.0), "stranger", ())
    refused = stranger.status(do.SayStatus(job_id, "key-2", 1, "running", 1, None, None))
    assert isinstance(refused, on.Refused)
    assert refused.gone


def test_a_queued_job_is_cancelled_at_once(queue: Queue) -> None:
    """Nobody has it, so nobody needs to be asked."""
    job_id = queue.submit()
    with queue.client() as client:
        assert client.cancel(job_id).status == "cancelled"
        assert client.cancel(job_id).status == "cancelled"
    assert job_id not in [job["id"] for job in queue.orchestrator().poll(limit=50)["jobs"]]
    assert queue.job(job_id)["terminalReports"] == 0


def test_whoever_has_the_job_is_told_to_cancel_it(queue: Queue) -> None:
    """By the next status, the next renewal, and a poll: whichever comes first."""
    job_id = queue.submit()
    orchestrator = queue.orchestrator()
    token = orchestrator.take(job_id)["lease"]["renewalToken"]
    with queue.client() as client:
        assert client.cancel(job_id).status == "acknowledged"
    assert orchestrator.status(job_id, "running", epoch=1).json()["nextAction"] == "cancel"
    assert orchestrator.renew(job_id, token).json()["nextAction"] == "cancel"
    assert orchestrator.acknowledge(job_id).json()["nextAction"] == "cancel"
    assert orchestrator.poll(limit=0)["metadata"]["cancelled"] == [job_id]
    assert orchestrator.complete(job_id, "cancelled", "end", epoch=1).status_code == 200
    assert "cancelled" not in orchestrator.poll(limit=0)["metadata"]
    with queue.client() as client:
        done = client.submit({"script": {"type": "bash", "content": "x"}}).id
        orchestrator.take(done)
        orchestrator.complete(done, "completed", "end", epoch=1)
        with pytest.raises(StandaloneError, match="has ended"):
            client.cancel(done)


def test_an_open_long_poll_and_an_open_socket_hear_a_cancel_at_once(queue: Queue) -> None:
    """A person who presses cancel does not wait for the next poll; the news comes once, so no poll spins."""
    job_id = queue.submit()
    orchestrator = queue.orchestrator()
    orchestrator.take(job_id)
    answers: list[dict[str, Any]] = []
    with orchestrator.socket() as socket:
        socket.send({"type": "ping", "payload": {"timestamp": "x"}})
        assert socket.receive()["type"] == "pong"
        started = time.monotonic()
        poll = threading.Thread(target=lambda: answers.append(orchestrator.poll(wait=30)))
        poll.start()
        with queue.client() as client:
            client.cancel(job_id)
        assert socket.receive() == {"type": "cancel", "payload": {"jobId": job_id}}
        poll.join()
        assert time.monotonic() - started < 30 / 3
    assert answers[0]["metadata"]["cancelled"] == [job_id]
    started = time.monotonic()
    assert orchestrator.poll(wait=1)["metadata"]["cancelled"] == [job_id]
    assert time.monotonic() - started >= 0.9
    with queue.orchestrator(orchestrator.name).socket() as socket:
        assert socket.receive() == {"type": "cancel", "payload": {"jobId": job_id}}


def test_statements_about_others_jobs_are_refused(queue: Queue) -> None:
    """Only the owner speaks for a job; unknown jobs are said to be unknown."""
    job_id = queue.submit()
    owner, stranger = queue.orchestrator(), queue.orchestrator()
    assert stranger.acknowledge(job_id).status_code == 409
    owner.take(job_id)
    assert stranger.complete(job_id).status_code == 409
    assert stranger.upload(job_id, lines(job_id, 1, ["x"])).status_code == 409
    assert owner.status("no-such-job", "running").json()["error"]["code"] == "RESOURCE_NOT_FOUND"
    assert owner.acknowledge("no/such job").status_code == 404


def test_a_health_report_is_kept(queue: Queue) -> None:
    """The latest word of each supervisor can be looked at."""
    orchestrator = queue.orchestrator()
    body = {"orchestratorId": orchestrator.name, "timestamp": "2026-01-15T10:00:00Z", "status": "healthy", "version": "1"}
    assert orchestrator.ask("POST", "/orchestrator/health", json=body).json() == {"success": True}
    with queue.client() as client:
        found = {o["id"]: o["health"] for o in client.orchestrators()}
    assert found[orchestrator.name]["status"] == "healthy"


def test_an_idle_job_can_be_waited_for(queue: Queue) -> None:
    """`wait` comes back with the end of the job, and says where it is when the time is over."""
    job_id = queue.submit()
    orchestrator = queue.orchestrator()
    orchestrator.take(job_id)
    with queue.client() as client:
        with pytest.raises(TimeoutError, match="acknowledged"):
            client.wait(job_id, 0.2)
        waiting = threading.Thread(target=lambda: ended.append(client.wait(job_id, 20)))
        ended: list[dict[str, Any]] = []
        waiting.start()
        orchestrator.complete(job_id, "completed", "end", epoch=1)
        waiting.join()
        assert ended[0]["status"] == "completed"
        eventually(lambda: client.jobs(status=["completed"])[0].id == job_id, "it is in the list")


def test_files_that_are_too_much_for_the_backend_are_left_out_of_the_report_and_that_is_told(tmp_path: Path) -> None:
    """Promise 2: a report that is refused for its size alone was set aside, and nobody heard how the job had ended."""
    with running_queue(tmp_path, max_body_bytes=1_000_000) as queue:
        job_id, name = queue.submit(), "orchestrator-1"
        queue.orchestrator(name).take(job_id)
        backend = ContractBackend(BackendSession(queue.ready["apiUrl"], queue.token, name, 20), name, ())
        files = (ResultFile("large", "text/plain", bytes(20_000_000)),)
        outcome = Outcome("completed", 0, None, 1, 2, Results(b'"said"', files=files, problems=("told before",)))
        last = Summary(job_id, 1, Position(), 1, b"", b"", truncated=False)
        answer = backend.complete(do.SayComplete(job_id, "key", 1, 1, outcome, last))
        assert isinstance(answer, on.Taken), answer
        report = queue.job(job_id)["report"]
        assert report["scriptOutput"] == "said"
        assert "artifacts" not in report or "files" not in report["artifacts"]
        before, told = report["resultProblems"]
        assert before == "told before"
        assert "413" in told


def test_our_own_queue_takes_a_report_of_all_that_a_job_may_give_back(tmp_path: Path) -> None:
    """With the configuration as it comes: files travel as base64, a third larger than they are."""
    config = Config.model_validate({"state_dir": tmp_path, "runtime_dir": tmp_path})
    with running_queue(tmp_path, max_body_bytes=_largest_report_bytes(config)) as queue:
        job_id, name = queue.submit(), "orchestrator-1"
        queue.orchestrator(name).take(job_id)
        backend = ContractBackend(BackendSession(queue.ready["apiUrl"], queue.token, name, 60), name, ())
        files = (ResultFile("large", "text/plain", bytes(config.container.max_results)),)
        output = b"\0" * 1024 * 1024
        outcome = Outcome("completed", 0, None, 1, 2, Results(b'"said"', files=files))
        last = Summary(job_id, 1, Position(), 1, output, output, truncated=True)
        assert isinstance(backend.complete(do.SayComplete(job_id, "key", 1, 1, outcome, last)), on.Taken)
        (file,) = queue.job(job_id)["report"]["artifacts"]["files"]
        assert file["size"] == config.container.max_results
