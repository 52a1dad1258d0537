"""Jobs for which nothing more is owed, kept for a while: one that is delivered again is known. Pure; part of the core."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from cronium.common.messages import AttemptEnded
from cronium.common.wire import pack
from cronium.supervisor.core import actions as do
from cronium.supervisor.core.events import Now
from cronium.supervisor.core.rules import Rules
from cronium.supervisor.core.state import Ended, JobRecord, JobState

_ROW_BYTES = 500  # of a done job in the journal, without its texts and how it ended: measured, with SQLite's own share


class DoneJobs:
    """In order of their end. Those that still have something on a server are not forgotten before it is gone."""

    def __init__(self, rules: Rules, draft: do.Draft, ended: Mapping[str, Ended]) -> None:
        self._rules = rules
        self._draft = draft
        self._ended = ended
        self._sizes: dict[str, int] = {}
        self._bytes = 0
        self._records: dict[str, JobRecord] = {}
        self._unclean: dict[str, JobRecord] = {}  # which would be forgotten but for that
        self.set_aside: dict[str, str] = {}  # why the backend refused a job's report for good, the latest last

    def __iter__(self) -> Iterator[JobRecord]:
        yield from self._records.values()
        yield from self._unclean.values()

    def get(self, job_id: str) -> JobRecord | None:
        """What is known of a job."""
        return self._records.get(job_id) or self._unclean.get(job_id)

    def restore(self, record: JobRecord) -> None:
        """As the journal has it."""
        self._records[record.job_id] = record
        self._weigh(record)
        self._note(record)

    def put(self, record: JobRecord) -> None:
        """It is done, or was and has changed."""
        self._draft.writes.append(do.PutJob(record))
        (self._unclean if record.job_id in self._unclean else self._records)[record.job_id] = record
        self._weigh(record)
        self._note(record)

    def pop(self, job_id: str) -> None:
        """It has come again."""
        self._records.pop(job_id, None)
        self._unclean.pop(job_id, None)
        self._bytes -= self._sizes.pop(job_id, 0)
        self.set_aside.pop(job_id, None)

    def move(self, by_ms: int) -> None:
        """The Unix clock was set by so much: they are as old as before."""
        for record in tuple(self):
            self.put(record.but(done_ms=record.done_ms + by_ms))

    def prune(self, now: Now) -> list[str]:
        """Forget the oldest: too old, too many, or too much on disk. Which they were."""
        forgotten = []
        if self._unclean:
            forgotten = [job_id for job_id, record in self._unclean.items() if not record.is_unclean()]
            self._unclean = {job_id: record for job_id, record in self._unclean.items() if record.is_unclean()}
        oldest_ms = now.unix_ms - self._rules.keep_done_s * 1000
        while self._records:
            record = next(iter(self._records.values()))
            fits = len(self._records) <= self._rules.keep_done_jobs and self._bytes <= self._rules.keep_done_bytes
            if record.done_ms >= oldest_ms and fits:
                break
            del self._records[record.job_id]
            self._bytes -= self._sizes.pop(record.job_id)
            if record.is_unclean():
                self._unclean[record.job_id] = record
            else:
                forgotten.append(record.job_id)
        for job_id in forgotten:
            self.set_aside.pop(job_id, None)
        self._draft.writes += [do.ForgetJob(job_id) for job_id in forgotten]
        return forgotten

    def is_over(self, record: JobRecord, now: Now) -> bool:
        """Whether what a job has left on servers has removed itself by now."""
        return record.state is JobState.DONE and now.unix_ms - record.done_ms > self._rules.remote_ttl_s * 1000

    def _note(self, record: JobRecord) -> None:
        if record.set_aside is not None:
            self.set_aside[record.job_id] = record.set_aside

    def _weigh(self, record: JobRecord) -> None:
        """Count about what it takes in the journal. One that is kept only for its leftovers counts no more."""
        if record.job_id not in self._records:
            return
        texts = (record.job_id, record.place or "", record.set_aside or "", *record.servers, *record.leftovers, *record.begun_at)
        size = _ROW_BYTES + 2 * len(record.job_id) + sum(map(len, texts))  # its id also stands in an index
        size += sum(len(server.server) + len(server.message or "") + 50 for server in record.finished)
        if ended := self._ended.get(record.job_id):
            size += len(pack(AttemptEnded("", record.job_id, 0, ended.outcome))) + ended.results_bytes
        self._bytes += size - self._sizes.get(record.job_id, 0)
        self._sizes[record.job_id] = size
