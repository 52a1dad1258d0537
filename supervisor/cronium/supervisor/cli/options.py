"""What several commands have in common: their options, and how they end when something is wrong.

Runs in the command line's process. Whatever takes long to load is loaded where it is used.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn, TypeVar

import typer
from rich.console import Console
from rich.markup import escape

from cronium.common.config.units import parse_duration, parse_size
from cronium.common.errors import CroniumError

if TYPE_CHECKING:
    from cronium.common.config.load import LoadedConfig

T = TypeVar("T")
USAGE = 2
"""The exit code for a command line, a configuration or a job that is not valid."""

ConfigOption = Annotated[
    Path | None,
    typer.Option(
        "--config", "-c", metavar="FILE", help="The YAML file; CRONIUM_CONFIG names it as well.", envvar="CRONIUM_CONFIG"
    ),
]
StandaloneOption = Annotated[bool, typer.Option("--standalone", help="Bring the queue along: no other backend is needed.")]
JsonOption = Annotated[bool, typer.Option("--json", help="JSON, for programs.")]
EnvOption = Annotated[
    list[str] | None,
    typer.Option(
        "--env", "-e", metavar="K | K=V", help="A variable of the job's environment; K alone passes ours on, unseen in `ps`."
    ),
]
EnvFileOption = Annotated[
    list[Path] | None, typer.Option("--env-file", metavar="FILE", help="Variables, one K=V (or K) a line; # begins a comment.")
]
TimeoutOption = Annotated[str | None, typer.Option("--timeout", metavar="TIME", help="The script's deadline, as 30s or 5m.")]
UrlOption = Annotated[
    str | None,
    typer.Option("--url", help="The queue's address; otherwise that of this machine's queue.", envvar="CRONIUM_STANDALONE_URL"),
]
TokenFileOption = Annotated[
    Path | None,
    typer.Option("--token-file", metavar="FILE", help="The file with the queue's token.", envvar="CRONIUM_STANDALONE_TOKEN_FILE"),
]


def duration(text: str | None, option: str) -> float | None:
    """Seconds of an option's value. Raises typer.BadParameter."""
    return _parsed(parse_duration, text, option)


def size(text: str | None, option: str) -> int | None:
    """Bytes of an option's value. Raises typer.BadParameter."""
    return _parsed(parse_size, text, option)


def _parsed(parse: Callable[[object], T], text: str | None, option: str) -> T | None:
    if text is None:
        return None
    try:
        return parse(text)
    except ValueError as error:
        raise typer.BadParameter(f"{text!r} {error}", param_hint=option) from None


def load_or_exit(path: Path | None, *, standalone: bool) -> LoadedConfig:
    """The configuration; when it is wrong, all that is wrong on stderr, and exit code 2."""
    from cronium.common.config.load import load_config
    from cronium.common.config.problems import ConfigError
    from cronium.supervisor.cli.config_view import render_problems

    try:
        return load_config(path, os.environ, standalone=standalone)
    except ConfigError as error:
        Console(stderr=True).print(render_problems(error.problems), soft_wrap=True)
        raise typer.Exit(USAGE) from None


def fail(error: CroniumError | OSError | str, code: int = 1, problems: Iterable[Any] = ()) -> NoReturn:
    """Say what is wrong on stderr, with each of its `problems` on a line, and leave with `code`."""
    console = Console(stderr=True)
    console.print(f"[red]✗[/red] {escape(str(error))}", highlight=False, soft_wrap=True)
    for problem in problems:
        console.print(f"    {escape(str(problem))}", highlight=False, soft_wrap=True)
    raise typer.Exit(code)
