"""From a job's dispatch to its first line at the WebSocket peer, beside the raw Engine API's create, attach, start, first byte"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import tempfile
import time
from datetime import datetime
from pathlib import Path
from typing import Any

import docker
from rich.console import Console
from rich.table import Table

from cronium.supervisor.standalone.client import StandaloneClient
from peers.ack_peer import AckPeer
from peers.world import World


def inspected(engine: docker.APIClient, client: StandaloneClient) -> dict[str, Any]:
    """What the engine says of one of our containers, while it runs."""
    job = client.submit({"execution": {"script": {"type": "bash", "content": "sleep 60"}}})
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        found = engine.containers(filters={"label": "cronium.installation", "status": "running"})
        mine = [c for c in found if c["Labels"].get("cronium.job") == job.id]
        if mine:
            body: dict[str, Any] = engine.inspect_container(mine[0]["Id"])
            client.cancel(job.id)
            client.wait(job.id, timeout_s=60, logs=False)
            return body
        time.sleep(0.1)
    raise TimeoutError("no container of ours is running")


def raw_ms(engine: docker.APIClient, body: dict[str, Any]) -> float:
    """The raw API with the same configuration: a container that prints one line at once."""
    folder = Path(tempfile.mkdtemp(prefix="crb-", dir="/tmp"))
    host = json.loads(json.dumps(body["HostConfig"]))
    for mount in host.get("Mounts") or ():
        if mount["Type"] == "bind":
            path = folder / Path(mount["Source"]).name
            path.touch()
            mount["Source"] = str(path)
    given = {
        **{key: body["Config"][key] for key in ("Image", "User", "Env", "WorkingDir", "Labels", "Hostname")},
        "Cmd": ["sh", "-c", "echo hi"],
        "AttachStdout": True,
        "HostConfig": host,
    }
    started = time.monotonic()
    container = engine.create_container_from_config(given)["Id"]
    try:
        socket = engine.attach_socket(container, params={"stdout": 1, "stream": 1})._sock
        engine.start(container)
        socket.recv(100)
        return (time.monotonic() - started) * 1000
    finally:
        engine.remove_container(container, force=True, v=True)
        shutil.rmtree(folder)


def dispatched(log: Path) -> dict[str, float]:
    """When each job was dispatched, Unix seconds, from the supervisor's own log."""
    times = {}
    for line in log.read_text().splitlines():
        if '"message":"dispatched"' in line:
            entry = json.loads(line)
            times[entry["job_id"]] = datetime.fromisoformat(entry["time"]).timestamp()
    return times


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=20)
    given = parser.parse_args()
    engine = docker.APIClient(base_url=os.environ["DOCKER_HOST"], timeout=120)
    peer = AckPeer()
    raws, ids = [], []
    with World(os.environ["DOCKER_HOST"], websocket_url=peer.url) as world:
        client = world.client()
        body = inspected(engine, client)
        for _ in range(given.rounds):
            raws.append(raw_ms(engine, body))
            job = client.submit({"execution": {"script": {"type": "bash", "content": "echo hi"}}})
            client.wait(job.id, timeout_s=60, logs=False)
            ids.append(job.id)
        times = dispatched(world.log)
    got = peer.end()["jobs"]
    ours = [(got[job]["first"] - times[job]) * 1000 for job in ids]
    table = Table("", "min, ms", "median, ms", "max, ms")
    for name, values in (("raw Engine API", raws), ("dispatch to first line at the peer", ours)):
        table.add_row(name, f"{min(values):.0f}", f"{statistics.median(values):.0f}", f"{max(values):.0f}")
    ratios = [a / b for a, b in zip(ours, raws, strict=True)]
    console = Console(width=120)
    console.print(table)
    console.print(f"median ratio, pair by pair: {statistics.median(ratios):.2f} (to be at most 1.15)")


if __name__ == "__main__":
    main()
