"""What each of our processes does first: tie its life to its parent's, name itself, keep its signals in order.

Runs in every role. `PR_SET_PDEATHSIG` follows the *thread* that forked, so roles are started from a thread that lives as long
as its process (prctl(2)).
"""

from __future__ import annotations

import ctypes
import faulthandler
import importlib
import os
import signal
import sys
from collections.abc import Mapping

import setproctitle

_PR_SET_PDEATHSIG = 1  # linux/prctl.h
_libc = ctypes.CDLL(None, use_errno=True)
# Whoever has loaded this module: of a process that was forked the forkserver. A child that asked for its parent itself could get
# an answer from after the forkserver's death, and would live on.
_LOADED_BY = os.getpid()


class OrphanedError(RuntimeError):
    """The parent was gone before its death could be watched."""


def die_with_parent(parent_pid: int) -> None:
    """Have the kernel kill this process when its parent dies.

    Raises OrphanedError when the parent already is another one: it died before the request. Raises OSError when refused.
    """
    if _libc.prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG) was refused")
    if os.getppid() != parent_pid:
        raise OrphanedError(f"parent {parent_pid} is gone")


def dump_on_request() -> None:
    """On SIGUSR2 write where all threads are to stderr: what is asked of a process that makes no progress, before it is ended."""
    faulthandler.register(signal.SIGUSR2)


def run_forked(module: str, settings: Mapping[str, object]) -> None:
    """A forked process: it dies with the forkserver, leaves the terminal's signals to the supervisor, and calls `main(settings)`.

    `module` is one that the caller does not import itself. What `main` returns is the exit code, None is 0.
    """
    try:
        die_with_parent(_LOADED_BY)
    except OrphanedError:
        sys.exit()
    dump_on_request()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGQUIT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    sys.exit(importlib.import_module(module).main(settings))


def set_title(role: str) -> None:
    """Show the role in `ps`, e.g. `cronium: worker 3 (container)`."""
    setproctitle.setproctitle(f"cronium: {role}")
