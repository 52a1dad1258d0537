"""A bare WebSocket peer in a process of its own: acknowledges every frame, keeps them, and says what came and when.

For measurements: it unpacks no more of a frame than its id, as long as frames come. `python -m peers.ack_peer` prints its
port, and at end of input one JSON line of what it got.
"""

from __future__ import annotations

import gzip
import json
import re
import subprocess
import sys
import threading
import time
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from websockets.exceptions import ConnectionClosed
from websockets.sync.server import ServerConnection, serve

_ID = re.compile(rb'"id":\s*(\d+)')


@dataclass
class Received:
    """Frames by the time they came (Unix seconds)."""

    frames: list[tuple[float, bytes]] = field(default_factory=list)

    def handle(self, connection: ServerConnection) -> None:
        try:
            connection.recv(timeout=10)
            connection.send('{"type":"ack","payload":{"messageId":null,"success":true}}')
            for raw in connection:
                now = time.time()
                data = raw.encode() if isinstance(raw, str) else raw
                head = data[:200] if isinstance(raw, str) else zlib.decompressobj(31).decompress(data, 200)
                found = _ID.search(head)
                if found is None:
                    continue  # a ping
                if b'"log"' in head:
                    self.frames.append((now, data))
                connection.send(f'{{"type":"ack","payload":{{"messageId":{found[1].decode()},"success":true}}}}')
        except (ConnectionClosed, TimeoutError):
            pass

    def summary(self) -> dict[str, Any]:
        """Jobs with the times of their first and last line, and how many lines came (each once)."""
        jobs: dict[str, dict[str, Any]] = {}
        for at, data in self.frames:
            text = gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data
            entries = json.loads(text)["payload"]
            job = jobs.setdefault(entries[0]["jobId"], {"first": at, "last": at, "sequences": set(), "text_bytes": 0})
            job["last"] = at
            job["sequences"].update(entry["sequence"] for entry in entries)
            job["text_bytes"] += sum(len(entry["line"].encode()) + 1 for entry in entries)
        for job in jobs.values():
            job["lines"] = len(job["sequences"])
            job["holes"] = max(job["sequences"]) - len(job.pop("sequences"))
        return {"frames": len(self.frames), "bytes": sum(len(data) for _, data in self.frames), "jobs": jobs}


class AckPeer:
    """The process, for those who measure with it."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "peers.ack_peer"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).parent.parent,
        )
        assert self._process.stdout is not None
        self.port = int(self._process.stdout.readline())

    @property
    def url(self) -> str:
        return f"ws://127.0.0.1:{self.port}/api/socket"

    def end(self) -> dict[str, Any]:
        """Stop it; what it got."""
        out, _ = self._process.communicate(timeout=120)
        result: dict[str, Any] = json.loads(out)
        return result


def main() -> None:
    received = Received()
    with serve(received.handle, "127.0.0.1", 0, max_size=None, compression=None) as server:
        print(server.socket.getsockname()[1], flush=True)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        sys.stdin.read()
        print(json.dumps(received.summary()), flush=True)
        server.shutdown()


if __name__ == "__main__":
    main()
