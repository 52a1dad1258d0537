"""The command line: one typer application, a module for each group of commands.

Runs in whatever process a person starts; only `run` becomes the supervisor.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from cronium.common.config.load import LoadedConfig, load_config
from cronium.common.config.problems import ConfigError
from cronium.common.errors import CroniumError
from cronium.common.logging import configure_logging
from cronium.supervisor.cli import images
from cronium.supervisor.cli.config_view import render_problems
from cronium.supervisor.cli.quickstart import quickstart_command

app = typer.Typer(no_args_is_help=False, rich_markup_mode="rich", pretty_exceptions_enable=False)
app.add_typer(images.app, name="images")
app.command("quickstart", epilog="Example: cronium-supervisor quickstart --keep")(quickstart_command)
ConfigOption = Annotated[
    Path | None, typer.Option("--config", "-c", help="The YAML file; CRONIUM_CONFIG names it as well.", envvar="CRONIUM_CONFIG")
]


def load_or_exit(path: Path | None, *, standalone: bool) -> LoadedConfig:
    """The configuration; when it is wrong, all that is wrong on stderr, and exit code 2."""
    try:
        return load_config(path, os.environ, standalone=standalone)
    except ConfigError as error:
        Console(stderr=True).print(render_problems(error.problems))
        raise typer.Exit(2) from None


@app.command("run")
def run_supervisor(
    config: ConfigOption = None,
    standalone: Annotated[bool, typer.Option("--standalone", help="Bring the queue along: no other backend is needed.")] = False,
) -> None:
    """Run the supervisor in the foreground."""
    from cronium.supervisor.serve import serve

    loaded = load_or_exit(config, standalone=standalone)
    own = loaded.config.monitoring.logging
    configure_logging("supervisor", own.level, own.format)
    console = Console(stderr=True)
    try:
        serve(loaded.config, standalone=standalone, tell=lambda line: console.print(line, highlight=False))
    except (CroniumError, OSError) as error:
        console.print(f"[bold red]cronium-supervisor cannot run:[/] {error}", highlight=False)
        raise typer.Exit(1) from None


def run() -> None:
    """Run the command line; without a command it is `run`."""
    arguments = sys.argv[1:]
    if not arguments or (arguments[0].startswith("-") and arguments[0] not in ("--help", "-h", "--version")):
        arguments = ["run", *arguments]
    app(args=arguments, prog_name="cronium-supervisor")
