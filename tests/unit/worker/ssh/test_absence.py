"""When a place that is out of reach is tried again, and what people hear of it."""

from __future__ import annotations

from cronium.common.errors import ExecutionError, Reason
from cronium.worker.ssh.absence import Absence

LOST = ExecutionError(Reason.UNREACHABLE, "no route")
REFUSED = ExecutionError(Reason.AUTH_FAILED, "not let in")


def waits(absence: Absence, times: int) -> list[float]:
    """The pauses before the next logins, when each fails at once."""
    found, now_s = [], 100.0
    for _ in range(times):
        absence.login_failed(now_s, LOST)
        found.append(round(absence.again_s - now_s, 3))
        now_s = absence.again_s
    return found


def test_logins_in_vain_come_ever_more_seldom() -> None:
    assert waits(Absence(), 9) == [0.1, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0]


def test_a_place_that_is_heard_is_come_back_to_at_once() -> None:
    absence = Absence()
    waits(absence, 9)
    absence.hears(200)
    absence.connection_lost(201)
    assert absence.again_s == 201


def test_a_server_that_lets_us_in_and_drops_us_is_no_end_of_logins() -> None:
    absence = Absence()
    pauses = []
    for now_s in range(100, 700, 100):
        absence.connection_lost(now_s)
        pauses.append(round(absence.again_s - now_s, 3))
    assert pauses == [0.0, 0.1, 0.2, 0.4, 0.8, 1.6]


def test_one_that_lets_us_in_no_more_is_asked_seldom() -> None:
    absence = Absence()
    absence.login_failed(100, REFUSED)
    assert absence.again_s >= 115


def test_channels_are_made_anew_until_another_connection_is_needed() -> None:
    absence = Absence()
    assert [absence.channel_lost(100) for _ in range(21)] == [True] * 20 + [False]
    assert absence.channel_lost(100)


def test_a_session_that_lasted_makes_the_count_begin_anew() -> None:
    absence = Absence()
    for _ in range(20):
        absence.channel_lost(100)
    absence.hears(100)
    assert absence.channel_lost(106)
    absence.session_ends()
    assert not absence.heard


def test_people_hear_of_what_lasts_once_and_of_its_end() -> None:
    absence = Absence()
    absence.begins(100, LOST)
    assert not absence.is_to_be_told(102)
    absence.begins(103, REFUSED)
    assert absence.is_to_be_told(104)
    assert not absence.is_to_be_told(105)
    assert absence.trouble is REFUSED
    assert absence.hears(110) == 10
    assert (absence.since_s, absence.trouble) == (None, None)


def test_of_a_short_one_nobody_hears() -> None:
    absence = Absence()
    absence.begins(100, LOST)
    assert absence.hears(101) is None


def test_three_refusals_in_a_row_are_enough() -> None:
    absence = Absence()
    assert [absence.is_refused_for_good() for _ in range(3)] == [False, False, True]
    absence.hears(100)
    assert not absence.is_refused_for_good()
