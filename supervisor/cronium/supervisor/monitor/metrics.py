"""The report as metrics for Prometheus. Pure; loaded late, only where they are served.

While the supervisor says nothing there is nothing to say but that: figures of a moment that is over would look like now.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from cronium.common import VERSION
from cronium.supervisor.status.report import Output, Report, Servers

_Samples = Iterable[tuple[tuple[str, ...], float]]


class ReportCollector:
    """Asked at each scrape. `latest`: the report, and whether it is of now."""

    def __init__(self, latest: Callable[[], tuple[Report, bool]]) -> None:
        self._latest = latest

    def describe(self) -> list[Metric]:
        """Nothing: it would be asked for once, when it is registered."""
        return []

    def collect(self) -> Iterable[Metric]:
        """All metrics."""
        report, is_current = self._latest()
        yield _gauge("supervisor_up", "1 while the supervisor makes progress", is_current)
        yield _labelled("build_info", "The version of the monitor", ("version",), [((VERSION,), 1)])
        if not is_current:
            return
        yield _gauge("healthy", "1 when nothing is degraded; /health has the reasons", report.status == "healthy")
        yield _gauge("uptime_seconds", "Time since the supervisor started", report.uptime_s)
        yield _gauge("draining", "1 while no new jobs are taken", report.draining)
        yield _gauge("journal_waits_for_disk", "1 while everything waits for the journal's disk", report.journal_waits_for_disk)
        yield _labelled("jobs", "Jobs that are here, by state", ("state",), _by_name(report.jobs))
        yield _labelled("jobs_ended_total", "Jobs that have ended since the start", ("status",), _by_name(report.ended_jobs))
        yield _gauge("reports_set_aside", "Reports that the backend refused for good", report.set_aside_count)
        yield _gauge("backend_up", "1 when the backend answered last", bool(report.backend.works))
        yield from _output(report.output)
        yield from _servers(report.servers)
        restarts = [((kind,), float(figures.restarts)) for kind, figures in report.processes.items()]
        hung = [((kind,), float(figures.hung)) for kind, figures in report.processes.items()]
        yield _labelled("process_restarts_total", "Processes that were started again or replaced", ("kind",), restarts)
        yield _labelled("process_hung_total", "Processes that were ended as they made no progress", ("kind",), hung)


def registry(latest: Callable[[], tuple[Report, bool]]) -> CollectorRegistry:
    """A registry of its own, with nothing else in it."""
    found = CollectorRegistry()
    found.register(ReportCollector(latest))
    return found


def _output(output: Output) -> Iterable[Metric]:
    yield _gauge("streamer_up", "1 when the streamer was heard lately", output.heard)
    yield _gauge("websocket_connected", "1 while output goes over the WebSocket", output.connected)
    yield _counter("websocket_reconnects_total", "Times it was connected again, since the streamer started", output.reconnects)
    yield _counter("lines_given_up_total", "Lines that were older than logging.spool.maxAge", output.lines_given_up)
    yield _counter("lines_refused_total", "Lines that the backend refused for good", output.lines_refused)
    if output.spool_max_bytes:  # unknown before the streamer has said so
        yield _gauge("spool_bytes", "Size of the output that waits on disk", output.spool_bytes)
        yield _gauge("spool_max_bytes", "logging.spool.maxSize", output.spool_max_bytes)
    yield _gauge("spool_full", "1 while jobs that print wait for room in the spool", output.spool_full)


def _servers(servers: Servers) -> Iterable[Metric]:
    states = [((server, "open"), 1.0) for server in servers.open_breakers]
    states += [((server, "half-open"), 1.0) for server in servers.half_open_breakers]
    yield _labelled("ssh_breaker_state", "Servers that are left alone; a closed one is not named", ("server", "state"), states)
    counts = [(("open",), float(servers.open_breaker_count)), (("half-open",), float(servers.half_open_breaker_count))]
    yield _labelled("ssh_breakers", "How many servers are left alone, also those that are not named", ("state",), counts)
    yield _labelled("ssh_connections", "Connections to a server", ("server",), _by_name(servers.connections))
    yield _gauge("jobs_parked", "Jobs whose server cannot be reached", servers.parked_jobs)
    yield _gauge("jobs_waiting_for_server", "Jobs that wait as a server is left alone or busy", servers.waiting_jobs)
    yield _gauge("leftovers", "Jobs of which something is left on a server", servers.leftovers)


def _by_name(figures: dict[str, int]) -> _Samples:
    return [((name,), float(figure)) for name, figure in figures.items()]


def _gauge(name: str, text: str, value: float) -> Metric:
    return GaugeMetricFamily(f"cronium_{name}", text, value=float(value))


def _counter(name: str, text: str, value: float) -> Metric:
    return CounterMetricFamily(f"cronium_{name}", text, value=float(value))


def _labelled(name: str, text: str, labels: tuple[str, ...], samples: _Samples) -> Metric:
    kind = CounterMetricFamily if name.endswith("_total") else GaugeMetricFamily
    family = kind(f"cronium_{name}", text, labels=labels)
    for values, value in samples:
        family.add_metric(values, value)
    return family
