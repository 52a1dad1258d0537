"""`cronium-supervisor logs`: the lines of a job of the standalone queue."""

from __future__ import annotations

import signal
from typing import Annotated

import typer

from cronium.supervisor.cli.options import ConfigOption, JsonOption, TokenFileOption, UrlOption

app = typer.Typer(add_completion=False)


@app.command(epilog="Example: cronium-supervisor logs -f JOB")
def logs_command(
    job: Annotated[str, typer.Argument(metavar="JOB", help="The job's id, as submit printed it.")],
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Stay until the job has ended.")] = False,
    config: ConfigOption = None,
    url: UrlOption = None,
    token_file: TokenFileOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show the lines of a job of the standalone queue.

    Those of stdout come out on stdout, those of stderr on stderr, as they were; what the supervisor itself says of the job comes
    on stderr. With --json a line is an object with sequence, stream, timestamp (Unix ms), line, continued.
    """
    from cronium.supervisor.cli import exit_codes
    from cronium.supervisor.cli.lines import reader_may_leave, show_lines
    from cronium.supervisor.cli.queue import queue

    with queue(config, url, token_file) as client, reader_may_leave():
        try:
            show_lines(client.logs(job, follow=follow), as_json=as_json)
        except KeyboardInterrupt:
            raise typer.Exit(exit_codes.of_signal(signal.SIGINT)) from None
