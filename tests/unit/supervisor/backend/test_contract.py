"""What the backend gives and is given: jobs on servers, and how they ended on each."""

from __future__ import annotations

import orjson
import pytest

from cronium.common.errors import ExecutionError, Reason
from cronium.common.messages import Outcome, Position, ServerOutcome, Summary
from cronium.supervisor.backend.contract import ContractBackend, completion, queued_job
from cronium.supervisor.backend.http import Answer
from cronium.supervisor.core import events as on

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


@pytest.mark.parametrize("number", [2**53, 2**63, 2**64 - 1, 0, -1, True, 1.0, "1", None])
def test_a_number_that_is_none_is_not_taken(number: object) -> None:
    """Guards: whatever the backend says, the journal can write it down (SQLite's integers end at 2^63)."""
    answer = Answer(200, orjson.loads(orjson.dumps({"success": True, "epoch": number, "nextSequence": number})))
    assert ContractBackend._statement("a", "key", answer) == on.Taken("a", "key", None, None, None, None)


def test_a_number_that_is_one_is() -> None:
    answer = Answer(200, {"success": True, "epoch": 2**53 - 1, "nextSequence": 1})
    assert ContractBackend._statement("a", "key", answer) == on.Taken("a", "key", None, None, 2**53 - 1, 1)


def test_a_lease_that_ends_before_all_time_is_none() -> None:
    answer = Answer(200, {"success": True, "lease": {"renewalToken": "t", "expiresAt": "0001-01-01T00:00:00"}})
    assert ContractBackend._statement("a", "key", answer) == on.Taken("a", "key", None, None, None, None)
