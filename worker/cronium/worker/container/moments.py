"""Times that others say, made into ours."""

from __future__ import annotations

import os
import time
from datetime import datetime
from pathlib import Path

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


def engine_ms(text: str) -> int | None:
    """The engine's time (RFC 3339 with nanoseconds) in Unix ms; None for its zero, and for what is none."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return None
    return int(moment.timestamp() * 1000) if moment.year > 1 else None


def age_of(start_ticks: int | None, boot_id: str | None) -> float | None:
    """Seconds since a process was started, whatever clocks were set to meanwhile; None where that was on another boot, or host.

    `start_ticks`: field 22 of /proc/PID/stat (proc(5)), in clock ticks since boot, time asleep included.
    """
    if start_ticks is None or boot_id != _BOOT_ID.read_text(encoding="ascii").strip():
        return None
    return max(0.0, time.clock_gettime(time.CLOCK_BOOTTIME) - start_ticks / os.sysconf("SC_CLK_TCK"))


def age_there(start_ticks: int | None, uptime: bytes) -> float | None:
    """The same on another host, from what its /proc/uptime says now; None where it says nothing.

    Its clock ticks are ours: Linux shows 100 in a second on every machine that an engine runs on.
    """
    words = uptime.split()
    if start_ticks is None or not words:
        return None
    try:
        return max(0.0, float(words[0]) - start_ticks / os.sysconf("SC_CLK_TCK"))
    except ValueError:
        return None
