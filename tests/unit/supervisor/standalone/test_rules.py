"""Whatever orchestrators and clocks do to a job, its rules hold."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from cronium.supervisor.standalone import rules
from cronium.supervisor.standalone.errors import Refusal
from cronium.supervisor.standalone.rules import TERMINAL, Job, Sender, Status

OFFER_MS, LEASE_MS = 1000, 5000

hosts = st.sampled_from(["a", "b", "c"])
epochs = st.one_of(st.none(), st.integers(1, 5))
ends = st.sampled_from(sorted(TERMINAL))
keys = st.one_of(st.none(), st.sampled_from(["k1", "k2"]))


class History(RuleBasedStateMachine):
    """One job, three hosts, and what each of them believes."""

    def __init__(self) -> None:
        super().__init__()
        self.job = Job(1, "job", "container", "container", 5, 0)
        self.before = self.job
        self.now_ms = 0
        self.ended: Job | None = None
        self.claims = 0

    def step(self, decision: Job | Refusal) -> bool:
        self.before = self.job
        if isinstance(decision, Job):
            self.job = decision
        else:
            assert decision.status in (400, 404, 409, 410)
            assert decision.message
        return isinstance(decision, Job)

    @rule(by_ms=st.integers(0, 8000))
    def time_passes(self, by_ms: int) -> None:
        self.now_ms += by_ms
        self.step(rules.expire(self.job, self.now_ms))
        assert self.job.epoch == self.before.epoch
        assert self.job.owner == self.before.owner

    @rule(host=hosts)
    def polls(self, host: str) -> None:
        queued = self.job.status is Status.QUEUED
        self.claims += 1
        if self.step(rules.claim(self.job, host, self.now_ms, OFFER_MS, f"token-{self.claims}")):
            assert self.job.owner == host
            assert self.job.epoch == self.before.epoch + int(self.before.owner != host)
            assert queued or self.job == self.before
        else:
            assert self.before.ended or (not queued and self.before.owner != host)

    @rule(host=hosts, epoch=epochs)
    def acknowledges(self, host: str, epoch: int | None) -> None:
        if self.step(rules.acknowledge(self.job, Sender(host, epoch), self.now_ms, LEASE_MS)):
            self.only_by_the_owner(host, epoch)
            assert self.job.lease_ms is not None
            assert self.job.lease_ms >= self.now_ms + LEASE_MS

    @rule(host=hosts, right=st.booleans())
    def renews(self, host: str, right: bool) -> None:
        token = self.job.lease_token if right and self.job.lease_token else "wrong"
        if self.step(rules.renew(self.job, Sender(host), token, self.now_ms, LEASE_MS)):
            self.only_by_the_owner(host, None)
            assert right
            assert self.job.status is not Status.QUEUED
            assert self.job.lease_ms == self.now_ms + LEASE_MS

    @rule(host=hosts, epoch=epochs, status=st.sampled_from(sorted(rules.REPORTABLE)), attempt=st.none() | st.integers(1, 3))
    def reports(self, host: str, epoch: int | None, status: Status, attempt: int | None) -> None:
        if self.step(rules.report(self.job, Sender(host, epoch), status, self.now_ms, LEASE_MS, attempt)):
            assert self.before.ended or attempt is None or self.job.attempt == attempt >= (self.before.attempt or 0)
            self.only_by_the_owner(host, epoch)
            assert self.job.ended == self.before.ended

    @rule(host=hosts, epoch=epochs, status=ends, key=keys)
    def completes(self, host: str, epoch: int | None, status: Status, key: str | None) -> None:
        if self.step(rules.complete(self.job, Sender(host, epoch), status, 0, key, self.now_ms)):
            self.only_by_the_owner(host, epoch)
            assert not self.before.ended or (key is not None and key == self.before.report_key)

    @rule(host=hosts, epoch=epochs, count=st.integers(1, 5), back=st.integers(0, 6))
    def sends_lines(self, host: str, epoch: int | None, count: int, back: int) -> None:
        first = max(1, self.job.last_sequence + 1 - back)
        if rules.take_lines(self.job, Sender(host, epoch), first) is None:
            self.only_by_the_owner(host, epoch)
            assert first >= self.job.first_sequence
            self.step(replace(self.job, last_sequence=max(self.job.last_sequence, first + count - 1)))

    @rule()
    def is_cancelled(self) -> None:
        queued = self.job.status is Status.QUEUED
        if self.step(rules.cancel(self.job, self.now_ms)) and not self.before.ended:
            assert self.job.ended == queued
            assert queued or rules.next_action(self.job) == "cancel"

    @precondition(lambda self: self.job.status is Status.QUEUED and self.job.owner is None)
    @rule(host=hosts)
    def nobody_may_speak_for_a_job_that_was_never_offered(self, host: str) -> None:
        sender = Sender(host)
        assert isinstance(rules.acknowledge(self.job, sender, self.now_ms, LEASE_MS), Refusal)
        assert isinstance(rules.complete(self.job, sender, Status.FAILED, 1, None, self.now_ms), Refusal)
        assert isinstance(rules.take_lines(self.job, sender, 1), Refusal)

    def only_by_the_owner(self, host: str, epoch: int | None) -> None:
        assert host == self.job.owner
        assert epoch in (None, self.job.epoch)

    @invariant()
    def what_has_ended_stays_as_it_is(self) -> None:
        if self.ended is not None:
            assert self.job.status is self.ended.status
            assert self.job.reports == self.ended.reports
            assert self.job.ended_ms == self.ended.ended_ms
        elif self.job.ended:
            self.ended = self.job

    @invariant()
    def the_rules_in_the_head_of_the_module_hold(self) -> None:
        job = self.job
        assert job.reports <= 1
        assert job.epoch >= self.before.epoch
        assert (job.owner is None) == (job.epoch == 0)
        assert (job.ended_ms is not None) == job.ended
        assert (job.lease_ms is not None) == (job.status not in TERMINAL and job.status is not Status.QUEUED)
        assert not (job.status is Status.QUEUED and job.cancel_ms is not None)
        assert job.first_sequence <= job.last_sequence + 1


TestHistory = History.TestCase
