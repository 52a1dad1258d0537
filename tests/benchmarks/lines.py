"""A million 100-byte lines of one container: to an acknowledging WebSocket peer, beside a bare reader of the engine's attach"""

from __future__ import annotations

import argparse
import os
import statistics
import threading
import time

import docker
import psutil
from rich.console import Console
from rich.table import Table

from peers.ack_peer import AckPeer
from peers.world import World

IMAGE = "cronium/runner:bash-debian"
LINE = "x" * 99


def script(lines: int) -> str:
    return f"yes {LINE} | head -n {lines}"


def attach_rate(lines: int) -> float:
    """Lines a second that a bare reader of attach gets, log driver `local`."""
    client = docker.APIClient(base_url=os.environ["DOCKER_HOST"], timeout=120)
    host_config = client.create_host_config(log_config={"Type": "local"}, network_mode="none")
    container = client.create_container(IMAGE, ["bash", "-c", script(lines)], host_config=host_config)["Id"]
    try:
        socket = client.attach_socket(container, params={"stdout": 1, "stream": 1})._sock
        client.start(container)
        first, total = 0.0, 0
        while data := socket.recv(1 << 18):
            first = first or time.monotonic()
            total += len(data)
        assert total >= lines * 100
        return lines / (time.monotonic() - first)
    finally:
        client.remove_container(container, force=True)
        client.close()


class Watch(threading.Thread):
    """The most memory (PSS, bytes) that the supervisor's processes had together, looked at ten times a second."""

    def __init__(self, world: World) -> None:
        super().__init__(daemon=True)
        self._world, self.peak, self.going = world, 0, True

    def run(self) -> None:
        while self.going:
            total = 0
            for process in self._world.processes():
                try:
                    total += process.memory_full_info().pss
                except psutil.Error:
                    continue
            self.peak = max(self.peak, total)
            time.sleep(0.1)


def our_rate(lines: int) -> tuple[float, int, float]:
    """Lines a second at the peer, acknowledged; the most memory; CPU seconds of our processes a million lines."""
    peer = AckPeer()
    with World(os.environ["DOCKER_HOST"], websocket_url=peer.url) as world:
        client = world.client()
        warm = client.submit({"execution": {"script": {"type": "bash", "content": "echo warm"}}})
        client.wait(warm.id, timeout_s=60, logs=False)
        watch = Watch(world)
        watch.start()
        before = cpu_seconds(world)
        job = client.submit({"execution": {"script": {"type": "bash", "content": script(lines)}, "resources": {"cpuLimit": 2}}})
        client.wait(job.id, timeout_s=300, logs=False)
        used = cpu_seconds(world) - before
        watch.going = False
        watch.join()
    got = peer.end()["jobs"][job.id]
    assert (got["lines"], got["holes"]) == (lines, 0), got
    return lines / (got["last"] - got["first"]), watch.peak, used * 1_000_000 / lines


def cpu_seconds(world: World) -> float:
    return sum(sum(process.cpu_times()[:2]) for process in world.processes())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--lines", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    table = Table("round", "attach, lines/s", "ours, lines/s", "ratio", "our memory, MB (PSS)", "our CPU, s a million lines")
    ratios = []
    for number in range(1, given.rounds + 1):
        attach = attach_rate(given.lines)
        ours, memory, cpu = our_rate(given.lines)
        ratios.append(ours / attach)
        table.add_row(str(number), f"{attach:,.0f}", f"{ours:,.0f}", f"{ratios[-1]:.2f}", f"{memory / 1e6:.0f}", f"{cpu:.2f}")
    console = Console(width=120)
    console.print(table)
    console.print(f"median ratio {statistics.median(ratios):.2f} (to be at least 1.00)")


if __name__ == "__main__":
    main()
