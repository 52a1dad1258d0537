"""Where paramiko's transport is not as we need it."""

from __future__ import annotations

import socket
import threading
import time

from cronium.worker.ssh.guard import Guard
from cronium.worker.ssh.transport import SshTransport


def test_a_connection_may_die_while_a_channel_is_opened() -> None:
    """paramiko's thread tells all who wait for a channel; one more meanwhile was its end, with a traceback and an open socket."""
    near, far = socket.socketpair()
    with far:
        transport = SshTransport(Guard(near, time.monotonic() + 60, 60), (), 60)
        transport.channel_events[0] = threading.Event()
        for number, event in enumerate(transport.channel_events.values(), 1):
            event.set()
            transport.channel_events[number] = threading.Event()  # what another thread does
        assert [event.is_set() for event in transport.channel_events.values()] == [True, False]
        transport.stop()
        assert near.fileno() == -1
