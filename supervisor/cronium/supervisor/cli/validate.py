"""`cronium-supervisor validate`: what the configuration comes to, or all that is wrong with it."""

from __future__ import annotations

import json
import os

import typer
from rich.console import Console

from cronium.supervisor.cli.options import USAGE, ConfigOption, JsonOption, StandaloneOption

app = typer.Typer(add_completion=False)


@app.command(epilog="Example: cronium-supervisor validate --config etc/cronium-orchestrator.yaml")
def validate_command(config: ConfigOption = None, standalone: StandaloneOption = False, as_json: JsonOption = False) -> None:
    """Check the configuration, and show what is in force.

    Every key with its value, secrets hidden, and where the value came from. Ends with 2 and all problems at once when something
    is wrong. With --standalone the backend's address and token may be missing.
    """
    from cronium.common.config.load import load_config
    from cronium.common.config.problems import ConfigError
    from cronium.supervisor.cli.config_view import effective_dict, problems_dict, render_effective, render_problems

    try:
        loaded = load_config(config, os.environ, standalone=standalone)
    except ConfigError as error:
        if as_json:
            typer.echo(json.dumps(problems_dict(error.problems), indent=2))
        else:
            Console(stderr=True).print(render_problems(error.problems), soft_wrap=True)
        raise typer.Exit(USAGE) from None
    if as_json:
        typer.echo(json.dumps(effective_dict(loaded), indent=2))
    else:
        Console().print(render_effective(loaded))
