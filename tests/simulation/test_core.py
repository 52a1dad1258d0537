"""Thousands of random histories of the core, with faults everywhere, in virtual time.

Promises 1 to 5, 7 and 8: no acknowledged job is forgotten, each gets one terminal report, nothing runs twice, no place goes
before its last line is durable, nothing grows and nothing is left, whatever dies whenever. `CRONIUM_HISTORIES` says how many
(20,000 unless told), `CRONIUM_FIRST_HISTORY` from which on; one that fails prints its seed and what led to it.
"""

from __future__ import annotations

import os

import pytest

from simulation.histories import play, play_all

_HISTORIES = int(os.environ.get("CRONIUM_HISTORIES", "20000"))
_FIRST = int(os.environ.get("CRONIUM_FIRST_HISTORY", "0"))
_ENOUGH = 1000  # histories of which the figures below are the least

# How often each fault has to occur in a thousand histories: a third of what is usual, or less. Else the test tests little.
_LEAST = {
    "backend: a poll's answer lost": 80,
    "backend: answer lost": 260,
    "backend: error": 1165,
    "backend: poll not answered": 485,
    "backend: request carried out after it was given up": 50,
    "backend: request lost": 180,
    "batch late": 25,
    "batch lost": 30,
    "batch twice": 35,
    "cancelled by a person": 150,
    "clock set back": 120,
    "clock set forward": 125,
    "container removed by somebody": 20,
    "delivered again when it has ended": 6,
    "delivered again while we have it": 15,
    "engine away": 95,
    "engine crashes": 60,
    "forkserver hangs": 25,
    "forkserver killed": 65,
    "host reboots": 155,
    "journal's disk full": 115,
    "lease lost": 145,
    "lease ran out": 575,
    "login failed": 45,
    "removal failed on a server": 3,
    "report refused for good": 40,
    "server out of reach": 215,
    "server reboots": 45,
    "settled: not heard": 12,
    "spool full": 80,
    "streamer hangs": 20,
    "streamer killed": 360,
    "summary lost": 35,
    "supervisor killed after all of the actions": 100,
    "supervisor killed after none of the actions": 20,
    "supervisor killed after some of the actions": 5,
    "supervisor killed before the commit": 80,
    "supervisor leaves: too many restarts": 4,
    "taken by another host": 210,
    "worker did not start": 185,
    "worker hangs": 25,
    "worker killed with a job": 245,
    "worker killed without a job": 510,
    "worker stopped for a while": 160,
    "worker's last words heard after its death": 15,
    "worker's message heard twice": 140,
    "worker's message lost": 135,
}

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
    3: "a clock that was set back by an hour put off a retry by an hour",
    72: "the same, while no supervisor lived",
}


@pytest.mark.timeout(900)  # two minutes on two cores that nobody else uses
def test_whatever_fails_each_job_ends_once() -> None:
    result = play_all(range(_FIRST, _FIRST + _HISTORIES))
    print(result.table())  # `pytest -rP` shows it
    assert not result.failures, result.told()
    seldom = {
        kind: f"{result.faults[kind]} times, at least {least} in {_ENOUGH} histories are expected"
        for kind, least in _LEAST.items()
        if result.histories >= _ENOUGH and result.faults[kind] < least * result.histories / _ENOUGH
    }
    assert not seldom
    assert set(result.faults) <= set(_LEAST), "a fault that is not looked after"


@pytest.mark.parametrize("seed", _FOUND)
def test_what_once_went_wrong(seed: int) -> None:
    result = play(seed)
    assert not result.failures, result.told()
