"""`cronium-supervisor key`: the key that everything on our disk is encrypted with. `rotate` makes a new one.

Runs in the command line's process, as the supervisor's user; a supervisor that runs is not disturbed.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import typer
from rich.console import Console
from rich.markup import escape

from cronium.supervisor.cli.options import ConfigOption, JsonOption, fail, load_or_exit

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    help="Change the key that what is stored is encrypted with.",
    epilog="Example: cronium-supervisor key rotate",
)


@app.callback()
def _group() -> None:
    """Change the key that what is stored is encrypted with."""


@app.command("rotate", epilog="Example: cronium-supervisor key rotate --json")
def rotate_command(config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """Make a new key; those before it only open what they have closed.

    It becomes the first line of encryption.key in the state folder, and of that of the standalone queue if there is one. It is
    used from the next start on: the journal is encrypted anew then. Ends with 1 when nothing could be changed.
    """
    from cronium.common.crypto import KEY_FILE, KEY_VARIABLE, OLD_KEYS_VARIABLE, SealError, rotate
    from cronium.supervisor.serve import QUEUE_DIR

    state_dir = load_or_exit(config, standalone=True).config.state_dir
    if os.environ.get(KEY_VARIABLE):
        fail(
            f"the key comes from {KEY_VARIABLE}, not from a file: make one with 'openssl rand -base64 32', give it in that, "
            f"put the one before into {OLD_KEYS_VARIABLE}, and start the supervisor again"
        )
    folders = [folder for folder in (state_dir, state_dir / QUEUE_DIR) if (folder / KEY_FILE).exists()]
    if not folders:
        fail(
            f"there is no {KEY_FILE} in {state_dir} yet, it is made at the first start: is the folder right (CRONIUM_STATE_DIR)?"
        )
    done: dict[Path, str] = {}
    for folder in folders:
        try:
            done[folder / KEY_FILE] = rotate(folder).key_id
        except SealError as error:
            fail(error)
        except OSError as error:
            fail(f"{folder / KEY_FILE} could not be changed ({error.strerror}): run this as the supervisor's user")
    if as_json:
        typer.echo(json.dumps({"keys": [{"file": str(path), "id": key_id} for path, key_id in done.items()]}))
        return
    console = Console()
    for path, key_id in done.items():
        line = f"[green]✓[/green] {escape(str(path))}: new key {key_id} on its first line"
        console.print(line, highlight=False, soft_wrap=True)
    console.print(
        "  Start the supervisor again to use it (jobs go on). The lines below the first may go once what was written with them "
        "is gone: output that waits for the backend (logging.spool.maxAge), jobs that the standalone queue remembers.",
        highlight=False,
        soft_wrap=True,
    )
