"""What each of our processes does first: tie its life to its parent's, name itself, keep its signals in order.

Runs in every role. `PR_SET_PDEATHSIG` follows the *thread* that forked, so roles are started from a thread that lives as long
as its process (prctl(2)).
"""

from __future__ import annotations

import ctypes
import importlib
import os
import signal
from collections.abc import Mapping

import setproctitle

_PR_SET_PDEATHSIG = 1  # linux/prctl.h
_libc = ctypes.CDLL(None, use_errno=True)


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


def run_by_name(module: str, settings: Mapping[str, object]) -> None:
    """Call `main(settings)` of a module that the caller does not import itself: how the supervisor starts a worker."""
    importlib.import_module(module).main(settings)


def set_title(role: str) -> None:
    """Show the role in `ps`, e.g. `cronium: worker 3 (container)`."""
    setproctitle.setproctitle(f"cronium: {role}")
