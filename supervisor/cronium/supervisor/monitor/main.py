"""The monitor's process, forked by the forkserver. See `loop`."""

from __future__ import annotations

import gc
import signal
from collections.abc import Mapping
from types import FrameType
from typing import Any

from cronium.common.logging import configure_logging, get_logger
from cronium.common.process import set_title
from cronium.supervisor.monitor import serving
from cronium.supervisor.monitor.latest import Latest
from cronium.supervisor.monitor.loop import Loop
from cronium.supervisor.monitor.overseen import Overseen
from cronium.supervisor.monitor.settings import MonitorSettings


def main(fields: Mapping[str, Any]) -> int:
    """Run until SIGTERM; `fields` are those of MonitorSettings. Exit code 1 when that supervisor is gone."""
    settings = MonitorSettings(**fields)
    set_title("monitor")
    configure_logging("monitor", settings.level, settings.log_format)
    gc.freeze()
    overseen = Overseen.above_us(settings.supervisor_pid)
    if overseen is None:
        get_logger().error("this is not the supervisor that started the monitor", pid=settings.supervisor_pid)
        return 1
    signal.signal(signal.SIGTERM, _leave)
    latest = Latest()
    serving.start(settings.host, settings.pages, latest)
    Loop(settings, overseen, latest).run()
    return 0


def _leave(_number: int, _frame: FrameType | None) -> None:
    raise SystemExit(0)  # nothing here has to be brought to an end
