"""From a file and options on the command line to a job."""

import json
from pathlib import Path
from typing import Any

import pytest

from cronium.common.job import ScriptType, parse_job
from cronium.supervisor.cli.job_file import JobFileError, JobOptions, by_first_line, read_environment, read_job

NOTHING = JobOptions()


def write(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.write_text(text)
    return path


def of_json(folder: Path, job: Any, options: JobOptions = NOTHING) -> dict[str, Any]:
    return read_job(write(folder, "job.json", json.dumps(job)), options)


@pytest.mark.parametrize(
    ("name", "kind"),
    [("a.sh", "bash"), ("a.bash", "bash"), ("a.py", "python"), ("a.js", "node"), ("a.cjs", "node"), ("a.b.py", "python")],
)
def test_the_suffix_says_the_language(tmp_path: Path, name: str, kind: str) -> None:
    text = "#!/usr/bin/strange\necho hi\n"  # the suffix counts more
    assert read_job(write(tmp_path, name, text), NOTHING) == {"execution": {"script": {"type": kind, "content": text}}}


@pytest.mark.parametrize(
    ("line", "kind"),
    [
        ("#!/bin/sh", ScriptType.BASH),
        ("#!/bin/bash -e", ScriptType.BASH),
        ("#! /usr/bin/env bash", ScriptType.BASH),
        ("#!/usr/bin/python3.11", ScriptType.PYTHON),
        ("#!/usr/bin/env -S LANG=C python3 -u", ScriptType.PYTHON),
        ("#!/usr/bin/env node", ScriptType.NODE),
        ("#!/usr/bin/nodejs\r", ScriptType.NODE),
        ("#!/usr/bin/perl", None),
        ("#!", None),
        ("#!/usr/bin/env", None),
        ("echo hi", None),
    ],
)
def test_without_a_suffix_the_first_line_says_it(line: str, kind: ScriptType | None) -> None:
    assert by_first_line(line) is kind


def test_a_whole_job_stays_as_it_is(tmp_path: Path) -> None:
    job = {"id": "x", "priority": 8, "execution": {"script": {"type": "bash", "content": "true"}, "odd": 1}, "metadata": {"a": 1}}
    assert of_json(tmp_path, job) == job


def test_the_parts_of_an_execution_become_a_job(tmp_path: Path) -> None:
    parts = {"id": "x", "script": {"type": "bash", "content": "true"}, "timeout": 3, "priority": 2}
    expected = {"id": "x", "priority": 2, "execution": {"script": {"type": "bash", "content": "true"}, "timeout": 3}}
    assert of_json(tmp_path, parts) == expected


def test_options_win_over_the_file(tmp_path: Path) -> None:
    # Guards: what is said on the command line holds, and what is not said there stays as the file has it.
    job = {
        "execution": {
            "script": {"type": "bash", "content": "true"},
            "environment": {"A": "file", "B": "file"},
            "timeout": 3,
            "network": "bridge",
            "resources": {"cpuLimit": 1, "pidsLimit": 7},
        }
    }
    options = JobOptions({"B": "option", "C": "option"}, timeout_s=9.5, image="i", cpu=0.5, memory_bytes=64, priority=0)
    parsed = parse_job({"id": "x", **of_json(tmp_path, job, options)})
    execution = parsed.execution
    assert execution.environment == {"A": "file", "B": "option", "C": "option"}
    assert (execution.timeout, execution.image, execution.network) == (9.5, "i", "bridge")
    assert (execution.resources.cpu_limit, execution.resources.memory_limit, execution.resources.pids_limit) == (0.5, 64, 7)
    assert parsed.priority == 0


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("a.txt", "what is this", "Name it .sh, .py or .js"),
        ("a.json", "{", "a.json:1:2: no JSON"),
        ("a.json", "[1]", "holds no JSON object"),
        ("a.json", '{"execution": 1}', "'execution' is no JSON object"),
        ("a.json", '{"execution": {"environment": [1]}}', "'execution.environment' is no JSON object"),
    ],
)
def test_a_file_that_makes_no_job_is_refused_with_the_next_step(tmp_path: Path, name: str, text: str, said: str) -> None:
    with pytest.raises(JobFileError, match=said):
        read_job(write(tmp_path, name, text), NOTHING)


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(JobFileError, match=r"missing\.sh cannot be read"):
        read_job(tmp_path / "missing.sh", NOTHING)
    (tmp_path / "latin.sh").write_bytes(b"echo \xe9")
    with pytest.raises(JobFileError, match=r"latin\.sh is not UTF-8 text"):
        read_job(tmp_path / "latin.sh", NOTHING)


def test_variables_come_from_options_files_and_our_own_environment(tmp_path: Path) -> None:
    # Guards: `--env K` passes ours on, so that its value need not be in argv; of two the last counts, `--env` before files.
    first = write(tmp_path, "first.env", "# a comment\n\nA=first\nB=first\n  C = with spaces\nFROM_US\n")
    second = write(tmp_path, "second.env", "B=second=with=equals\n")
    found = read_environment(["A=option", "E="], [first, second], {"FROM_US": "ours"})
    assert found == {"A": "option", "B": "second=with=equals", "C ": " with spaces", "FROM_US": "ours", "E": ""}


@pytest.mark.parametrize("entry", ["=value", "NOT_THERE", ""])
def test_a_variable_without_name_or_value_is_refused(entry: str) -> None:
    with pytest.raises(JobFileError, match="--env"):
        read_environment([entry], [], {})
