"""Where our processes find each other: `ipc://` sockets in the runtime directory, which only its owner can enter (0700)."""

from __future__ import annotations

from pathlib import Path

SUPERVISOR = "supervisor.sock"  # ROUTER of the supervisor: workers, streamer and monitor connect with their name as identity
OUTPUT = "output.sock"  # PULL of the streamer: Open and Batch
POSITIONS = "positions.sock"  # XPUB of the streamer: [worker's name, Said]
VITALS = "vitals.sock"  # PUB of the supervisor: SupervisorBeat, StatusReport
STREAMER_IDENTITY = b"streamer"
MONITOR_IDENTITY = b"monitor"
WELCOME = b"welcome"  # topic of what the XPUB says to each new subscriber; every worker subscribes to it too


def endpoint(runtime_dir: Path, name: str) -> str:
    """The zmq endpoint of one of the sockets above."""
    return f"ipc://{runtime_dir / name}"
