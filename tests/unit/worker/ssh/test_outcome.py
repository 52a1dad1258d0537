"""How the end on a server is judged, and that of a job on several."""

from __future__ import annotations

import pytest

from cronium.common.errors import ExecutionError, Reason
from cronium.common.job import parse_job
from cronium.common.messages import ResultFile, Results, ServerOutcome
from cronium.common.servers import Server, servers_of, together
from cronium.worker.ssh.outcome import Facts, decide, folders_of, outcome_on, results_together
from cronium.worker.story import Story

STARTED = b"started 7 100 boot\n"
LOST = ExecutionError(Reason.PLACE_VANISHED, "gone")


def server(name: str, host: str = "host") -> Server:
    details = {"name": name, "host": host, "username": "root", "privateKey": "k"}
    target = {"type": "server", "serverDetails": details}
    return servers_of(parse_job({"id": "j", "execution": {"target": target, "script": {"type": "bash", "content": ""}}}))[0]


def ending(state: bytes, verdict: ExecutionError | None = None, *, cancelled: bool = True) -> tuple[str, int | None, str | None]:
    story = Story()
    story.feed(state)
    decided = decide(Facts(server("a"), story, 60, "bash", verdict, cancelled))
    return decided.status, decided.exit_code, decided.error.reason.value if decided.error else None


@pytest.mark.parametrize(
    ("state", "verdict", "expected"),
    [
        (STARTED + b"ended 0 exit\n", None, ("completed", 0, None)),
        (STARTED + b"ended 124 exit\n", None, ("failed", 124, "script_exit")),
        (STARTED + b"ended 137 exit\n", None, ("failed", 137, "signal")),
        (STARTED + b"ended 143 deadline\n", None, ("timeout", 143, "timeout")),
        (STARTED + b"ended 143 cancel\n", None, ("cancelled", 143, "cancelled")),
        (STARTED + b"ended 0 exit\n", LOST, ("completed", 0, None)),
        (STARTED, LOST, ("failed", None, "place_vanished")),
        (STARTED + b"output_lost stdout disk_full -\nended 1 exit\n", None, ("failed", 1, "disk_full")),
        (b"failed disk_full /x\n", None, ("failed", None, "disk_full")),
        (b"failed cancelled -\n", None, ("cancelled", None, "cancelled")),
        (b"failed interpreter_missing bash\n", None, ("failed", None, "interpreter_missing")),
        (b"", ExecutionError(Reason.CANCELLED, "c"), ("cancelled", None, "cancelled")),
    ],
)
def test_an_end_on_a_server(state: bytes, verdict: ExecutionError | None, expected: object) -> None:
    assert ending(state, verdict) == expected


def test_a_script_that_others_end_was_not_cancelled() -> None:
    """A server that is shut down sends SIGTERM to everybody: the retry policy decides. Exit code 0 is the script's own word."""
    assert ending(STARTED + b"ended 143 cancel\n", cancelled=False) == ("failed", 143, "place_vanished")
    assert ending(STARTED + b"ended 0 cancel\n", cancelled=False) == ("completed", 0, None)
    assert ending(STARTED + b"ended 0 cancel\n") == ("cancelled", 0, "cancelled")


def test_several_succeed_only_together() -> None:
    story = Story()
    story.feed(STARTED + b"ended 5 exit\n")
    bad = outcome_on(server("b"), decide(Facts(server("b"), story, 60, "bash")), touched=True)
    good = outcome_on(server("a"), decide(Facts(server("a"), _completed(), 60, "bash")), touched=True)
    assert together([good, ServerOutcome("k", "c", "completed", 0)]) == ("completed", 0, None)
    status, exit_code, error = together([good, bad])
    assert (status, exit_code) == ("failed", 5)
    assert error is not None
    assert (error.reason, error.retryable) == (Reason.SCRIPT_EXIT, True)
    assert error.message.startswith("1 of 2 servers did not succeed: b: ")


def _completed() -> Story:
    story = Story()
    story.feed(STARTED + b"ended 0 exit\n")
    return story


def test_files_of_several_servers_lie_in_their_own_folders() -> None:
    files = (ResultFile("x", "text/plain", b"1"),)
    a, b = server("a", "one"), server("../b", "two")
    parts = [(a, Results(files=files, condition=True)), (b, Results(files=files, condition=False))]
    both = results_together(parts, folders_of([a, b]), 100)
    assert [file.path for file in both.files] == ["a/x", "_b/x"]
    assert both.condition is False


def test_files_of_several_servers_are_bounded_together() -> None:
    """Each within the bound, together they were more than a message carries: the job never ended."""
    servers = [server(name, f"host-{name}") for name in ("a", "b", "c")]
    parts = [(one, Results(files=(ResultFile("x", "text/plain", bytes(45)),))) for one in servers]
    both = results_together(parts, folders_of(servers), 100)
    assert [file.path for file in both.files] == ["a/x", "b/x"]
    (problem,) = both.problems
    assert "container.maxResults" in problem
    assert "c/x" in problem


def test_names_that_give_one_folder_are_numbered_apart() -> None:
    """Whichever of them are together in a part of the results."""
    servers = [server(name, f"host-{number}") for number, name in enumerate(["a/b", "a_b", ".a/b"])]
    assert list(folders_of(servers).values()) == ["a_b", "a_b (2)", "a_b (3)"]
