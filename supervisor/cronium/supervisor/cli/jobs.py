"""`cronium-supervisor jobs`: the list of the jobs of the standalone queue."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from cronium.supervisor.cli.options import ConfigOption, JsonOption, TokenFileOption, UrlOption

if TYPE_CHECKING:
    from cronium.supervisor.standalone.client import JobSummary

app = typer.Typer(add_completion=False)
_COLOURS = {"completed": "green", "running": "cyan", "failed": "red", "timeout": "red", "cancelled": "yellow"}


@app.command(epilog="Example: cronium-supervisor jobs --status running --json")
def jobs_command(
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, max=1000, help="How many, the newest first.")] = 20,
    status: Annotated[
        list[str] | None, typer.Option("--status", metavar="STATUS", help="Only these, as queued, running, failed.")
    ] = None,
    config: ConfigOption = None,
    url: UrlOption = None,
    token_file: TokenFileOption = None,
    as_json: JsonOption = False,
) -> None:
    """List the jobs of the standalone queue.

    With --json a list of objects with id, status, exitCode, createdAt, startedAt, endedAt, attempts and more.
    """
    from cronium.supervisor.cli.lines import reader_may_leave
    from cronium.supervisor.cli.queue import queue

    wanted = [name for given in status or () for name in given.split(",")]
    with queue(config, url, token_file) as client:
        found = client.jobs(status=wanted, limit=limit)
    with reader_may_leave():
        if as_json:
            typer.echo(json.dumps([dict(job.raw) for job in found], indent=2))
        else:
            # An id must be whole, to be copied: a narrow terminal wraps the row, a pipe has all the room there is.
            Console(width=max(Console().width, _LEAST_WIDTH)).print(jobs_table(found, datetime.now(UTC)))
            if not found:
                typer.echo("No jobs. Next: cronium-supervisor submit FILE", err=True)


_LEAST_WIDTH = 100  # room for the longest of our own ids and the other columns


def jobs_table(jobs: list[JobSummary], now: datetime) -> Table:
    """For people."""
    table = Table("job", "status", "exit code", "created", "duration", "attempts", box=None, header_style="dim")
    for column in table.columns:
        column.no_wrap = True
    table.columns[0].min_width = max((len(job.id) for job in jobs), default=0)
    for job in jobs:
        table.add_row(
            job.id,
            Text(job.status, _COLOURS.get(job.status, "")),
            "" if job.exit_code is None else str(job.exit_code),
            f"{datetime.fromisoformat(job.created_at).astimezone():%Y-%m-%d %H:%M:%S}",
            _duration(job, now),
            str(job.attempts),
        )
    return table


def _duration(job: JobSummary, now: datetime) -> str:
    """How long it ran, or runs until now."""
    if job.started_at is None:
        return ""
    end = now if job.ended_at is None else datetime.fromisoformat(job.ended_at)
    seconds = max(0.0, (end - datetime.fromisoformat(job.started_at)).total_seconds())
    return f"{seconds:.2f} s" if seconds < 60 else f"{seconds / 60:.0f} min {seconds % 60:.0f} s"
