"""`python -m cronium.supervisor.standalone`: the queue's process. Its settings come on standard input, as JSON or msgpack.

It dies with the parent that the settings name, names itself in `ps`, and keeps what it writes to its owner.
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
import sys

from cronium.common.errors import CroniumError
from cronium.common.logging import configure_logging
from cronium.common.process import OrphanedError, die_with_parent, dump_on_request, set_title
from cronium.supervisor.standalone.server import run
from cronium.supervisor.standalone.settings import read_settings


def main() -> int:
    """Run the queue; the exit code is 0 after SIGTERM, 1 when it could not start, 2 for wrong settings."""
    set_title("standalone queue")
    dump_on_request()
    os.umask(0o077)
    try:
        settings = read_settings(sys.stdin.buffer.read())
    except CroniumError as error:
        sys.stderr.write(f"standalone queue: {error}\n")
        return 2
    configure_logging("standalone", settings.log_level, settings.log_format)
    try:
        if settings.parent_pid:
            die_with_parent(settings.parent_pid)
        asyncio.run(run(settings))
    except (CroniumError, OrphanedError, OSError, sqlite3.Error) as error:
        sys.stderr.write(f"standalone queue: {error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
