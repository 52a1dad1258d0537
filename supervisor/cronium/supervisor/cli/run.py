"""`cronium-supervisor run`: this process becomes the supervisor."""

from __future__ import annotations

import typer
from rich.console import Console
from rich.text import Text

from cronium.supervisor.cli.options import ConfigOption, StandaloneOption, fail, load_or_exit

app = typer.Typer(add_completion=False)


@app.command(epilog="Example: cronium-supervisor run --standalone")
def run_command(config: ConfigOption = None, standalone: StandaloneOption = False) -> None:
    """Run the supervisor in the foreground (the default).

    Ctrl-C waits for the jobs that run; Ctrl-C again ends them. SIGTERM stops as jobs.onStop says.
    """
    from cronium.common.errors import CroniumError
    from cronium.common.logging import configure_logging
    from cronium.supervisor.start import start

    loaded = load_or_exit(config, standalone=standalone)
    own = loaded.config.monitoring.logging
    configure_logging("supervisor", own.level, own.format)
    console = Console(stderr=True)
    try:
        code = start(loaded.config, standalone=standalone, tell=lambda line: console.print(Text(line), soft_wrap=True))
    except (CroniumError, OSError) as error:
        fail(f"cronium-supervisor cannot run: {error}")
    raise typer.Exit(code)
