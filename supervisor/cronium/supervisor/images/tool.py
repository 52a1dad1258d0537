"""Running a long command and hearing its lines as they come. Used by the builders, in the command line's process.

It knows nothing of images. Whatever ends the reading (an error, Ctrl-C, a closed generator) also ends the command.
"""

import os
import selectors
import signal
import subprocess
import time
from collections import deque
from collections.abc import Generator, Iterator, Mapping, Sequence

_LAST_LINES = 30
_GRACE_S = 20.0  # mmdebstrap unmounts and removes what it made when it is terminated


class ToolError(Exception):
    """A command failed or took too long; `lines` holds the end of what it said."""

    def __init__(self, command: Sequence[str], why: str, lines: Sequence[str]) -> None:
        super().__init__(f"{command[0]}: {why}")
        self.lines = tuple(lines)


def lines_of(
    command: Sequence[str], *, timeout_s: float, environment: Mapping[str, str] | None = None
) -> Generator[str, None, None]:
    """Run a command and yield each line of its output (both streams), without its end of line.

    Raises ToolError when it cannot be started, ends with a code other than 0, or is not done after `timeout_s`.
    """
    said: deque[str] = deque(maxlen=_LAST_LINES)
    try:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=None if environment is None else {**os.environ, **environment},
            start_new_session=True,  # one signal reaches all of its children, and Ctrl-C comes to us first
        )
    except OSError as error:
        raise ToolError(command, str(error), ()) from error
    try:
        for line in _lines_until(process, time.monotonic() + timeout_s):
            said.append(line)
            yield line
        if process.wait(timeout=_GRACE_S) != 0:
            raise ToolError(command, f"ended with exit code {process.returncode}", said)
    except TimeoutError as error:
        raise ToolError(command, f"not done after {timeout_s:.0f} s", said) from error
    finally:
        _end(process)


def _lines_until(process: subprocess.Popen[bytes], deadline: float) -> Iterator[str]:
    assert process.stdout is not None  # noqa: S101 - it was asked for; tells the type checker
    rest = b""
    with selectors.DefaultSelector() as selector, process.stdout as output:
        selector.register(output, selectors.EVENT_READ)
        while True:
            if not selector.select(max(0.0, deadline - time.monotonic())):
                raise TimeoutError
            piece = os.read(output.fileno(), 65536)
            *lines, rest = (rest + piece).split(b"\n")
            for line in lines:
                yield line.decode(errors="replace").rstrip()
            if not piece:
                break
    if rest:
        yield rest.decode(errors="replace").rstrip()


def _end(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is not None:
        return
    os.killpg(process.pid, signal.SIGTERM)
    try:
        process.wait(timeout=_GRACE_S)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait(timeout=_GRACE_S)
