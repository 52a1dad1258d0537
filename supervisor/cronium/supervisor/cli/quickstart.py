"""`cronium-supervisor quickstart`: a supervisor with its own queue, three jobs, their output live, and a table at the end.

Runs in the command line's process; the supervisor is a child, the jobs go in and come out through its queue.
"""

import queue
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import datetime
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from cronium.common.errors import CroniumError
from cronium.common.job import ScriptType
from cronium.supervisor.cli.own_supervisor import OwnSupervisor, start_supervisor
from cronium.supervisor.standalone.client import LogLine

app = typer.Typer(add_completion=False)

_JOB_TIMEOUT_S = 120.0
_EXAMPLES = {ScriptType.BASH: "hello.sh", ScriptType.PYTHON: "hello.py", ScriptType.NODE: "hello.js"}
_COLOURS = {ScriptType.BASH: "green", ScriptType.PYTHON: "cyan", ScriptType.NODE: "magenta"}


_SEE_LOG = "Next: run it with `--keep`, and see the supervisor's log."


class FollowError(CroniumError):
    """The jobs could not be followed to their end. The message ends with what to do next."""


@dataclass(frozen=True, slots=True)
class Line:
    """A job printed a line, seen `after_s` seconds after it was submitted."""

    script: ScriptType
    line: LogLine
    after_s: float


@dataclass(frozen=True, slots=True)
class Ended:
    """A job is over; `job` is all the queue knows about it, or there is a `problem` with following it."""

    script: ScriptType
    job: Mapping[str, Any]
    problem: str = ""


@dataclass(slots=True)
class Result:
    """What the table shows of a job."""

    script: ScriptType
    ended: bool = False
    first_line_s: float | None = None
    job: Mapping[str, Any] = field(default_factory=dict)
    problem: str = ""

    @property
    def completed(self) -> bool:
        """Whether it ended as it should."""
        return self.job.get("status") == "completed"

    @property
    def duration_s(self) -> float | None:
        """How long it ran, by the times the queue was told; None if it did not."""
        if self.job.get("startedAt") is None or self.job.get("endedAt") is None:
            return None
        ran = datetime.fromisoformat(self.job["endedAt"]) - datetime.fromisoformat(self.job["startedAt"])
        return ran.total_seconds()

    @property
    def why(self) -> str:
        """Why it did not complete, for people."""
        error = self.job.get("error") or {}
        return self.problem or str(error.get("message") or f"ended as {self.job.get('status')}. {_SEE_LOG}")


@app.command(epilog="Example: cronium-supervisor quickstart --keep")
def quickstart_command(
    keep: Annotated[
        bool, typer.Option("--keep", help="Leave the supervisor running afterwards, with its usual folders and port.")
    ] = False,
) -> None:
    """Run three jobs here: from nothing to a table of what they did.

    Starts a supervisor with the standalone queue, submits a bash, a Python and a Node job, and shows what they print.
    Ends with 0 only if all three completed.
    """
    console = Console()
    try:
        with ExitStack() as cleanup:
            overrides = {} if keep else _of_its_own(cleanup)
            supervisor = start_supervisor(overrides)
            cleanup.callback(_stop, supervisor, console)
            with console.status("Starting the supervisor"):
                supervisor.wait_until_ready()
            results = run_jobs(supervisor, console)
            supervisor.raise_if_ended()
            if keep:
                cleanup.pop_all()
    except CroniumError as error:
        console.print(f"[red]✗[/red] {escape(str(error))}", highlight=False)
        raise typer.Exit(1) from error
    console.print(results_table(results))
    for result in results:
        if not result.completed:
            console.print(f"[red]✗[/red] {result.script}: {escape(result.why)}", highlight=False)
    console.print(_how_to_go_on(supervisor if keep else None), highlight=False)
    raise typer.Exit(0 if all(result.completed for result in results) else 1)


def _of_its_own(cleanup: ExitStack) -> dict[str, str]:
    """Settings that meet no other installation: folders that go away again, and any free ports."""
    folder = Path(cleanup.enter_context(tempfile.TemporaryDirectory(prefix="cronium-")))
    return {
        "CRONIUM_STATE_DIR": str(folder / "state"),
        "CRONIUM_RUNTIME_DIR": str(folder / "run"),
        "CRONIUM_STANDALONE_PORT": "0",
        "CRONIUM_MONITORING_HEALTH_PORT": "0",
        "CRONIUM_MONITORING_METRICS_PORT": "0",
    }


def _stop(supervisor: OwnSupervisor, console: Console) -> None:
    with console.status("Stopping the supervisor"):
        supervisor.stop()


def run_jobs(supervisor: OwnSupervisor, console: Console) -> list[Result]:
    """Submit the three jobs at once and show their lines as they come, until all have ended."""
    happened: queue.Queue[Line | Ended] = queue.Queue()
    results = {script: Result(script) for script in _EXAMPLES}
    for script in results:
        threading.Thread(target=_follow, args=(supervisor, script, happened), daemon=True).start()
    columns = (SpinnerColumn(), TextColumn("{task.fields[script]:<6}"), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        tasks = {script: progress.add_task("waiting for its first line", script=script) for script in results}
        while running := sum(not result.ended for result in results.values()):
            try:
                event = happened.get(timeout=_JOB_TIMEOUT_S)
            except queue.Empty:
                raise FollowError(f"Nothing was heard of {running} job(s) for {_JOB_TIMEOUT_S:.0f} s. {_SEE_LOG}") from None
            if isinstance(event, Line):
                progress.update(tasks[event.script], description="running")
            else:
                progress.remove_task(tasks[event.script])
            _take(event, results[event.script], console)
    return list(results.values())


def _follow(supervisor: OwnSupervisor, script: ScriptType, happened: queue.Queue[Line | Ended]) -> None:
    """In a thread of its own: submit a job and tell what it does."""
    try:
        with supervisor.client() as client:
            content = (files(__package__) / "examples" / _EXAMPLES[script]).read_text()
            begun = time.monotonic()
            job = client.submit({"script": {"type": script.value, "content": content}})
            for line in client.logs(job.id, follow=True):
                happened.put(Line(script, line, time.monotonic() - begun))
            happened.put(Ended(script, client.wait(job.id, _JOB_TIMEOUT_S)))
    except (CroniumError, TimeoutError, OSError) as error:
        happened.put(Ended(script, {}, str(error)))


def _take(event: Line | Ended, result: Result, console: Console) -> None:
    match event:
        case Line(script, line, after_s):
            if result.first_line_s is None:
                result.first_line_s = after_s
            console.print(f"[{_COLOURS[script]}]{script:<6}[/] │ {escape(line.line)}", highlight=False)
        case Ended(_, job, problem):
            result.ended, result.job, result.problem = True, job, problem


def results_table(results: Sequence[Result]) -> Table:
    """What the three jobs did."""
    table = Table("job", "executor", "first line", "duration", "exit code", "status", box=None, header_style="dim")
    for result in results:
        colour = "green" if result.completed else "red"
        table.add_row(
            result.script.value,
            str(result.job.get("executor", "")),
            "" if result.first_line_s is None else f"{1000 * result.first_line_s:.0f} ms",
            "" if result.duration_s is None else f"{result.duration_s:.2f} s",
            "" if result.job.get("exitCode") is None else str(result.job["exitCode"]),
            f"[{colour}]{result.job.get('status', 'unknown')}[/]",
        )
    return table


def _how_to_go_on(left_running: OwnSupervisor | None) -> str:
    if left_running is None:
        return (
            "\nNext: [bold]bin/quickstart --keep[/] leaves it running; [bold]bin/cronium-supervisor exec SCRIPT[/] runs one "
            "job without a queue;\nthe README says how to use it with a Cronium backend."
        )
    return (
        f"\nThe supervisor goes on as process {left_running.process.pid}, its queue at {left_running.url}, its log in "
        f"{left_running.log}.\nNext: [bold]bin/cronium-supervisor submit FILE --follow[/], [bold]jobs[/], "
        f"[bold]logs JOB[/]; [bold]kill {left_running.process.pid}[/] stops it."
    )
