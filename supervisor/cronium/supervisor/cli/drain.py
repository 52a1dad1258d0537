"""`cronium-supervisor drain`: the supervisor on this machine takes no new jobs, waits for those that run, and ends.

Runs in the command line's process. The supervisor is found by the lock on its state folder, told by SIGQUIT, and watched from
outside: how many jobs it still has stands in its journal.
"""

from __future__ import annotations

import fcntl
import json
import os
import select
import signal
import sqlite3
import time
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path
from typing import Annotated

import psutil
import typer
from rich.console import Console

from cronium.supervisor.cli.options import ConfigOption, JsonOption, duration, fail, load_or_exit

app = typer.Typer(add_completion=False)
_LOOK_S = 0.5
_NOT_ALL_DONE = 1
_ROLES = ("cronium: supervisor", "cronium.supervisor", "cronium-supervisor")  # its title, and its command line before that is set
_UNFINISHED = "SELECT state, count(*) FROM job WHERE state != 'done' GROUP BY state"
_UNTIL_IT_ENDS = "a restart before that gives them back to the next supervisor"


@app.command(epilog="Example: cronium-supervisor drain --timeout 10m")
def drain_command(
    wait: Annotated[bool, typer.Option("--wait/--no-wait", help="Wait until it has ended; or only tell it.")] = True,
    timeout: Annotated[
        str | None,
        typer.Option("--timeout", metavar="TIME", help="How long to wait, as 30s or 5m; it drains on after that."),
    ] = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Let the supervisor finish its jobs and end.

    It is the one of this machine with the same state folder; it takes no new jobs from now on. Ends with 0 once it has gone with
    every job finished and reported (with --no-wait: once it was told); with 1 when it has not after --timeout: it drains on then;
    and with 1 when it has ended before that, say because somebody has killed it. Under supervisord it stays ended, as after
    `supervisorctl stop`.
    """
    limit_s = duration(timeout, "--timeout")
    state_dir = load_or_exit(config, standalone=True).config.state_dir
    pid = running_supervisor(state_dir)
    if pid is None:
        fail(f"no supervisor runs with the state folder {state_dir}: is it another one's (CRONIUM_STATE_DIR, --config)?")
    try:
        handle = os.pidfd_open(pid)
    except ProcessLookupError:
        fail(f"the supervisor (process {pid}) has just ended by itself")
    started_s = time.monotonic()
    try:
        signal.pidfd_send_signal(handle, signal.SIGQUIT)  # by the descriptor: the number may be another's in a moment
        gone = wait and _wait(handle, pid, state_dir, None if limit_s is None else started_s + limit_s, as_json=as_json)
    except ProcessLookupError:
        gone = True
    except PermissionError:
        fail(f"the supervisor (process {pid}) belongs to another user: run this as that user, or as root")
    finally:
        os.close(handle)
    states = unfinished(state_dir)
    left = None if states is None else sum(states.values())
    if as_json:
        typer.echo(json.dumps({"pid": pid, "ended": gone, "jobs": left, "seconds": round(time.monotonic() - started_s, 3)}))
    elif gone and left is None:
        journal = state_dir / "journal.db"
        typer.echo(f"the supervisor (process {pid}) has ended, and {journal} cannot be read: start it, it says why", err=True)
    elif gone and left:
        typer.echo(f"the supervisor (process {pid}) has ended too early, {_jobs(left)} to go: start it again", err=True)
    elif gone:
        typer.echo(f"the supervisor (process {pid}) has ended; nothing of it is left to do", err=True)
    else:
        typer.echo(f"the supervisor (process {pid}) is draining, {_jobs(left)} to go; {_UNTIL_IT_ENDS}", err=True)
    raise typer.Exit(_NOT_ALL_DONE if (left != 0 if gone else wait) else 0)


def running_supervisor(state_dir: Path) -> int | None:
    """The process that holds the lock on this folder; None when nobody does. Fails when it cannot be told who it is."""
    path = state_dir / "lock"
    try:
        with path.open() as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                text = lock.read().strip()
            else:
                return None
    except FileNotFoundError:
        return None
    except PermissionError:
        fail(f"{path} cannot be read: run this as the user of the supervisor, or as root")
    pid = int(text) if text.isdigit() else 0
    if pid <= 0 or not _is_ours(pid):
        fail(f"{path} is held, but process {text or '?'} is no supervisor that can be seen from here: is it in a container?")
    return pid


def unfinished(state_dir: Path) -> dict[str, int] | None:
    """How many jobs the journal has in each state but done; None when it cannot be read."""
    path = state_dir / "journal.db"
    if not path.exists():
        return {}
    with suppress(sqlite3.Error), closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=1)) as db:
        return {str(state): int(count) for state, count in db.execute(_UNFINISHED)}
    return None


def _is_ours(pid: int) -> bool:
    try:
        command = " ".join(psutil.Process(pid).cmdline())
    except psutil.Error:
        return False
    return any(word in command for word in _ROLES)


def _wait(handle: int, pid: int, state_dir: Path, give_up_s: float | None, *, as_json: bool) -> bool:
    """Until it has ended, or the time is up; whether it has. Who looks sees how many jobs are left."""
    console = Console(stderr=True, quiet=as_json)
    with console.status(f"Draining the supervisor (process {pid})") as line:
        return _until_gone(handle, give_up_s, lambda: line.update(f"Draining: {_progress(unfinished(state_dir))}"))


def _until_gone(handle: int, give_up_s: float | None, look: Callable[[], None]) -> bool:
    poller = select.poll()
    poller.register(handle, select.POLLIN)  # readable when the process has ended: pidfd_open(2)
    while True:
        look()
        left_s = _LOOK_S if give_up_s is None else min(_LOOK_S, give_up_s - time.monotonic())
        if poller.poll(max(0.0, left_s) * 1000):
            return True
        if give_up_s is not None and time.monotonic() >= give_up_s:
            return False


def _progress(states: dict[str, int] | None) -> str:
    if states is None:
        return "its journal cannot be read just now"
    running = states.get("running", 0)
    others = sum(states.values()) - running
    return f"{_jobs(running)} running" + (f", {others} more to be finished or reported" if others else "")


def _jobs(count: int | None) -> str:
    if count is None:
        return "jobs"
    return f"{count} job{'' if count == 1 else 's'}"
