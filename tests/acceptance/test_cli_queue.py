"""`run`, `submit`, `jobs`, `logs`, `cancel`, `validate`: a supervisor with its own queue, and the commands that talk to it."""

from __future__ import annotations

import contextlib
import json
import signal
from pathlib import Path

import pytest

from peers.own_supervisor import CommandLine, Supervisor, until


def script(command_line: CommandLine, text: str, name: str = "job.sh") -> Path:
    path = command_line.folder / name
    path.write_text(text)
    return path


def submit(supervisor: Supervisor, text: str, *arguments: str) -> str:
    done = supervisor.run("submit", script(supervisor, text), *arguments)
    assert done.returncode == 0, done.stderr
    (job_id,) = done.stdout.decode().split()  # nothing else is there
    return job_id


def status(supervisor: Supervisor, job_id: str) -> str:
    with supervisor.client() as client:
        return str(client.job(job_id)["status"])


def test_a_job_is_submitted_followed_listed_and_read_again(shared_supervisor: Supervisor) -> None:
    # Guards: the way of a person who tries the product: what a job printed comes out as it was, live and later.
    text = "import os, sys; print('hello', os.environ['NAME']); print('oops', file=sys.stderr); sys.exit(3)"
    path = script(shared_supervisor, text, "job.py")
    followed = shared_supervisor.run("submit", path, "--env", "NAME=world", "--network", "none", "--follow")
    assert followed.returncode == 2, "submit has no --network: a job's file says it"
    followed = shared_supervisor.run("submit", path, "--env", "NAME=world", "--priority", "9", "--follow")
    assert (followed.stdout, followed.returncode) == (b"hello world\n", 3)
    job_id, *rest = followed.stderr.decode().splitlines()
    assert rest[0] == "oops"
    assert "exit code 3" in rest[1]

    (job,) = json.loads(shared_supervisor.run("jobs", "--limit", "1", "--json").stdout)
    assert (job["id"], job["status"], job["exitCode"], job["priority"]) == (job_id, "failed", 3, 9)
    table = shared_supervisor.run("jobs").stdout.decode()
    assert job_id in table
    assert "failed" in table
    assert job_id not in shared_supervisor.run("jobs", "--status", "completed", "--json").stdout.decode()

    logs = shared_supervisor.run("logs", job_id)
    assert (logs.stdout, logs.stderr, logs.returncode) == (b"hello world\n", b"oops\n", 0)
    lines = [json.loads(line) for line in shared_supervisor.run("logs", job_id, "--json").stdout.splitlines()]
    assert [(line["sequence"], line["stream"], line["line"]) for line in sorted(lines, key=lambda line: str(line["stream"]))] == [
        (next(one["sequence"] for one in lines if one["stream"] == "stderr"), "stderr", "oops"),
        (next(one["sequence"] for one in lines if one["stream"] == "stdout"), "stdout", "hello world"),
    ]


def test_a_line_in_pieces_comes_out_whole(shared_supervisor: Supervisor) -> None:
    job_id = submit(shared_supervisor, "head -c 100000 /dev/zero | tr '\\0' x; echo; printf 'no newline'")
    logs = shared_supervisor.run("logs", "-f", job_id)
    assert logs.stdout == b"x" * 100_000 + b"\nno newline\n"


def test_a_running_job_is_followed_and_cancelled(shared_supervisor: Supervisor) -> None:
    job_id = submit(shared_supervisor, "trap 'echo tidying up; exit 7' TERM; echo begun; while :; do sleep 0.1; done")
    follower = shared_supervisor.start("logs", "-f", job_id)
    assert follower.stdout is not None
    assert follower.stdout.readline() == b"begun\n"
    (listed,) = json.loads(shared_supervisor.run("jobs", "--status", "running", "--json").stdout)
    assert (listed["id"], listed["exitCode"]) == (job_id, None)
    assert shared_supervisor.run("cancel", job_id).returncode == 0
    out, _ = follower.communicate(timeout=60)
    assert (out, follower.returncode) == (b"tidying up\n", 0)
    assert status(shared_supervisor, job_id) == "cancelled"
    again = shared_supervisor.run("cancel", job_id)
    assert again.returncode in (0, 1)


def test_what_the_queue_refuses_is_said_with_every_reason(shared_supervisor: Supervisor) -> None:
    job = script(shared_supervisor, json.dumps({"script": {"type": "perl", "content": "1"}, "timeout": -1}), "bad.json")
    refused = shared_supervisor.run("submit", job)
    assert (refused.stdout, refused.returncode) == (b"", 2)
    assert b"execution.script.type" in refused.stderr
    assert b"execution.timeout" in refused.stderr
    unknown = shared_supervisor.run("logs", "no-such-job")
    assert (unknown.stdout, unknown.returncode) == (b"", 1)
    assert b"no-such-job" in unknown.stderr


def test_a_follower_that_leaves_does_not_end_the_job(shared_supervisor: Supervisor) -> None:
    path = script(shared_supervisor, "echo begun; sleep 600")
    process = shared_supervisor.start("submit", path, "--follow")
    assert process.stdout is not None
    assert process.stdout.readline() == b"begun\n"
    # On its way from one line to the next it may hear of a signal only with the next one, which never comes.
    until(lambda: _waits_for_a_socket(process.pid), "it waits for the next line")
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    job_id = said.decode().split()[0]
    assert f"cancel {job_id}" in said.decode()
    assert status(shared_supervisor, job_id) == "running"
    shared_supervisor.run("cancel", job_id)
    until(lambda: status(shared_supervisor, job_id) == "cancelled", "it is cancelled")


def _waits_for_a_socket(pid: int) -> bool:
    """Whether the process is in a system call whose first argument is a socket (proc(5), /proc/PID/syscall)."""
    with contextlib.suppress(OSError, ValueError, IndexError):  # it runs, or has gone
        descriptor = int(Path(f"/proc/{pid}/syscall").read_text().split()[1], 16)
        return str(Path(f"/proc/{pid}/fd/{descriptor}").readlink()).startswith("socket:")
    return False


def test_exec_beside_a_running_supervisor_disturbs_nobody(shared_supervisor: Supervisor) -> None:
    job_id = submit(shared_supervisor, "echo begun; sleep 2; echo done")
    done = shared_supervisor.run("exec", script(shared_supervisor, "echo here", "other.sh"))
    assert (done.stdout, done.returncode) == (b"here\n", 0)
    assert shared_supervisor.run("logs", "-f", job_id).stdout == b"begun\ndone\n"
    assert status(shared_supervisor, job_id) == "completed"


def test_it_stops_at_once_when_it_is_idle_and_comes_back_with_what_it_knew(supervisor: Supervisor) -> None:
    job_id = submit(supervisor, "echo one")
    supervisor.run("logs", "-f", job_id)
    assert supervisor.stop(signal.SIGINT) == 0
    away = supervisor.run("jobs")
    assert away.returncode == 1
    assert b"run --standalone" in away.stderr
    supervisor.start_up()
    assert supervisor.run("logs", job_id).stdout == b"one\n"


def test_without_a_queue_the_next_step_is_said(command_line: CommandLine) -> None:
    for command in (("submit", script(command_line, "echo hi")), ("jobs",), ("logs", "x"), ("cancel", "x")):
        done = command_line.run(*command)
        assert (done.stdout, done.returncode) == (b"", 1)
        assert b"cronium-supervisor run --standalone" in done.stderr


def test_validate_says_all_or_shows_all(command_line: CommandLine) -> None:
    config = script(command_line, "orchestrator:\n  jobs:\n    maxConcurent: 3\n    pollInterval: soon\n", "config.yaml")
    wrong = command_line.run("validate", "--config", config)
    assert (wrong.stdout, wrong.returncode) == (b"", 2)
    for said in (b"jobs.maxConcurent", b"did you mean", b"jobs.pollInterval", b"CRONIUM_API_URL"):
        assert said in wrong.stderr
    problems = json.loads(command_line.run("validate", "--config", config, "--json").stdout)["problems"]
    assert {"jobs.maxConcurent", "jobs.pollInterval"} <= {problem["path"] for problem in problems}
    right = command_line.run(
        "validate", "--standalone", "--json", CRONIUM_SERVICE_TOKEN="hidden-token", CRONIUM_MAX_CONCURRENT="3"
    )
    assert right.returncode == 0
    assert json.loads(right.stdout)["config"]["orchestrator"]["jobs"]["maxConcurrent"] == 3
    assert b"hidden-token" not in right.stdout
    assert b"maxConcurrent" in command_line.run("validate", "--standalone").stdout


@pytest.mark.parametrize("arguments", [("run", "--standalone"), ("--standalone",)])
def test_a_second_supervisor_on_the_same_folder_is_refused(shared_supervisor: Supervisor, arguments: tuple[str, ...]) -> None:
    second = shared_supervisor.run(*arguments)
    assert second.returncode == 1
    assert b"another supervisor uses the state folder" in second.stderr
    assert shared_supervisor.run("jobs", "--json").returncode == 0  # the first one works on
