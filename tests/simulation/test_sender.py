"""Random histories of readers and the streamer that takes their batches, with messages lost, repeated and out of order.

Promise 3: every line once and in order, whatever is lost on the way and whoever dies. The streamer is a model of its rule of
acceptance, and the real one's position keeping in turn. `CRONIUM_HISTORIES` says how many.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Protocol

import pytest

from cronium.common.messages import Announce, Batch, FileMark, Open, Position, Said, StreamTotals
from cronium.supervisor.streamer.positions import Positions
from cronium.supervisor.streamer.track import Verdict
from cronium.supervisor.streamer.windows import Limits
from cronium.worker.lines import EncodedBatch
from cronium.worker.sender import Sender
from simulation.clock import Clock

_HISTORIES = int(os.environ.get("CRONIUM_HISTORIES", "2000")) // 4
_JOB = "job"
_CALM_S = 60.0

# Histories that broke something once; what it was stands beside each.
_FOUND = {
    2: "a window of 0, or a sync, was said once and lost: reader and streamer waited for each other for ever",
    6: "an old position, overtaken by a newer one, was taken for lost lines",
}


class Streamer(Protocol):
    """What takes batches. `lines` is what it has written, in order."""

    lines: list[int]

    def announce(self, worker: str, generation: int) -> None: ...
    def hear(self, message: Open | Batch) -> None: ...
    def sync(self) -> None: ...
    def restart(self) -> None: ...
    def tick(self) -> list[Said]: ...


@dataclass
class ModelStreamer:
    """The rule alone: a batch is taken only if it follows the position and carries the current generation and run."""

    clock: Clock
    chance: random.Random
    lines: list[int] = field(default_factory=list)
    written: Position = field(default_factory=Position)
    synced: Position = field(default_factory=Position)
    worker: str = ""
    generation: int = 0
    run: int = 0
    _said: list[Said] = field(default_factory=list)
    _repeated_s: float = 0.0

    def announce(self, worker: str, generation: int) -> None:
        if generation > self.generation:
            self.worker, self.generation, self.run = worker, generation, 0

    def hear(self, message: Open | Batch) -> None:
        if (message.worker, message.generation) != (self.worker, self.generation) or message.run < self.run:
            return
        if isinstance(message, Open):
            self.run = message.run
            self._say()
        elif self.run in (0, message.run) and message.first_sequence == self.written.next_sequence:
            self.run, self.written = message.run, message.after
            self.lines += range(message.first_sequence, message.first_sequence + message.lines)
            self._say()
        else:
            self._say(rejected=True)

    def sync(self) -> None:
        if self.synced != self.written:
            self.synced = self.written
            self._say()

    def restart(self) -> None:
        self.run = 0
        self._said.clear()

    def tick(self) -> list[Said]:
        said = list(self._said)
        self._said.clear()
        return said

    def _say(self, *, rejected: bool = False) -> None:
        lines, size = self.chance.choice([(1000, 4000), (1000, 1 << 20), (5, 4000), (0, 4000), (1000, 0)])
        self._said.append(Said(_JOB, self.worker, 1, self.generation, self.run, self.written, self.synced, lines, size, rejected))


class RealStreamer:
    """The streamer's own keeping of positions; what it wrote survives a restart."""

    def __init__(self, clock: Clock, chance: random.Random) -> None:
        self._clock, self._limits = clock, Limits(1 << 20, lines_per_second=chance.choice([0, 200]))
        self.lines: list[int] = []
        self._batches: list[Batch] = []
        self._announced: Announce | None = None
        self._positions = self._new()

    def _new(self) -> Positions:
        return Positions(self._limits, self._clock.now_s, free_bytes=1 << 20, answers=True)

    def announce(self, worker: str, generation: int) -> None:
        self._announced = Announce(_JOB, worker, 1, generation, 1)
        self._positions.announce(self._announced, self._clock.now_s)

    def hear(self, message: Open | Batch) -> None:
        now_s = self._clock.now_s
        if isinstance(message, Open):
            self._positions.open(message, now_s)
        elif self._positions.judge(message, now_s) is Verdict.TAKE:
            self._positions.taken(message, message.size, now_s)
            self._positions.settled((_JOB, 1), message.size, message.size, now_s)
            self._batches.append(message)
            self.lines += range(message.first_sequence, message.first_sequence + message.lines)

    def sync(self) -> None:
        if self._positions.sync_wanted():
            self._positions.sync_begins()
            self._positions.sync_done()

    def restart(self) -> None:
        self._positions = self._new()
        for batch in self._batches:
            self._positions.replay(batch, batch.size, waits=False, now_s=self._clock.now_s)
        self._positions.restored()
        if self._announced is not None:
            self._positions.announce(self._announced, self._clock.now_s)

    def tick(self) -> list[Said]:
        self._positions.tick(self._clock.now_s)
        return self._positions.due(self._clock.now_s)


class History:
    """One job of so many lines, read by one worker after another."""

    def __init__(self, seed: int, make: Callable[[Clock, random.Random], Streamer]) -> None:
        self.chance = random.Random(seed)
        self.clock = Clock()
        self.streamer = make(self.clock, self.chance)
        self.total = self.chance.randint(1, 120)
        self.loss = self.chance.choice([0.0, 0.1, 0.3])
        self.twice = self.chance.choice([0.0, 0.1])
        self.slow = self.chance.choice([0.0, 0.2])  # messages that others overtake
        self.calm_at_s = self.clock.now_s + self.chance.uniform(1, 15)
        self.generation = 0
        self.sender: Sender
        self.produced: Position | None = None
        self.sent = 0
        self.told: list[str] = []

    def play(self) -> None:
        self._take_over()
        self._every(0.02, self._worker_round)
        self._every(0.03, self._streamer_round)
        self._every(self.chance.choice([0.05, 0.5]), self.streamer.sync)
        for kind in (self._take_over, self._streamer_dies):
            for _ in range(self.chance.choice([0, 0, 1, 3])):
                self.clock.after(self.chance.uniform(0.01, 12), kind)
        self.clock.run_until(self.calm_at_s + 12)
        done = self.clock.run_until(self.clock.now_s + _CALM_S, self._is_done)
        assert done, "it never ends"
        assert self.streamer.lines == list(range(1, self.total + 1)), "each line once, in order"
        assert self.sent < 200 + 400 * self.total, "far too much was said"

    def _is_done(self) -> bool:
        if self.produced is None or self.produced.next_sequence <= self.total:
            return False
        return self.sender.idle() and self.sender.safe(self.produced)

    def _every(self, pause_s: float, do: Callable[[], None]) -> None:
        def again() -> None:
            do()
            self.clock.after(pause_s, again)

        self.clock.after(pause_s, again)

    # --- who lives ---------------------------------------------------------------------------------------------------

    def _take_over(self) -> None:
        """A new worker with a higher generation; the old one is seen dead, its messages may still be on their way."""
        self.generation += 1
        self.told.append(f"{self.clock.now_s:9.3f} generation {self.generation}")
        self.streamer.announce(f"w{self.generation}", self.generation)
        self.sender = Sender(_JOB, f"w{self.generation}", 1, self.generation, compress_threshold=1 << 30)
        fresh = self.generation == 1
        self.sender.start(self.clock.now_s, fresh=fresh)
        self.produced = None

    def _streamer_dies(self) -> None:
        self.told.append(f"{self.clock.now_s:9.3f} the streamer starts anew")
        self.streamer.restart()
        sender = self.sender
        if self.clock.now_s > self.calm_at_s or self.chance.random() < 0.8:  # else its welcome is lost
            self.clock.after(0.03, lambda: sender.streamer_is_new(self.clock.now_s))

    # --- what they do ------------------------------------------------------------------------------------------------

    def _worker_round(self) -> None:
        sender = self.sender
        if self.produced is None:
            self.produced = sender.position  # where this reader begins
        if self.produced is not None and sender.room_bytes() and self.produced.next_sequence <= self.total:
            self.produced = self._produce(self.produced)
        for message in sender.due(self.clock.now_s):
            self._send(message)
        wake_s = sender.wake_at_s()
        assert wake_s is None or wake_s < self.clock.now_s + 1.1

    def _produce(self, after: Position) -> Position:
        first = after.next_sequence
        count = min(self.chance.randint(1, 8), self.total - first + 1)
        size = self.chance.choice([100, 1000, 3000])
        stop = first + count
        totals = StreamTotals(stop - 1, 10 * stop, 0)
        position = Position(stop, totals, StreamTotals(), (FileMark("place", "stdout", 10 * stop),))
        self.sender.take(EncodedBatch(first, count, b"x" * size, position))
        return position

    def _send(self, message: Open | Batch) -> None:
        self.sent += 1
        self.told.append(f"{self.clock.now_s:9.3f} {_short(message)}")
        self._within_window(message)
        self._carry(lambda: self.streamer.hear(message))

    def _within_window(self, message: Open | Batch) -> None:
        """Before a batch goes, what is on its way fills the last said window at most by one batch."""
        if isinstance(message, Batch):
            sender = self.sender
            others = [b for b in sender._unconfirmed if b.first_sequence < message.first_sequence]
            lines, size = sum(b.lines for b in others), sum(b.size for b in others)
            fits = lines + message.lines <= sender._window_lines and size + message.size <= sender._window_bytes
            assert fits or not others, "more is on its way than the window and one batch"
            assert sender._window_lines > 0
            assert sender._window_bytes > 0

    def _streamer_round(self) -> None:
        for said in self.streamer.tick():
            self.told.append(f"{self.clock.now_s:9.3f}    {_short(said)}")
            self._carry(lambda said=said: self._hear(said))  # type: ignore[misc]

    def _hear(self, said: Said) -> None:
        sender, before = self.sender, self.sender.written
        sender.hear(said, self.clock.now_s)
        assert before is None or sender.written is None or sender.written.next_sequence >= before.next_sequence

    def _carry(self, arrive: Callable[[], None]) -> None:
        troubled = self.clock.now_s < self.calm_at_s
        if troubled and self.chance.random() < self.loss:
            return
        for _ in range(2 if troubled and self.chance.random() < self.twice else 1):
            late = troubled and self.chance.random() < self.slow
            self.clock.after(self.chance.uniform(0.01, 1.5) if late else 0.002, arrive)


def _short(message: Open | Batch | Said) -> str:
    if isinstance(message, Said):
        message = replace(message, written=Position(message.written.next_sequence), synced=Position(message.synced.next_sequence))
    elif isinstance(message, Batch):
        message = replace(message, payload=b"", after=Position(message.after.next_sequence))
    return str(message)


def play(seed: int, make: Callable[[Clock, random.Random], Streamer]) -> None:
    history = History(seed, make)
    try:
        history.play()
    except BaseException:
        print("\n".join(history.told))
        print(f"history {seed}")
        raise


_STREAMERS = pytest.mark.parametrize("make", [ModelStreamer, RealStreamer])


@_STREAMERS
def test_every_line_arrives_once_and_in_order(make: Callable[[Clock, random.Random], Streamer]) -> None:
    for seed in range(_HISTORIES):
        play(seed, make)


@_STREAMERS
@pytest.mark.parametrize("seed", _FOUND)
def test_what_once_went_wrong(make: Callable[[Clock, random.Random], Streamer], seed: int) -> None:
    play(seed, make)
