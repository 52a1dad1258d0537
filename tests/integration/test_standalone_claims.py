"""The standalone queue gives each job to one orchestrator at a time, and takes it back when that one falls silent."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from peers.standalone_queue import Queue, eventually, lines, running_queue


@pytest.fixture
def queue(tmp_path: Path) -> Iterator[Queue]:
    with running_queue(tmp_path, offer_s=0.4, lease_s=0.4, tick_s=0.05) as queue:
        yield queue


@pytest.fixture
def patient_queue(tmp_path: Path) -> Iterator[Queue]:
    with running_queue(tmp_path) as queue:
        yield queue


def test_a_polled_job_is_offered_whole_and_to_nobody_else(patient_queue: Queue) -> None:
    """A job runs once: two supervisors on one queue never get the same one."""
    job_id = patient_queue.submit(environment={"A": "1"}, metadata={"eventId": 7}, unknownField=[1])
    first = patient_queue.orchestrator().poll()
    assert [job["id"] for job in first["jobs"]] == [job_id]
    assert first["jobs"][0]["execution"]["environment"] == {"A": "1"}
    assert first["jobs"][0]["metadata"] == {"eventId": 7}
    assert first["metadata"]["queueSize"] == 0
    assert patient_queue.orchestrator().poll()["jobs"] == []


def test_jobs_come_by_priority_then_age_and_as_asked_for(patient_queue: Queue) -> None:
    """What the backend wants first comes first; `limit`, `priority` and `types` are kept to."""
    low, high, later, web = (
        patient_queue.submit(priority=1),
        patient_queue.submit(priority=9),
        patient_queue.submit(priority=9),
        patient_queue.submit(type="http", script=None, http={"method": "GET", "url": "https://x"}),
    )
    orchestrator = patient_queue.orchestrator()
    assert [j["id"] for j in orchestrator.poll(types="http")["jobs"]] == [web]
    assert [j["id"] for j in orchestrator.poll(limit=1)["jobs"]] == [high]
    assert [j["id"] for j in orchestrator.poll(priority=5)["jobs"]] == [later]
    assert orchestrator.poll(limit=0)["metadata"]["queueSize"] == 1
    assert [j["id"] for j in orchestrator.poll()["jobs"]] == [low]


def test_a_long_poll_is_answered_when_a_job_comes(patient_queue: Queue) -> None:
    """A submitted job reaches a waiting supervisor at once, not at its next poll."""
    orchestrator = patient_queue.orchestrator()
    waited: list[float] = []
    for _ in range(5):
        answers: list[dict[str, Any]] = []
        poll = threading.Thread(target=lambda into=answers: into.append(orchestrator.poll(wait=30)))
        poll.start()
        time.sleep(0.05)  # let it wait: a poll that comes too late would be answered as well
        started = time.monotonic()
        job_id = patient_queue.submit()
        poll.join()
        waited.append(time.monotonic() - started)
        assert [job["id"] for job in answers[0]["jobs"]] == [job_id]
    assert min(waited) < 30 / 100


def test_the_same_key_brings_the_same_jobs_also_after_a_kill(patient_queue: Queue) -> None:
    """A poll's answer that was lost on the way is not lost work."""
    wanted = {patient_queue.submit() for _ in range(3)}
    orchestrator = patient_queue.orchestrator("o")
    assert {job["id"] for job in orchestrator.poll("key-1")["jobs"]} == wanted
    patient_queue.submit()
    patient_queue.end(9)
    patient_queue.start()
    again = patient_queue.orchestrator("o")
    assert {job["id"] for job in again.poll("key-1")["jobs"]} == wanted
    assert not wanted & {job["id"] for job in again.poll("key-2")["jobs"]}
    assert again.acknowledge(next(iter(wanted))).status_code == 200
    assert {job["id"] for job in again.poll("key-1")["jobs"]} == wanted


def test_an_offer_that_nobody_acknowledges_goes_back_to_the_queue(queue: Queue) -> None:
    """A supervisor that dies between poll and acknowledge takes no job with it."""
    job_id = queue.submit()
    queue.orchestrator().poll()
    found = queue.orchestrator().poll(wait=10)
    assert [job["id"] for job in found["jobs"]] == [job_id]
    assert found["jobs"][0]["attempts"] == 0


def test_a_lease_that_runs_out_gives_the_job_to_another_host_with_a_higher_epoch(queue: Queue) -> None:
    """What was superseded is refused wherever it speaks; numbering goes on behind the lines that are here."""
    job_id = queue.submit()
    old, new = queue.orchestrator("old"), queue.orchestrator("new")
    lease = old.take(job_id)
    assert (lease["epoch"], lease["nextSequence"]) == (1, 1)
    assert old.upload(job_id, lines(job_id, 1, ["a", "b", "c"]), epoch=1).status_code == 200
    offered = new.poll(wait=10)["jobs"]
    assert [job["id"] for job in offered] == [job_id]
    assert offered[0]["attempts"] == 1
    taken = new.acknowledge(job_id).json()
    assert (taken["epoch"], taken["nextSequence"]) == (2, 4)
    token = lease["lease"]["renewalToken"]
    for answer in (
        old.renew(job_id, token),
        old.status(job_id, "running", epoch=1),
        old.complete(job_id, epoch=1, key="late"),
        old.upload(job_id, lines(job_id, 4, ["late"]), epoch=1),
        new.status(job_id, "running", epoch=1),
    ):
        assert answer.status_code == 409, answer.text
        assert answer.json()["error"]["code"] == "RESOURCE_ALREADY_PROCESSED"
    with old.socket() as socket:
        refused = socket.acknowledged(socket.send_lines(lines(job_id, 4, ["late"]), epoch=1))
        assert not refused["success"]
        assert "epoch 1" in refused["error"]
    assert new.complete(job_id, epoch=2, key="end").status_code == 200
    job = queue.job(job_id)
    assert (job["terminalReports"], job["orchestratorId"], job["epoch"]) == (1, "new", 2)


def test_a_lease_that_ran_out_may_be_renewed_until_somebody_else_has_the_job(queue: Queue) -> None:
    """A supervisor that was slow keeps its job as long as nobody else took it, and its epoch."""
    job_id = queue.submit()
    owner = queue.orchestrator("owner")
    token = owner.take(job_id)["lease"]["renewalToken"]
    owner.status(job_id, "running", epoch=1)
    eventually(lambda: queue.job(job_id)["status"] == "queued", "the lease runs out")
    renewed = owner.renew(job_id, token)
    assert renewed.json()["lease"]["renewalToken"] == token
    assert queue.job(job_id)["status"] == "running"
    assert queue.orchestrator().poll()["jobs"] == []
    assert owner.renew(job_id, "another token").status_code == 409


def test_the_same_host_gets_its_own_job_back_with_its_epoch(queue: Queue) -> None:
    """A supervisor that was away and finds its job in the queue goes on with it."""
    job_id = queue.submit()
    owner = queue.orchestrator("owner")
    owner.take(job_id)
    owner.status(job_id, "running", epoch=1)
    eventually(lambda: queue.job(job_id)["status"] == "queued", "the lease runs out")
    again = owner.take(job_id)
    assert again["epoch"] == 1
    assert queue.job(job_id)["status"] == "running"


def test_a_planned_job_comes_when_its_time_has_come(queue: Queue) -> None:
    """`scheduledFor` is kept to, and wakes a poll that waits."""
    due = datetime.now(UTC) + timedelta(seconds=1)
    job_id = queue.submit(scheduledFor=due.isoformat())
    orchestrator = queue.orchestrator()
    assert orchestrator.poll()["jobs"] == []
    assert [job["id"] for job in orchestrator.poll(wait=10)["jobs"]] == [job_id]
    assert datetime.now(UTC) >= due


def test_a_poll_whose_caller_hung_up_takes_no_job(patient_queue: Queue) -> None:
    """A job is not offered to a connection that is gone."""
    gone = patient_queue.orchestrator()
    with pytest.raises(Exception, match="timed out"):
        gone.http.get(patient_queue.ready["apiUrl"] + "/jobs/queue", params={"wait": 30}, timeout=0.3)
    gone.http.close()
    job_id = patient_queue.submit()
    assert [job["id"] for job in patient_queue.orchestrator().poll(wait=5)["jobs"]] == [job_id]
