"""A job at the boundary: what backends really send is taken, and a bad one is told every reason at once, without a secret."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cronium.common.job import MAX_SCRIPT_BYTES, InvalidJobError, Job, ScriptType, parse_job

_SCRIPT = {"type": "bash", "content": "echo hi"}

# PROTOCOL.md, 'QueuedJob', with one of each pair of alternatives.
_CONTRACT = {
    "id": "job-123", "type": "script", "priority": 8, "createdAt": "2026-01-15T10:00:00Z", "scheduledFor": None, "attempts": 0,
    "execution": {
        "target": {"type": "server", "serverId": "7",
                   "serverDetails": {"id": "7", "name": "web-1", "host": "10.0.0.7", "port": 22, "username": "deploy",
                                     "privateKey": "PEM", "passphrase": None, "password": None}},
        "script": {"type": "bash", "content": "echo hi", "workingDirectory": "/tmp",
                   "helpers": [{"name": "cronium.sh", "content": "..."}]},
        "http": {"method": "GET", "url": "https://example.org", "headers": {}, "body": None},
        "environment": {"KEY": "value"}, "inputData": {}, "variables": {}, "image": None, "network": "bridge",
        "timeout": 300, "resources": {"cpuLimit": 0.5, "memoryLimit": 536870912, "diskLimit": 1073741824, "pidsLimit": 100},
        "retryPolicy": {"maxAttempts": 3, "backoffType": "exponential", "backoffDelay": 5}},
    "metadata": {},
}  # fmt: skip

# PROTOCOL.md, 'A job as that application delivers it (observed)'.
_OBSERVED = {
    "id": "job_1LwZq0aBcDeF", "type": "container", "priority": 5, "createdAt": "2026-01-15T10:00:00Z",
    "scheduledFor": "2026-01-15T10:00:00Z", "attempts": 0,
    "execution": {"environment": {"A": "1"}, "timeout": 30000000000, "inputData": {"x": 1}, "variables": {},
                  "target": {"type": "local"}, "script": {"type": "BASH", "content": "echo hi", "workingDirectory": ""},
                  "retryPolicy": {"maxAttempts": 2, "backoffType": "exponential", "backoffDelay": 5}},
    "metadata": {"originalType": "SCRIPT", "eventId": 1, "userId": "u1"},
}  # fmt: skip


def parsed(**execution: Any) -> Job:
    return parse_job(json.dumps({"id": "job", "execution": {"script": _SCRIPT, **execution}}).encode())


def problems(raw: Any) -> dict[str, str]:
    with pytest.raises(InvalidJobError) as caught:
        parse_job(raw if isinstance(raw, bytes) else json.dumps(raw).encode())
    return {problem.path: problem.message for problem in caught.value.problems}


def test_the_contracts_job_is_taken_whole() -> None:
    job = parse_job(json.dumps(_CONTRACT).encode())
    assert (job.id, job.priority, job.execution.timeout) == ("job-123", 8, 300)
    assert job.execution.target.server_details is not None
    assert job.execution.target.server_details["host"] == "10.0.0.7"
    assert job.execution.script is not None
    assert job.execution.script.helpers[0].name == "cronium.sh"
    assert job.execution.resources.pids_limit == 100
    assert job.execution.retry_policy.max_attempts == 3
    assert parse_job(_CONTRACT) == job


def test_the_applications_job_is_taken_as_it_is() -> None:
    job = parse_job(json.dumps(_OBSERVED).encode())
    assert job.execution.script is not None
    assert job.execution.script.type is ScriptType.BASH
    assert job.metadata["userId"] == "u1"


@pytest.mark.parametrize(("said", "meant"), [("bash", "bash"), ("PYTHON", "python"), ("NODEJS", "node"), ("node", "node")])
def test_script_types_are_known_under_both_names(said: str, meant: str) -> None:
    script = parsed(script={"type": said, "content": ""}).execution.script
    assert script is not None
    assert script.type.value == meant


@pytest.mark.parametrize("kind", [None, "SCRIPT", "whatever", 5, {"a": 1}])
def test_the_type_of_a_job_may_be_odd(kind: Any) -> None:
    assert parse_job({"id": "job", "type": kind, "execution": {"script": _SCRIPT}}).id == "job"


def test_what_is_null_is_as_if_it_had_not_been_said() -> None:
    """Go writes an empty list or map as null."""
    names = ("target", "http", "environment", "inputData", "variables", "image", "timeout", "resources", "retryPolicy")
    script = {**_SCRIPT, "workingDirectory": None, "helpers": None}
    raw = {"id": "job", "priority": None, "attempts": None, "metadata": None}
    job = parse_job({**raw, "execution": {"script": script, **dict.fromkeys(names)}})
    assert job == parse_job({"id": "job", "execution": {"script": _SCRIPT}})


def test_unknown_fields_are_kept_and_no_error() -> None:
    job = parse_job({"id": "job", "new": 1, "execution": {"script": {**_SCRIPT, "shell": "zsh"}, "later": [1]}})
    assert job.model_extra == {"new": 1}
    assert job.execution.model_extra == {"later": [1]}


def test_every_reason_is_told_at_once() -> None:
    found = problems(
        {
            "id": "",
            "priority": 11,
            "execution": {
                "target": {"type": "moon"},
                "script": {
                    "type": "ruby",
                    "content": "x" * (MAX_SCRIPT_BYTES + 1),
                    "workingDirectory": "relative",
                    "helpers": [{"name": "../up", "content": ""}, {"name": "fine", "content": ""}],
                },
                "environment": {"1ST": "a", "NUL": "a\0b", "NUMBER": 5, "FINE": "x"},
                "timeout": 0,
                "resources": {"cpuLimit": -1, "memoryLimit": "much"},
                "retryPolicy": {"maxAttempts": 0, "backoffType": "never"},
            },
        }
    )
    execution = "execution."
    assert set(found) == {
        "id",
        "priority",
        *(execution + path for path in ("target.type", "timeout", "resources.cpuLimit", "resources.memoryLimit")),
        *(f"execution.script.{path}" for path in ("type", "content", "workingDirectory", "helpers.0.name")),
        *(f"execution.environment.{name}" for name in ("1ST", "NUL", "NUMBER")),
        *(f"execution.retryPolicy.{name}" for name in ("maxAttempts", "backoffType")),
    }
    assert str(MAX_SCRIPT_BYTES) in found["execution.script.content"]
    assert "'ruby'" in found["execution.script.type"]


def test_a_job_with_nothing_to_run_is_told_beside_its_other_faults() -> None:
    found = problems({"id": "job", "execution": {"environment": {"1ST": "x"}, "timeout": "long"}})
    assert set(found) == {"execution.script", "execution.environment.1ST", "execution.timeout"}


@pytest.mark.parametrize("directory", ["relative", "/a\nb", "/a\0b"])
def test_a_directory_is_absolute_and_of_one_line(directory: str) -> None:
    """It is a line of the launcher's specification: a line break would be a parameter of its own."""
    assert set(problems({"id": "j", "execution": {"script": {**_SCRIPT, "workingDirectory": directory}}})) == {
        "execution.script.workingDirectory"
    }


@pytest.mark.parametrize("name", ["A-B", "A B", "", "1", "A=B", "A\n", "Ä", "$(id)"])
def test_only_names_that_a_shell_can_export_are_variables(name: str) -> None:
    assert len(problems({"id": "j", "execution": {"script": _SCRIPT, "environment": {name: "x"}}})) == 1


@pytest.mark.parametrize(
    "raw", [b"", b"{", b"[]", b"5", b"null", b'"text"', b"\xff", b'{"id": "a"}', b'{"id": 5, "execution": []}']
)
def test_what_is_no_job_at_all_is_told(raw: bytes) -> None:
    assert problems(raw)


def test_no_value_that_may_be_a_secret_is_repeated() -> None:
    """Promise 6: these messages go to logs and to the backend."""
    secret = "hunter2"
    number = 70077007
    for raw in (
        {
            "id": "j",
            "execution": {"script": {"type": "bash", "content": {"x": secret}}, "environment": {"TYPE": number, "type": number}},
        },
        {"id": "j", "execution": {"script": secret, "environment": secret, "http": secret, "variables": secret}},
        {"id": "j", "execution": {"script": _SCRIPT, "target": {"type": "server", "serverDetails": secret}}},
        {"id": "j", "execution": {"script": _SCRIPT, "target": secret, "environment": {"A": secret + "\0"}}},
        {"id": "j", "execution": secret, "metadata": secret},
    ):
        assert secret not in str(problems(raw))
        assert str(number) not in str(problems(raw))
    assert secret not in str(problems(b'{"id": "j", "execution": {"environment": {"A": "hunter2"}}'))


@settings(max_examples=200, deadline=None)
@given(
    raw=st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(["id", "execution", "script", "environment", "target", "type", "content"]), inner, max_size=5
            )
        ),
        max_leaves=12,
    )
)
def test_anything_is_a_job_or_refused_with_reasons(raw: Any) -> None:
    try:
        parse_job(json.dumps(raw).encode())
    except InvalidJobError as refused:
        reasons = refused.problems
    else:
        return
    assert reasons
