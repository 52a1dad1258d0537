"""What a person sees of a report: how it is first, then what to do, then the rest; nothing that is not there."""

from __future__ import annotations

import io

from rich.console import Console

from cronium.supervisor.cli.status_view import status_view
from cronium.supervisor.status.report import Backend, Kind, Output, Report, Servers, SetAside

WELL = Report(
    status="healthy",
    version="1.2.3",
    installation="here",
    pid=42,
    uptime_s=90061.0,
    jobs={"running": 2, "ready": 0},
    backend=Backend(works=True),
    output=Output(heard=True, connected=True, spool_bytes=3 << 20, spool_max_bytes=2 << 30),
)


def shown(report: Report) -> list[str]:
    console = Console(file=io.StringIO(), width=100)
    console.print(status_view(report))
    assert isinstance(console.file, io.StringIO)
    return [line.rstrip() for line in console.file.getvalue().splitlines()]


def test_all_is_well() -> None:
    lines = shown(WELL)
    assert lines[0] == "healthy  cronium-supervisor 1.2.3, process 42, up 1 d 1 h"
    said = {line.split()[0]: line.split(maxsplit=1)[1] for line in lines[1:] if len(line.split()) > 1}
    assert (said["jobs"], said["ended"]) == ("2 running", "none since the start")
    assert (said["backend"], said["output"], said["spool"]) == ("answers", "WebSocket connected", "3.0 MB of 2.0 GB")
    assert not {"servers", "set", "worker"} & said.keys()


def test_what_is_wrong_comes_first_and_whole() -> None:
    report = WELL.model_copy(
        update={
            "status": "degraded",
            "reasons": ("a long reason: " + "do this " * 20, "[bold]another"),
            "draining": True,
            "set_aside_count": 9,
            "set_aside": (SetAside(job_id="job-1", reason="HTTP 400 [x]"),),
            "output": Output(heard=True, spool_max_bytes=1 << 30, spool_bytes=1 << 30, spool_full=True, lines_given_up=5),
            "backend": Backend(works=False, error="HTTP 503"),
            "servers": Servers(
                active_servers=30,
                connections={f"u@s{number}:22": 1 for number in range(30)},
                open_breakers=("dead:22",),
                open_breaker_count=1,
                parked_jobs=3,
            ),
            "processes": {"worker": Kind(restarts=4, hung=1, recently=True)},
        }
    )
    text = "\n".join(shown(report))
    assert text.startswith("degraded")
    assert text.index("draining") < text.index("a long reason") < text.index("installation")
    for part in (
        "[bold]another",
        "9 reports that the backend refused for good",
        "job-1: HTTP 400 [x]",
        "full: 1.0 GB of 1.0 GB",
        "does not answer: HTTP 503",
        "WebSocket not connected, 5 lines given up",
        "and 20 more",
        "left alone: dead:22",
        "3 jobs whose server cannot be reached",
        "4 times started again, 1 times as it hung",
    ):
        assert part in text
