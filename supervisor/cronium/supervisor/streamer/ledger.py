"""Positions and tails, together with the spool that makes them survive: what is decided in `positions` is written here.

Runs in the streamer's loop. A restart reads the whole spool and is where the old process was. A segment goes when all its
batches are acknowledged; jobs whose state is only in there are written anew before (a `Summary`), with their tails.

Age is counted in time for which streamers ran, from one `Mark` to the next: a clock that was set wrong makes nothing old, nor
does a month in which this host was off.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import replace

import orjson
import structlog

from cronium.common.messages import Announce, Batch, Forget, Position, StillWanted, Summary
from cronium.supervisor.streamer.damage import Losses
from cronium.supervisor.streamer.positions import Positions
from cronium.supervisor.streamer.records import Heads, Mark
from cronium.supervisor.streamer.segment import Damage
from cronium.supervisor.streamer.spool import Spool, SpoolFullError
from cronium.supervisor.streamer.tails import Tail, is_truncated
from cronium.supervisor.streamer.track import Key, Verdict

_log = structlog.get_logger()

_AGES = 64  # how finely age is told apart: this part of the most
_MOST_AGE_S = 30 * 86400.0
_HEADS_S = 1.0  # `Heads` are at least so long apart,
_HEADS_PART = 8  # and they are at most this part of the log


class Ledger:
    """Owns what is known of the jobs.

    Log positions: everything below `low` is acknowledged, below `safe` synced, below `too_old_below` older than `max_age_s`.
    """

    def __init__(
        self,
        spool: Spool,
        positions: Positions,
        now_s: float,
        *,
        max_age_s: float = _MOST_AGE_S,
        goes_on: Callable[[], None] = lambda: None,
    ) -> None:
        """Reads the spool; `goes_on` is called with each record. Raises RecordError or SealError when something in it cannot be
        read.
        """
        self._spool, self._max_age_s = spool, max_age_s
        self.positions = positions
        self.low = max(spool.mark.low, spool.first)
        self.next_id = spool.mark.next_id
        self._tails: dict[Key, Tail] = {}
        self._anchors: dict[Key, int] = {}  # the oldest record that a job's state needs
        self._unmarked = False  # something was acknowledged or synced since the last mark
        self._going: tuple[int, int] | None = None  # (segments below this go, once this position is safe)
        self.safe = spool.end  # opening it has synced it
        self.too_old_below = 0
        self._lived_s = self._lived_before_s = spool.mark.lived_s
        self._began_s = now_s
        self._untold: dict[Key, str] = {}  # what damage cost, and there was no room to say so
        self._heads_stale, self._heads_at_s, self._heads_due_at = True, -_HEADS_S, 0
        self._ages: deque[tuple[int, float]] = deque()  # everything below this position was there at this age of ours
        self._recover(now_s, goes_on)
        self._found = set(self.positions.keys())  # of those nobody has spoken of since
        spool.seek(self.low)
        self._measure()

    # --- messages ---------------------------------------------------------------------------------------------------

    def batch(self, batch: Batch, now_s: float) -> Verdict:
        """Take a batch if it is to be taken. It is in the spool then."""
        verdict = self.positions.judge(batch, now_s)
        if verdict is not Verdict.TAKE:
            return verdict
        try:
            spooled = self._spool.append(batch)
        except SpoolFullError:
            self._measure()
            self.positions.reject(batch)
            return Verdict.REJECTED
        before = self.positions.taken(batch, spooled.disk_bytes, now_s)
        self._tails[batch.job_id, batch.epoch].push(batch, before)
        self._heads_stale = True
        self._measure()
        return verdict

    def announce(self, said: Announce, now_s: float) -> None:
        """From now on this worker may write."""
        key = (said.job_id, said.epoch)
        self._found.discard(key)
        known = self.positions.get(*key)
        was_forgotten = known is not None and known.forgotten
        if self.positions.announce(said, now_s):
            self._tails.setdefault(key, Tail())
            self._write(said)
            if was_forgotten:  # a restart would forget it where its Forget stands in the log
                self._write_on(key)

    def forget(self, said: Forget) -> None:
        """The job's report was taken."""
        if self.positions.forget(said.job_id, said.epoch):
            self._tails.pop((said.job_id, said.epoch), None)
            self._write(said)
            self._tidy()

    def forget_others(self, said: StillWanted) -> None:
        """Of what was found at the start nobody else's output will be asked for: we have not heard that its report was taken."""
        for key in self._found.difference((job.job_id, job.epoch) for job in said.jobs):
            if self.positions.forget(*key):
                self._write(Forget(*key))
        self._found.clear()
        self._tidy()

    def summary(self, job_id: str, epoch: int) -> Summary:
        """How far a job is; an empty position when it is unknown."""
        track = self.positions.get(job_id, epoch)
        if track is None:
            return Summary(job_id, epoch, Position(), 1, b"", b"", truncated=False)
        tail = self._tails.get(track.key)
        stdout, stderr = tail.texts() if tail else (b"", b"")
        truncated = is_truncated(track.written, stdout, stderr)
        return Summary(job_id, epoch, track.written, track.first_sequence, stdout, stderr, truncated)

    # --- acknowledgements -------------------------------------------------------------------------------------------

    def settled(self, key: Key, size: int, disk_bytes: int, now_s: float) -> None:
        """A batch was acknowledged, or refused for good."""
        self._unmarked = True
        self.positions.settled(key, size, disk_bytes, now_s)

    def mark(self) -> None:
        """Write down how far acknowledgements and syncs have come, and let go what is not needed any more."""
        grown_older = self.low < self._spool.end and self._lived_s - self._last_age_s() >= self._max_age_s / _AGES
        heads_due = self._heads_are_due()
        if not (self.has_unmarked() or grown_older or heads_due):
            return
        if heads_due:
            self._write_heads()
        end = self._spool.end
        synced = self.safe if self._spool.fsync else 0  # then nothing was synced, and what cannot be read was never safe
        if self._write(Mark(self.low, self.next_id, synced, self._lived_s)):
            self._unmarked = False
            self._note_age(end, self._lived_s)
        self._let_go()

    def grow_older(self, now_s: float) -> None:
        """Time has passed: see what is too old by now."""
        self._lived_s = self._lived_before_s + now_s - self._began_s
        while self._ages and self._ages[0][1] <= self._lived_s - self._max_age_s:
            self.too_old_below = self._ages.popleft()[0]

    def wants_sync(self) -> bool:
        """Whether something that was written is not known to be safe, and somebody waits for that."""
        return self._going is not None or self.positions.sync_wanted()

    def has_unmarked(self) -> bool:
        """Whether acknowledgements or syncs have come that are not written down."""
        return self._unmarked

    def is_safe_up_to(self, lsn: int) -> None:
        """The log is synced up to here."""
        if lsn > self.safe:
            self.safe, self._unmarked = lsn, True
        if self._going is not None and lsn >= self._going[1]:
            self._spool.drop_below(self._going[0])
            self._going = None
            self._measure()

    def try_again(self, now_s: float) -> None:
        """After a full disk: see whether there is room by now."""
        self._spool.try_again()
        for key, text in list(self._untold.items()):
            if self._say_line(key, text, now_s) or self.positions.get(*key) is None:
                del self._untold[key]
        self._measure()

    # --- inside -----------------------------------------------------------------------------------------------------

    def _recover(self, now_s: float, goes_on: Callable[[], None]) -> None:
        losses = Losses(self.low)
        for spooled in self._spool.recover():
            goes_on()
            if isinstance(spooled, Damage):
                losses.damaged(spooled)
                continue
            lsn = spooled.lsn
            match spooled.record:
                case Mark(lived_s=lived_s):
                    self._note_age(lsn, lived_s)
                    continue
                case Heads() as heads:
                    losses.heads(heads, self.positions, now_s)
                    for head in heads.jobs:
                        if self.positions.get(head.job_id, head.epoch) is not None:
                            self._known((head.job_id, head.epoch), lsn)
                    continue
                case Announce() as said:
                    self.positions.announce(said, now_s)
                    self._known((said.job_id, said.epoch), lsn)
                case Batch() as batch:
                    key = (batch.job_id, batch.epoch)
                    losses.batch(batch, self.positions.get(*key))
                    before = self.positions.replay(batch, spooled.disk_bytes, waits=lsn >= self.low, now_s=now_s)
                    self._known(key, lsn).push(batch, before)
                case Summary() as state:
                    key = (state.job_id, state.epoch)
                    self.positions.restore(state.job_id, state.epoch, state.position, state.first_sequence, now_s)
                    self._known(key, lsn)
                    self._tails[key] = Tail(state.stdout, state.stderr)
                case Forget() as said:
                    self.positions.forget(said.job_id, said.epoch)
            losses.seen((spooled.record.job_id, spooled.record.epoch), lsn)
        self.positions.restored()
        self._tidy()
        for loss in losses.told(self.positions):
            _log.error(loss.text, job_id=loss.key[0])
            self.positions.skip(loss.key, loss.skipped)
            if not self._say_line(loss.key, loss.text, now_s):
                self._untold[loss.key] = loss.text

    def _say_line(self, key: Key, text: str, now_s: float) -> bool:
        """A `system` line of our own, as a batch of nobody's; False when there is no room for it, or the job has gone."""
        track = self.positions.get(*key)
        if track is None:
            return False
        at = track.written.next_sequence
        entry = {"jobId": track.job_id, "stream": "system", "line": text, "timestamp": time.time_ns() // 10**6, "sequence": at}
        payload = orjson.dumps([entry])
        after = replace(track.written, next_sequence=at + 1)
        batch = Batch(track.job_id, "", track.epoch, track.generation, track.run, at, 1, payload, False, len(payload), after)
        try:
            spooled = self._spool.append(batch)
        except SpoolFullError:
            return False
        self.positions.taken(batch, spooled.disk_bytes, now_s)
        self._heads_stale = True
        return True

    def _last_age_s(self) -> float:
        return self._ages[-1][1] if self._ages else self._lived_before_s

    def _note_age(self, lsn: int, lived_s: float) -> None:
        if not self._ages or lived_s - self._ages[-1][1] >= self._max_age_s / _AGES:
            self._ages.append((lsn, lived_s))

    def _known(self, key: Key, lsn: int) -> Tail:
        self._anchors.setdefault(key, lsn)
        return self._tails.setdefault(key, Tail())

    def _heads_are_due(self) -> bool:
        return self._heads_stale and self._spool.end >= self._heads_due_at and self._lived_s >= self._heads_at_s + _HEADS_S

    def _write_heads(self) -> None:
        """Say how far all jobs are, so that damage before this cannot hide whose records it hit."""
        at = self._spool.end
        if self._write(Heads(self.positions.heads())):
            self._heads_stale, self._heads_at_s = False, self._lived_s
            self._heads_due_at = self._spool.end + (self._spool.end - at) * _HEADS_PART

    def _write(self, record: Announce | Forget | Summary | Mark | Heads) -> bool:
        """Write a record that is no batch. It may fail on a full disk, and the running process does without it."""
        try:
            spooled = self._spool.append(record)
        except SpoolFullError:
            return False
        if not isinstance(record, Mark | Heads):
            self._anchors.setdefault((record.job_id, record.epoch), spooled.lsn)
        return True

    def _let_go(self) -> None:
        """Segments below the low-water mark are to go: write on what only they know."""
        below = self._spool.segment_base(self.low)
        if self._going is not None or below <= self._spool.first:
            return
        for key in [key for key, anchor in self._anchors.items() if anchor < below]:
            if not self._write_on(key):
                return
        self._going = (below, self._spool.end)

    def _write_on(self, key: Key) -> bool:
        track = self.positions.get(*key)
        if track is None:
            self._anchors.pop(key)
            return True
        at = self._spool.end
        summary = self.summary(*key)
        bare = Summary(summary.job_id, summary.epoch, summary.position, summary.first_sequence, b"", b"", truncated=True)
        # On a disk without room for the tails they are given up before anything else is.
        if not (self._write(summary) or self._write(bare)):
            return False
        self._anchors[key] = at
        written = self._write(Announce(track.job_id, track.worker, track.epoch, track.generation, track.first_sequence))
        return written and (not track.forgotten or self._write(Forget(*key)))

    def _tidy(self) -> None:
        """Drop what belongs to jobs that are gone."""
        for key in [key for key in self._tails if self.positions.get(*key) is None]:
            del self._tails[key]
        for key in [key for key in self._anchors if self.positions.get(*key) is None]:
            del self._anchors[key]

    def _measure(self) -> None:
        self.positions.free_bytes = self._spool.free_bytes()
