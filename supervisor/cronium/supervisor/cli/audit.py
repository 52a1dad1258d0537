"""`cronium-supervisor audit`: the record of what was done on servers. `verify` finds out whether somebody changed it."""

from __future__ import annotations

import json

import typer
from rich.console import Console
from rich.markup import escape

from cronium.supervisor.cli.options import ConfigOption, JsonOption, fail, load_or_exit

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    help="Check the record of what was done on servers.",
    epilog="Example: cronium-supervisor audit verify",
)


@app.callback()
def _group() -> None:
    """Check the record of what was done on servers."""


@app.command("verify", epilog="Example: cronium-supervisor audit verify --json")
def verify_command(config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """Check that nothing in the audit log was changed, removed, moved or added.

    Shows the number of the last entry and its hash: noted elsewhere, they also show a log that was written anew as a whole.
    Ends with 0 when all is as it was written, 1 when not (with the file and the line) or when it cannot be read.
    """
    from cronium.common.audit import Fault, verify

    folder = load_or_exit(config, standalone=True).config.audit_dir
    try:
        found = verify(folder)
    except OSError as error:
        step = "run it as the supervisor's user"
        fail(f"the audit log in {folder} cannot be read ({error.strerror}): {step}")
    if isinstance(found, Fault):
        if as_json:
            fault = {"file": str(found.file), "line": found.line, "problem": found.problem}
            typer.echo(json.dumps({"ok": False, "folder": str(folder), "fault": fault}))
            raise typer.Exit(1)
        fail(f"{found}. Keep the folder as it is, find out who was there, and move it away to begin a new log")
    if as_json:
        facts = {"first": found.first, "last": found.last, "files": found.files, "torn": found.torn, "lost": found.lost}
        typer.echo(json.dumps({"ok": True, "folder": str(folder), **facts, "hash": found.hash}))
        return
    console = Console()
    if not found.last:
        console.print(f"Nothing has been written to {escape(str(folder))} yet.", highlight=False, soft_wrap=True)
        return
    count = f"entries {found.first} to {found.last} in {found.files} file{'s' * (found.files > 1)}"
    console.print(f"[green]✓[/green] {escape(str(folder))}: {count} are as they were written", highlight=False, soft_wrap=True)
    if found.torn or found.lost:
        console.print(f"  {found.torn} cut short by a crash, {found.lost} that the disk did not take", highlight=False)
    console.print(f"  last hash {found.hash}", highlight=False, soft_wrap=True)
