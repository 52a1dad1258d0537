"""`cronium-supervisor submit`: a job into the standalone queue, and if wanted its lines until it has ended."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer
from rich.console import Console

from cronium.supervisor.cli.options import (
    USAGE,
    ConfigOption,
    EnvFileOption,
    EnvOption,
    JsonOption,
    TimeoutOption,
    TokenFileOption,
    UrlOption,
    duration,
    fail,
)

if TYPE_CHECKING:
    from cronium.supervisor.standalone.client import StandaloneClient

app = typer.Typer(add_completion=False)
_LAST_WAIT_S = 60.0  # its lines are over: the report is there or on its way


@app.command(epilog="Example: cronium-supervisor submit etc/examples/hello.js --follow")
def submit_command(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A script (.sh, .py, .js, or by its #! line), or a job (.json).")],
    env: EnvOption = None,
    env_file: EnvFileOption = None,
    timeout: TimeoutOption = None,
    priority: Annotated[int | None, typer.Option("--priority", min=0, max=10, help="10 comes first.")] = None,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Show its lines until it has ended, and end with its exit code.")
    ] = False,
    config: ConfigOption = None,
    url: UrlOption = None,
    token_file: TokenFileOption = None,
    as_json: JsonOption = False,
) -> None:
    """Submit a job to the standalone queue.

    Prints the job's id. With --follow the id goes to stderr and the job's lines come out as they are; it ends with the script's
    exit code, 124 after its deadline, 130 if it was cancelled, 125 if it could not be run.
    """
    from cronium.supervisor.cli.job_file import JobFileError, JobOptions, read_environment, read_job
    from cronium.supervisor.cli.lines import reader_may_leave
    from cronium.supervisor.cli.queue import queue

    try:
        environment = read_environment(env or (), env_file or (), os.environ)
        job = read_job(file, JobOptions(environment, timeout_s=duration(timeout, "--timeout"), priority=priority))
    except JobFileError as error:
        fail(error, USAGE)
    with queue(config, url, token_file) as client, reader_may_leave():
        submitted = client.submit(job)
        if as_json:
            typer.echo(json.dumps(dict(submitted.raw)))
        else:
            typer.echo(submitted.id, err=follow)
        if follow:
            _follow(client, submitted.id, as_json=as_json)


def _follow(client: StandaloneClient, job_id: str, *, as_json: bool) -> NoReturn:
    from cronium.supervisor.cli import exit_codes
    from cronium.supervisor.cli.lines import show_lines

    try:
        show_lines(client.logs(job_id, follow=True), as_json=as_json)
        job = client.wait(job_id, _LAST_WAIT_S, logs=False)
    except KeyboardInterrupt:
        fail(
            f"{job_id} goes on: `cronium-supervisor logs -f {job_id}` follows it, `cronium-supervisor cancel {job_id}` ends it",
            exit_codes.of_signal(signal.SIGINT),
        )
    except TimeoutError as error:
        fail(str(error))
    if as_json:
        typer.echo(json.dumps(job))
    problem = job["error"] or {}
    if problem and not as_json:
        text = f"{job_id}: {problem.get('message')}"
        Console(stderr=True).print(text, style="dim", markup=False, highlight=False, soft_wrap=True)
    reason = (problem.get("details") or {}).get("reason")
    raise typer.Exit(exit_codes.of_job(job["status"], job["exitCode"], reason))
