"""`cronium-supervisor exec`: one job in this process, with the code that a worker runs, and without a backend.

The job's places are in a folder of their own below the state folder: a supervisor that uses it is not disturbed.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import secrets
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cronium.supervisor.cli.options import (
    USAGE,
    ConfigOption,
    EnvFileOption,
    EnvOption,
    TimeoutOption,
    duration,
    fail,
    load_or_exit,
    size,
)

if TYPE_CHECKING:
    from cronium.common.config.load import LoadedConfig
    from cronium.supervisor.cli.terminal import Terminal

app = typer.Typer(add_completion=False)
FOLDER = "exec"
_DRIVER = "cronium.worker.here"
_DESCRIPTORS = {"stdout": 1, "stderr": 2}
_EVIDENT = frozenset({"script_exit", "signal", "cancelled"})  # the exit code says it, and stderr belongs to the script


@app.command(epilog="Example: cronium-supervisor exec etc/examples/hello.py --timeout 30s --env NAME=world")
def exec_command(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A script (.sh, .py, .js, or by its #! line), or a job (.json).")],
    env: EnvOption = None,
    env_file: EnvFileOption = None,
    timeout: TimeoutOption = None,
    image: Annotated[str | None, typer.Option("--image", metavar="REF", help="The image, one of the allowed.")] = None,
    cpu: Annotated[float | None, typer.Option("--cpu", metavar="CORES", help="CPU cores, as 0.5.")] = None,
    memory: Annotated[str | None, typer.Option("--memory", metavar="SIZE", help="Memory, as 64MB.")] = None,
    network: Annotated[str | None, typer.Option("--network", help="none, bridge, or one of the allowed.")] = None,
    output_dir: Annotated[
        Path | None, typer.Option("--output-dir", metavar="DIR", help="Save what the job left in $CRONIUM_OUTPUT_DIR here.")
    ] = None,
    outcome: Annotated[
        Path | None, typer.Option("--outcome", metavar="FILE", help="Write how it ended, with its results, here as JSON.")
    ] = None,
    ssh: Annotated[
        list[str] | None,
        typer.Option("--ssh", metavar="USER@HOST[:PORT]", help="Run it on this server instead; more than one: on each of them."),
    ] = None,
    identity: Annotated[
        Path | None,
        typer.Option("--identity", "-i", metavar="FILE", help="Private key for --ssh; otherwise ssh.keyPath, or one of ~/.ssh."),
    ] = None,
    config: ConfigOption = None,
) -> None:
    """Run one job here, or on a server, without a backend.

    What the script prints comes out as it is, stdout on stdout and stderr on stderr. Ctrl-C ends the job, Ctrl-C again kills it.

    Ends with the script's exit code; 124 after its deadline, 125 if it could not be run, 2 if it is not valid, 130 after Ctrl-C
    (as other signals: 128 and its number).
    """
    from cronium.supervisor.cli.job_file import JobFileError, JobOptions, read_environment, read_job
    from cronium.supervisor.cli.job_target import aim_at

    try:
        options = JobOptions(
            environment=read_environment(env or (), env_file or (), os.environ),
            timeout_s=duration(timeout, "--timeout"),
            image=image,
            network=network,
            cpu=cpu,
            memory_bytes=size(memory, "--memory"),
        )
        job = read_job(file, options)
        loaded = load_or_exit(config, standalone=True)
        aim_at(job, tuple(ssh or ()), identity, loaded.config.ssh.key_path)
    except JobFileError as error:
        fail(error, USAGE)
    job.setdefault("id", file.stem or "job")
    raise typer.Exit(_run(loaded, job, output_dir, outcome))


def _run(loaded: LoadedConfig, job: dict[str, Any], output_dir: Path | None, outcome_file: Path | None) -> int:
    from cronium.common.errors import ExecutionError
    from cronium.common.job import InvalidJobError
    from cronium.common.logging import hiding
    from cronium.common.messages import Outcome
    from cronium.supervisor.cli import exit_codes
    from cronium.supervisor.cli.interrupts import Interrupts
    from cronium.supervisor.cli.outcome_view import outcome_dict, save_files
    from cronium.supervisor.cli.terminal import Terminal

    _log_for_people(loaded)
    settings = _settings(loaded)
    values = [str(value) for value in (job["execution"].get("environment") or {}).values()]
    with Interrupts() as interrupts, hiding(values):
        terminal = Terminal(interrupts, _DESCRIPTORS)
        try:
            ended: Outcome = importlib.import_module(_DRIVER).main(
                settings, json.dumps(job).encode(), secrets.token_hex(4), terminal, _DESCRIPTORS
            )
        except InvalidJobError as error:
            terminal.close()
            fail("this job cannot be run here:", USAGE, error.problems)
        except ExecutionError as error:
            now_ms = error.timestamp_ms
            status = "cancelled" if error.reason == "cancelled" else "failed"
            ended = Outcome(status, None, error.report(), now_ms, now_ms)
        finally:
            terminal.close()
        try:
            if output_dir is not None:
                save_files(ended.results.files, output_dir)
            if outcome_file is not None:
                outcome_file.write_text(json.dumps(outcome_dict(ended)) + "\n")
        except OSError as error:
            terminal.print(f"[red]✗[/red] the results cannot be saved: {error}")
            return exit_codes.NOT_RUN
        _tell(ended, terminal, output_dir)
        if terminal.write_error is not None:
            return exit_codes.NOT_RUN
        return exit_codes.of_job(ended.status, ended.exit_code, ended.error.reason if ended.error else None, terminal.ended_by)


def _tell(outcome: Any, terminal: Terminal, output_dir: Path | None) -> None:
    from rich.markup import escape

    from cronium.supervisor.cli.outcome_view import outcome_lines

    if terminal.interactive:
        for line in outcome_lines(outcome, output_dir):
            terminal.print(line)
    for problem in outcome.results.problems:
        terminal.told(problem)
    if terminal.write_error is not None:
        terminal.print(f"[red]✗[/red] {escape(terminal.write_error)}: make room there, or write elsewhere")
    elif outcome.error is not None and (terminal.interactive or outcome.error.reason not in _EVIDENT):
        terminal.print(f"[red]✗[/red] {escape(outcome.error.message)}")


def _settings(loaded: LoadedConfig) -> dict[str, object]:
    """Those of a worker whose installation nobody else has."""
    from cronium.common.ids import installation_id
    from cronium.supervisor.pool.settings import worker_settings

    folder = _folder(loaded.config.state_dir)
    installation = f"{FOLDER}-{installation_id(folder)}"
    own = {
        "name": FOLDER,
        "number": 0,
        "state_dir": folder,
        "runtime_dir": folder,
        "audit_dir": folder.parent / loaded.config.audit_dir.name,
    }
    return {**worker_settings(loaded.config, installation), **own}


def _folder(state_dir: Path) -> Path:
    """Where places go: below the state folder, or below a user's own one where that is somebody else's."""
    from cronium.common.config.dirs import default_state_dir

    for parent in (state_dir, default_state_dir(os.environ, os.geteuid())):
        folder = parent / FOLDER
        with contextlib.suppress(OSError):  # read-only, somebody else's, no folder: the next one is tried
            parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            folder.mkdir(mode=0o700, exist_ok=True)
        if os.access(folder, os.W_OK | os.X_OK):
            return folder
    return fail(f"{state_dir / FOLDER} cannot be written: name another folder (CRONIUM_STATE_DIR)", USAGE)


def _log_for_people(loaded: LoadedConfig) -> None:
    """Our own entries would stand between the script's: only warnings, as long as nobody asks for more."""
    from cronium.common.config.load import DEFAULT_SOURCE
    from cronium.common.logging import configure_logging

    own, sources = loaded.config.monitoring.logging, loaded.sources
    level = "warning" if sources["monitoring.logging.level"] == DEFAULT_SOURCE else own.level
    plain = sources["monitoring.logging.format"] == DEFAULT_SOURCE
    configure_logging(FOLDER, level, "console" if plain else own.format)
