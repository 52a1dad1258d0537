"""Loaded by the forkserver beside the workers' modules: all that the streamer and the monitor need, so that they start at once.

Nothing here may start a thread or open a socket: what is forked would have a copy of it that does not work.
"""

from __future__ import annotations

import gc

gc.disable()  # as in the workers' preload

from cronium.supervisor.monitor import main as monitor  # noqa: E402
from cronium.supervisor.streamer import main as streamer  # noqa: E402

gc.freeze()
gc.enable()

__all__ = ["monitor", "streamer"]
