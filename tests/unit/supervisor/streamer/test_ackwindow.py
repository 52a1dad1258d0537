"""The window of frames on their way: nothing is forgotten before it is acknowledged, whatever acknowledgements do."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from cronium.supervisor.streamer.ackwindow import AckWindow, Entry


def entry(lsn: int, sent_at_s: float = 0.0) -> Entry:
    return Entry(lsn, "job", 1, 1, 100, 120, sent_at_s)


def test_an_acknowledgement_covers_its_own_frame_only() -> None:
    window = AckWindow(10, 30, 1)
    for lsn in range(3):
        window.sent(window.take_id(), entry(lsn))
    assert window.settle(3) == entry(2)
    assert window.low(99) == 0
    assert len(window) == 2


def test_acknowledgements_come_twice_or_for_nothing_and_change_nothing() -> None:
    window = AckWindow(10, 30, 1)
    window.sent(window.take_id(), entry(0))
    assert window.settle(1) is not None
    assert window.settle(1) is None
    assert window.settle(77) is None
    assert window.low(5) == 5


def test_a_full_window_takes_no_more_until_something_is_acknowledged() -> None:
    window = AckWindow(2, 30, 1)
    for lsn in range(2):
        window.sent(window.take_id(), entry(lsn))
    assert not window.has_room()
    window.settle(2)
    assert window.has_room()


def test_one_frame_that_is_never_acknowledged_does_not_let_memory_grow() -> None:
    window = AckWindow(4, 30, 1)
    window.sent(window.take_id(), entry(0))
    lsn = 0
    while window.has_room():
        lsn += 1
        frame_id = window.take_id()
        window.sent(frame_id, entry(lsn))
        window.settle(frame_id)
        assert lsn < 1000
    assert window.low(lsn + 1) == 0


def test_the_oldest_frame_says_when_the_connection_is_no_good() -> None:
    window = AckWindow(4, 30, 1)
    window.sent(window.take_id(), entry(0, 10.0))
    window.sent(window.take_id(), entry(1, 35.0))
    assert not window.overdue(39.9)
    assert window.overdue(40.0)
    window.settle(1)
    assert not window.overdue(40.0)


@given(st.lists(st.tuples(st.sampled_from(["send", "ack", "again", "stray", "reconnect"]), st.integers(0, 50)), max_size=200))
def test_every_record_is_acknowledged_once_and_ids_never_return(steps: list[tuple[str, int]]) -> None:
    """Promise 4: a line is forgotten only when the backend has acknowledged it."""
    window, cursor, total = AckWindow(5, 30, 1000), 0, 30
    on_way: dict[int, int] = {}
    settled: list[int] = []
    ids: list[int] = []

    def send() -> None:
        nonlocal cursor
        if cursor >= total or not window.has_room():
            return
        if window.is_settled(cursor):
            window.skip(cursor)
        else:
            frame_id = window.take_id()
            ids.append(frame_id)
            on_way[frame_id] = cursor
            window.sent(frame_id, entry(cursor))
        cursor += 1

    def acknowledge(frame_id: int) -> None:
        if (found := window.settle(frame_id)) is not None:
            assert found.lsn == on_way.pop(frame_id)
            settled.append(found.lsn)

    for step, number in steps:
        match step:
            case "send":
                send()
            case "ack" if on_way:
                acknowledge(list(on_way)[number % len(on_way)])
            case "again" if ids:
                if (old := ids[number % len(ids)]) not in on_way:
                    assert window.settle(old) is None
            case "stray":
                assert window.settle(number) is None
            case "reconnect":
                cursor = window.replay(cursor)
                on_way.clear()
        assert set(range(window.low(cursor))) <= set(settled)
        assert len(window) <= 5
    for _ in range(1000):
        send()
        if on_way:
            acknowledge(next(iter(on_way)))
    assert sorted(settled) == list(range(total))
    assert window.low(cursor) == total
    assert ids == sorted(set(ids))
