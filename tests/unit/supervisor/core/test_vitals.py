"""Who hangs, and who only was not heard."""

from __future__ import annotations

import math

from cronium.supervisor.core.vitals import Hung, Vitals

HUNG_S, DUMP_S = 8.0, 0.5


def looks(vitals: Vitals, start_s: float, until_s: float, awake: tuple[str, ...] = ()) -> list[tuple[float, Hung]]:
    """A look whenever one is due; what came of them, by their times."""
    found, now_s = [], start_s
    while now_s <= until_s:
        found += [(now_s, hung) for hung in vitals.looked(awake, now_s)]
        now_s = max(vitals.next_look_s(), now_s + 0.01)
    return found


def test_no_progress_is_a_dump_and_then_the_end() -> None:
    vitals = Vitals(HUNG_S, DUMP_S)
    vitals.begins("a", 100.0)
    vitals.beats("a", 1, 100.0)
    assert looks(vitals, 100.0, 109.0) == [
        (108.0, Hung("a", 8.0, over=False)),
        (108.5, Hung("a", 8.5, over=True)),
    ]


def test_a_beat_with_the_same_counter_is_no_progress() -> None:
    vitals = Vitals(HUNG_S)
    vitals.begins("a", 100.0)
    for second in range(9):
        vitals.beats("a", 7, 100.0 + second)
        assert not looks(vitals, 100.0 + second, 100.0 + second) or second == 8
    assert looks(vitals, 108.6, 108.6) == [(108.6, Hung("a", 108.6 - 100.0, over=True))]


def test_one_that_goes_on_after_its_dump_is_spared() -> None:
    vitals = Vitals(HUNG_S)
    vitals.begins("a", 100.0)
    assert [hung.over for _, hung in looks(vitals, 100.0, 108.2)] == [False]
    vitals.beats("a", 2, 108.3)
    assert looks(vitals, 108.4, 116.2) == []


def test_one_that_a_kill_does_not_end_is_judged_again() -> None:
    vitals = Vitals(HUNG_S)
    vitals.begins("a", 100.0)
    assert [hung.over for _, hung in looks(vitals, 100.0, 120.0)] == [False, True, False, True]


def test_the_mute_live_as_long_as_they_are_awake() -> None:
    vitals = Vitals(HUNG_S)
    vitals.begins("forkserver", 100.0)
    assert vitals.mute() == ("forkserver",)
    assert looks(vitals, 100.0, 130.0, awake=("forkserver",)) == []
    assert [round(at_s) for at_s, _ in looks(vitals, 131.0, 139.0)] == [138, 138]


def test_being_awake_does_not_help_one_that_beats() -> None:
    vitals = Vitals(HUNG_S)
    vitals.begins("a", 100.0)
    vitals.beats("a", 1, 100.0)
    assert vitals.mute() == ()
    assert looks(vitals, 100.0, 108.0, awake=("a",))


def test_who_looks_late_blames_nobody() -> None:
    """We were stopped: what the others said meanwhile is still to be heard. They have all of their time again."""
    vitals = Vitals(HUNG_S)
    vitals.begins("a", 100.0)
    vitals.begins("b", 100.0)
    assert looks(vitals, 100.0, 101.0) == []
    assert looks(vitals, 150.0, 157.9) == []
    assert {hung.name for _, hung in looks(vitals, 158.0, 158.4)} == {"a", "b"}


def test_being_late_also_takes_back_a_dump() -> None:
    vitals = Vitals(HUNG_S)
    vitals.begins("a", 100.0)
    assert [hung.over for _, hung in looks(vitals, 100.0, 108.0)] == [False]
    assert looks(vitals, 120.0, 127.9) == []


def test_who_is_gone_or_unknown_is_not_judged() -> None:
    vitals = Vitals(HUNG_S)
    vitals.beats("never begun", 1, 100.0)
    vitals.begins("a", 100.0)
    vitals.ends("a")
    vitals.ends("a")
    assert looks(vitals, 100.0, 120.0, awake=("a",)) == []


def test_a_successor_has_all_of_its_time() -> None:
    vitals = Vitals(HUNG_S)
    vitals.begins("a", 100.0)
    assert looks(vitals, 100.0, 107.9) == []
    vitals.ends("a")
    vitals.begins("a", 107.9)
    assert looks(vitals, 108.0, 115.8) == []


def test_without_a_limit_nobody_is_judged() -> None:
    vitals = Vitals(math.inf)
    vitals.begins("a", 100.0)
    assert looks(vitals, 100.0, 500.0) == []
