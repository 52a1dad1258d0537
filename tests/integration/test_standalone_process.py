"""The standalone queue as a process: who may talk to it, how it starts, stops, dies, and what it does when it is full."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgpack
import psutil
import pytest
import requests

from cronium.supervisor.standalone.client import StandaloneClient, StandaloneError
from peers.standalone_queue import PATIENCE_S, Queue, SocketClosedError, eventually, lines, running_queue


@pytest.fixture
def queue(tmp_path: Path) -> Iterator[Queue]:
    with running_queue(tmp_path) as queue:
        yield queue


def refused_start(settings: dict[str, Any], *, as_msgpack: bool = False) -> tuple[int, str]:
    """Exit code and what it says of a queue that does not start."""
    blob = msgpack.packb(settings) if as_msgpack else json.dumps(settings).encode()
    done = subprocess.run(
        [sys.executable, "-m", "cronium.supervisor.standalone"], input=blob, capture_output=True, timeout=PATIENCE_S, check=False
    )
    return done.returncode, done.stderr.decode()


def test_what_it_writes_is_its_owners_only(queue: Queue) -> None:
    """Token, key and database are for nobody else's eyes; the token stays the same."""
    token = queue.token
    assert {path.stat().st_mode & 0o777 for path in queue.folder.iterdir()} == {0o600}
    assert len(token) >= 32
    queue.end()
    queue.start()
    assert queue.token == token
    queue.end()
    Path(queue.settings["token_file"]).chmod(0o644)
    code, said = refused_start(queue.settings)
    assert code == 1
    assert "chmod 600" in said


def test_secrets_of_jobs_are_not_readable_on_disk_nor_shown(queue: Queue) -> None:
    """Promise 6: what a job is told lies sealed, and is not shown to whoever lists jobs."""
    hidden = "correct-horse-battery"
    server = {"id": "1", "host": "h", "username": "u", "privateKey": hidden + "-key", "password": hidden + "-password"}
    job_id = queue.submit(
        environment={"TOKEN": hidden},
        script={"type": "bash", "content": f"echo {hidden}"},
        target={"type": "server", "serverDetails": server},
        metadata={"servers": [server]},
    )
    orchestrator = queue.orchestrator()
    orchestrator.take(job_id)
    orchestrator.complete(job_id, key="end", epoch=1, artifacts={"variables": {"x": hidden}})
    view = queue.job(job_id)["job"]
    assert view["execution"]["environment"] == {"TOKEN": "***"}
    assert view["execution"]["target"]["serverDetails"]["privateKey"] == "***"
    assert view["metadata"]["servers"][0]["password"] == "***"
    queue.end(9)
    for path in queue.folder.iterdir():
        assert hidden.encode() not in path.read_bytes(), path


@pytest.mark.parametrize("authorization", [None, "Bearer wrong", "Basic abc", "Bearer "])
def test_nothing_is_answered_without_the_token(queue: Queue, authorization: str | None) -> None:
    """Other users of the machine can reach the port, and nothing behind it."""
    headers = {} if authorization is None else {"Authorization": authorization}
    for path in ("/api/internal/jobs/queue", "/api/client/jobs"):
        answer = requests.get(queue.ready["clientUrl"] + path, headers=headers, timeout=10)
        assert answer.status_code == 401
        assert answer.json()["error"]["code"] == "AUTH_INVALID_TOKEN"


def test_wrong_settings_are_told_all_at_once(tmp_path: Path) -> None:
    """Whoever starts it wrongly reads what to change."""
    paths = {"database": str(tmp_path / "q.db"), "token_file": str(tmp_path / "token")}
    code, said = refused_start({**paths, "port": "many", "colour": "red"})
    assert code == 2
    assert "port" in said
    assert "colour" in said
    code, said = refused_start({**paths, "host": "0.0.0.0"}, as_msgpack=True)
    assert code == 2
    assert "loopback" in said
    code, said = refused_start({})
    assert "database" in said


def test_a_second_queue_on_the_same_database_is_refused(queue: Queue) -> None:
    """Two writers would not know of each other's leases; a port that is taken is said to be."""
    code, said = refused_start({**queue.settings, "port": 0})
    assert code == 1
    assert "another standalone queue" in said
    other = {"database": str(queue.folder / "other.db"), "token_file": str(queue.folder / "token")}
    code, said = refused_start({**other, "port": queue.ready["port"]})
    assert code == 1
    assert "another port" in said


def test_it_stops_at_once_with_everything_open(queue: Queue) -> None:
    """SIGTERM: polls are answered, sockets closed, followers come again; nobody waits for somebody's patience."""
    orchestrator, job_id = queue.orchestrator(), queue.submit()
    orchestrator.take(job_id)
    answers: list[Any] = []

    def follow() -> None:
        with queue.client() as client:
            answers.append([line.line for line in client.logs(job_id, follow=True)])

    poll = threading.Thread(target=lambda: answers.append(orchestrator.poll(wait=60)))
    follower = threading.Thread(target=follow)
    with orchestrator.socket() as socket:
        socket.acknowledged(socket.send_lines(lines(job_id, 1, ["before"])))
        poll.start()
        follower.start()
        time.sleep(0.3)
        started = time.monotonic()
        assert queue.end() == 0
        assert time.monotonic() - started < 60 / 10
        with pytest.raises(SocketClosedError):
            socket.receive()
        poll.join()
        assert answers.pop()["jobs"] == []
    queue.start()
    again = queue.orchestrator(orchestrator.name)
    again.upload(job_id, lines(job_id, 2, ["after"]), epoch=1)
    again.complete(job_id, key="end", epoch=1)
    follower.join(PATIENCE_S)
    assert answers == [["before", "after"]]


def test_it_is_named_and_dies_with_its_parent(tmp_path: Path) -> None:
    """`ps` shows the role; a supervisor that is killed leaves no queue behind."""
    settings = {"database": str(tmp_path / "queue.db"), "token_file": str(tmp_path / "token")}
    program = (
        "import json, os, subprocess, sys, time\n"
        "settings = {**json.loads(sys.argv[1]), 'parent_pid': os.getpid()}\n"
        "queue = subprocess.Popen([sys.executable, '-m', 'cronium.supervisor.standalone'], stdin=subprocess.PIPE)\n"
        "queue.stdin.write(json.dumps(settings).encode()); queue.stdin.close(); time.sleep(60)\n"
    )
    with subprocess.Popen([sys.executable, "-c", program, json.dumps(settings)], stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        queue = psutil.Process(json.loads(parent.stdout.readline())["pid"])
        assert queue.cmdline()[0] == "cronium: standalone queue"
        parent.kill()
        eventually(lambda: not queue.is_running() or queue.status() == psutil.STATUS_ZOMBIE, "the queue is gone")


def test_a_full_database_refuses_work_and_recovers(tmp_path: Path) -> None:
    """No room: 503 with what to do, the socket closes without refusing a line for good, nothing is spoilt, and it goes on."""
    with running_queue(tmp_path, max_database_bytes=2_000_000, keep_at_least_s=0) as queue:
        orchestrator, job_id = queue.orchestrator(), queue.submit()
        orchestrator.take(job_id)
        refused: list[StandaloneError] = []
        while not refused:
            try:
                queue.submit(script={"type": "bash", "content": os.urandom(50_000).hex()})
            except StandaloneError as error:
                refused.append(error)
        assert refused[0].status == 503
        assert "free space" in str(refused[0])
        with orchestrator.socket() as socket:
            noise = [os.urandom(20_000).hex() for _ in range(10)]
            number = socket.send_lines(lines(job_id, 1, noise))
            frame = socket.receive()
            assert frame["type"] == "error", (number, frame)
            assert frame["payload"]["code"] == "SERVICE_UNAVAILABLE"
        with queue.client() as client:
            waiting = [job.id for job in client.jobs(status=["queued"])]
            assert waiting
        queue.end()
        queue.settings["max_database_bytes"] = 50_000_000
        queue.start()
        assert queue.orchestrator(orchestrator.name).upload(job_id, lines(job_id, 1, noise), epoch=1).status_code == 200
        assert queue.orchestrator().poll(limit=50)["metadata"]["queueSize"] == 0


def test_finished_jobs_are_forgotten_in_time(tmp_path: Path) -> None:
    """The database does not grow for ever: the job that ended first goes first, with its lines."""
    with running_queue(tmp_path, max_finished_jobs=3, keep_at_least_s=0) as queue:
        orchestrator = queue.orchestrator()
        ended = []
        for _ in range(6):
            job_id = queue.submit()
            orchestrator.take(job_id)
            orchestrator.upload(job_id, lines(job_id, 1, ["x"]), epoch=1)
            orchestrator.complete(job_id, key="end", epoch=1)
            ended.append(job_id)
        queue.end()
        queue.start()
        with queue.client() as client:
            eventually(lambda: [job.id for job in client.jobs()] == ended[:2:-1], "the three that ended last are left")
            with pytest.raises(StandaloneError, match="not known"):
                client.job(ended[0])
            assert [line.line for line in client.logs(ended[-1])] == ["x"]


def test_rate_limits_are_kept_and_told(tmp_path: Path) -> None:
    """Headers say what is left; beyond it 429 with Retry-After. A long poll does not count, and each supervisor has its own."""
    with running_queue(tmp_path, rate_factor=0.05) as queue:
        orchestrator = queue.orchestrator()
        answers = [orchestrator.ask("GET", "/jobs/queue") for _ in range(4)]
        assert [answer.status_code for answer in answers] == [200, 200, 200, 429]
        assert [answer.headers["X-RateLimit-Remaining"] for answer in answers] == ["2", "1", "0", "0"]
        assert {answer.headers["X-RateLimit-Limit"] for answer in answers} == {"3"}
        assert int(answers[-1].headers["X-RateLimit-Reset"]) > time.time()
        assert 1 <= int(answers[-1].headers["Retry-After"]) <= 20
        assert answers[-1].json()["error"]["code"] == "RATE_LIMIT_EXCEEDED"
        assert orchestrator.ask("GET", "/jobs/queue", params={"wait": 0.1}).status_code == 200
        assert queue.orchestrator().ask("GET", "/jobs/queue").status_code == 200


def test_bad_requests_are_answered_with_all_that_is_wrong(queue: Queue) -> None:
    """Bodies that are no JSON, too large, of wrong types: an error body, never a failure of ours."""
    orchestrator, job_id = queue.orchestrator(), queue.submit()
    orchestrator.take(job_id)
    path = f"/jobs/{job_id}/complete"
    for body in (b"", b"{", b"[]", b"null", b"\xff", b'"x"', b"[" * 100_000):
        assert orchestrator.ask("POST", path, data=body).status_code == 400
    answer = orchestrator.ask("POST", path, json={"status": "great", "exitCode": "x", "logs": {"lastSequence": -1}})
    error = answer.json()["error"]
    assert answer.status_code == 400
    assert error["code"] == "VALIDATION_MISSING_FIELD"
    assert {problem["path"] for problem in error["details"]} == {"status", "exitCode", "logs.lastSequence", "timestamp"}
    assert orchestrator.ask("GET", "/jobs/queue", params={"limit": "many"}).status_code == 400
    assert orchestrator.ask("GET", "/no/such/path").json()["error"]["code"] == "RESOURCE_NOT_FOUND"
    assert orchestrator.ask("DELETE", "/jobs/queue").status_code == 404
    assert orchestrator.upload(job_id, lines("another", 1, ["x"])).status_code == 400
    assert orchestrator.status(job_id, "running", details={"message": "x" * 300_000}).status_code == 400
    traced = orchestrator.http.get(
        queue.ready["apiUrl"] + "/jobs/queue", params={"limit": 99}, headers={"X-Request-Id": "trace-1"}, timeout=10
    )
    assert traced.json()["error"]["traceId"] == "trace-1"
    anonymous = requests.get(
        queue.ready["apiUrl"] + "/jobs/queue", headers={"Authorization": f"Bearer {queue.token}"}, timeout=10
    )
    assert anonymous.json()["error"]["code"] == "VALIDATION_MISSING_FIELD"
    assert queue.job(job_id)["status"] == "acknowledged"


def test_a_body_that_is_too_large_is_refused(tmp_path: Path) -> None:
    """Memory is bounded whatever is sent."""
    with running_queue(tmp_path, max_body_bytes=10_000) as queue:
        orchestrator, job_id = queue.orchestrator(), queue.submit()
        answer = orchestrator.complete(job_id, output={"stdout": "x" * 20_000, "stderr": ""})
        assert answer.status_code == 413


def test_a_submitted_job_that_is_wrong_is_refused_with_every_reason(queue: Queue) -> None:
    """A person mends a job once, not once for each mistake. Unchecked it is taken, for the supervisor to refuse."""
    wrong = {"script": {"type": "perl", "content": "x"}, "timeout": -1, "environment": {"A B": "x"}, "priority": 99}
    with queue.client() as client:
        with pytest.raises(StandaloneError) as refused:
            client.submit(wrong)
        assert len(refused.value.problems) >= 3
        assert client.submit(wrong, check=False).status == "queued"
        with pytest.raises(StandaloneError, match="id"):
            client.submit({"id": "a/b", "script": {"type": "bash", "content": "x"}})
        client.submit({"id": "mine", "script": {"type": "bash", "content": "x"}}, key="key")
        assert client.submit({"id": "mine", "script": {"type": "bash", "content": "x"}}, key="key").id == "mine"
        with pytest.raises(StandaloneError, match="already"):
            client.submit({"id": "mine", "script": {"type": "bash", "content": "x"}})


def test_the_list_of_jobs_is_filtered_and_paged(queue: Queue) -> None:
    """The newest first; a page goes on where the last one ended."""
    ids = [queue.submit() for _ in range(5)]
    remote = queue.submit(target={"type": "server", "serverId": "1"})
    with queue.client() as client:
        assert [job.id for job in client.jobs()] == [remote, *reversed(ids)]
        assert [job.id for job in client.jobs(executor="ssh")] == [remote]
        assert [job.id for job in client.jobs(limit=2)] == [remote, ids[4]]
        client.cancel(ids[0])
        assert [job.id for job in client.jobs(status=["cancelled"])] == [ids[0]]
        with pytest.raises(StandaloneError, match="allowed"):
            client.jobs(status=["happy"])


def test_a_queue_that_is_not_there_is_said_to_be_missing(tmp_path: Path) -> None:
    """The text tells a person what to start."""
    with StandaloneClient("http://127.0.0.1:9", "token") as client, pytest.raises(StandaloneError, match="run --standalone"):
        client.jobs()


def test_the_openapi_document_names_every_route(queue: Queue) -> None:
    """Whoever writes another client finds all routes, and every reference in the document leads somewhere."""
    document = requests.get(queue.ready["clientUrl"] + "/openapi.json", timeout=10).json()
    assert document["openapi"].startswith("3.1")
    assert set(document["paths"]) >= {
        "/api/internal/jobs/queue",
        "/api/internal/jobs/{job_id}/acknowledge",
        "/api/internal/jobs/{job_id}/lease/renew",
        "/api/internal/jobs/{job_id}/status",
        "/api/internal/jobs/{job_id}/complete",
        "/api/internal/jobs/{job_id}/logs",
        "/api/internal/orchestrator/health",
        "/api/client/jobs",
    }
    operations = [operation for path in document["paths"].values() for operation in path.values()]
    assert len({operation["operationId"] for operation in operations}) == len(operations)
    text = json.dumps(document)
    for reference in {part.split('"')[0] for part in text.split('"$ref": "#/components/schemas/')[1:]}:
        assert reference in document["components"]["schemas"]


def test_signals_of_impatience_do_no_harm(queue: Queue) -> None:
    """A second SIGTERM and a SIGINT while it stops change nothing: what was taken is kept."""
    job_id = queue.submit()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGTERM):
        queue.process.send_signal(number)
    assert queue.process.wait(PATIENCE_S) == 0
    queue.start()
    assert queue.job(job_id)["status"] == "queued"
