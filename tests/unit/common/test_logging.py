"""Our own log: one line an entry on stderr, in the shape of the design, by a real process."""

import json
import os
import re
import subprocess
import sys
from typing import Any

import pytest

from cronium.common.log_lines import MAX_LINE_BYTES

SET_UP = """
import logging, os, signal, sys, threading, warnings
from pydantic import SecretStr
from cronium.common.logging import configure_logging, get_logger, hiding
configure_logging("worker", {level!r}, {fmt!r}, secrets=["hunter2hunter2"])
log = get_logger()
"""


def said(program: str, *, level: str = "info", fmt: str = "json") -> str:
    script = SET_UP.format(level=level, fmt=fmt) + program
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, timeout=60, check=False)
    assert ran.stdout == b""
    assert ran.returncode == 0, ran.stderr
    return ran.stderr.decode()


def entries(program: str, **how: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in said(program, **how).splitlines()]


def test_an_entry_has_the_shape_of_the_design() -> None:
    """The example of SEED.md, 'Structured Logging'."""
    (entry,) = entries(
        'get_logger(component="executor").info("Job completed successfully", job_id="job-123", duration=45.3,'
        ' type="container", exit_code=0, output_size=1024)'
    )
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", entry.pop("time"))
    assert entry == {
        "level": "info",
        "message": "Job completed successfully",
        "component": "executor",
        "job_id": "job-123",
        "duration": 45.3,
        "metadata": {"type": "container", "exit_code": 0, "output_size": 1024},
    }


def test_what_does_not_apply_is_left_out() -> None:
    (entry,) = entries('log.warning("hello", job_id=None)')
    assert set(entry) == {"level", "time", "message", "component"}
    assert entry["component"] == "worker"


def test_a_level_keeps_what_is_below_it_quiet() -> None:
    program = 'log.debug("d"); log.info("i"); log.warning("w"); log.error("e")'
    for level, expected in [("debug", "diwe"), ("info", "iwe"), ("warning", "we"), ("error", "e")]:
        assert "".join(entry["message"] for entry in entries(program, level=level)) == expected


def test_a_bound_job_is_in_every_entry() -> None:
    found = entries('job = log.bind(job_id="job-1"); job.info("a"); job.error("b"); log.info("c")')
    assert [entry.get("job_id") for entry in found] == ["job-1", "job-1", None]


def test_an_exception_is_a_text_in_error() -> None:
    (caught, handed) = entries(
        'try: int("x")\nexcept ValueError as wrong:\n    log.exception("bad")\n    log.warning("bad", error=wrong, x=1)'
    )
    assert caught["level"] == "error"
    assert caught["error"] == handed["error"] == "ValueError: invalid literal for int() with base 10: 'x'"
    assert caught["metadata"]["traceback"].startswith("Traceback")
    assert handed["metadata"] == {"x": 1}


@pytest.mark.parametrize("fmt", ["json", "console"])
def test_no_secret_is_written(fmt: str) -> None:
    """Promise 6: by its name, as a SecretStr, as a known text in a message, a value, an exception or a traceback."""
    program = """
log.info("with hunter2hunter2", token="tok-1", nested={"env": {"A": "env-1"}}, s=SecretStr("str-1"), l=["hunter2hunter2"])
def fail(): raise ValueError("hunter2hunter2 is wrong")
try: fail()
except ValueError: log.exception("failed")
logging.getLogger("paramiko").error("key %s refused", "hunter2hunter2")
with hiding(["jobs-secret"]): log.info("jobs-secret", hunter2hunter2=1)
log.info("end")
"""
    text = said(program, fmt=fmt)
    for secret in (
        "hunter2hunter2 ",
        "hunter2hunter2\n",
        "hunter2hunter2 is",
        "tok-1",
        "env-1",
        "str-1",
        "jobs-secret",
        "'hunter2",
    ):
        assert secret not in text
    assert "end" in text
    assert text.count("***") >= 8


def test_what_libraries_say_comes_in_the_same_shape_from_warning_upwards() -> None:
    program = """
configure_logging("worker", "info", "json")  # twice, as after a fork: entries come once all the same
lib = logging.getLogger("urllib3.pool"); lib.info("chatter"); lib.warning("retry %d", 3); lib.error("bad %s %s", 1)
warnings.warn("old", stacklevel=1)
"""
    found = entries(program)
    assert [(entry["level"], entry["message"]) for entry in found[:2]] == [("warning", "retry 3"), ("error", "bad %s %s")]
    assert found[0]["metadata"] == {"logger": "urllib3.pool"}
    assert "UserWarning: old" in found[2]["message"]
    assert len(found) == 3


def test_an_entry_for_people_is_one_line_without_control_characters() -> None:
    text = said('log.warning("a\\x1b[2Jb\\nc", job_id="j", n=[1, "x"], path="a\\x9bb")', fmt="console")
    assert re.fullmatch(r"\d\d:\d\d:\d\d\.\d{3} warning worker     a\\x1b\[2Jb\\nc job_id=j n=\[1,\"x\"\] path=a\\x9bb\n", text)


@pytest.mark.parametrize("fmt", ["json", "console"])
def test_the_longest_entry_is_written_whole_between_those_of_other_processes(fmt: str) -> None:
    """A write of up to PIPE_BUF bytes is atomic; the roles share one stderr."""
    program = """
log.error("x" * 100_000, job_id="j" * 9000, error="e" * 9000, big={str(i): "y" * 100 for i in range(1000)}, last=1)
log.error("x", text="y" * 100_000, last=1)
log.error("\\x01" * 100_000)
log.error("x", error=list(range(100_000)))
"""
    lines = said(program, fmt=fmt).splitlines(keepends=True)
    assert len(lines) == 4
    assert all(len(line.encode()) <= MAX_LINE_BYTES for line in lines)
    if fmt == "json":
        first, second, *_ = [json.loads(line) for line in lines]
        assert "left_out" in first["metadata"]
        assert second["metadata"]["last"] == 1


def test_what_cannot_be_encoded_is_written_all_the_same() -> None:
    (entry,) = entries('log.info("name \\udcff", big=10**100, f=float("nan"), o=object, b=b"\\xff", **{"a b": 1})')
    assert entry["message"] == "name \\udcff"
    assert entry["metadata"]["a b"] == 1


def test_entries_of_several_processes_and_threads_do_not_mix() -> None:
    program = """
for _ in range(4):
    if os.fork() == 0:
        threads = [threading.Thread(target=lambda: [log.info("m", text="z" * 700) for _ in range(200)]) for _ in range(2)]
        [thread.start() for thread in threads]; [thread.join() for thread in threads]; os._exit(0)
for _ in range(4): os.wait()
"""
    assert [len(entry["metadata"]["text"]) for entry in entries(program)] == [700] * 1600


def test_a_reader_that_does_not_read_holds_nobody_up_and_is_told_what_it_missed() -> None:
    """A supervisord that hangs must not stop the loop of ours that writes to it."""
    program = SET_UP.format(level="info", fmt="json") + (
        'for _ in range(2000): log.info("m", text="z" * 700)\n'
        'print("done", flush=True); sys.stdin.readline(); log.info("last"); print("end", flush=True)'
    )
    with subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        try:
            # Nobody reads stderr, whose pipe is soon full; the program comes to its end all the same.
            assert process.stdout.readline() == b"done\n"
            os.set_blocking(process.stderr.fileno(), False)
            early = b""
            while piece := process.stderr.read():
                early += piece
            process.stdin.write(b"\n")
            process.stdin.flush()
            assert process.stdout.readline() == b"end\n"
            late = process.stderr.read().splitlines()
        finally:
            process.kill()
    missing = 2000 - len(early.splitlines())
    assert missing > 0
    notice, last = (json.loads(line) for line in late)
    assert (notice["level"], notice["metadata"]) == ("warning", {"count": missing})
    assert last["message"] == "last"


@pytest.mark.parametrize("way", ["os.close(2)", "os.dup2(os.open('/dev/full', os.O_WRONLY), 2)"])
def test_a_stderr_that_takes_nothing_does_not_end_the_work(way: str) -> None:
    script = SET_UP.format(level="info", fmt="json") + f'{way}; log.info("m"); log.error("n"); print("done")'
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, timeout=60, check=False)
    assert (ran.returncode, ran.stdout) == (0, b"done\n")


def test_an_unknown_level_is_refused() -> None:
    script = SET_UP.format(level="loud", fmt="json")
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, timeout=60, check=False)
    assert ran.returncode == 1
    assert b"KeyError: 'loud'" in ran.stderr
