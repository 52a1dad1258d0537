"""The command line: which commands there are. Each is a module of this folder with a typer application, loaded when it is called.

Runs in whatever process a person starts; only `run` becomes the supervisor. Help and completion load no more than they need.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

PROGRAM = "cronium-supervisor"
_OF_THE_PROGRAM = ("--help", "-h", "--version", "--install-completion", "--show-completion")


@dataclass(frozen=True, slots=True)
class Entry:
    """A command: the module that has it, and its line in the list of commands."""

    module: str
    help: str


COMMANDS: Mapping[str, Entry] = {
    "run": Entry("run", "Run the supervisor in the foreground (the default)."),
    "validate": Entry("validate", "Check the configuration, and show what is in force."),
    "exec": Entry("exec", "Run one job here, or on a server, without a backend."),
    "submit": Entry("submit", "Submit a job to the standalone queue."),
    "jobs": Entry("jobs", "List the jobs of the standalone queue."),
    "logs": Entry("logs", "Show the lines of a job of the standalone queue."),
    "cancel": Entry("cancel", "End a job of the standalone queue."),
    "status": Entry("status", "Show how the supervisor is."),
    "drain": Entry("drain", "Let the supervisor finish its jobs and end."),
    "images": Entry("images", "Build and list the images that jobs run in."),
    "ssh": Entry("ssh", "Know the servers that jobs run on."),
    "key": Entry("key", "Change the key that what is stored is encrypted with."),
    "audit": Entry("audit", "Check the record of what was done on servers."),
    "quickstart": Entry("quickstart", "Run three jobs here: from nothing to a table of what they did."),
}


class Commands(TyperGroup):
    """The group of all commands: knows their names and lines, and loads the one that is called."""

    def __init__(self, **attributes: Any) -> None:
        super().__init__(**attributes)
        self.commands = {name: TyperCommand(name, help=entry.help) for name, entry in COMMANDS.items()}

    def resolve_command(self, context: Any, arguments: list[str]) -> Any:
        """The command that is called, itself."""
        name, command, rest = super().resolve_command(context, arguments)
        return name, command if name is None else load(name), rest


def load(name: str) -> Any:
    """A command with its options."""
    module = importlib.import_module(f"{__package__}.{COMMANDS[name].module}")
    command = typer.main.get_command(module.app)
    command.name = name
    return command


app = typer.Typer(
    cls=Commands,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["--help", "-h"]},
    epilog=f"Example: {PROGRAM} exec etc/examples/hello.sh",
)


def _version(wanted: bool) -> None:
    if wanted:
        from cronium.common import VERSION

        typer.echo(f"{PROGRAM} {VERSION}")
        raise typer.Exit


@app.callback()
def _program(
    _version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Say which version this is.")
    ] = False,
) -> None:
    """Run Cronium's jobs. Without a command it is `run`."""


def run() -> None:
    """Run the command line; without a command it is `run`."""
    _open_closed_streams()
    arguments = sys.argv[1:]
    if not arguments or (arguments[0].startswith("-") and arguments[0] not in _OF_THE_PROGRAM):
        arguments = ["run", *arguments]
    app(args=arguments, prog_name=PROGRAM)


def _open_closed_streams() -> None:
    """A program that was started with a closed stream would open its own files in its place, and write its output into them."""
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free: open(2)
    sys.stdout = sys.stdout or os.fdopen(1, "w")
    sys.stderr = sys.stderr or os.fdopen(2, "w")
