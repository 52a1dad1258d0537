"""`bin/chaos`: the real program under faults for some minutes, and whether every promise held.

One process with threads: this one (progress, the end), Load (submits), Faults (does harm), Pulse (looks at what arrives). What a
seed fixes is which jobs and which faults come in which order; when exactly a fault meets the program is up to the machine.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

from rich.console import Console
from rich.live import Live
from rich.text import Text

from chaos.check import Result, check_jobs, check_tidy, note_logs
from chaos.faults import Faults
from chaos.load import Load
from chaos.pulse import Pulse
from chaos.report import as_json, show
from chaos.stage import Stage

_SETTLED_WITHIN_S = 240.0
_NO_PROGRESS_S = 120.0
HELD, BROKEN, INTERRUPTED = 0, 1, 130


def main(arguments: list[str] | None = None) -> int:
    """0: every promise held. 1: one did not, or the run itself failed. 130: Ctrl-C."""
    options = _parser().parse_args(arguments)
    signal.signal(signal.SIGTERM, _interrupt)
    console = Console(stderr=True)
    choose = random.Random(options.seed)
    run = Run(options, console, choose)
    try:
        return run.whole()
    except KeyboardInterrupt:
        console.print("Ended; all that was started is gone.")
        return INTERRUPTED


class Run:
    """One run. Each thread has a random generator of its own from the seed, so that none depends on another's pace."""

    def __init__(self, options: argparse.Namespace, console: Console, choose: random.Random) -> None:
        self.options, self.console, self.choose = options, console, choose
        self.result = Result()
        self.last = ""

    def whole(self) -> int:
        """Stage, faults, wait, check, report."""
        options = self.options
        engine = os.environ.get("DOCKER_HOST", "unix:///var/run/docker.sock")
        stage = Stage(engine, random.Random(self.choose.random()), options.concurrent, self._say)
        keep = True
        try:
            with stage:
                self._rage(stage)
                found = self._judge(stage)
            show(Console(), found)
            if options.json:
                options.json.write_text(json.dumps(found, indent=2) + "\n")
            keep = not self.result.held
            return HELD if self.result.held else BROKEN
        except KeyboardInterrupt:
            keep = False
            raise
        finally:
            self._leave(stage, keep)

    def _say(self, text: str) -> None:
        self.console.print(f"{text}…", style="dim", markup=False)

    def _rage(self, stage: Stage) -> None:
        """The minutes of faults."""
        self.pulse = Pulse(Path(stage.queue.settings["database"]))
        self.pulse.start()
        load = Load(stage, self.pulse, random.Random(self.choose.random()), self.options.concurrent * 3 // 2)
        self.faults = Faults(stage, self.pulse, random.Random(self.choose.random()), self.options.pause, tell=self._note(stage))
        self.load = load
        load.start()
        self.faults.start()
        started_s = time.monotonic()
        try:
            with Live(console=self.console, refresh_per_second=4, transient=True) as live:
                while (passed_s := time.monotonic() - started_s) < self.options.minutes * 60 and load.failed is None:
                    live.update(self._line(f"{passed_s:.0f} s of {self.options.minutes * 60:.0f}"))
                    time.sleep(0.25)
        finally:
            self._say(f"faults end after {time.monotonic() - started_s:.0f} s; waiting for the last jobs")
            load.stop()
            self.faults.stop()
        if load.failed is not None:
            self.result.other.append(f"the driver could not submit: {load.failed}")

    def _judge(self, stage: Stage) -> dict[str, object]:
        """Wait for every job's end, then look."""
        waited_s = self._settle()
        check_jobs(stage, self.load.submitted, self.result)
        self.pulse.stop()
        self._say(f"the last jobs took {waited_s:.0f} s; looking for what was left")
        check_tidy(stage, self.result)
        note_logs(stage, self.result)
        self.result.other += self.faults.problems
        options = {"seed": self.options.seed, "minutes": self.options.minutes, "lastJobsS": round(waited_s, 1)}
        done = sorted(self.faults.done, key=lambda one: one.at_s)
        return as_json(options, done, self.faults.kills(), self.pulse, self.result)

    def _settle(self) -> float:
        started_s = progress_s = time.monotonic()
        ended, frames = -1, -1
        with Live(console=self.console, refresh_per_second=4, transient=True) as live:
            while self.pulse.ended < len(self.load.submitted):
                now_s = time.monotonic()
                if (self.pulse.ended, self.pulse.frames) != (ended, frames):
                    ended, frames, progress_s = self.pulse.ended, self.pulse.frames, now_s
                if now_s - progress_s > _NO_PROGRESS_S or now_s - started_s > _SETTLED_WITHIN_S:
                    break
                live.update(self._line("no more faults"))
                time.sleep(0.25)
        return time.monotonic() - started_s

    def _line(self, when: str) -> Text:
        return Text(
            f"{when} · {len(self.load.submitted)} jobs, {self.pulse.ended} ended, {self.pulse.running} running · "
            f"{len(self.faults.done)} faults, {self.faults.kills()} kills · {self.last}",
            overflow="ellipsis",
            no_wrap=True,
        )

    def _note(self, stage: Stage) -> Callable[[float, str], None]:
        """Each fault goes into a file beside the logs, with the time of day at which it began, as they have it."""
        path = stage.folder / "faults.log"

        def note(lasted_s: float, text: str) -> None:
            self.last = text
            begun = datetime.now(UTC) - timedelta(seconds=lasted_s)
            with path.open("a") as file:
                file.write(f"{begun.isoformat(timespec='milliseconds')} {text}\n")

        return note

    def _leave(self, stage: Stage, keep: bool) -> None:
        if not (keep or self.options.keep):
            stage.remove()
            return
        self.console.print(f"Logs, faults and the queue's database are in {stage.folder}", markup=False)
        if keep:
            again = f"bin/chaos --minutes {self.options.minutes:g} --seed {self.options.seed}"
            self.console.print(f"The same jobs and faults again: {again}", markup=False)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("bin/chaos", description=__doc__.split("\n\n")[0])
    parser.add_argument("--minutes", type=float, default=10.0, help="how long faults go on (10; the full run: 60)")
    parser.add_argument("--seed", type=int, default=int.from_bytes(os.urandom(3)), help="of jobs and faults; random if not given")
    parser.add_argument("--concurrent", type=int, default=10, help="jobs at the same time (10)")
    parser.add_argument("--pause", type=float, default=0.9, help="seconds between two faults, on average (0.9)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results there too")
    parser.add_argument("--keep", action="store_true", help="keep the folder with logs and database, also when all held")
    return parser


def _interrupt(number: int, frame: object) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
