"""What is found of a place from what was heard of it and when."""

from __future__ import annotations

import pytest

from cronium.worker.ssh.watch import BEGIN_S, REST_S, Finding, Watch
from cronium.worker.story import Story

REST_BYTES = 1_000_000


def story(text: bytes = b"started 1 2 3\n") -> Story:
    told = Story()
    told.feed(text)
    return told


def talk(
    watch: Watch, told: Story, from_s: float, to_s: float, *, drip_bytes: int = 0, quiet: bool = True, reading: bool = True
) -> list[tuple[float, Finding]]:
    """A place that answers each look as if all were well; what was found, second by second."""
    findings = []
    now_s = from_s
    while now_s < to_s:
        if drip_bytes:
            watch.speak(now_s, drip_bytes)
        finding = watch.judge(told, quiet=quiet, reading=reading, now_s=now_s)
        if finding is Finding.LOOK:
            watch.look(now_s, launcher_alive=True)
        findings.append((now_s, finding))
        now_s += 1.0
    return findings


def test_silence_is_asked_about_and_then_lost() -> None:
    watch = Watch(5, 60, REST_BYTES)
    watch.begin(100)
    assert watch.judge(story(), quiet=True, now_s=104) is Finding.NOTHING
    assert watch.judge(story(), quiet=True, now_s=105) is Finding.LOOK
    assert watch.judge(story(), quiet=True, now_s=121) is Finding.LOST


def test_a_launcher_gone_before_it_began_is_no_end() -> None:
    watch = Watch(5, 60, REST_BYTES)
    watch.begin(100)
    watch.look(101, launcher_alive=False)
    assert watch.judge(story(b""), quiet=True, now_s=103.5) is Finding.ANEW


def test_a_launcher_that_is_gone_ends_its_place() -> None:
    """Also where its script goes on talking."""
    watch = Watch(5, 60, REST_BYTES)
    watch.begin(100)
    watch.began(100, rebooted=False)
    watch.look(101, launcher_alive=False)
    watch.speak(103.4)
    assert watch.judge(story(), quiet=False, now_s=103.5) is Finding.KILL
    assert watch.judge(story(), quiet=True, now_s=106) is Finding.OVER
    assert not watch.late


def test_a_script_beyond_its_deadline_and_grace_is_ended() -> None:
    watch = Watch(5, 60, REST_BYTES)
    watch.begin(100)
    watch.began(100, rebooted=False)
    findings = talk(watch, story(), 100, 240)
    assert 220 < next(now_s for now_s, finding in findings if finding is Finding.KILL) < 240
    assert watch.late


def test_an_end_far_back_is_heard_before_a_script_is_taken_for_late() -> None:
    """Whoever takes over hears of the start first, and of the end behind it."""
    watch = Watch(5, 60, REST_BYTES)
    watch.begin(100)
    watch.began(100, rebooted=False, age_s=4000)
    assert watch.judge(story(), quiet=True, now_s=101) is Finding.NOTHING
    watch.speak(102)
    ended = story(b"started 1 2 3\nended 0 exit\n")
    assert Finding.KILL not in {finding for _, finding in talk(watch, ended, 102, 150)}
    assert not watch.late


def test_a_launcher_that_lives_and_never_begins_is_ended() -> None:
    """Also over many sessions, and where nobody plays foul: its disk hangs."""
    watch = Watch(5, 60, REST_BYTES)
    watch.begin(100)
    findings = talk(watch, story(b""), 100, 300)
    watch.begin(1000)
    findings += talk(watch, story(b""), 1000, 1300)
    ends = [(now_s, finding) for now_s, finding in findings if finding in (Finding.KILL, Finding.OVER)]
    assert [finding for _, finding in ends[:2]] == [Finding.KILL, Finding.OVER]
    assert watch.stuck
    assert 1000 + BEGIN_S - 200 <= ends[0][0] < ends[1][0] < 1000 + BEGIN_S - 200 + 60


@pytest.mark.parametrize("drained", [b"", b"drained 99999999 0\n"])
def test_output_that_drips_after_the_end_is_bounded(drained: bytes) -> None:
    watch = Watch(5, 60, REST_BYTES)
    watch.begin(100)
    watch.began(100, rebooted=False)
    ended = story(b"started 1 2 3\nended 0 exit\n" + drained)
    findings = talk(watch, ended, 100, 100 + REST_S + 100, drip_bytes=1)
    over_s = next(now_s for now_s, finding in findings if finding is Finding.OVER)
    assert 100 + REST_S < over_s < 100 + REST_S + 60
    assert watch.endless
    assert (Finding.KILL in {finding for _, finding in findings}) == (not drained)


def test_more_output_after_the_end_than_can_be_left_is_not_taken() -> None:
    watch = Watch(5, 60, REST_BYTES)
    watch.begin(100)
    ended = story(b"started 1 2 3\nended 0 exit\n")
    findings = talk(watch, ended, 100, 110, drip_bytes=REST_BYTES // 4)
    assert Finding.KILL in {finding for _, finding in findings}
    assert watch.endless


def test_a_slow_line_brings_all_that_was_left() -> None:
    """As much as can be left, at 20 kB/s."""
    watch = Watch(5, 60, 64_000_000)
    watch.begin(100)
    ended = story(b"started 1 2 3\nended 0 exit\n")
    findings = talk(watch, ended, 100, 100 + 3200, drip_bytes=20_000)
    assert {finding for _, finding in findings} <= {Finding.LOOK, Finding.NOTHING}


@pytest.mark.parametrize("text", [b"", b"started 1 2 3\nended 0 exit\n"])
def test_time_in_which_we_read_nothing_is_no_fault_of_the_servers(text: bytes) -> None:
    watch = Watch(5, 60, REST_BYTES)
    watch.begin(100)
    watch.began(100, rebooted=False) if text else None
    findings = talk(watch, story(text), 100, 20_000, quiet=False, reading=False)
    findings.append((40_000, watch.judge(story(text), quiet=False, now_s=20_010)))  # and asleep for a while
    assert {finding for _, finding in findings} <= {Finding.LOOK, Finding.NOTHING}


def test_a_reboot_stays_one() -> None:
    watch = Watch(1, 60, REST_BYTES)
    watch.begin(100)
    watch.began(100, rebooted=True)
    watch.look(101, launcher_alive=True)
    assert watch.judge(story(), quiet=True, now_s=102.5) is Finding.KILL
    assert watch.judge(story(), quiet=True, now_s=104.6) is Finding.OVER
