"""When the queue is asked for jobs, and with which key. Pure; part of the core.

A key is written down before it is used and forgotten with the answer, so that an answer that was lost on the way is given again,
also after a crash (PROTOCOL.md, `GET /jobs/queue`).
"""

from __future__ import annotations

import random

from cronium.supervisor.core import actions as do
from cronium.supervisor.core import events as on
from cronium.supervisor.core.decisions import backoff, pause_after_poll
from cronium.supervisor.core.rules import Rules


class Polls:
    """At most one poll is on its way."""

    def __init__(self, rules: Rules, jitter: random.Random, draft: do.Draft) -> None:
        self._rules = rules
        self._random = jitter
        self._draft = draft
        self._key: str | None = None
        self._on_way = False
        self._blocked = False
        self._empty = self._failures = 0
        self._at_s = 0.0

    def restore(self, key: str | None) -> None:
        """The key of a poll whose answer is not in the journal."""
        self._key = key

    def answered(self, event: on.Polled, now: on.Now, *, draining: bool) -> bool:
        """Take an answer; whether its jobs are to be taken in.

        While draining the key stays: whoever is started next asks with it, and gets the same jobs.
        """
        if event.key != self._key:  # an answer that was given up: the key's other answer brought the same jobs
            return False
        self._on_way, self._failures = False, 0
        if draining:
            return False
        self._key = None
        self._draft.writes.append(do.PutPollKey(None))
        self._empty = 0 if event.jobs else self._empty + 1
        self._at_s = now.mono_s + pause_after_poll(
            self._rules.polls,
            empty_polls=self._empty,
            took_s=event.took_s,
            jobs=len(event.jobs),
            told_s=event.next_after_s,
            jitter=self._random,
        )
        return True

    def failed(self, event: on.PollFailed, now: on.Now) -> None:
        """No answer: the same key again, later."""
        if event.key != self._key:
            return
        self._on_way = False
        self._failures += 1
        pause = backoff(self._failures, self._rules.polls.interval_s, self._rules.polls.max_interval_s, self._random)
        self._at_s = now.mono_s + max(pause, event.retry_after_s or 0.0)
        self._draft.note("warning", "poll failed", None, error=event.reason, retry_in_s=round(pause, 1))

    def ask(self, free: int, now: on.Now, *, allowed: bool) -> None:
        """Ask for at most `free` jobs when it is time, unless the core does not want any."""
        if self._on_way or now.mono_s < self._at_s:
            self._blocked = False
            return
        self._blocked = not allowed or free <= 0
        if self._blocked:
            return
        if self._key is None:
            self._key = f"{self._random.getrandbits(128):032x}"
            self._draft.writes.append(do.PutPollKey(self._key))
        self._on_way = True
        self._draft.actions.append(do.Poll(self._key, min(free, self._rules.batch_size), self._rules.polls.wait_s))

    def next_due_s(self, now_s: float) -> float | None:
        """When (monotonic) `ask` may do something without anything having happened."""
        return None if self._on_way or self._blocked else max(self._at_s, now_s + 0.01)
