"""Loaded by the forkserver before any worker is forked: all that workers need, once, shared by all of them.

Also ties the forkserver to the supervisor: killed with it, so that no worker outlives its supervisor (DESIGN.md, 'Who dies
with whom'). Workers in turn die with the forkserver.
"""

from __future__ import annotations

import contextlib
import gc
import os
import signal
import tempfile

gc.disable()  # all that is loaded stays: to look through it again and again meanwhile takes a tenth of the time

from inotify_simple import INotify  # noqa: E402

from cronium.common import wire  # noqa: E402
from cronium.common.process import die_with_parent, dump_on_request, set_title  # noqa: E402
from cronium.worker import main  # noqa: E402

SUPERVISOR_PID_VARIABLE = "CRONIUM_SUPERVISOR_PID"
RUNTIME_DIR_VARIABLE = "CRONIUM_FORKSERVER_DIR"

if (_supervisor := os.environ.get(SUPERVISOR_PID_VARIABLE)) is not None:
    die_with_parent(int(_supervisor))
    set_title("forkserver")
    dump_on_request()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGQUIT, signal.SIG_IGN)
    wire.build_codecs()
    with contextlib.suppress(OSError):  # the first one asks ldconfig where libc is
        INotify().close()
    tempfile.tempdir = os.environ.get(RUNTIME_DIR_VARIABLE)
    gc.freeze()
gc.enable()

__all__ = ["main"]
