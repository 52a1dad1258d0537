"""Who may write, what follows, how much may come: the streamer's half of go-back-N against the worker's real half."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cronium.common.messages import Batch, Open, Position
from cronium.supervisor.streamer.positions import Positions
from cronium.supervisor.streamer.track import Verdict
from cronium.supervisor.streamer.windows import UNLIMITED_LINES, Limits, window_bytes
from cronium.worker.sender import PositionLostError, Sender
from peers.line_worker import encode, line_of
from peers.streamer_parts import MIB, announce, batch, positions, sized


def take(core: Positions, one: Batch, now_s: float = 0.0) -> Verdict:
    verdict = core.judge(one, now_s)
    if verdict is Verdict.TAKE:
        core.taken(one, len(one.payload), now_s)
    return verdict


def test_a_batch_counts_only_after_the_announcement() -> None:
    core = positions()
    assert take(core, batch()) is Verdict.UNKNOWN
    core.announce(announce(), 0.0)
    (said,) = core.due(0.0)
    assert said.rejected, "a reader that was too early is told at once to go back"
    assert take(core, batch()) is Verdict.TAKE


def test_an_old_worker_generation_or_run_changes_nothing() -> None:
    """Promise 3: nobody but the announced reader moves a position."""
    core = positions()
    core.announce(announce(worker="w1", generation=1), 0.0)
    first = batch()
    assert take(core, first) is Verdict.TAKE
    core.announce(announce(worker="w2", generation=2), 0.0)
    follows = batch(first.after)
    assert take(core, follows) is Verdict.STALE
    core.open(Open("job", "w2", 1, 2, 3), 0.0)
    assert take(core, replace(follows, worker="w2", generation=2, run=2)) is Verdict.STALE
    assert take(core, replace(follows, worker="w1", generation=2, run=3)) is Verdict.STALE
    assert take(core, replace(follows, worker="w2", generation=2, run=3)) is Verdict.TAKE
    assert not core.announce(announce(worker="w2", generation=2), 0.0), "no news"
    assert take(core, replace(batch(follows.after), worker="w1", generation=1, run=9)) is Verdict.STALE


@pytest.mark.parametrize("forgotten", [False, True])
def test_a_supervisor_that_counts_anew_is_followed(forgotten: bool) -> None:
    """Promise 5: its journal was put back, or lost. Unanswered, the reader of a job waited for ever."""
    core = positions()
    core.announce(announce(worker="w1", generation=5), 0.0)
    core.open(Open("job", "w1", 1, 5, 7), 0.0)
    first = replace(batch(), generation=5, run=7)
    assert take(core, first) is Verdict.TAKE
    if forgotten:
        assert core.forget("job", 1)
    core.due(0.0)
    generation = 5 if forgotten else 1
    assert core.announce(announce(worker="w1", generation=generation), 1.0)
    core.open(Open("job", "w1", 1, generation, 1), 1.0)
    (said,) = core.due(1.0)
    assert (said.generation, said.run, said.written) == (generation, 1, first.after)
    assert take(core, replace(batch(first.after), generation=generation, run=1), 1.0) is Verdict.TAKE


def test_what_does_not_follow_is_rejected_and_the_position_said() -> None:
    core = positions()
    core.announce(announce(), 0.0)
    first = batch()
    second = batch(first.after)
    assert take(core, second) is Verdict.REJECTED
    (said,) = core.due(0.0)
    assert (said.rejected, said.written.next_sequence, said.run) == (True, 1, 1)
    assert take(core, first) is Verdict.TAKE
    assert take(core, first) is Verdict.REJECTED
    assert take(core, replace(second, after=replace(second.after, next_sequence=9))) is Verdict.REJECTED
    assert take(core, second) is Verdict.TAKE


def test_many_batches_are_answered_by_one_position() -> None:
    core = positions()
    core.announce(announce(), 0.0)
    place = Position()
    for _ in range(10):
        one = batch(place)
        take(core, one)
        place = one.after
    assert [said.written for said in core.due(0.0)] == [place]
    assert core.due(0.0) == []


def test_synced_follows_written_only_as_far_as_the_sync_had_begun() -> None:
    """Promise 5, power cut: credit is given for what is synced."""
    core = positions()
    core.announce(announce(), 0.0)
    first = batch()
    take(core, first)
    core.sync_begins()
    second = batch(first.after)
    take(core, second)
    core.sync_done()
    (said,) = core.due(0.0)
    assert (said.written, said.synced) == (second.after, first.after)
    assert core.sync_wanted()
    core.sync_begins()
    core.sync_done()
    assert core.due(0.0)[0].synced == second.after
    assert not core.sync_wanted()


def test_numbering_goes_on_where_the_backend_says() -> None:
    core = positions()
    core.announce(announce(next_sequence=501), 0.0)
    core.open(Open("job", "w1", 1, 1, 1), 0.0)
    assert core.due(0.0)[0].written == Position(501)
    assert core.get("job", 1).first_sequence == 501  # type: ignore[union-attr]


def test_numbers_that_the_backend_has_and_we_lost_are_not_used_again() -> None:
    """After a power cut: the backend's next number counts when it is beyond ours."""
    core = positions()
    core.announce(announce(), 0.0)
    take(core, batch(texts=("a", "b")))
    core.announce(announce(worker="w2", generation=2, next_sequence=9), 0.0)
    (said,) = core.due(0.0)
    assert (said.written.next_sequence, said.written.stdout.lines) == (9, 2)
    core.announce(announce(worker="w3", generation=3, next_sequence=1), 0.0)
    assert core.get("job", 1).written.next_sequence == 9  # type: ignore[union-attr]


def test_epochs_of_one_job_are_apart() -> None:
    core = positions()
    core.announce(announce(epoch=1), 0.0)
    core.announce(announce(epoch=2, worker="w2", next_sequence=10), 0.0)
    assert take(core, batch()) is Verdict.TAKE
    assert take(core, batch(Position(10), worker="w2", epoch=2)) is Verdict.TAKE


def test_a_forgotten_job_stays_until_its_lines_are_acknowledged() -> None:
    core = positions()
    core.announce(announce(), 0.0)
    one = batch()
    take(core, one)
    assert core.forget("job", 1)
    assert core.get("job", 1) is not None
    assert take(core, batch(one.after)) is Verdict.UNKNOWN
    core.settled(("job", 1), one.size, len(one.payload), 0.0)
    assert core.get("job", 1) is None
    core.tick(10.0)
    assert core.due(10.0) == []


def test_an_unconfirmed_position_is_said_again_every_second_and_a_quiet_job_no_more() -> None:
    core = positions()
    core.announce(announce(), 0.0)
    take(core, batch())
    core.due(0.0)
    core.tick(0.5)
    assert core.due(0.5) == []
    for now_s in (1.1, 2.2, 3.3, 4.4):
        core.tick(now_s)
        assert len(core.due(now_s)) == 1
    core.sync_begins()
    core.sync_done()
    core.due(5.0)
    said = 0
    for step in range(100):
        core.tick(5.0 + step)
        said += len(core.due(5.0 + step))
    assert said <= 3
    assert not core.is_watching()


def test_a_job_may_not_be_further_ahead_of_the_backend_than_its_backlog() -> None:
    """Promise 7."""
    core = positions(Limits(1 * MIB))
    core.announce(announce(), 0.0)
    one = sized(batch(), MIB - 1000)
    take(core, one)
    assert core.due(0.0)[0].window_bytes == 1000
    core.settled(("job", 1), one.size, len(one.payload), 0.1)
    (said,) = core.due(0.1)
    assert said.window_bytes == MIB, "a reader is told when its window has grown"


def test_a_window_that_grew_is_told_however_long_the_backend_was_away() -> None:
    core = positions(Limits(1 * MIB))
    core.announce(announce(), 0.0)
    take(core, sized(batch(), 100))
    core.answers, core.free_bytes = False, 0
    for step in range(2000):
        core.tick(float(step))
        core.due(float(step))
    core.answers, core.free_bytes = True, 100 * MIB
    core.tick(3000.0)
    assert [said.window_bytes for said in core.due(3000.0)] == [MIB - 100]


@given(st.lists(st.integers(0, 200), min_size=1, max_size=200), st.integers(1, 20))
def test_no_job_ever_takes_the_spool_of_all(turns: list[int], writers: int) -> None:
    """DESIGN.md: a job's window is never more than its share of the free spool. The loudest leaves room for a newcomer."""
    total, held = 1000, [0] * writers
    for turn in turns:
        job = turn % writers
        free = total - sum(held)
        window = window_bytes(
            Limits(10**9), waiting_bytes=0, held_bytes=held[job], free_bytes=free, writers=writers, answers=False
        )
        held[job] += window
        assert 0 <= window <= free
        assert sum(held) <= total
        assert held[job] <= total // 2 + 1
    assert total - sum(held) >= total // (writers + 1) // 2


@pytest.mark.parametrize(("job_rate", "global_rate", "jobs", "rate"), [(100, 0, 3, 300), (0, 100, 4, 100), (80, 100, 2, 100)])
def test_rate_limits_hold_in_the_long_run(job_rate: int, global_rate: int, jobs: int, rate: int) -> None:
    """However readers use their windows, no more lines come than the limits allow (and one second's worth at the start)."""
    core = positions(Limits(100 * MIB, job_rate, global_rate))
    places = {f"job{n}": Position() for n in range(jobs)}
    windows: dict[str, int] = {}
    for job in places:
        core.announce(announce(job), 0.0)
        core.open(Open(job, "w1", 1, 1, 1), 0.0)
    core.count_writers(0.0)
    dice, lines, now_s = random.Random(7), 0, 0.0
    while now_s < 60:
        core.tick(now_s)
        windows |= {said.job_id: said.window_lines for said in core.due(now_s)}
        for job, place in places.items():
            if windows.get(job):
                count = dice.randint(1, windows[job])
                one = batch(place, ("x",) * count, job)
                assert take(core, one, now_s) is Verdict.TAKE
                places[job], lines, windows[job] = one.after, lines + count, windows[job] - count
                core.sync_begins()
                core.sync_done()
        now_s += 0.05
    assert rate * 60 * 0.85 <= lines <= rate * 62 + 100


def test_without_a_rate_limit_lines_are_not_counted() -> None:
    core = positions()
    core.announce(announce(), 0.0)
    core.open(Open("job", "w1", 1, 1, 1), 0.0)
    assert core.due(0.0)[0].window_lines == UNLIMITED_LINES


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 2**32), st.sampled_from([0.0, 0.1, 0.4]), st.booleans(), st.integers(1, 4))
def test_every_line_arrives_once_and_in_order_over_a_bad_line(seed: int, loss: float, reorder: bool, lines_a_batch: int) -> None:
    """Promise 3, with messages lost, repeated and out of order both ways, and readers that are replaced."""
    dice = random.Random(seed)
    core = positions(Limits(2000))
    total, generation, now_s = 60, 1, 0.0
    taken: list[Batch] = []
    waiting: list[Batch] = []
    to_core: list[object] = []
    to_worker: list[object] = []

    def reader(fresh: bool) -> Sender:
        core.announce(announce(worker=f"w{generation}", generation=generation), now_s)
        made = Sender("job", f"w{generation}", 1, generation, 10**6)
        made.start(now_s, fresh=fresh)
        return made

    def travel(messages: list[object]) -> list[object]:
        if reorder and dice.random() < 0.3:
            dice.shuffle(messages)
        arrived = []
        for message in messages:
            if dice.random() >= loss:
                arrived.append(message)
                if dice.random() < loss / 2:
                    arrived.append(message)
        late = [message for message in arrived if dice.random() < 0.2]
        messages[:] = late
        return [message for message in arrived if message not in late] if late else arrived

    sender, place = reader(fresh=True), None
    for _ in range(20_000):
        now_s += 0.01
        if sender.position is not None:
            place = place or sender.position
            while place.next_sequence <= total and sender.room_bytes() > 0:
                texts = [line_of(n) for n in range(place.next_sequence, min(place.next_sequence + lines_a_batch, total + 1))]
                made = encode("job", place, texts)
                sender.take(made)
                place = made.after
                to_core += sender.due(now_s)
        to_core += sender.due(now_s)
        for message in travel(to_core):
            match message:
                case Open():
                    core.open(message, now_s)
                case Batch() if take(core, message, now_s) is Verdict.TAKE:
                    taken.append(message)
                    waiting.append(message)
        core.sync_begins()
        if dice.random() < 0.7:
            core.sync_done()
        core.tick(now_s)
        to_worker += core.due(now_s)
        lost = dice.random() < 0.01
        for said in travel(to_worker):
            try:
                sender.hear(said, now_s)  # type: ignore[arg-type]
            except PositionLostError:
                lost = True
        if lost:  # the worker died; another takes over
            generation += 1
            sender, place = reader(fresh=False), None
        if sender.synced is not None and sender.synced.next_sequence > total:
            break
        while waiting and dice.random() < 0.5:
            one = waiting.pop(dice.randrange(len(waiting)))
            core.settled(("job", 1), one.size, len(one.payload), now_s)
    else:
        raise AssertionError("it came to a halt")
    numbers = [n for one in taken for n in range(one.first_sequence, one.first_sequence + one.lines)]
    assert numbers == list(range(1, total + 1))
    last = taken[-1].after
    assert last.stdout.lines == total
