"""The status report for people. Pure: a report in, something that rich can show out."""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from cronium.common.config.units import GIB, MIB
from cronium.supervisor.status.report import Output, Report, Servers

_COLOURS = {"healthy": "green", "degraded": "yellow", "unhealthy": "red"}
_NAMED = 10


def status_view(report: Report) -> RenderableType:
    """One line that says how it is, what is wrong with it, and a table of the rest."""
    head = Text.assemble((report.status, f"bold {_COLOURS[report.status]}"), "  ")
    head.append(f"cronium-supervisor {report.version}, process {report.pid}, up {_time(report.uptime_s)}")
    if report.draining:
        head.append("  draining: no new jobs are taken", "yellow")
    reasons = Table.grid(padding=(0, 1))
    for reason in report.reasons:
        reasons.add_row(" •", Text(reason, _COLOURS[report.status]))
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in _rows(report):
        table.add_row(name, value)
    return Group(head, reasons, table)


def _rows(report: Report) -> list[tuple[str, Text]]:
    jobs = _figures(report.jobs) or "none here"
    rows = [
        ("installation", Text(report.installation)),
        ("since", Text(report.started_at)),
        ("jobs", Text(jobs)),
        ("ended", Text(_figures(report.ended_jobs) or "none since the start")),
        ("backend", _works(report.backend.works, report.backend.error)),
        ("output", _output(report.output)),
        ("spool", _spool(report.output)),
    ]
    if report.set_aside_count:
        rows.append(
            ("set aside", Text(f"{report.set_aside_count} reports that the backend refused for good, the latest:", "yellow"))
        )
        rows += [("", Text(f"{one.job_id}: {one.reason}")) for one in report.set_aside]
    rows += [("servers", text) for text in _servers(report.servers)]
    for kind, figures in report.processes.items():
        if figures.restarts or figures.hung:
            text = f"{figures.restarts} times started again" + (f", {figures.hung} times as it hung" if figures.hung else "")
            rows.append((kind, Text(text, "yellow" if figures.recently else "")))
    return rows


def _works(works: bool | None, error: str | None) -> Text:
    if works is None:
        return Text("not heard yet", "yellow")
    return Text("answers", "green") if works else Text(f"does not answer: {error}", "red")


def _output(output: Output) -> Text:
    text = Text("WebSocket connected", "green") if output.connected else Text("WebSocket not connected", "red")
    if not output.heard:
        text = Text("the streamer says nothing", "red")
    for count, what in (
        (output.reconnects, "times connected again"),
        (output.lines_refused, "lines refused"),
        (output.lines_given_up, "lines given up"),
    ):
        if count:
            text.append(f", {count} {what}", "")
    return text


def _spool(output: Output) -> Text:
    if not output.spool_max_bytes:
        return Text("not known yet")
    text = f"{_size(output.spool_bytes)} of {_size(output.spool_max_bytes)}"
    return Text(f"full: {text}", "red") if output.spool_full else Text(text)


def _servers(servers: Servers) -> list[Text]:
    rows = []
    if servers.connections:
        shown = ", ".join(f"{server} ({count})" for server, count in list(servers.connections.items())[:_NAMED])
        more = servers.active_servers - _NAMED
        rows.append(Text(f"connected: {shown}" + (f" and {more} more" if more > 0 else "")))
    for names, count, what in (
        (servers.open_breakers, servers.open_breaker_count, "left alone"),
        (servers.half_open_breakers, servers.half_open_breaker_count, "being tried again"),
    ):
        if names:
            more = count - _NAMED
            rows.append(Text(f"{what}: {', '.join(names[:_NAMED])}" + (f" and {more} more" if more > 0 else ""), "yellow"))
    for count, what in (
        (servers.parked_jobs, "jobs whose server cannot be reached"),
        (servers.waiting_jobs, "jobs wait for their server"),
        (servers.leftovers, "jobs of which something is left on a server"),
    ):
        if count:
            rows.append(Text(f"{count} {what}"))
    return rows


def _figures(figures: dict[str, int]) -> str:
    return ", ".join(f"{count} {name}" for name, count in figures.items() if count)


def _size(size_bytes: int) -> str:
    return f"{size_bytes / GIB:.1f} GB" if size_bytes >= GIB else f"{size_bytes / MIB:.1f} MB"


def _time(seconds: float) -> str:
    minutes, hours, days = int(seconds // 60), int(seconds // 3600), int(seconds // 86400)
    if days:
        return f"{days} d {hours % 24} h"
    if hours:
        return f"{hours} h {minutes % 60} min"
    return f"{minutes} min {int(seconds % 60)} s" if minutes else f"{seconds:.0f} s"
