"""A report as metrics: what Prometheus reads is what was reported, whatever a server is called."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from cronium.common import VERSION
from cronium.supervisor.monitor import latest as module
from cronium.supervisor.monitor.latest import Latest
from cronium.supervisor.monitor.metrics import registry
from cronium.supervisor.status.report import Backend, Kind, Output, Report, Servers

REPORT = Report(
    status="degraded",
    uptime_s=12.5,
    draining=True,
    journal_waits_for_disk=True,
    jobs={"running": 3, "ready": 1},
    ended_jobs={"completed": 5},
    set_aside_count=2,
    backend=Backend(works=True),
    output=Output(
        heard=True,
        connected=True,
        reconnects=4,
        lines_given_up=6,
        lines_refused=7,
        spool_bytes=8,
        spool_max_bytes=9,
        spool_full=True,
    ),
    servers=Servers(
        connections={"u@web:22": 2},
        open_breakers=('odd"\\\nname:22',),
        half_open_breakers=("db:22",),
        open_breaker_count=150,
        half_open_breaker_count=1,
        parked_jobs=10,
        waiting_jobs=11,
        leftovers=12,
    ),
    processes={"worker": Kind(restarts=13, hung=14)},
)


def scraped(report: Report, *, is_current: bool = True) -> dict[tuple[str, ...], float]:
    text = generate_latest(registry(lambda: (report, is_current))).decode()
    return {
        (one.name, *one.labels.values()): one.value for family in text_string_to_metric_families(text) for one in family.samples
    }


def test_every_figure_of_a_report_is_a_metric() -> None:
    assert scraped(REPORT) == {
        ("cronium_supervisor_up",): 1,
        ("cronium_build_info", VERSION): 1,
        ("cronium_healthy",): 0,
        ("cronium_uptime_seconds",): 12.5,
        ("cronium_draining",): 1,
        ("cronium_journal_waits_for_disk",): 1,
        ("cronium_jobs", "running"): 3,
        ("cronium_jobs", "ready"): 1,
        ("cronium_jobs_ended_total", "completed"): 5,
        ("cronium_reports_set_aside",): 2,
        ("cronium_backend_up",): 1,
        ("cronium_streamer_up",): 1,
        ("cronium_websocket_connected",): 1,
        ("cronium_websocket_reconnects_total",): 4,
        ("cronium_lines_given_up_total",): 6,
        ("cronium_lines_refused_total",): 7,
        ("cronium_spool_bytes",): 8,
        ("cronium_spool_max_bytes",): 9,
        ("cronium_spool_full",): 1,
        ("cronium_ssh_breaker_state", 'odd"\\\nname:22', "open"): 1,
        ("cronium_ssh_breaker_state", "db:22", "half-open"): 1,
        ("cronium_ssh_breakers", "open"): 150,
        ("cronium_ssh_breakers", "half-open"): 1,
        ("cronium_ssh_connections", "u@web:22"): 2,
        ("cronium_jobs_parked",): 10,
        ("cronium_jobs_waiting_for_server",): 11,
        ("cronium_leftovers",): 12,
        ("cronium_process_restarts_total", "worker"): 13,
        ("cronium_process_hung_total", "worker"): 14,
    }


def test_of_a_supervisor_that_says_nothing_only_that_is_told() -> None:
    assert scraped(REPORT, is_current=False) == {("cronium_supervisor_up",): 0, ("cronium_build_info", VERSION): 1}


def test_a_registry_has_nothing_of_anybody_else() -> None:
    assert not [name for name, *_ in scraped(REPORT) if not name.startswith("cronium_")]


def test_silence_makes_the_last_report_unhealthy(monkeypatch: pytest.MonkeyPatch) -> None:
    latest = Latest()
    assert (latest.report()[0].status, latest.report()[1]) == ("unhealthy", False)
    latest.hears(REPORT.to_json())
    assert latest.report() == (REPORT, True)
    monkeypatch.setattr(module, "SILENT_S", 0.0)
    report, is_current = latest.report()
    assert (report.status, report.jobs, is_current) == ("unhealthy", REPORT.jobs, False)
    assert "makes no progress" in report.reasons[0]


def test_the_readme_has_each_of_them() -> None:
    table = (Path(__file__).parents[4] / "README.md").read_text().partition("| metric | what |")[2].partition("\n\n")[0]
    assert set(re.findall(r"`(cronium_[a-z_]+)", table)) == {name for name, *_ in scraped(REPORT)}
