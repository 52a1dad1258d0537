"""What is found of a place from what was heard of it and when."""

from __future__ import annotations

from cronium.worker.ssh.watch import Finding, Watch
from cronium.worker.story import Story


def story(text: bytes = b"started 1 2 3\n") -> Story:
    told = Story()
    told.feed(text)
    return told


def test_silence_is_asked_about_and_then_lost() -> None:
    watch = Watch(5, 60)
    watch.begin(100)
    assert watch.judge(story(), quiet=True, now_s=104) is Finding.NOTHING
    assert watch.judge(story(), quiet=True, now_s=105) is Finding.LOOK
    assert watch.judge(story(), quiet=True, now_s=121) is Finding.LOST


def test_a_launcher_gone_before_it_began_is_no_end() -> None:
    watch = Watch(5, 60)
    watch.begin(100)
    watch.look(101, launcher_alive=False)
    assert watch.judge(story(b""), quiet=True, now_s=103.5) is Finding.ANEW


def test_a_launcher_that_is_gone_ends_its_place() -> None:
    """Also where its script goes on talking."""
    watch = Watch(5, 60)
    watch.begin(100)
    watch.began(100, rebooted=False)
    watch.look(101, launcher_alive=False)
    watch.speak(103.4)
    assert watch.judge(story(), quiet=False, now_s=103.5) is Finding.KILL
    assert watch.judge(story(), quiet=True, now_s=106) is Finding.OVER
    assert not watch.late


def test_a_script_beyond_its_deadline_and_grace_is_ended() -> None:
    watch = Watch(5, 60)
    watch.begin(100)
    watch.began(100, rebooted=False)
    watch.hear(221)
    assert watch.judge(story(), quiet=True, now_s=221) is Finding.KILL
    assert watch.late


def test_a_reboot_stays_one() -> None:
    watch = Watch(1, 60)
    watch.begin(100)
    watch.began(100, rebooted=True)
    watch.look(101, launcher_alive=True)
    assert watch.judge(story(), quiet=True, now_s=102.5) is Finding.KILL
    assert watch.judge(story(), quiet=True, now_s=104.6) is Finding.OVER
