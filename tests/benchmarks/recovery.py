"""From SIGKILL of a worker, or of the streamer, to the job's next line at the backend: a job that prints every 10 ms"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import statistics
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import psutil
from rich.console import Console
from rich.table import Table
from websockets.sync.server import serve

from peers.ack_peer import Received
from peers.ssh_world import Servers
from peers.world import World

SCRIPT = "while :; do echo $EPOCHREALTIME; sleep 0.01; done"
AIMS_MS = {"worker (container)": 100, "worker (ssh)": 100, "streamer": 200}
SETTLE_S = 1.0
LONGEST_S = 30.0
NO_LIMITS = {"CRONIUM_JOBS_MAX_WORKER_DEATHS": "100", "CRONIUM_WORKERS_RESTART_INTENSITY": "1000"}


@contextmanager
def peer() -> Iterator[tuple[Received, str]]:
    """A backend's WebSocket that acknowledges and notes when what came."""
    received = Received()
    with serve(received.handle, "127.0.0.1", 0, max_size=None, compression=None) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield received, f"ws://127.0.0.1:{server.socket.getsockname()[1]}/api/socket"
        server.shutdown()


def lines_of(frames: list[tuple[float, bytes]]) -> Iterator[tuple[float, float]]:
    """When each line came, and when it was printed (both Unix seconds, of the same clock)."""
    for at, data in frames:
        for entry in json.loads(gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data)["payload"]:
            if entry["stream"] == "stdout":
                yield at, float(entry["line"])


def until_after(received: Received, moment: float, skip: int) -> float:
    """When the first line came that was printed after this moment."""
    deadline_s = time.monotonic() + LONGEST_S
    while True:
        frames = received.frames[skip:]
        for at, printed in lines_of(frames):
            if printed >= moment:
                return at
        skip += len(frames)
        assert time.monotonic() < deadline_s, "no line came any more"
        time.sleep(0.005)


def victim(world: World, role: str) -> psutil.Process:
    """The process of that role that has the job."""
    deadline_s = time.monotonic() + LONGEST_S
    while time.monotonic() < deadline_s:
        for process in world.roles("streamer" if role == "streamer" else "worker"):
            if role == "streamer" or role.partition(" ")[2] in process.cmdline()[0]:
                return process
        time.sleep(0.05)
    raise AssertionError(f"there is no {role}")


def measure(world: World, received: Received, role: str, kills: int) -> list[float]:
    """Milliseconds, a kill each."""
    times = []
    for _ in range(kills):
        time.sleep(SETTLE_S)
        skip = len(received.frames)
        process = victim(world, role)
        moment = time.time()
        process.kill()
        times.append((until_after(received, moment, skip) - moment) * 1000)
    return times


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=20, help="of each kind (20)")
    kills = parser.parse_args().kills
    table = Table("killed", "job on", "median", "fastest", "slowest", "aim", title="From SIGKILL to the next line at the backend")
    with peer() as (received, url), Servers() as servers:
        environ = servers.environ(**NO_LIMITS)
        with World(os.environ["DOCKER_HOST"], websocket_url=url, environ=environ) as world:
            for place, target, roles in (
                ("container", {}, ("worker (container)", "streamer")),
                ("server", {"target": servers.target()}, ("worker (ssh)", "streamer")),
            ):
                job = world.submit(SCRIPT, timeout=600, **target)
                until_after(received, 0.0, len(received.frames))
                for role in roles:
                    times = measure(world, received, role, kills)
                    figures = (statistics.median(times), min(times), max(times))
                    table.add_row(role, place, *(f"{figure:.0f} ms" for figure in figures), f"{AIMS_MS[role]} ms")
                world.backend.cancel(job)
                while world.backend.job(job)["status"] != "cancelled":  # not its lines: those came here
                    time.sleep(0.1)
            servers.wait_until_tidy()
    Console().print(table)


if __name__ == "__main__":
    main()
