"""The streamer as a process: settings from stdin, then the loop."""

from __future__ import annotations

import os
import signal
import sys
import time
import typing
from pathlib import Path

from cronium.common.crypto import load_seal
from cronium.common.errors import CroniumError
from cronium.common.logging import LogFormat, configure_logging, get_logger
from cronium.common.process import OrphanedError, die_with_parent, set_title
from cronium.supervisor.streamer.ledger import Ledger
from cronium.supervisor.streamer.loop import Loop
from cronium.supervisor.streamer.positions import Positions
from cronium.supervisor.streamer.settings import StreamerSettings
from cronium.supervisor.streamer.spool import Spool
from cronium.supervisor.streamer.windows import Limits

_SWITCH_INTERVAL_S = 0.0005  # threads that wait for each other's bytes need not wait for each other's time slices


def main() -> int:
    """Run until told to stop; exit code 1 when the spool cannot be used, with the reason in the log."""
    settings = StreamerSettings.unpack(sys.stdin.buffer.read())
    try:
        die_with_parent(settings.parent_pid)
    except OrphanedError:
        return 0
    set_title("streamer")
    configure_logging("streamer", settings.log_level, typing.cast("LogFormat", settings.log_format), secrets=(settings.token,))
    sys.setswitchinterval(_SWITCH_INTERVAL_S)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the terminal's ^C reaches us too; the supervisor decides
    log = get_logger()
    try:
        loop = _loop(settings)
    except (CroniumError, OSError) as error:
        log.error("the streamer cannot start", error=str(error))  # noqa: TRY400 - the text says it all, and what to do
        return 1
    signal.signal(signal.SIGTERM, lambda _signal, _frame: loop.request_stop())
    try:
        loop.run()
    except Exception:
        log.exception("the streamer fails; the spool has everything that was taken")
        return 1
    return 0


def _loop(settings: StreamerSettings) -> Loop:
    now_s = time.monotonic()
    spool = Spool(
        Path(settings.spool_dir),
        load_seal(Path(settings.state_dir), os.environ),
        settings.max_spool_bytes,
        settings.segment_bytes,
        fsync=settings.fsync,
        ready=settings.ready_frames,
    )
    limits = Limits(settings.max_backlog_bytes, settings.lines_per_second, settings.global_lines_per_second)
    return Loop(settings, spool, Ledger(spool, Positions(limits, now_s), now_s))


if __name__ == "__main__":
    sys.exit(main())
