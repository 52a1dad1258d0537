"""Plays many histories, in as many processes as there are cores, and adds up what happened in them.

By hand: `PYTHONPATH=tests python -m simulation.histories [HISTORIES [FIRST]]` prints the table that ARCHITECTURE.md shows.
`CRONIUM_STORY=all` prints the whole of a history that fails, not only what led to it.
"""

from __future__ import annotations

import gc
import multiprocessing
import os
import sys
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from simulation.world import World

_CHUNK = 100  # histories that a process plays before it asks for more
_MOST_FAILURES = 3  # told in full; the others by their seed
_LAST_STEPS = 60


@dataclass
class Result:
    """Of some histories. `faults`: how often what happened; `failures`: seed and story; `seconds`: of wall time, for all."""

    histories: int = 0
    steps: int = 0
    seconds: float = 0.0
    faults: Counter[str] = field(default_factory=Counter)
    failures: list[tuple[int, str]] = field(default_factory=list)

    def add(self, other: Result) -> None:
        self.histories += other.histories
        self.steps += other.steps
        self.faults.update(other.faults)
        self.failures += other.failures

    def table(self) -> str:
        """What happened how often."""
        rows = [f"| {kind} | {number:,} |" for kind, number in sorted(self.faults.items())]
        return "\n".join([f"{self.histories:,} histories, {self.steps:,} steps, {self.seconds:.0f} s", *rows])

    def told(self) -> str:
        """The failures, for a person."""
        seeds = ", ".join(str(seed) for seed, _ in self.failures)
        return "\n\n".join([story for _, story in self.failures[:_MOST_FAILURES]] + [f"histories that failed: {seeds}"])


def play(seed: int) -> Result:
    """One history."""
    world = World(seed)
    result = Result(1)
    try:
        world.live()
    except Exception as error:  # noqa: BLE001 - whatever breaks is told with what led to it
        whole = os.environ.get("CRONIUM_STORY") == "all"
        result.failures.append((seed, f"{world.story(error, None if whole else _LAST_STEPS)}\nhistory {seed}: {world.plan}"))
    result.steps, result.faults = len(world.told), world.trouble.faults
    world.forget()
    return result


def play_some(seeds: Sequence[int]) -> Result:
    """A chunk, in one process."""
    result = Result()
    gc.disable()  # a world is full of cycles: one collection at the end of a chunk costs a tenth of many on the way
    for seed in seeds:
        result.add(play(seed))
    gc.enable()
    gc.collect()
    return result


def play_all(seeds: Iterable[int]) -> Result:
    """All of them, on all cores."""
    every = list(seeds)
    chunks = [every[start : start + _CHUNK] for start in range(0, len(every), _CHUNK)]
    result, start_s = Result(), time.monotonic()
    context = multiprocessing.get_context("spawn")  # the tests' own process has threads: no fork
    with context.Pool(min(os.cpu_count() or 1, len(chunks))) as pool:
        for part in pool.imap_unordered(play_some, chunks):
            result.add(part)
    result.seconds = time.monotonic() - start_s
    return result


def _main() -> None:
    numbers = [int(argument) for argument in sys.argv[1:]]
    count, first = [*numbers, *(20_000, 0)[len(numbers) :]]
    result = play_all(range(first, first + count))
    if result.failures:
        sys.exit(result.told())
    sys.stdout.write(result.table() + "\n")


if __name__ == "__main__":
    _main()
