"""Loaded by the forkserver beside the workers' modules: all that the streamer and the monitor need, so that they start at once.

Nothing here may start a thread or open a socket: what is forked would have a copy of it that does not work.
"""

from __future__ import annotations

import gc

from cronium.supervisor.monitor import main as monitor
from cronium.supervisor.streamer import main as streamer

gc.collect()
gc.freeze()

__all__ = ["monitor", "streamer"]
