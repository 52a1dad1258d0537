"""What the backend gives and is given: jobs on servers, and how they ended on each."""

from __future__ import annotations

import orjson

from cronium.common.errors import ExecutionError, Reason
from cronium.common.messages import Outcome, Position, ServerOutcome, Summary
from cronium.supervisor.backend.contract import completion, queued_job

WEB = {"name": "web", "host": "10.0.0.7", "username": "deploy", "privateKey": "secret"}
DB = {"name": "db", "host": "10.0.0.8", "port": 2222, "username": "deploy", "privateKey": "secret"}


def job(details: object = None, servers: object = None, target: str = "server") -> dict[str, object]:
    return {
        "id": "a",
        "execution": {
            "target": {"type": target, "serverDetails": details},
            "script": {"type": "bash", "content": "true"},
        },
        "metadata": {"servers": servers},
    }


def test_a_job_on_servers_says_which_connections_it_needs_and_no_secret() -> None:
    queued = queued_job(job(servers=[WEB, DB]))
    assert queued is not None
    assert [key.partition("#")[0] for key in queued.servers] == ["deploy@10.0.0.7:22", "deploy@10.0.0.8:2222"]
    assert "secret" not in str(queued.servers)
    assert queued.refusal is None


def test_a_job_whose_servers_are_no_servers_is_refused_with_every_reason() -> None:
    queued = queued_job(job(servers=[{"host": "-x", "username": ""}]))
    assert queued is not None
    assert queued.refusal is not None
    assert queued.refusal.error is not None
    assert queued.refusal.error.reason == "invalid_job"
    for path in ("metadata.servers.0.host", "metadata.servers.0.username"):
        assert path in queued.refusal.error.message


def test_a_job_in_a_container_needs_no_connections_whatever_else_it_names() -> None:
    queued = queued_job(job(details=WEB, target="local"))
    assert queued is not None
    assert queued.servers == ()


def test_how_it_ended_on_each_server_is_reported() -> None:
    error = ExecutionError(Reason.SCRIPT_EXIT, "the script ended with 3").report()
    servers = (
        ServerOutcome("k1", "web", "completed", 0),
        ServerOutcome("k2", "db", "failed", 3, "script_exit", "the script ended with 3"),
    )
    outcome = Outcome("failed", 3, error, 1, 2, servers=servers)
    body = completion(outcome, Summary("a", 1, Position(), 1, b"", b"", truncated=False), 1, 1)
    assert orjson.loads(orjson.dumps(body["details"])) == {
        "servers": [
            {"name": "web", "status": "completed", "exitCode": 0},
            {
                "name": "db",
                "status": "failed",
                "exitCode": 3,
                "error": {"reason": "script_exit", "message": "the script ended with 3"},
            },
        ]
    }


def test_a_job_on_no_server_has_no_such_details() -> None:
    body = completion(Outcome("completed", 0, None, 1, 2), Summary("a", 1, Position(), 1, b"", b"", truncated=False), 1, 1)
    assert "details" not in body
