"""What durability costs: lines of one job through a real streamer to an acknowledging peer, with fsync, without, and in memory"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
import zlib
from dataclasses import dataclass
from pathlib import Path

import psutil
from rich.console import Console
from rich.table import Table

from cronium.common.crypto import load_seal
from cronium.common.messages import Announce, Batch, Position, StreamerReady
from cronium.supervisor.streamer.ledger import Ledger
from cronium.supervisor.streamer.positions import Positions
from cronium.supervisor.streamer.settings import StreamerSettings
from cronium.supervisor.streamer.spool import Spool
from cronium.supervisor.streamer.windows import Limits
from peers.ack_peer import AckPeer
from peers.line_worker import LineWorker, encode
from peers.streamer_host import StreamerHost

LINES_A_BATCH = 1400  # what a worker's 256 KiB hold of 100-byte lines
MEMORY = Path("/dev/shm")
# Counts what the streamer syncs, in a file.
COUNTING = """
import os, runpy, sys
sync, count, file = os.fdatasync, 0, os.open(os.environ["SYNCS"], os.O_RDWR | os.O_CREAT)
def counted(descriptor):
    global count
    sync(descriptor)
    count += 1
    os.pwrite(file, b"%d" % count, 0)
os.fdatasync = counted
runpy.run_module("cronium.supervisor.streamer", run_name="__main__")
"""


@dataclass(frozen=True)
class Run:
    """`bytes_a_line`: that the kernel sent to the disk for the streamer. `core`: the share of one that it used."""

    lines_per_s: float
    core: float
    bytes_a_line: float
    syncs_per_s: float


def one_run(lines: int, folder: Path, *, fsync: bool) -> Run:
    """All lines from a worker's first batch to the last one's acknowledgement."""
    peer = AckPeer()
    for name in ("run", "state"):
        (folder / name).mkdir(mode=0o700)
    settings = StreamerSettings(
        0, str(folder / "run"), str(folder / "state"), str(folder / "spool"), peer.url, "", "token", "bench", "0", fsync=fsync,
        heartbeat_s=0.1,
    )  # fmt: skip
    StreamerHost.prefix = ["env", f"SYNCS={folder / 'syncs'}", sys.executable, "-c", COUNTING]
    host = StreamerHost(settings).start()
    worker = LineWorker(folder / "run", "w1", "job", 0, host.announce, fresh=True)
    try:
        _prepare(worker, lines)
        host.wait_for(lambda: (beat := host.last_beat()) and beat.connected)
        assert host.process is not None
        process = psutil.Process(host.process.pid)
        used, began_s = sum(process.cpu_times()[:2]), time.monotonic()
        worker.run(timeout_s=300)
        host.wait_for(lambda: (beat := host.last_beat()) and beat.frames_acknowledged >= -(-lines // LINES_A_BATCH), 300)
        took_s = time.monotonic() - began_s
        used = sum(process.cpu_times()[:2]) - used
        written = process.io_counters().write_bytes
        syncs = int((folder / "syncs").read_text() or "0") if (folder / "syncs").exists() else 0
    finally:
        worker.close()
        host.close()
        got = peer.end()["jobs"].get("job", {"lines": 0})
    assert got["lines"] == lines, got
    return Run(lines / took_s, used / took_s, written / lines, syncs / took_s)


def _prepare(worker: LineWorker, lines: int) -> None:
    """Encode and compress before the clock runs: that is the worker's work, and the same whatever the streamer does."""
    assert worker.sender is not None
    place = Position()
    for first in range(1, lines + 1, LINES_A_BATCH):
        texts = [f"{number:012d} " + "x" * 86 for number in range(first, min(first + LINES_A_BATCH, lines + 1))]
        batch = encode("job", place, texts)
        worker.sender.take(batch)
        place = batch.after
    worker.total = lines
    worker._place = place


def start_times(mib: int, rounds: int, folder: Path) -> list[float]:
    """Seconds from starting a streamer to its being ready, over so many MiB that nobody acknowledged."""
    for name in ("run", "state"):
        (folder / name).mkdir(mode=0o700)
    spool = Spool(folder / "spool", load_seal(folder / "state", {}), 64 << 30, 32 << 20, fsync=False, ready=1)
    ledger = Ledger(spool, Positions(Limits(1 << 40), 0.0), 0.0)
    places = {f"job-{number}": Position() for number in range(10)}
    for job in places:
        ledger.announce(Announce(job, "w1", 1, 1, 1), 0.0)
    while spool.disk_bytes < mib << 20:
        for job, place in places.items():
            made = encode(job, place, [os.urandom(50).hex() for _ in range(1000)])
            payload = zlib.compress(made.payload, 1, 31)
            size = len(made.payload)
            ledger.batch(Batch(job, "w1", 1, 1, 1, made.first_sequence, made.lines, payload, True, size, made.after), 0.0)
            places[job] = made.after
    spool.close()
    found = []
    settings = StreamerSettings(
        0, str(folder / "run"), str(folder / "state"), str(folder / "spool"), "ws://127.0.0.1:1/", "", "token", "bench", "0"
    )
    StreamerHost.prefix = []
    host = StreamerHost(settings)
    try:
        for _ in range(rounds):
            count, began_s = len(host.heard), time.monotonic()
            host.start()
            host.wait_for(lambda: any(isinstance(message, StreamerReady) for message in host.heard[count:]))  # noqa: B023
            found.append(time.monotonic() - began_s)
            host.kill()
    finally:
        host.close()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--lines", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--folder", help="a folder on the disk that is to be measured", default=None)
    parser.add_argument("--start", type=int, metavar="MIB", help="how long a start takes over so many MiB, beside an empty spool")
    given = parser.parse_args()
    if given.start:
        for mib in (0, given.start):
            with tempfile.TemporaryDirectory(prefix="cronium-bench-", dir=given.folder) as folder:
                took = statistics.median(start_times(mib, given.rounds, Path(folder)))
                print(f"start over {mib} MiB: {took:.2f} s, median of {given.rounds}")
        return
    ways: dict[str, tuple[str | None, bool]] = {
        "spool, fsync (as it is)": (given.folder, True),
        "spool, no fsync": (given.folder, False),
        "in memory (tmpfs)": (str(MEMORY), False),
    }
    runs: dict[str, list[Run]] = {name: [] for name in ways}
    for _ in range(given.rounds):
        for name, (where, fsync) in ways.items():
            with tempfile.TemporaryDirectory(prefix="cronium-bench-", dir=where) as folder:
                runs[name].append(one_run(given.lines, Path(folder), fsync=fsync))
    table = Table("", "lines/s", "to in memory", "share of a core", "bytes on disk a line", "fsyncs/s")
    base = [run.lines_per_s for run in runs["in memory (tmpfs)"]]
    for name, found in runs.items():
        ratio = statistics.median(run.lines_per_s / other for run, other in zip(found, base, strict=True))
        middle = {part: statistics.median(getattr(run, part) for run in found) for part in Run.__dataclass_fields__}
        table.add_row(
            name,
            f"{middle['lines_per_s']:,.0f}",
            f"{ratio:.2f}",
            f"{middle['core']:.2f}",
            f"{middle['bytes_a_line']:.1f}",
            f"{middle['syncs_per_s']:.0f}",
        )
    console = Console(width=120)
    console.print(table)
    console.print(f"medians of {given.rounds} rounds of {given.lines:,} lines, ratios round by round")


if __name__ == "__main__":
    main()
