"""What a person sees of a job that runs in front of them, beside its output; and how they end it.

Runs in the command line's process. It writes to stderr only: if that is a terminal, a line that goes away again as long as there
is no output; and in any case what must be known.
"""

from __future__ import annotations

import errno
import os
import signal
from collections.abc import Mapping

from rich.console import Console
from rich.markup import escape
from rich.status import Status

from cronium.supervisor.cli.interrupts import Interrupts

_WORDS = {"preparing": "Preparing", "running": "Running", "cleaning up": "Cleaning up"}


class Terminal:
    """`descriptors`: where the output goes, by stream. See `cronium.worker.here.Terminal` for what it has to do."""

    def __init__(self, interrupts: Interrupts, descriptors: Mapping[str, int]) -> None:
        self._interrupts = interrupts
        self._heard = 0
        self._console = Console(stderr=True)
        self._line: Status | None = None
        self._shown = {stream for stream, descriptor in descriptors.items() if os.isatty(descriptor)}
        self._at_line_start = True
        self._status = ""
        self.ended_by: int | None = None
        self.write_error: str | None = None

    @property
    def interactive(self) -> bool:
        """Whether a person is looking."""
        return self._console.is_terminal

    def fileno(self) -> int:
        """See `Terminal`."""
        return self._interrupts.fileno()

    def cancelled(self) -> int:
        """See `Terminal`."""
        count = self._interrupts.taken()
        if count != self._heard:
            self._heard = count
            self.ended_by = self.ended_by or self._interrupts.first
            if self.interactive:
                self.told("Ending the job; press Ctrl-C again to kill it." if count == 1 else "Killing the job.")
        return count

    def status(self, status: str) -> None:
        """See `Terminal`."""
        self._status = _WORDS.get(status, status)
        self._show(self._status)

    def progress(self, percentage: float | None, message: str | None) -> None:
        """See `Terminal`."""
        share = "" if percentage is None else f" {percentage:.0f} %"
        self._show(f"{self._status}{share} {escape(message or '')}".rstrip())

    def output(self, stream: str, end: bytes) -> None:
        """See `Terminal`."""
        if stream in self._shown:
            self._hide()
            self._at_line_start = end == b"\n"

    def told(self, text: str) -> None:
        """See `Terminal`."""
        self.print(f"[dim]{escape(text)}[/dim]")

    def broken(self, stream: str, error: OSError) -> None:
        """See `Terminal`. That nobody reads any more is no error: so ends every program of a pipeline."""
        if error.errno == errno.EPIPE:
            self.ended_by = self.ended_by or signal.SIGPIPE
        else:
            self.write_error = f"{stream} cannot be written ({error.strerror}), so the job was ended"

    def print(self, text: str) -> None:
        """Show a line that stays."""
        self._hide()
        if not self._at_line_start:
            self._at_line_start = True
            text = "\n" + text
        self._console.print(text, highlight=False, soft_wrap=True)

    def close(self) -> None:
        """Leave the terminal as it was."""
        self._hide()

    def _show(self, text: str) -> None:
        if not self.interactive or not self._at_line_start:
            return
        if self._line is None:
            self._line = self._console.status(text)
            self._line.start()
        else:
            self._line.update(text)

    def _hide(self) -> None:
        if self._line is not None:
            self._line.stop()
            self._line = None
