"""Worker to streamer, go-back-N: single steps. Promise 3; the random histories are in tests/simulation/test_sender.py."""

from __future__ import annotations

import gzip

import pytest

from cronium.common.messages import Batch, FileMark, Open, Position, Said
from cronium.worker.lines import EncodedBatch
from cronium.worker.sender import FIRST_WINDOW_BYTES, PositionLostError, Sender


def sender(*, fresh: bool = True, compress_threshold: int = 1 << 30) -> Sender:
    made = Sender("job", "worker", 1, 1, compress_threshold)
    made.start(0.0, fresh=fresh)
    return made


def batch(first: int, lines: int = 1, size: int = 10) -> EncodedBatch:
    position = Position(first + lines, files=(FileMark("place", "stdout", 100 * (first + lines - 1)),))
    return EncodedBatch(first, lines, b"x" * size, position)


def said(
    run: int, following: int, *, synced: int | None = None, lines: int = 100, size: int = 1000, rejected: bool = False
) -> Said:
    safe = following if synced is None else synced
    return Said("job", "worker", 1, 1, run, at(following), at(safe), lines, size, rejected)


def at(following: int) -> Position:
    """Where a job is whose next line has this number."""
    return Position(following, files=(FileMark("place", "stdout", 100 * (following - 1)),)) if following > 1 else Position()


def batches(messages: list[Open | Batch]) -> list[tuple[int, int]]:
    return [(m.run, m.first_sequence) for m in messages if isinstance(m, Batch)]


def test_the_first_reader_of_a_job_does_not_wait() -> None:
    first = sender()
    first.take(batch(1))
    assert batches(first.due(0.0)) == [(1, 1)]


def test_any_other_reader_asks_until_it_hears_where_to_go_on() -> None:
    other = sender(fresh=False)
    asked = [round(t / 1000, 3) for t in range(4000) if other.due(t / 1000)]
    assert asked[:5] == pytest.approx([0.0, 0.01, 0.03, 0.07, 0.15], abs=0.002)
    assert asked[-1] - asked[-2] == pytest.approx(1.0, abs=0.01)
    assert other.position is None
    other.hear(said(1, 42), 4.0)
    assert other.position is not None
    assert other.position.next_sequence == 42
    assert other.durable_offset("place", "stdout") == 4100


def test_batches_go_as_far_as_the_window_allows() -> None:
    reader = sender()
    assert reader.room_bytes() == FIRST_WINDOW_BYTES
    for first in range(1, 9):
        reader.take(batch(first, size=FIRST_WINDOW_BYTES // 4))
    assert len(reader.due(0.0)) == 4
    assert reader.room_bytes() == 0
    reader.hear(said(1, 3, size=FIRST_WINDOW_BYTES), 0.1)
    assert batches(reader.due(0.1)) == [(1, 5), (1, 6)]


def test_a_batch_larger_than_the_window_goes_alone() -> None:
    reader = sender()
    reader.take(batch(1, size=FIRST_WINDOW_BYTES * 3))
    reader.take(batch(2))
    assert batches(reader.due(0.0)) == [(1, 1)]
    reader.hear(said(1, 2), 0.1)
    assert batches(reader.due(0.1)) == [(1, 2)]


def test_a_rate_limit_holds_back_lines_and_says_so() -> None:
    reader = sender()
    reader.hear(said(1, 1, lines=2), 0.0)
    for first in (1, 2, 3):
        reader.take(batch(first))
    assert len(reader.due(0.0)) == 2
    assert reader.lines_blocked()


def test_what_was_rejected_goes_again_in_order_under_a_new_run() -> None:
    reader = sender()
    for first in (1, 2, 3):
        reader.take(batch(first))
    reader.due(0.0)
    reader.hear(said(1, 2, rejected=True), 0.1)
    (ask,) = reader.due(0.1)
    assert isinstance(ask, Open)
    assert ask.run == 2
    reader.hear(said(1, 2, rejected=True), 0.15)  # of the old run: says nothing
    assert not reader.due(0.105)
    reader.hear(said(2, 2), 0.2)
    assert batches(reader.due(0.2)) == [(2, 2), (2, 3)]


@pytest.mark.parametrize(
    "owed",
    [
        pytest.param(said(1, 1), id="a confirmation"),
        pytest.param(said(1, 2, synced=1), id="a sync"),
        pytest.param(said(1, 2, size=0), id="a window of bytes"),
        pytest.param(said(1, 2, lines=0), id="a window of lines"),
    ],
)
def test_after_a_second_of_silence_it_asks_for_what_it_is_owed(owed: Said) -> None:
    """No single message is trusted to arrive: a lost one must not stop a job for ever."""
    reader = sender()
    reader.take(batch(1))
    reader.due(0.0)
    reader.hear(owed, 0.1)
    wake_s = reader.wake_at_s()
    assert wake_s == pytest.approx(1.1)
    assert not reader.due(1.0)
    assert isinstance(reader.due(1.1)[0], Open)


def test_a_reader_that_is_owed_nothing_is_quiet() -> None:
    reader = sender()
    reader.take(batch(1))
    reader.due(0.0)
    reader.hear(said(1, 2), 0.1)
    assert reader.wake_at_s() is None
    assert not reader.due(1000.0)
    assert reader.idle()
    assert reader.safe(Position(2))


def test_an_old_position_that_was_overtaken_says_nothing() -> None:
    reader = sender()
    for first in (1, 2, 3):
        reader.take(batch(first))
    reader.due(0.0)
    reader.hear(said(1, 4), 0.1)
    reader.hear(said(1, 2, size=0, rejected=True), 0.2)
    assert reader.idle()
    assert reader.room_bytes() == 1000
    assert reader.durable_offset("place", "stdout") == 300


def test_a_new_streamer_that_has_less_than_the_old_one_said_ends_this_reader() -> None:
    reader = sender()
    for first in (1, 2, 3):
        reader.take(batch(first))
    reader.due(0.0)
    reader.hear(said(1, 4), 0.1)
    reader.streamer_is_new(0.2)
    assert isinstance(reader.due(0.2)[0], Open)
    with pytest.raises(PositionLostError, match="at line 2, it had said 4"):
        reader.hear(said(2, 2), 0.3)


@pytest.mark.parametrize("added", [1, 20], ids=["a line of the streamer's own", "as many as a batch of ours"])
def test_a_streamer_that_went_on_without_us_ends_this_reader_also_while_batches_wait(added: int) -> None:
    """Promise 3: after damage it is where no batch of ours ends; taken for a confirmation, these lines would be lost."""
    reader = sender()
    for first in (1, 21, 41):
        reader.take(batch(first, lines=20))
    reader.due(0.0)
    reader.hear(said(1, 21), 0.1)
    reader.streamer_is_new(0.2)
    reader.due(0.2)
    went_on = Said("job", "worker", 1, 1, 2, Position(21 + added, files=at(21).files), at(21), 100, 1000)
    with pytest.raises(PositionLostError, match="nothing that this reader sent ends there"):
        reader.hear(went_on, 0.3)


def test_what_was_confirmed_under_an_older_run_does_not_go_again() -> None:
    reader = sender()
    for first in (1, 2, 3):
        reader.take(batch(first))
    reader.due(0.0)
    reader.hear(said(1, 1, rejected=True), 0.1)
    reader.due(0.1)
    reader.hear(said(2, 1, size=0), 0.2)  # all wait for the window
    reader.hear(said(2, 3), 0.3)
    assert batches(reader.due(0.3)) == [(2, 3)]


def test_a_new_streamer_is_asked_at_once_and_gets_what_the_old_one_did_not_write() -> None:
    reader = sender()
    for first in (1, 2):
        reader.take(batch(first))
    reader.due(0.0)
    reader.streamer_is_new(0.05)
    assert isinstance(reader.due(0.05)[0], Open)
    reader.hear(said(2, 2), 0.06)
    assert batches(reader.due(0.06)) == [(2, 2)]


def test_what_is_said_to_another_reader_is_not_heard() -> None:
    reader = sender()
    reader.take(batch(1))
    reader.due(0.0)
    right = said(1, 2)
    for wrong in (
        Said("other", "worker", 1, 1, 1, right.written, right.synced, 1, 1),
        Said("job", "worker", 2, 1, 1, right.written, right.synced, 1, 1),
        Said("job", "worker", 1, 2, 1, right.written, right.synced, 1, 1),
        Said("job", "worker", 1, 1, 2, right.written, right.synced, 1, 1),
    ):
        reader.hear(wrong, 0.1)
    assert not reader.idle()


def test_large_batches_are_compressed_and_counted_as_they_were() -> None:
    reader = sender(compress_threshold=100)
    reader.take(batch(1, size=5000))
    (sent,) = reader.due(0.0)
    assert isinstance(sent, Batch)
    assert (sent.compressed, sent.size) == (True, 5000)
    assert gzip.decompress(sent.payload) == b"x" * 5000
