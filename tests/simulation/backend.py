"""The backend of a simulated history: the standalone queue's own rules over a dictionary, behind a network that loses things."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from cronium.common.errors import ExecutionError, Reason
from cronium.common.messages import Outcome
from cronium.supervisor.core import actions as do
from cronium.supervisor.core import events as on
from cronium.supervisor.core.state import Lease, RetryRule
from cronium.supervisor.standalone import rules
from cronium.supervisor.standalone.errors import Refusal
from cronium.supervisor.standalone.rules import Job, Sender, Status

if TYPE_CHECKING:
    from simulation.world import World

OURS, OTHER = "ours", "other"
_TIMEOUT_S = 2.0


@dataclass(slots=True)
class Submitted:
    """What the world knows of a job beside the queue's record of it."""

    retry: RetryRule
    invalid: bool
    poison: bool
    ask_retry: bool
    servers: tuple[str, ...]
    cancelled: bool = False


@dataclass(slots=True)
class _Held:
    """A long poll that waits for a job."""

    action: do.Poll
    until_s: float
    started_s: float
    answer: Callable[[on.Event], None]


class Backend:
    """All jobs, and who has them."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.jobs: dict[str, Job] = {}
        self.submitted: dict[str, Submitted] = {}
        self._answers: dict[tuple[str, str], object] = {}
        self._held: list[_Held] = []
        self._outages: list[tuple[float, float]] = []
        self._tokens = itertools.count()

    # --- people ------------------------------------------------------------------------------------------------------

    def begin(self) -> None:
        world, plan, chance = self._world, self._world.plan, self._world.chance
        for number in range(plan.jobs):
            world.clock.after(chance.choice([0, 0, chance.uniform(0, plan.trouble_s)]), lambda n=number: self._submit(n))  # type: ignore[misc]
        for _ in range(plan.outages):
            start = world.clock.now_s + chance.uniform(0, plan.trouble_s)
            self._outages.append((start, start + chance.uniform(1, 12)))
        if plan.other_host:
            world.clock.after(chance.uniform(1, 5), self._other_polls)

    def _submit(self, number: int) -> None:
        plan, chance, world = self._world.plan, self._world.chance, self._world
        job_id = f"job-{number}"
        self.jobs[job_id] = Job(number, job_id, "script", "container", chance.randint(0, 10), world.clock.unix_ms())
        self.submitted[job_id] = Submitted(
            RetryRule(chance.choice([1, 1, 2, 3]), chance.random() < 0.5, chance.choice([0.0, 0.5, 2.0])),
            invalid=chance.random() < plan.invalid,
            poison=chance.random() < plan.poison,
            ask_retry=chance.random() < plan.retries_asked,
            servers=world.servers.choose(),
        )
        if chance.random() < plan.cancels:
            world.clock.after(chance.uniform(0, 8), lambda: self._cancel(job_id))
        world.tell("submitted", job_id)
        self._ring()

    def _cancel(self, job_id: str) -> None:
        changed = rules.cancel(self.jobs[job_id], self._world.clock.unix_ms())
        if isinstance(changed, Job):
            self._world.fault("cancelled by a person", job_id)
            self.jobs[job_id] = changed
            self.submitted[job_id].cancelled = True
            self._ring()

    def _other_polls(self) -> None:
        """The other host: takes a job now and then, and reports it or falls silent."""
        world, now_ms = self._world, self._world.clock.unix_ms()
        self._expire()
        for job in self.jobs.values():
            if job.status is Status.QUEUED and world.chance.random() < 0.5:
                claimed = rules.claim(job, OTHER, now_ms, 3000, f"token-{next(self._tokens)}")
                assert isinstance(claimed, Job)
                self.jobs[job.id] = claimed
                world.fault("taken by another host", job.id)
                if world.chance.random() < 0.5:
                    world.clock.after(world.chance.uniform(0.1, 2.5), lambda job_id=job.id: self._other_reports(job_id))  # type: ignore[misc]
                break
        if world.troubled():
            world.clock.after(world.chance.uniform(0.5, 4), self._other_polls)

    def _other_reports(self, job_id: str) -> None:
        done = rules.complete(self.jobs[job_id], Sender(OTHER), Status.COMPLETED, 0, "other", self._world.clock.unix_ms())
        if isinstance(done, Job):
            self.jobs[job_id] = done
            self._world.tell("the other host reports", job_id)

    def _expire(self) -> None:
        now_ms = self._world.clock.unix_ms()
        for job in self.jobs.values():
            if (changed := rules.expire(job, now_ms)) is not job:
                self._world.fault("lease ran out", job.id)
                self.jobs[job.id] = changed

    # --- the network -------------------------------------------------------------------------------------------------

    def ask(self, perform: Callable[[], on.Event], unanswered: Callable[[float | None], on.Event]) -> None:
        """One request. `perform` is what the backend does with it, once or never; the answer may not come."""
        world, plan, chance = self._world, self._world.plan, self._world.chance
        answer = world.supervisor.answerer()
        after, troubled = world.clock.after, world.troubled()
        if any(a <= world.clock.now_s < b for a, b in self._outages) or (troubled and chance.random() < plan.server_error):
            world.fault("backend: error")
            wait_s = chance.choice([None, None, 1.0, 3.0])
            after(chance.uniform(0.01, 0.5), lambda: answer(unanswered(wait_s)))
        elif troubled and chance.random() < plan.lost_request:
            world.fault("backend: request lost")
            after(_TIMEOUT_S, lambda: answer(unanswered(None)))
        elif troubled and chance.random() < plan.lost_answer:
            world.fault("backend: answer lost")
            after(chance.uniform(0.01, 0.3), lambda: void(perform()))
            after(_TIMEOUT_S, lambda: answer(unanswered(None)))
        elif troubled and chance.random() < plan.late_request:
            world.fault("backend: request carried out after it was given up")
            after(_TIMEOUT_S, lambda: answer(unanswered(None)))
            after(_TIMEOUT_S + chance.uniform(0.01, 3), lambda: void(perform()))
        else:
            back_s = chance.choice([0.002, 0.05, 0.5])

            def arrive() -> None:
                event = perform()
                after(back_s, lambda: answer(event))

            after(chance.choice([0.002, 0.05, 0.5]), arrive)

    def hang_up(self) -> None:
        """The supervisor is gone, and its connections with it."""
        self._held.clear()

    # --- requests ----------------------------------------------------------------------------------------------------

    def poll(self, action: do.Poll) -> None:
        world, plan, chance = self._world, self._world.plan, self._world.chance
        answer = world.supervisor.answerer()
        fails = world.troubled() and chance.random() < plan.lost_request + plan.server_error
        if fails or any(a <= world.clock.now_s < b for a, b in self._outages):
            world.fault("backend: poll not answered")
            world.clock.after(0.3, lambda: answer(on.PollFailed(action.key, "no answer")))
            return
        started_s = world.clock.now_s
        if world.troubled() and chance.random() < plan.lost_answer:
            world.fault("backend: a poll's answer lost")
            world.clock.after(0.1, lambda: void(self._polled(action, started_s)))
            world.clock.after(_TIMEOUT_S, lambda: answer(on.PollFailed(action.key, "no answer in time")))
            return

        def arrive() -> None:
            polled, news = self._polled(action, started_s)
            if polled.jobs or news or action.wait_s == 0:
                world.clock.after(0.02, lambda: answer(polled))
                return
            held = _Held(action, world.clock.now_s + action.wait_s, started_s, answer)
            self._held.append(held)
            world.clock.after(action.wait_s, lambda: self._release(held))

        world.clock.after(chance.choice([0.002, 0.1]), arrive)

    def _ring(self) -> None:
        for held in list(self._held):
            polled, news = self._polled(held.action, held.started_s)
            if polled.jobs or news:
                self._held.remove(held)
                self._world.clock.after(0.01, lambda h=held, p=polled: h.answer(p))  # type: ignore[misc]

    def _release(self, held: _Held) -> None:
        if held in self._held:
            self._held.remove(held)
            held.answer(self._polled(held.action, held.started_s)[0])

    def _polled(self, action: do.Poll, started_s: float) -> tuple[on.Polled, bool]:
        """As `standalone.operations.poll` does it; whether there is something to cancel that was not told before."""
        now_ms, plan = self._world.clock.unix_ms(), self._world.plan
        self._expire()
        given = self._answers.get(("poll", action.key))
        if given is not None:
            candidates = [self.jobs[job_id] for job_id in given if self.jobs[job_id].owner in (None, OURS)]  # type: ignore[attr-defined]
        else:
            candidates = sorted(
                (j for j in self.jobs.values() if j.status is Status.QUEUED), key=lambda j: (-j.priority, j.number)
            )
            candidates = candidates[: action.limit]
        offered = []
        for job in candidates:
            claimed = rules.claim(job, OURS, now_ms, int(plan.offer_s * 1000), f"token-{next(self._tokens)}")
            if isinstance(claimed, Job):
                self.jobs[job.id] = claimed
                offered.append(self._queued(claimed))
        if offered and given is None:
            self._answers["poll", action.key] = [job.job_id for job in offered]
        offered += self._again({job.job_id for job in offered})
        cancelled = tuple(
            j.id
            for j in self.jobs.values()
            if j.owner == OURS and j.cancel_ms is not None and (not j.cancel_told or j.ended_ms is None)
        )
        news = tuple(job_id for job_id in cancelled if not self.jobs[job_id].cancel_told)
        for job_id in news:
            self.jobs[job_id] = replace(self.jobs[job_id], cancel_told=True)
        return on.Polled(action.key, tuple(offered), cancelled, self._world.clock.now_s - started_s), bool(news)

    def _again(self, offered: set[str]) -> list[on.QueuedJob]:
        """A queue that forgets: it brings what we have, or have reported, once more."""
        world = self._world
        if not world.troubled() or world.trouble_chance.random() >= world.plan.delivered_again:
            return []
        ours = [j for j in self.jobs.values() if j.owner == OURS and j.status is not Status.QUEUED and j.id not in offered]
        if not ours:
            return []
        job = world.trouble_chance.choice(ours)
        if job.status is not Status.CLAIMED:
            world.fault("delivered again when it has ended" if job.ended else "delivered again while we have it", job.id)
        return [self._queued(job)]

    def _queued(self, job: Job) -> on.QueuedJob:
        known = self.submitted[job.id]
        refusal = None
        if known.invalid:
            error = ExecutionError(Reason.INVALID_JOB, "no job").report()
            refusal = Outcome("failed", None, error, 0, 0)
        return on.QueuedJob(job.id, b"payload", job.priority, known.retry, refusal, known.servers)

    def acknowledge(self, action: do.Acknowledge) -> None:
        def perform() -> on.Event:
            job = self.jobs[action.job_id]
            plan = self._world.plan

            def make() -> on.Event | Job:
                changed = rules.acknowledge(job, Sender(OURS), self._world.clock.unix_ms(), int(plan.lease_s * 1000))
                if isinstance(changed, Refusal):
                    return _refused(action.job_id, action.key, changed)
                self.jobs[job.id] = changed
                first = max(changed.first_sequence, changed.last_sequence + 1)
                if plan.forgets_epochs:
                    return on.Taken(job.id, action.key, rules.next_action(changed))
                return on.Taken(job.id, action.key, rules.next_action(changed), self._lease(changed), changed.epoch, first)

            return self._once(action.key, make)

        self.ask(perform, lambda wait: on.Unanswered(action.job_id, action.key, "no answer", wait))

    def status(self, action: do.SayStatus) -> None:
        def perform() -> on.Event:
            def make() -> on.Event:
                job = self.jobs[action.job_id]
                sender = Sender(OURS, None if self._world.plan.forgets_epochs else action.epoch)
                lease_ms = int(self._world.plan.lease_s * 1000)
                changed = rules.report(job, sender, Status(action.status), self._world.clock.unix_ms(), lease_ms, action.attempt)
                if isinstance(changed, Refusal) and changed.details is not None:
                    return on.Taken(action.job_id, action.key)
                if isinstance(changed, Refusal):
                    return _refused(action.job_id, action.key, changed)
                self.jobs[job.id] = changed
                said = rules.next_action(changed)
                known = self.submitted[job.id]
                if said == "continue" and known.ask_retry:
                    known.ask_retry, said = False, "retry"
                return on.Taken(action.job_id, action.key, said)

            return self._once(action.key, make)

        self.ask(perform, lambda wait: on.Unanswered(action.job_id, action.key, "no answer", wait))

    def complete(self, action: do.SayComplete) -> None:
        def perform() -> on.Event:
            def make() -> on.Event:
                if self.submitted[action.job_id].poison:
                    self._world.fault("report refused for good", action.job_id)
                    return on.Refused(action.job_id, action.key, "400: this cannot be")
                job = self.jobs[action.job_id]
                sender = Sender(OURS, None if self._world.plan.forgets_epochs else action.epoch)
                status = Status(action.outcome.status)
                changed = rules.complete(job, sender, status, action.outcome.exit_code, action.key, self._world.clock.unix_ms())
                if isinstance(changed, Refusal):
                    return _refused(action.job_id, action.key, changed)
                self.jobs[job.id] = replace(changed, attempt=action.attempt)
                return on.Taken(action.job_id, action.key)

            return self._once(action.key, make)

        self.ask(perform, lambda wait: on.Unanswered(action.job_id, action.key, "no answer", wait))

    def renew(self, action: do.RenewLease) -> None:
        def perform() -> on.Event:
            lease_ms = int(self._world.plan.lease_s * 1000)
            changed = rules.renew(self.jobs[action.job_id], Sender(OURS), action.token, self._world.clock.unix_ms(), lease_ms)
            if isinstance(changed, Refusal):
                self._world.fault("lease lost", action.job_id)
                return on.LeaseLost(action.job_id, changed.message)
            self.jobs[action.job_id] = changed
            return on.LeaseRenewed(action.job_id, self._lease(changed), rules.next_action(changed))

        self.ask(perform, lambda _: on.LeaseUnanswered(action.job_id))

    def _once(self, key: str, make: Callable[[], object]) -> on.Event:
        given = self._answers.get(("statement", key))
        if given is None:
            given = make()
            if isinstance(given, on.Taken):
                self._answers["statement", key] = given
        return given  # type: ignore[return-value]

    @staticmethod
    def _lease(job: Job) -> Lease:
        return Lease(job.lease_token or "", job.lease_ms or 0)


def _refused(job_id: str, key: str, refusal: Refusal) -> on.Refused:
    return on.Refused(job_id, key, refusal.message, gone=refusal.status in (404, 409, 410))


def void(_: object) -> None:
    """The answer to which nobody listens."""
