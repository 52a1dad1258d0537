"""`cronium-supervisor status`: how the supervisor on this machine is.

Runs in the command line's process. The supervisor is found by the lock on its state folder, and heard in its runtime folder,
where it says once a second how it is, also while it waits for disk space. One that says nothing makes no progress.
"""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import typer
from rich.console import Console

from cronium.supervisor.cli.options import ConfigOption, JsonOption, fail, load_or_exit

if TYPE_CHECKING:
    from cronium.supervisor.status.report import Report

app = typer.Typer(add_completion=False)
_PATIENCE_S = 3.0
_NOT_WELL = 1


@app.command(epilog="Example: cronium-supervisor status --json")
def status_command(config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """Show how the supervisor is.

    It is the one of this machine with the same state folder. Ends with 0 when it works, also when something is degraded: then it
    says what, and what to do. Ends with 1 when no supervisor runs, or when one says nothing for 3 s. With --json an object with
    status, reasons, jobs, output, servers, processes and more, the same as the health page has it.
    """
    from cronium.supervisor.cli.drain import running_supervisor
    from cronium.supervisor.cli.status_view import status_view

    found = load_or_exit(config, standalone=True).config
    pid = running_supervisor(found.state_dir)
    if pid is None:
        step = "start it (supervisorctl start, or cronium-supervisor run); is it another one's (CRONIUM_STATE_DIR, --config)?"
        _not_well(f"no supervisor runs with the state folder {found.state_dir}: {step}", None, as_json=as_json)
    if not os.access(found.runtime_dir, os.X_OK):
        step = "run this as its user or as root, with the same runtimeDir (CRONIUM_RUNTIME_DIR, --config)"
        _not_well(f"the supervisor (process {pid}) cannot be heard in {found.runtime_dir}: {step}", pid, as_json=as_json)
    report = heard(found.runtime_dir, _PATIENCE_S)
    if report is None:
        step = (
            "it still starts, is stopped (kill -CONT), or hangs. One that hangs is ended by its monitor after twice "
            "workers.hungAfter, and its jobs go on; if this lasts, see its log, and `kill -9` it: supervisord starts it anew"
        )
        _not_well(f"the supervisor (process {pid}) says nothing for {_PATIENCE_S:.0f} s: {step}", pid, as_json=as_json)
    if report.pid != pid:
        step = "give the same stateDir and runtimeDir that it was started with"
        text = f"in {found.runtime_dir} another supervisor speaks (process {report.pid}), not that of {found.state_dir}"
        _not_well(f"{text} (process {pid}): {step}", pid, as_json=as_json)
    if as_json:
        typer.echo(report.to_json().decode())
    else:
        Console().print(status_view(report))


def heard(runtime_dir: Path, within_s: float) -> Report | None:
    """The first report that the supervisor of this folder makes; None when it makes none in that time."""
    import zmq

    from cronium.common.addresses import VITALS, endpoint
    from cronium.common.messages import StatusReport
    from cronium.common.wire import WireError, unpack
    from cronium.supervisor.status.report import Report

    deadline_s = time.monotonic() + within_s
    with zmq.Context() as context, context.socket(zmq.SUB) as socket:
        socket.setsockopt(zmq.LINGER, 0)
        socket.setsockopt(zmq.SUBSCRIBE, b"")
        socket.connect(endpoint(runtime_dir, VITALS))
        while (left_s := deadline_s - time.monotonic()) > 0:
            if not socket.poll(round(left_s * 1000 + 0.5)):
                continue
            try:
                message = unpack(socket.recv(zmq.DONTWAIT))
                if isinstance(message, StatusReport):
                    return Report.from_json(message.report)
            except (zmq.Again, WireError, ValueError):
                continue  # of another version: one that can be read may follow
    return None


def _not_well(text: str, pid: int | None, *, as_json: bool) -> NoReturn:
    if as_json:
        typer.echo(json.dumps({"status": "unhealthy", "reasons": [text], "pid": pid}))
        raise typer.Exit(_NOT_WELL)
    fail(text, _NOT_WELL)
