"""How far each job's output is, who may write it, and how much more may come. Pure: messages and times in, decisions out.

The rules (DESIGN.md, 'A batch of log lines on its way'):
- a position belongs to a job and an epoch; it moves only by a batch that follows it exactly;
- a batch counts only from the worker and generation that were announced last, and not from an older `run` than the newest that
  was heard; anything else changes nothing;
- a batch of the right reader that does not follow is answered by the position, `rejected`;
- the position is said as two, `written` and `synced`, with a window; said again with every change, when the window has grown,
  and every second while something is not confirmed or a reader may wait for a window.
Nothing is written or sent from here: the caller does that, and tells.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field, replace

from cronium.common.messages import Announce, Batch, Open, Position, Said
from cronium.supervisor.streamer.records import Head
from cronium.supervisor.streamer.track import Key, Track, Verdict, follows
from cronium.supervisor.streamer.windows import UNLIMITED_LINES, Bucket, Limits, window_bytes

_REPEAT_S = 1.0
_REPEATS = 3  # of a position that has not changed
_GROWN_BYTES = 64 * 1024  # a batch
_TIGHT_BYTES = 256 * 1024  # a reader with less may wait for more
_QUIET_AFTER_S = 30.0  # a job that sent nothing for so long needs no share of the spool
_MOST_EARLY = 1024  # readers heard before their announcement


@dataclass(slots=True)
class Positions:
    """All jobs. `free_bytes` (of the spool) and `answers` (the backend takes lines now) are kept up to date by the caller."""

    limits: Limits
    now_s: float
    free_bytes: int = 0
    answers: bool = False
    _tracks: dict[Key, Track] = field(default_factory=dict)
    _due: dict[Key, None] = field(default_factory=dict)  # to be said, in order
    _watched: set[Key] = field(default_factory=set)  # to be said again by and by
    _unsynced: set[Key] = field(default_factory=set)
    _early: OrderedDict[tuple[str, int, str, int], int] = field(default_factory=OrderedDict)
    _shared: Bucket = field(init=False)
    _writers: int = 0

    def __post_init__(self) -> None:
        self._shared = Bucket.full(self.limits.global_lines_per_second, self.now_s)

    # --- who may write ----------------------------------------------------------------------------------------------

    def announce(self, said: Announce, now_s: float) -> bool:
        """From now on this worker writes; False when that is no news.

        The last word counts, also with a lower generation: they come from one supervisor in order, and one whose journal was
        lost or put back counts anew from what that says. Generations fence readers, who may be heard late.
        """
        track = self._tracks.get((said.job_id, said.epoch))
        if track is None:
            track = self._new((said.job_id, said.epoch), Position(said.next_sequence), said.next_sequence, now_s)
        elif (track.worker, track.generation, track.forgotten) == (said.worker, said.generation, False):
            return False
        track.worker, track.generation, track.run, track.forgotten = said.worker, said.generation, 0, False
        track.heard_at_s = now_s
        if said.next_sequence > track.written.next_sequence:  # it has lines that we lost, in a power cut
            track.written = replace(track.written, next_sequence=said.next_sequence)
            self._unsynced.add(track.key)
            self._say(track)
        run = self._early.pop((said.job_id, said.epoch, said.worker, said.generation), 0)
        if run:
            track.run, track.rejected = run, True  # what it sent before was ignored
            self._say(track)
        self.count_writers(now_s)
        return True

    def open(self, heard: Open, now_s: float) -> None:
        """A reader asks for the position."""
        track = self._tracks.get((heard.job_id, heard.epoch))
        if (
            track is None
            or heard.generation > track.generation
            or (track.generation == heard.generation and track.worker != heard.worker)
        ):
            self._remember_early(heard)
        elif heard.generation == track.generation and heard.run >= track.run:
            track.run, track.rejected, track.heard_at_s = heard.run, False, now_s
            self._say(track)

    def heard(self, worker: str) -> None:
        """A worker has begun to listen: it may have missed what was said to it."""
        for track in self._tracks.values():
            if track.worker == worker:
                self._say(track)

    # --- batches ----------------------------------------------------------------------------------------------------

    def judge(self, batch: Batch, now_s: float) -> Verdict:
        """Whether a batch is to be taken. What is to be said about it will be due."""
        track = self._tracks.get((batch.job_id, batch.epoch))
        if track is None or track.forgotten or batch.generation > track.generation:
            self._remember_early(batch)
            return Verdict.UNKNOWN
        if (batch.worker, batch.generation) != (track.worker, track.generation) or batch.run < track.run:
            return Verdict.STALE
        track.run, track.heard_at_s = batch.run, now_s
        if not follows(batch, track.written):
            self.reject(batch)
            return Verdict.REJECTED
        return Verdict.TAKE

    def reject(self, batch: Batch) -> None:
        """It was not taken, be it only for want of room: its reader is to go back."""
        track = self._tracks[(batch.job_id, batch.epoch)]
        track.rejected = True
        self._say(track)

    def taken(self, batch: Batch, disk_bytes: int, now_s: float) -> Position:
        """The batch is written; the position it followed."""
        track = self._tracks[(batch.job_id, batch.epoch)]
        before = track.written
        track.written, track.rejected = batch.after, False
        track.bucket.take(batch.lines, now_s)
        self._shared.take(batch.lines, now_s)
        track.waiting_batches += 1
        track.waiting_bytes += batch.size
        track.held_bytes += disk_bytes
        self._unsynced.add(track.key)
        self._say(track)
        return before

    def settled(self, key: Key, size: int, disk_bytes: int, now_s: float) -> None:
        """A batch was acknowledged, or refused for good."""
        track = self._tracks.get(key)
        if track is None:
            return
        track.waiting_batches -= 1
        track.waiting_bytes -= size
        track.held_bytes -= disk_bytes
        if track.forgotten and not track.waiting_batches:
            self._remove(key)
        elif track.worker and self._has_grown(track, now_s):
            self._say(track)

    # --- syncing ----------------------------------------------------------------------------------------------------

    def sync_wanted(self) -> bool:
        """Whether something was written that is not safe yet."""
        return bool(self._unsynced)

    def sync_begins(self) -> None:
        """What is written now will be safe at `sync_done`."""
        for key in self._unsynced:
            self._tracks[key].syncing = self._tracks[key].written

    def sync_done(self) -> None:
        """What was written when the sync began survives a power cut."""
        for key in list(self._unsynced):
            track = self._tracks[key]
            if track.syncing is not None:
                track.synced, track.syncing = track.syncing, None
                self._say(track)
                if track.synced is track.written:
                    self._unsynced.discard(key)

    # --- the end of a job, and a restart ----------------------------------------------------------------------------

    def get(self, job_id: str, epoch: int) -> Track | None:
        """What is known of a job."""
        return self._tracks.get((job_id, epoch))

    def keys(self) -> list[Key]:
        """All jobs there are."""
        return list(self._tracks)

    def forget(self, job_id: str, epoch: int) -> bool:
        """Nobody will ask for this job again; False when it was unknown already."""
        track = self._tracks.get((job_id, epoch))
        if track is None or track.forgotten:
            return False
        track.forgotten = True
        self._watched.discard(track.key)
        if not track.waiting_batches:
            self._remove(track.key)
        return True

    def restore(self, job_id: str, epoch: int, position: Position, first_sequence: int, now_s: float) -> None:
        """At a restart: a job's state as a record of the spool says it."""
        track = self._tracks.get((job_id, epoch)) or self._new((job_id, epoch), position, first_sequence, now_s)
        track.written, track.first_sequence = position, first_sequence

    def replay(self, batch: Batch, disk_bytes: int, *, waits: bool, now_s: float) -> Position:
        """At a restart: a batch of the spool, whether it `waits` to be acknowledged; the position it followed."""
        track = self._tracks.get((batch.job_id, batch.epoch))
        if track is None:
            start = Position(batch.first_sequence)
            track = self._new((batch.job_id, batch.epoch), start, batch.first_sequence, now_s)
        before, track.written = track.written, batch.after
        if (track.worker, track.generation) == (batch.worker, batch.generation):
            track.run = batch.run
        if waits:
            track.waiting_batches += 1
            track.waiting_bytes += batch.size
            track.held_bytes += disk_bytes
        return before

    def heads(self) -> tuple[Head, ...]:
        """How far all jobs are."""
        return tuple(
            Head(*track.key, track.first_sequence, track.written, track.waiting_batches > 0)
            for track in self._tracks.values()
            if not track.forgotten
        )

    def skip(self, key: Key, lines: int) -> None:
        """At a restart: leave so many numbers out; a damaged spool does not say whether they were used."""
        track = self._tracks[key]
        track.written = track.synced = replace(track.written, next_sequence=track.written.next_sequence + lines)

    def restored(self) -> None:
        """At a restart: all was read, and is safe on disk."""
        for track in list(self._tracks.values()):
            track.synced = track.written
            if track.forgotten and not track.waiting_batches:
                self._remove(track.key)
        self._unsynced.clear()
        self._due.clear()

    # --- what is to be said -----------------------------------------------------------------------------------------

    def due(self, now_s: float) -> list[Said]:
        """What is to be said now, each job once."""
        said = [self._said(track, now_s) for key in self._due if (track := self._tracks.get(key)) is not None and track.worker]
        self._due.clear()
        return said

    def tick(self, now_s: float) -> None:
        """Time has passed: see to windows that have grown and to what should be said again."""
        for key in list(self._watched):
            track = self._tracks[key]
            if self._has_grown(track, now_s):
                self._say(track)
            elif now_s - track.said_at_s >= _REPEAT_S:
                waits = self._may_wait(track)
                if track.repeats < _REPEATS or (waits and now_s - track.heard_at_s < _QUIET_AFTER_S):
                    self._due[key] = None
                    track.repeats += 1
                elif not waits:
                    self._watched.discard(key)

    def held_by_spool(self, now_s: float) -> bool:
        """Whether a job waits because the spool has no more room for it."""
        return any(
            track.said_bytes < _GROWN_BYTES and (not self.answers or self.free_bytes < _GROWN_BYTES)
            for track in self._tracks.values()
            if track.worker and not track.forgotten and now_s - track.heard_at_s < _QUIET_AFTER_S and track.said_at_s
        )

    def is_watching(self) -> bool:
        """Whether `tick` may find something to say."""
        return bool(self._watched)

    def count_writers(self, now_s: float) -> None:
        """Count the jobs that write, for their shares of the spool; every second or so is enough."""
        self._writers = sum(1 for track in self._tracks.values() if now_s - track.heard_at_s < _QUIET_AFTER_S)

    def _said(self, track: Track, now_s: float) -> Said:
        track.said_lines, track.said_bytes, track.said_at_s = *self._window(track, now_s), now_s
        rejected, track.rejected = track.rejected, False
        return Said(
            track.job_id,
            track.worker,
            track.epoch,
            track.generation,
            track.run,
            track.written,
            track.synced,
            track.said_lines,
            track.said_bytes,
            rejected,
        )

    def _window(self, track: Track, now_s: float) -> tuple[int, int]:
        writers = max(1, self._writers)
        lines = min(track.bucket.allows(now_s), -(-self._shared.allows(now_s) // writers))
        size = window_bytes(
            self.limits,
            waiting_bytes=track.waiting_bytes,
            held_bytes=track.held_bytes,
            free_bytes=self.free_bytes,
            writers=writers,
            answers=self.answers,
        )
        return (lines if self.limits.global_lines_per_second or self.limits.lines_per_second else UNLIMITED_LINES), size

    def _may_wait(self, track: Track) -> bool:
        """Whether its reader may be waiting for something: for safety, for space, for tokens."""
        rate = track.bucket.rate or self._shared.rate // max(1, self._writers)
        return track.written is not track.synced or track.said_bytes < _TIGHT_BYTES or track.said_lines < rate // 2

    def _has_grown(self, track: Track, now_s: float) -> bool:
        lines, size = self._window(track, now_s)
        if size < _GROWN_BYTES and not size > track.said_bytes == 0:
            return False
        return size >= track.said_bytes + max(_GROWN_BYTES, track.said_bytes // 2) or lines >= track.said_lines + max(
            1, track.said_lines // 2
        )

    def _say(self, track: Track) -> None:
        self._due[track.key] = None
        self._watched.add(track.key)
        track.repeats = 0

    def _remember_early(self, heard: Open | Batch) -> None:
        self._early[(heard.job_id, heard.epoch, heard.worker, heard.generation)] = heard.run
        while len(self._early) > _MOST_EARLY:
            self._early.popitem(last=False)

    def _new(self, key: Key, position: Position, first_sequence: int, now_s: float) -> Track:
        bucket = Bucket.full(self.limits.lines_per_second, now_s)
        track = Track(*key, first_sequence, position, position, bucket, heard_at_s=now_s)
        self._tracks[key] = track
        return track

    def _remove(self, key: Key) -> None:
        del self._tracks[key]
        self._watched.discard(key)
        self._unsynced.discard(key)
        self._due.pop(key, None)
