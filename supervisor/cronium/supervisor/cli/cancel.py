"""`cronium-supervisor cancel`: the end of a job of the standalone queue."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from cronium.supervisor.cli.options import ConfigOption, JsonOption, TokenFileOption, UrlOption

app = typer.Typer(add_completion=False)


@app.command(epilog="Example: cronium-supervisor cancel JOB")
def cancel_command(
    job: Annotated[str, typer.Argument(metavar="JOB", help="The job's id, as submit printed it.")],
    config: ConfigOption = None,
    url: UrlOption = None,
    token_file: TokenFileOption = None,
    as_json: JsonOption = False,
) -> None:
    """End a job of the standalone queue.

    One that waits ends at once. One that runs is ended by its supervisor: SIGTERM, a grace (jobs.cancelGrace), SIGKILL.
    """
    from cronium.supervisor.cli.queue import queue

    with queue(config, url, token_file) as client:
        cancelled = client.cancel(job)
    if as_json:
        typer.echo(json.dumps(dict(cancelled.raw)))
    elif cancelled.ended:
        typer.echo(f"{job} is {cancelled.status}", err=True)
    else:
        typer.echo(f"{job} is being ended; `cronium-supervisor logs -f {job}` shows its last lines", err=True)
