"""Positions and tails, together with the spool that makes them survive: what is decided in `positions` is written here.

Runs in the streamer's loop. A restart reads the whole spool and is where the old process was. A segment goes when all its
batches are acknowledged; jobs whose state is only in there are written anew before (a `Summary`), with their tails.
"""

from __future__ import annotations

from cronium.common.messages import Announce, Batch, Forget, Position, Summary
from cronium.supervisor.streamer.positions import Positions
from cronium.supervisor.streamer.records import Mark
from cronium.supervisor.streamer.spool import Spool, SpoolFullError
from cronium.supervisor.streamer.tails import Tail, is_truncated
from cronium.supervisor.streamer.track import Key, Verdict


class Ledger:
    """Owns what is known of the jobs. `low`: everything below this log position is acknowledged."""

    def __init__(self, spool: Spool, positions: Positions, now_s: float) -> None:
        """Reads the spool. Raises RecordError or SealError when something in it cannot be read."""
        self._spool = spool
        self.positions = positions
        self.low = max(spool.mark.low, spool.first)
        self.next_id = spool.mark.next_id
        self._tails: dict[Key, Tail] = {}
        self._anchors: dict[Key, int] = {}  # the oldest record that a job's state needs
        self._marked = self.low
        self._going: tuple[int, int] | None = None  # (segments below this go, once this position is safe)
        self._recover(now_s)
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
        self._measure()
        return verdict

    def announce(self, said: Announce, now_s: float) -> None:
        """From now on this worker may write."""
        key = (said.job_id, said.epoch)
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
        self.positions.settled(key, size, disk_bytes, now_s)

    def mark(self) -> None:
        """Write down how far acknowledgements have come, and let go what is not needed any more."""
        if self.low == self._marked:
            return
        if self._write(Mark(self.low, self.next_id)):
            self._marked = self.low
        self._let_go()

    def wants_sync(self) -> bool:
        """Whether something that was written is not known to be safe, and somebody waits for that."""
        return self._going is not None or self.positions.sync_wanted()

    def has_unmarked(self) -> bool:
        """Whether acknowledgements have come that are not written down."""
        return self.low != self._marked

    def is_safe_up_to(self, lsn: int) -> None:
        """The log is synced up to here."""
        if self._going is not None and lsn >= self._going[1]:
            self._spool.drop_below(self._going[0])
            self._going = None
            self._measure()

    def try_again(self) -> None:
        """After a full disk: see whether there is room by now."""
        self._spool.try_again()
        self._measure()

    # --- inside -----------------------------------------------------------------------------------------------------

    def _recover(self, now_s: float) -> None:
        for spooled in self._spool.recover():
            match spooled.record:
                case Announce() as said:
                    self.positions.announce(said, now_s)
                    self._known((said.job_id, said.epoch), spooled.lsn)
                case Batch() as batch:
                    key = (batch.job_id, batch.epoch)
                    before = self.positions.replay(batch, spooled.disk_bytes, waits=spooled.lsn >= self.low, now_s=now_s)
                    self._known(key, spooled.lsn).push(batch, before)
                case Summary() as state:
                    key = (state.job_id, state.epoch)
                    self.positions.restore(state.job_id, state.epoch, state.position, state.first_sequence, now_s)
                    self._known(key, spooled.lsn)
                    self._tails[key] = Tail(state.stdout, state.stderr)
                case Forget() as said:
                    self.positions.forget(said.job_id, said.epoch)
                case Mark():
                    pass
        self.positions.restored()
        self._tidy()

    def _known(self, key: Key, lsn: int) -> Tail:
        self._anchors.setdefault(key, lsn)
        return self._tails.setdefault(key, Tail())

    def _write(self, record: Announce | Forget | Summary | Mark) -> bool:
        """Write a record that is no batch. It may fail on a full disk, and the running process does without it."""
        try:
            spooled = self._spool.append(record)
        except SpoolFullError:
            return False
        if not isinstance(record, Mark):
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
