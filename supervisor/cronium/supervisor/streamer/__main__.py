"""`python -m cronium.supervisor.streamer`: a streamer by itself, settings on stdin. For tests and measurements of it alone."""

from __future__ import annotations

import signal
import sys

from cronium.common.process import OrphanedError, die_with_parent, dump_on_request
from cronium.supervisor.streamer.main import run
from cronium.supervisor.streamer.settings import StreamerSettings


def main() -> int:
    """See `run`."""
    settings = StreamerSettings.unpack(sys.stdin.buffer.read())
    try:
        die_with_parent(settings.parent_pid)
    except OrphanedError:
        return 0
    dump_on_request()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the terminal's ^C reaches us too; whoever started us decides
    return run(settings)


if __name__ == "__main__":
    sys.exit(main())
