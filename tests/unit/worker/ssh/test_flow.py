"""When pumps are told what is safe, and when a reader goes on in the next segment."""

from __future__ import annotations

from cronium.worker.ssh.commands import Words
from cronium.worker.ssh.flow import Flow

MIB = 1024 * 1024


def at(stdout: int, stderr: int = 0) -> dict[str, int]:
    return {"stdout": stdout, "stderr": stderr}


def test_credit_is_said_now_and_then_only() -> None:
    flow = Flow(8 * MIB)
    assert flow.words(at(100), at(100), 10.0) == [Words.credit(100, 0)]
    assert flow.words(at(200), at(200), 10.1) == []
    assert flow.words(at(200), at(200), 10.3) == [Words.credit(200, 0)]
    assert flow.words(at(2 * MIB), at(2 * MIB), 10.31) == [Words.credit(2 * MIB, 0)]


def test_the_end_of_a_full_segment_is_said_at_once() -> None:
    """Its pump waits for exactly that."""
    flow = Flow(MIB)
    end = MIB - 1000
    assert flow.words(at(end), at(end - 10), 10.0) == [Words.credit(end - 10, 0)]
    assert flow.words(at(end), at(end), 10.01) == [Words.credit(end, 0)]
    flow.segment("stdout", end)
    assert flow.words(at(end), at(end), 10.02) == [Words.next("stdout", end)]
    assert flow.words(at(end + 5), at(end + 5), 10.03) == []


def test_segments_that_a_script_made_up_hide_no_real_one() -> None:
    flow = Flow(MIB)
    flow.segment("stdout", 10**17)
    flow.segment("stdout", 3)
    flow.segment("stdout", 50)
    assert Words.next("stdout", 50) in flow.words(at(50), at(50), 10.0)


def test_a_new_session_hears_it_all_again() -> None:
    flow = Flow(MIB)
    flow.words(at(5), at(5), 10.0)
    flow.anew()
    assert flow.words(at(5), at(5), 20.0) == [Words.credit(5, 0)]
