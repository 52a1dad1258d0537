"""What the supervisor says of itself: of a real core, and of what streamer and backend have said."""

from __future__ import annotations

import dataclasses

import pytest

from cronium.common.messages import StreamerBeat
from cronium.supervisor import health
from cronium.supervisor.backend.contract import HealthHeard
from cronium.supervisor.core import actions as do
from cronium.supervisor.core import events as on
from cronium.supervisor.core.roles import FORKSERVER, STREAMER
from cronium.supervisor.status.observer import RECENT_S, Observer
from cronium.supervisor.status.report import MOST_REASON, MOST_SERVERS, MOST_SET_ASIDE, Report
from peers.core_driver import Driver, outcome, summary

BEAT = StreamerBeat(1, 1, True, 5, 5, 2, 1 << 20, 3, False, 16 << 20, 7)


class Watched:
    """A core with an observer that has heard that all is well."""

    def __init__(self, driver: Driver | None = None, beat: StreamerBeat = BEAT) -> None:
        self.driver = driver or Driver()
        self.beat = beat
        self.observer = Observer("here")
        self.observer.answered(HealthHeard(None))

    def report(self, *, journal_waits_for_disk: bool = False, heard: bool = True) -> Report:
        """As it is read by whoever hears it."""
        if heard:
            self.observer.hears(self.beat, self.driver.now_s)
        report = self.observer.report(self.driver.core, self.driver.now_s, journal_waits_for_disk=journal_waits_for_disk)
        again = Report.from_json(report.to_json())
        assert again == report
        return again


def test_all_is_well() -> None:
    watched = Watched()
    watched.driver.run("a")
    report = watched.report()
    assert (report.status, report.reasons, report.draining) == ("healthy", (), False)
    assert (report.jobs["running"], report.ended_jobs["completed"]) == (1, 0)
    assert (report.output.spool_bytes, report.output.lines_given_up, report.output.lines_refused) == (1 << 20, 7, 2)
    assert report.output.reconnects == 3


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"spool_full": True}, "the spool is full (1 of 16 MB), jobs that print wait: see why"),
        ({"connected": False}, "the WebSocket is not connected"),
    ],
)
def test_what_the_streamer_says_is_told_with_what_to_do(changes: dict[str, bool], says: str) -> None:
    report = Watched(beat=dataclasses.replace(BEAT, **changes)).report()  # type: ignore[arg-type]
    assert report.status == "degraded"
    assert any(reason.startswith(says) for reason in report.reasons)


def test_a_streamer_that_says_nothing_is_told() -> None:
    watched = Watched()
    assert watched.report().status == "healthy"
    watched.driver.tick(after_s=10)
    report = watched.report(heard=False)
    assert (report.output.heard, report.output.connected, report.output.spool_bytes) == (False, False, 1 << 20)
    assert "streamer" in report.reasons[0]


def test_while_the_journal_waits_for_its_disk_only_that_is_told() -> None:
    """Nobody is heard then, so the streamer's silence is none."""
    watched = Watched()
    watched.report()
    watched.driver.now_s += 100
    report = watched.report(journal_waits_for_disk=True, heard=False)
    assert (report.status, report.journal_waits_for_disk, len(report.reasons)) == ("degraded", True, 1)
    assert "free some space" in report.reasons[0]
    assert watched.report(heard=False).status == "healthy"


@pytest.mark.parametrize(
    "event",
    [
        on.PollFailed("k", "HTTP 503" + "x" * 1000),
        on.Unanswered("a", "k", "HTTP 503" + "x" * 1000),
        HealthHeard("HTTP 503" + "x" * 999),
    ],
)
def test_a_backend_that_does_not_work_is_told_until_it_does(event: on.PollFailed | on.Unanswered | HealthHeard) -> None:
    watched = Watched()
    watched.observer.answered(event)
    watched.observer.answered(on.LeaseUnanswered("a"))
    report = watched.report()
    assert (report.status, report.backend.works) == ("degraded", False)
    assert "HTTP 503" in report.reasons[0]
    assert len(report.backend.error or "") == MOST_REASON
    watched.observer.answered(on.Polled("k", ()))
    assert watched.report().status == "healthy"


def test_what_others_say_cannot_harm_a_terminal_nor_the_report() -> None:
    watched = Watched()
    watched.observer.answered(on.PollFailed("k", "\x1b[2J \udcff\r\n\0 déjà"))
    assert watched.report().backend.error == "?[2J ???? déjà"


def refuse_reports(driver: Driver, *job_ids: str) -> None:
    for job_id in job_ids:
        order = driver.run(job_id)
        driver.give(on.AttemptOver(order.worker, job_id, order.generation, outcome()))
        driver.give(on.WorkerIsIdle(order.worker, job_id, order.generation, 1))
        driver.give(on.SummaryHeard(summary(job_id)))
        said = driver.one(do.SayComplete)
        driver.give(on.Refused(job_id, said.key, f"HTTP 400 {job_id}", gone=False))


def test_reports_that_were_refused_for_good_are_counted_and_the_latest_shown() -> None:
    """Promise 2: set aside with its reason, and seen; also after a restart, until the job is forgotten or comes again."""
    driver = Driver(keep_done_jobs=8)
    driver.start_workers()
    refuse_reports(driver, *"abcdefgh")
    report = Watched(driver).report()
    assert (report.set_aside_count, len(report.set_aside)) == (8, MOST_SET_ASIDE)
    assert (report.set_aside[0].job_id, report.set_aside[0].reason) == ("h", "HTTP 400 h")
    assert report.status == "healthy", "nobody can make it undone: it must not hide what comes"
    driver.restart()
    assert Watched(driver).report().set_aside == report.set_aside
    driver.start_workers()
    driver.tick(40)
    driver.deliver("h")
    assert [one.job_id for one in Watched(driver).report().set_aside][:1] == ["g"]
    driver.rules = dataclasses.replace(driver.rules, keep_done_jobs=2)
    driver.restart()
    driver.tick()
    assert Watched(driver).report().set_aside_count == 2


def test_servers_are_named_in_bounded_number() -> None:
    driver = Driver(breaker_failures=1)
    driver.start_workers()
    for number in range(MOST_SERVERS + 20):
        driver.give(on.ServerSeen("w1", f"u@host-{number:03}:22#k", reached=False, reason="refused"))
    report = Watched(driver).report()
    assert (len(report.servers.open_breakers), report.servers.open_breaker_count) == (MOST_SERVERS, MOST_SERVERS + 20)
    assert report.status == "degraded"
    assert "host-000:22" in report.reasons[0]
    assert "and 117 more" in report.reasons[0]


def test_it_says_that_it_drains() -> None:
    watched = Watched()
    watched.driver.run("a")
    watched.driver.give(on.DrainRequested())
    report = watched.report()
    assert (report.draining, report.status) == (True, "healthy")


def test_a_process_that_was_started_again_is_news_for_half_a_minute() -> None:
    driver = Driver(roles=(FORKSERVER, STREAMER))
    watched = Watched(driver)
    for role in (FORKSERVER, STREAMER):
        driver.give(on.RoleStarted(role))
    assert not watched.report().processes[STREAMER].recently
    driver.give(on.RoleDied(STREAMER, "killed"))
    driver.give(on.RoleStarted(STREAMER), after_s=1)
    kind = watched.report().processes[STREAMER]
    assert (kind.restarts, kind.recently) == (1, True)
    driver.tick(after_s=RECENT_S)
    assert not watched.report().processes[STREAMER].recently


def test_what_another_version_says_is_read_as_far_as_it_goes() -> None:
    """After an upgrade the command line is newer, or older, than the supervisor that still runs."""
    report = Report.from_json(b'{"status":"degraded","reasons":["r"],"tomorrow":{"a":1},"output":{"connected":true,"b":2}}')
    assert (report.status, report.output.connected, report.backend.works) == ("degraded", True, None)


def test_the_backend_is_told_the_same() -> None:
    """PROTOCOL.md, `POST /orchestrator/health`."""
    watched = Watched(beat=dataclasses.replace(BEAT, spool_full=True))
    watched.driver.run("a")
    body = health.body(watched.report())
    assert (body["orchestratorId"], body["status"]) == ("here", "degraded")
    components = body["components"]
    assert isinstance(components, dict)
    assert components["websocket"]["status"] == "degraded"
    assert components["websocket"]["metadata"]["spoolFull"] is True
    assert components["api"]["status"] == components["sshPools"]["status"] == components["workers"]["status"] == "healthy"
    assert components["sshPools"]["metadata"]["openBreakers"] == []
    metrics = body["metrics"]
    assert isinstance(metrics, dict)
    assert (metrics["activeJobs"], metrics["queuedJobs"]) == (1, 0)
    assert metrics["memoryUsage"] > 0
