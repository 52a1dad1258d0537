"""The lines of a job on their way from the queue to our standard streams, as they were.

Runs in the command line's process.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from cronium.supervisor.standalone.client import LogLine

_DIM, _PLAIN = b"\x1b[2m", b"\x1b[0m"


def show_lines(lines: Iterable[LogLine], *, as_json: bool) -> None:
    """Write each line to the stream it came from, those of `system` to stderr; or all as JSON to stdout."""
    write = _as_json if as_json else _Plain().write
    for line in lines:
        write(line)


@contextmanager
def reader_may_leave() -> Iterator[None]:
    """A reader of our output that goes away ends us as it ends any program of a pipeline."""
    from cronium.supervisor.cli import exit_codes

    try:
        yield
        sys.stdout.flush()
    except BrokenPipeError:
        # What is still buffered would be written, and complained about, when the interpreter ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise typer.Exit(exit_codes.of_signal(signal.SIGPIPE)) from None


class _Plain:
    """Lines as text. A line that came in pieces is put together again."""

    def __init__(self) -> None:
        self._coloured = sys.stderr.isatty()

    def write(self, line: LogLine) -> None:
        text = line.line.encode("utf-8", "replace")
        if line.server is not None:
            text = f"{line.server}: ".encode() + text
        end = b"" if line.continued else b"\n"
        match line.stream:
            case "stdout":
                output = sys.stdout.buffer
            case "stderr":
                output = sys.stderr.buffer
            case _:
                output = sys.stderr.buffer
                text = _DIM + text + _PLAIN if self._coloured else text
        output.write(text + end)
        output.flush()


def _as_json(line: LogLine) -> None:
    import json

    fields = asdict(line)
    fields["timestamp"] = fields.pop("timestamp_ms")
    if fields["server"] is None:
        del fields["server"]
    sys.stdout.write(json.dumps(fields) + "\n")
    sys.stdout.flush()
