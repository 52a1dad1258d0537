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

# Histories that broke something once; what it was stands beside each.
_FOUND: dict[int, str] = {}


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
