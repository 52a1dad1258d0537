"""The streamer's process, forked by the forkserver: it gets its settings, with the service token, over the forkserver's pipe."""

from __future__ import annotations

import gc
import signal
import sys
import time
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cronium.common.crypto import KEY_VARIABLE, OLD_KEYS_VARIABLE, load_seal
from cronium.common.errors import CroniumError
from cronium.common.logging import LogFormat, configure_logging, get_logger
from cronium.common.process import set_title
from cronium.supervisor.streamer.ledger import Ledger
from cronium.supervisor.streamer.loop import Loop
from cronium.supervisor.streamer.positions import Positions
from cronium.supervisor.streamer.reading import reading
from cronium.supervisor.streamer.segment import SpoolError
from cronium.supervisor.streamer.settings import StreamerSettings
from cronium.supervisor.streamer.spool import Spool
from cronium.supervisor.streamer.windows import Limits

_SWITCH_INTERVAL_S = 0.0005  # threads that wait for each other's bytes need not wait for each other's time slices


def main(fields: Mapping[str, Any]) -> int:
    """Run until told to stop, by settings given field by field; see `run`."""
    gc.freeze()
    return run(StreamerSettings(**fields))


def run(settings: StreamerSettings) -> int:
    """Run until told to stop; exit code 1 when the spool cannot be used, with the reason in the log."""
    set_title("streamer")
    configure_logging("streamer", settings.log_level, typing.cast("LogFormat", settings.log_format), secrets=(settings.token,))
    sys.setswitchinterval(_SWITCH_INTERVAL_S)
    log = get_logger()
    try:
        loop = _loop(settings)
    except (CroniumError, OSError) as error:
        log.error("the streamer cannot start", error=str(error))  # noqa: TRY400 - the text says it all, and what to do
        return 1
    signal.signal(signal.SIGTERM, lambda _signal, _frame: loop.request_stop())
    try:
        loop.run()
    except SpoolError as error:
        log.error("the streamer ends, to be started anew", error=str(error))  # noqa: TRY400 - the text says it all
        return 1
    except Exception:
        log.exception("the streamer fails; the spool has everything that was taken")
        return 1
    return 0


def _loop(settings: StreamerSettings) -> Loop:
    now_s = time.monotonic()
    spool = Spool(
        Path(settings.spool_dir),
        load_seal(Path(settings.state_dir), {KEY_VARIABLE: settings.key, OLD_KEYS_VARIABLE: settings.old_keys}),
        settings.max_spool_bytes,
        settings.segment_bytes,
        fsync=settings.fsync,
        ready=settings.ready_frames,
    )
    limits = Limits(settings.max_backlog_bytes, settings.lines_per_second, settings.global_lines_per_second)
    with reading(settings, spool) as read:
        positions = Positions(limits, now_s)
        ledger = Ledger(spool, positions, now_s, max_age_s=settings.max_spool_age_s, goes_on=read.goes_on)
    return Loop(settings, spool, ledger)
