"""`cronium-supervisor exec`: one job in front of a person, with a real engine. Nothing may be left of it, whatever happens."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import signal
import subprocess
import time
from pathlib import Path

import docker
import pytest
from docker import DockerClient

from peers.own_supervisor import CommandLine, until

NO_NETWORK = ("--network", "none")  # quicker: no network is made and removed


def script(command_line: CommandLine, text: str, name: str = "job.sh") -> Path:
    path = command_line.folder / name
    path.write_text(text)
    return path


def is_locked(path: Path) -> bool:
    try:
        with path.open() as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False


def containers(client: DockerClient, command_line: CommandLine) -> list[str]:
    """The jobs' containers that run (not the trial of an image)."""
    found = []
    for name in command_line.installations():
        for one in client.api.containers(filters={"label": f"cronium.installation={name}"}):
            if "cronium.job" in one["Labels"]:
                found.append(one["Id"])
    return found


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.sh", "echo hello; echo oops >&2; exit 3"),
        ("a.py", "import sys; print('hello'); print('oops', file=sys.stderr); sys.exit(3)"),
        ("a.js", "console.log('hello'); console.error('oops'); process.exit(3)"),
        ("without_suffix", "#!/usr/bin/env python3\nimport sys; print('hello'); print('oops', file=sys.stderr); sys.exit(3)"),
    ],
)
def test_a_script_of_each_language_says_and_ends_as_it_would_at_home(command_line: CommandLine, name: str, text: str) -> None:
    # Guards: stdout on stdout, stderr on stderr and nothing else there, the script's exit code.
    done = command_line.run("exec", script(command_line, text, name), *NO_NETWORK)
    assert (done.stdout, done.stderr, done.returncode) == (b"hello\n", b"oops\n", 3)


def test_output_is_exact_to_the_byte(command_line: CommandLine) -> None:
    # Guards: binary, without a newline at its end, more than any buffer, each stream for itself.
    text = (
        "import sys, random\n"
        "data = random.Random(7).randbytes(1_000_000)\n"
        "sys.stdout.buffer.write(data); sys.stderr.buffer.write(data[::-1])"
    )
    done = command_line.run("exec", script(command_line, text, "binary.py"), *NO_NETWORK)
    import random

    data = random.Random(7).randbytes(1_000_000)
    assert done.returncode == 0
    assert done.stdout == data
    assert done.stderr == data[::-1]


def test_a_job_in_json_is_run_with_all_it_says(command_line: CommandLine) -> None:
    job = {
        "execution": {
            "script": {"type": "bash", "content": 'echo "$A $B $(cronium_input)"; cronium_output \'{"x": 1}\'; nproc >/dev/null'},
            "environment": {"A": "file", "B": "file"},
            "inputData": [1, 2],
            "network": "none",
        }
    }
    path = script(command_line, json.dumps(job), "job.json")
    done = command_line.run("exec", path, "--env", "B=option", "--outcome", "outcome.json", "--memory", "64MB", "--cpu", "0.5")
    assert (done.stdout, done.stderr, done.returncode) == (b"file option [1,2]\n", b"", 0)
    outcome = json.loads((command_line.folder / "outcome.json").read_text())
    assert (outcome["status"], outcome["exitCode"], outcome["scriptOutput"]) == ("completed", 0, {"x": 1})


def test_files_of_a_job_are_saved(command_line: CommandLine) -> None:
    path = script(command_line, 'mkdir "$CRONIUM_OUTPUT_DIR/sub"; echo one >"$CRONIUM_OUTPUT_DIR/sub/a.txt"')
    done = command_line.run("exec", path, "--output-dir", "saved", *NO_NETWORK)
    assert done.returncode == 0, done.stderr
    assert (command_line.folder / "saved/sub/a.txt").read_text() == "one\n"


def test_secrets_of_the_environment_are_nowhere_to_be_seen(command_line: CommandLine, docker_client: DockerClient) -> None:
    # Guards: promise 6; `--env K` and `--env-file` keep a value out of argv, the engine, our folders and our log.
    (command_line.folder / "secrets.env").write_text("# of the test\nFROM_FILE=hidden-in-file\n")
    path = script(command_line, 'echo "${#FROM_US} ${#FROM_FILE}"; sleep 30')
    command_line.environ |= {"FROM_US": "hidden-in-environment", "CRONIUM_LOG_LEVEL": "debug"}
    process = command_line.start("exec", path, "--env", "FROM_US", "--env-file", "secrets.env", *NO_NETWORK)
    assert process.stdout is not None
    assert process.stderr is not None
    assert process.stdout.readline() == b"21 14\n"
    (container,) = containers(docker_client, command_line)
    seen = json.dumps(docker_client.api.inspect_container(container)).encode()
    seen += b"".join(Path(f"/proc/{one.pid}/cmdline").read_bytes() for one in command_line.processes())
    seen += b"".join(path.read_bytes() for path in command_line.state_dir.rglob("*") if path.is_file())
    process.send_signal(signal.SIGINT)
    seen += process.communicate(timeout=60)[1]
    assert b"hidden-in" not in seen


def test_the_deadline_is_kept(command_line: CommandLine) -> None:
    done = command_line.run("exec", script(command_line, "echo begun; sleep 60"), "--timeout", "1s", *NO_NETWORK)
    assert (done.stdout, done.returncode) == (b"begun\n", 124)
    assert b"still running after 1 s" in done.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_job_with_its_grace(command_line: CommandLine, number: signal.Signals) -> None:
    text = "trap 'echo tidying up; exit 0' TERM; echo begun; while :; do sleep 0.1; done"
    process = command_line.start("exec", script(command_line, text), *NO_NETWORK)
    assert process.stdout is not None
    assert process.stdout.readline() == b"begun\n"
    process.send_signal(number)
    out, _ = process.communicate(timeout=60)
    assert (out, process.returncode) == (b"tidying up\n", 128 + number)


def test_a_second_signal_ends_it_at_once(command_line: CommandLine) -> None:
    # Guards: a script that ignores SIGTERM does not hold the person for the whole grace.
    command_line.environ["CRONIUM_JOBS_CANCEL_GRACE"] = "10m"
    text = "trap 'echo heard' TERM; echo begun; while :; do sleep 0.1; done"
    process = command_line.start("exec", script(command_line, text), *NO_NETWORK)
    assert process.stdout is not None
    assert process.stdout.readline() == b"begun\n"
    process.send_signal(signal.SIGINT)
    assert process.stdout.readline() == b"heard\n"
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    assert process.returncode == 130


def test_a_signal_before_the_script_has_begun_leaves_nothing_either(command_line: CommandLine) -> None:
    process = command_line.start("exec", script(command_line, "echo begun; sleep 60"))
    until(lambda: is_locked(command_line.state_dir / "exec/lock"), "the job is being prepared")
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    assert process.returncode == 130


def test_a_reader_that_leaves_ends_the_job(command_line: CommandLine) -> None:
    # Guards: `exec … | head -1` ends, quietly, as any program of a pipeline does.
    process = command_line.start("exec", script(command_line, "while :; do echo y; done"), *NO_NETWORK)
    assert process.stdout is not None
    assert process.stderr is not None
    assert process.stdout.readline() == b"y\n"
    process.stdout.close()
    assert process.wait(60) == 128 + signal.SIGPIPE
    assert process.stderr.read() == b""
    process.stderr.close()


def test_a_reader_that_is_slow_holds_the_script_and_loses_nothing(command_line: CommandLine) -> None:
    process = command_line.start("exec", script(command_line, "seq 1 300000"), *NO_NETWORK)
    assert process.stdout is not None
    first = os.read(process.stdout.fileno(), 10)
    time.sleep(0.5)  # it is full by now, whatever else the machine does; if not, less is tested
    rest, _ = process.communicate(timeout=60)
    assert first + rest == "".join(f"{number}\n" for number in range(1, 300_001)).encode()


def test_ctrl_c_works_though_nobody_reads(command_line: CommandLine) -> None:
    # Guards: a full pipe does not hold the command: the second Ctrl-C ends it.
    process = command_line.start("exec", script(command_line, "while :; do seq 1 1000; done"), *NO_NETWORK)
    assert process.stdout is not None
    os.read(process.stdout.fileno(), 10)
    process.send_signal(signal.SIGINT)
    time.sleep(0.1)  # two signals at once are one
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 130
    process.communicate()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("broken.json",), "broken.json:1:2: no JSON"),
        (("job.sh", "--memory", "1MB", "--cpu", "9"), "execution.resources.cpuLimit: 9 cores; at most 2 cores"),
        (("job.sh", "--no-such-option"), "No such option"),
    ],
)
def test_what_is_not_valid_ends_with_2_and_says_why(command_line: CommandLine, arguments: tuple[str, ...], said: str) -> None:
    script(command_line, "echo never")
    script(command_line, "{", "broken.json")
    done = command_line.run("exec", *arguments)
    assert (done.stdout, done.returncode) == (b"", 2)
    assert said in done.stderr.decode().replace("\n", " ")


def test_what_could_not_be_run_ends_with_125_and_the_next_step(command_line: CommandLine) -> None:
    path = script(command_line, "echo never")
    nowhere = command_line.run("exec", path, CRONIUM_DOCKER_HOST="unix:///nonexistent/docker.sock")
    assert (nowhere.stdout, nowhere.returncode) == (b"", 125)
    assert b"systemctl start docker" in nowhere.stderr
    missing = command_line.run(
        "exec",
        path,
        "--image",
        "there/is-none:1",
        CRONIUM_CONTAINER_IMAGES_ALLOWED="there/*",
        CRONIUM_CONTAINER_IMAGES_PULL_POLICY="never",
    )
    assert (missing.stdout, missing.returncode) == (b"", 125)
    assert b"docker pull there/is-none:1" in missing.stderr


def test_what_a_killed_run_left_the_next_one_removes(command_line: CommandLine, docker_client: DockerClient) -> None:
    # Guards: promise 8, for the one end that nobody can tidy up after.
    process = command_line.start("exec", script(command_line, "echo begun; sleep 600"))
    assert process.stdout is not None
    assert process.stdout.readline() == b"begun\n"
    process.kill()
    process.communicate(timeout=60)
    (left,) = containers(docker_client, command_line)
    done = command_line.run("exec", script(command_line, "echo next", "next.sh"), *NO_NETWORK)
    assert done.stdout == b"next\n"
    with pytest.raises(docker.errors.NotFound):
        docker_client.api.inspect_container(left)


def test_two_at_once_do_not_disturb_each_other(command_line: CommandLine) -> None:
    # Guards: the first to end removes neither the other's place nor their network.
    job = script(command_line, "echo begun; while [ ! -e /tmp/never ]; do sleep 0.1; done")
    other = script(command_line, "echo quick", "quick.sh")
    process = command_line.start("exec", job)
    assert process.stdout is not None
    assert process.stdout.readline() == b"begun\n"
    assert command_line.run("exec", other).stdout == b"quick\n"
    assert process.poll() is None
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    assert process.returncode == 130


def test_a_person_at_a_terminal_sees_what_came_back(command_line: CommandLine) -> None:
    # Guards: progress is shown while there is no output, results at the end, and stdout stays the script's alone.
    text = "cronium_progress 40 'on its way'; sleep 1; echo done; cronium_output '{\"n\": 1}'; exit 4"
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        command_line.command("exec", script(command_line, text), *NO_NETWORK),
        cwd=command_line.folder,
        env={**command_line.environ, "TERM": "xterm"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=theirs,
    )
    os.close(theirs)
    seen = b""
    while True:
        try:
            seen += os.read(ours, 65536)
        except OSError:  # EIO: the other side is closed (pty(7))
            break
    os.close(ours)
    out, _ = process.communicate(timeout=60)
    assert (out, process.returncode) == (b"done\n", 4)
    assert b"40 % on its way" in seen
    assert b'{"n":1}' in seen
    assert b"exit code 4" in seen


@pytest.mark.parametrize(
    ("redirection", "out", "err", "code"),
    [(">&-", b"", b"oops\n", 0), ("2>&-", b"hello\n", b"", 0), (">/dev/full", b"", b"No space left on device", 125)],
)
def test_output_that_cannot_be_written_goes_nowhere_else(
    command_line: CommandLine, redirection: str, out: bytes, err: bytes, code: int
) -> None:
    # Guards: with a stream closed, its output does not end up in a file of ours; a full disk is told and ends the job.
    path = script(command_line, "echo hello; sleep 0.2; echo oops >&2")
    done = subprocess.run(
        ["sh", "-c", f'"$@" {redirection}', "sh", *command_line.command("exec", path, *NO_NETWORK)],
        cwd=command_line.folder,
        env=command_line.environ,
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert (done.stdout, done.returncode) == (out, code)
    assert err in done.stderr
