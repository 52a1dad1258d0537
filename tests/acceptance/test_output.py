"""Any output is fine: one job a case, all in one world, each checked line by line at the backend."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest

from peers.world import Done, World

MIB = 1024 * 1024
LONG_BYTES = 10 * MIB
MANY = 1_000_000
MAX_ENTRY_BYTES = 16 * 1024  # the documented size at which a long line is split


@dataclass(frozen=True)
class Case:
    """A script and what must be at the backend; `None`: that stream is looked at by `check`."""

    script: str
    stdout: list[str] | None = None
    stderr: list[str] | None = None
    check: Callable[[Done], None] = lambda done: None
    kind: str = "bash"
    memory: int = 64 * MIB


def long_line(done: Done) -> None:
    """Split at the documented size, each piece but the last marked."""
    assert done.stdout == ["before", "x" * LONG_BYTES, "after"]
    pieces = done.lines[1:-1]
    assert max(len(piece.line) for piece in pieces) <= MAX_ENTRY_BYTES
    assert [piece.continued for piece in pieces] == [True] * (len(pieces) - 1) + [False]


def many_lines(done: Done) -> None:
    """None is cut, however slow we are."""
    assert [line.line for line in done.lines] == [str(number) for number in range(MANY)]


def every_byte(done: Done) -> None:
    """NUL and control characters as they are, what is no UTF-8 replaced; lines end at newlines only."""
    data = bytes(range(256)) * 64
    assert "\n".join(done.stdout) == data.decode("utf-8", "replace")


def interleaved(done: Done) -> None:
    assert done.stdout == [f"out {number}" for number in range(2000)]
    assert done.stderr == [f"err {number}" for number in range(2000)]
    kinds = [line.stream for line in done.lines]
    assert kinds.index("stderr") < 3000  # live side by side, not one stream after the other
    assert kinds.index("stdout") < 3000


def told_of_the_cut(done: Done) -> None:
    """Only its own log is spoiled, and that is said."""
    assert done.job["exitCode"] == 0
    assert any("cut its own stdout" in line for line in done.system)
    assert done.stdout[-1] == "after"
    assert done.stderr == ["other stream"]


def flooded(done: Done) -> None:
    """A script that writes past its pump more than its place may hold is ended, with that reason."""
    assert (done.job["status"], done.reason) == ("failed", "output_flood")


def wrote_to_state(done: Done) -> None:
    """Garbage in the launcher's own words is no word."""
    assert (done.job["status"], done.job["exitCode"]) == ("completed", 0)
    assert done.stdout == ["before", "after"]


INTERLEAVED = """
import os
for number in range(2000):
    os.write(1, b"out %d\\n" % number)
    os.write(2, b"err %d\\n" % number)
"""
BINARY = "import sys; sys.stdout.buffer.write(bytes(range(256)) * 64)"

CASES = {
    "no output at all": Case("true", [], []),
    "binary with NUL bytes": Case(BINARY, check=every_byte, kind="python"),
    "a lone NUL": Case(r"printf 'a\0b\n\0\n'", ["a\0b", "\0"], []),
    "no newline at the end": Case("printf 'one\ntwo'", ["one", "two"], []),
    "empty lines": Case(r"printf '\n\n\nx\n\n'", ["", "", "", "x", ""], []),
    "carriage returns": Case(
        r"for n in 1 2 3; do printf '\rstep %s of 3' $n; sleep 0.05; done; printf '\r\ndone\r\n'",
        ["\rstep 1 of 3\rstep 2 of 3\rstep 3 of 3\r", "done\r"],
        [],
    ),
    "a line of 10 MB": Case(
        f"echo before; head -c {LONG_BYTES} /dev/zero | tr '\\0' x; echo; echo after", stderr=[], check=long_line
    ),
    "invalid UTF-8": Case(r"printf 'a\xff\xfeb\n\xe2\x82\n\xf0\x9f\x98\x80\n'", ["a��b", "�", "😀"], []),
    "a long line of UTF-8 is cut between characters": Case("s=$(printf 'ä€😀%.0s' {1..9000}); echo \"$s\"", ["ä€😀" * 9000], []),
    "a million short lines": Case(f"seq 0 {MANY - 1}", stderr=[], check=many_lines),
    "both streams": Case(INTERLEAVED, check=interleaved, kind="python"),
    "a background program keeps stdout open": Case("sleep 1000 & echo over", ["over"], []),
    "a background program in a session of its own prints on": Case(
        "echo one; setsid sh -c 'while :; do sleep 1000; done' & echo two", ["one", "two"], []
    ),
    "reopened": Case("echo a; echo b >/dev/stdout; echo c >/dev/stderr; echo d >/proc/self/fd/1", ["a", "b", "d"], ["c"]),
    "tee": Case("for n in 1 2 3; do echo $n | tee /dev/stderr; done", ["1", "2", "3"], ["1", "2", "3"]),
    "closed streams": Case("echo a; exec >&- 2>&-; true", ["a"], []),
    "cuts its own log": Case(
        "seq 100000; sleep 1; : >/cronium/stdout; sleep 1; echo 'other stream' >&2; echo after", check=told_of_the_cut
    ),
    "moves the end of its own log": Case(
        "echo before; sleep 0.5; truncate -s 50G /cronium/stdout; sleep 1; echo other >&2",
        stderr=["other"],
        check=lambda done: _told(done, "never written"),
    ),
    "writes into its own log": Case("echo a; sleep 0.5; echo b >>/cronium/stdout; sleep 0.5; echo c", ["a", "b", "c"], []),
    "floods its own log": Case("yes $(printf 'x%.0s' {1..999}) | head -c 150000000 >>/cronium/stdout; sleep 60", check=flooded),
    "garbage in state": Case(
        "echo before; head -c 100000 /dev/urandom >>/cronium/state; echo 'ended 77 exit' >>/cronium/state; echo after",
        check=wrote_to_state,
    ),
    "garbage in events": Case(
        "head -c 100000 /dev/urandom >>/cronium/events; echo >>/cronium/events; cronium_output 7; echo end",
        ["end"],
        check=lambda done: _equal(done.report["scriptOutput"], 7),
    ),
    "credit cannot be written": Case(
        "echo 9999 2>/dev/null >/cronium/credit; rm -f /cronium/stdout 2>/dev/null; echo end", ["end"]
    ),
}
MUST_FAIL = {"floods its own log"}


def _told(done: Done, text: str) -> None:
    assert any(text in line for line in done.system), done.system
    assert done.stdout[0] == "before"


def _equal(got: object, wanted: object) -> None:
    assert got == wanted


@pytest.fixture(scope="module")
def world(docker_endpoint: str, runner_images: object) -> Iterator[World]:
    with World(docker_endpoint) as world:
        yield world


@pytest.fixture(scope="module")
def jobs(world: World) -> dict[str, str]:
    """All submitted at once: they run side by side."""
    return {
        name: world.submit(case.script, case.kind, resources={"cpuLimit": 1, "memoryLimit": case.memory})
        for name, case in CASES.items()
    }


@pytest.mark.parametrize("name", CASES)
def test_any_output_is_fine(world: World, jobs: dict[str, str], name: str) -> None:
    """Promise 3: every line once, order within a stream exact, numbers without holes (`World.done`)."""
    done, case = world.done(jobs[name]), CASES[name]
    assert done.job["status"] == ("failed" if name in MUST_FAIL else "completed"), done.report
    if case.stdout is not None:
        assert done.stdout == case.stdout
    if case.stderr is not None:
        assert done.stderr == case.stderr
    case.check(done)


def test_the_report_has_the_end_of_each_stream(world: World) -> None:
    """`output` of complete: the last 1 MiB of each stream as text, and a mark when there was more."""
    done = world.run("yes 0123456789abcde | head -c 3000000; printf small >&2")
    output = done.report["output"]
    assert len(output["stdout"]) <= MIB
    assert output["stdout"].endswith("0123456789abcde\n")
    assert len(output["stdout"]) > MIB // 2
    assert output["stderr"].strip("\n") == "small"
    assert done.report["outputTruncated"] is True


@pytest.mark.parametrize(("script", "seen"), [("printf 'Name? '; sleep 20", "Name? "), ("printf '\\r10 %%'; sleep 20", "\r10 %")])
def test_an_unfinished_line_is_shown_while_the_job_runs(world: World, script: str, seen: str) -> None:
    """A prompt is seen before the job ends: about a second after it was printed, not at the job's end."""
    job = world.submit(script)
    deadline = time.monotonic() + 60
    while not (lines := list(world.backend.logs(job))):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    assert (lines[0].line, lines[0].continued) == (seen, True)
    assert world.backend.job(job)["status"] == "running"
    world.backend.cancel(job)
    done = world.done(job)
    assert done.stdout == [seen]


def test_an_unfinished_line_waits_for_its_rest_only_about_a_second(world: World) -> None:
    """From the write in the place to the entry's own time: long enough for a slow program, and not until the job's end."""
    done = world.run("date +%s%3N; printf prompt; date +%s%3N >&2; sleep 6; echo")
    printed_ms = int(done.stderr[0])
    shown = next(line for line in done.lines if line.line == "prompt")
    assert shown.continued
    waited_ms = shown.timestamp_ms - printed_ms
    print(f"an unfinished line was shown after {waited_ms} ms")
    assert 500 < waited_ms < 4_000
