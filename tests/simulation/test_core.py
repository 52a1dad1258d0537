"""Thousands of random histories of the core, with faults everywhere, in virtual time.

Promises 1, 2 and 5: no acknowledged job is forgotten, each gets one terminal report, nothing runs twice, whatever dies whenever.
`CRONIUM_HISTORIES` says how many (2,000 unless told); a failing one prints its seed and what happened in it.
"""

from __future__ import annotations

import os

import pytest

from simulation.world import World

_HISTORIES = int(os.environ.get("CRONIUM_HISTORIES", "2000"))
_FIRST = int(os.environ.get("CRONIUM_FIRST_HISTORY", "0"))
_PARTS = 10

# Histories that broke something once; what it was stands beside each. (What they do changes with the core and with the world
# around it: each of these has a test of its own in tests/unit/supervisor/core.)
_FOUND = {
    0: "after a restart the places of jobs that were done were kept for ever",
    14: "an attempt's end was not settled once the report was taken: its worker repeated it for ever",
    29: "the same",
    47: "a result was reported in the epoch of an earlier claim, refused, delivered again, refused …",
    67: "a drain took in what a poll brought that was on its way",
    77: "no worker was started in a drain, so places whose workers had died were never taken over",
    103: "a streamer that started while a worker cleaned up after a reported job ended the supervisor (KeyError)",
    107: "a poll without an answer was repeated without a free slot",
    112: "one key for two reports, of two epochs",
    4: "many empty rounds while a retry was due whose old place was still being removed",
    282: "an attempt went on in an epoch that its lines were not numbered in",
    334: "two statements about one job at once, after it was lost and delivered again",
    1557: "connections of others were in the way of a removal for ever",
    22730: "a removal waited for ever for room that was kept for a job that had ended",
    2170: "a report that was refused for good came back first with each poll, and no other job got through",
}


def play(seed: int) -> None:
    world = World(seed)
    try:
        world.live()
    except BaseException:
        print(world.story())
        print(f"history {seed}: {world.plan}")
        raise


@pytest.mark.parametrize("part", range(_PARTS))
def test_whatever_fails_each_job_ends_once(part: int) -> None:
    for seed in range(_FIRST + part, _FIRST + _HISTORIES, _PARTS):
        play(seed)


@pytest.mark.parametrize("seed", _FOUND)
def test_what_once_went_wrong(seed: int) -> None:
    play(seed)
