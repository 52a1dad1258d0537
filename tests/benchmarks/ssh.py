"""A job on a server beside OpenSSH over ControlMaster: first line with a cold and a warm channel, live lines, throughput"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.table import Table

from cronium.common.messages import Connected
from peers.container_world import Told
from peers.ssh_attempt import SshWorld
from peers.ssh_world import Servers
from peers.sshd import Sshd

SCRIPT = "echo hi\n"
LOUD = "yes {line} | head -c {size}"
LINE = "x" * 99


@contextmanager
def control_master(server: Sshd, folder: Path) -> Iterator[list[str]]:
    """The command of an OpenSSH client whose connection is up already."""
    key, socket = folder / "key", folder / "control"
    key.write_text(server.private_key)
    key.chmod(0o600)
    hosts = folder / "hosts"
    hosts.write_text(server.known_hosts())
    options = [
        "-F",
        "none",
        "-i",
        str(key),
        "-o",
        f"UserKnownHostsFile={hosts}",
        "-o",
        f"ControlPath={socket}",
        "-o",
        "BatchMode=yes",
    ]
    target = ["-p", str(server.port), f"{server.user}@{server.address}"]
    subprocess.run(["ssh", *options, "-o", "ControlMaster=yes", "-o", "ControlPersist=600", *target, "true"], check=True)
    try:
        yield ["ssh", *options, *target]
    finally:
        subprocess.run(["ssh", *options, "-O", "exit", *target], check=True, stderr=subprocess.DEVNULL)


def openssh_first_ms(command: list[str]) -> float:
    """From the client's start to the first byte of the script's output."""
    started_s = time.monotonic()
    with subprocess.Popen([*command, "bash -s"], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(SCRIPT.encode())
        process.stdin.close()
        os.read(process.stdout.fileno(), 100)
        first_s = time.monotonic()
        process.stdout.read()
    return (first_s - started_s) * 1000


def ours_first_ms(world: SshWorld, *, warm: bool) -> float:
    """From the attempt's start to its first line out of the executor, over a connection that is there."""
    place = waiting_place(world) if warm else world.place()
    job = world.job(SCRIPT)
    first: list[float] = []

    def look(told: Told) -> bool:
        if told.stdout and not first:
            first.append(time.monotonic())
        return False

    started_s = time.monotonic()
    told = world.attempt(job, place, until=look)
    assert told.stdout == b"hi\n", told.outcome
    world.executor.cleanup(place, job)
    return (first[0] - started_s) * 1000


def waiting_place(world: SshWorld) -> str:
    """The place of a launcher that waits, once it does."""
    said = len(world.told)
    world.tend(lambda: any(isinstance(m, Connected) and m.slots for m in world.told[said - 1 :]))
    slot = next(m.slots[0] for m in reversed(world.told) if isinstance(m, Connected) and m.slots)
    until_s = time.monotonic() + 0.5  # it is being made: both channels, the launcher's pumps
    world.tend(lambda: time.monotonic() > until_s)
    return slot.place


def live_delays_ms(servers: Servers, folder: Path, count: int) -> dict[str, list[float]]:
    """Milliseconds from a line's printing to its arrival here: each line says when it was printed, and the clock is the same."""
    script = f"for i in $(seq {count}); do date +%s.%N; sleep 0.03; done"
    found: dict[str, list[float]] = {"OpenSSH": [], "durable": []}
    with (
        control_master(servers.all[0], folder) as command,
        subprocess.Popen([*command, script], stdout=subprocess.PIPE) as process,
    ):
        assert process.stdout is not None
        for line in process.stdout:
            found["OpenSSH"].append((time.time() - float(line)) * 1000)
    world = SshWorld(servers, folder)
    world.run(world.job(SCRIPT))
    job, place, heard = world.job(script), world.place(), bytearray()

    def look(told: Told) -> bool:
        now_s, fresh = time.time(), told.stdout[len(heard) :]
        heard.extend(fresh)
        found["durable"] += [(now_s - float(line)) * 1000 for line in fresh.split()]
        return False

    world.attempt(job, place, until=look)
    world.executor.cleanup(place, job)
    world.close()
    return found


def openssh_bytes_s(command: list[str], size: int) -> float:
    """Bytes a second of a script's output, read and dropped."""
    started_s = time.monotonic()
    with subprocess.Popen([*command, LOUD.format(line=LINE, size=size)], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        got = 0
        while data := os.read(process.stdout.fileno(), 1 << 20):
            got += len(data)
    assert got == size
    return size / (time.monotonic() - started_s)


def ours_bytes_s(world: SshWorld, size: int) -> float:
    """The same through a job: into files there, and from them to here."""
    job, place = world.job(LOUD.format(line=LINE, size=size)), world.place()
    sizes = _Counter()
    started_s = time.monotonic()
    told = world.attempt(job, place, told=sizes)
    took_s = time.monotonic() - started_s
    assert sizes.count == size, told.outcome
    world.executor.cleanup(place, job)
    return size / took_s


class _Counter(Told):
    count = 0

    def take(self, update: object) -> None:
        data = getattr(update, "data", None)
        if isinstance(data, bytes):
            self.count += len(data)
        else:
            super().take(update)  # type: ignore[arg-type]  # all others as they are


def first_lines(servers: Servers, folder: Path, rounds: int) -> dict[str, list[float]]:
    """Milliseconds to the first line, by way; taken in turn."""
    warm, cold = SshWorld(servers, folder), SshWorld(servers, folder, connection_pool={"warm": False})
    times: dict[str, list[float]] = {"OpenSSH, ControlMaster": [], "cold channel": [], "warm channel": []}
    with control_master(servers.all[0], folder) as command:
        for one in (warm, cold):
            one.run(one.job(SCRIPT))
        for _ in range(rounds):
            times["OpenSSH, ControlMaster"].append(openssh_first_ms(command))
            times["cold channel"].append(ours_first_ms(cold, warm=False))
            times["warm channel"].append(ours_first_ms(warm, warm=True))
    warm.close()
    cold.close()
    return times


def speeds(servers: Servers, folder: Path, rounds: int, size: int) -> dict[str, list[float]]:
    """Bytes a second, by way; taken in turn."""
    world = SshWorld(servers, folder, connection_pool={"warm": False})
    found: dict[str, list[float]] = {"OpenSSH": [], "durable": []}
    with control_master(servers.all[0], folder) as command:
        for _ in range(rounds):
            found["OpenSSH"].append(openssh_bytes_s(command, size))
            found["durable"].append(ours_bytes_s(world, size))
    world.close()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--bytes", type=int, default=500_000_000)
    parser.add_argument("--loud-rounds", type=int, default=3)
    given = parser.parse_args()
    console = Console(width=120)
    logins = {"an empty home": Servers(1), "root, with its own start-up files": Servers(given=[Sshd()])}
    for login, all_servers in logins.items():
        with all_servers as servers, tempfile.TemporaryDirectory(prefix="crb-") as folder:
            times = first_lines(servers, Path(folder), given.rounds)
            live = live_delays_ms(servers, Path(folder), 10 * given.rounds) if login == "an empty home" else {}
            loud = speeds(servers, Path(folder), given.loud_rounds, given.bytes) if login == "an empty home" else {}
        table = Table(f"first line, login: {login}", "min, ms", "median, ms", "max, ms", "of OpenSSH's")
        base = times["OpenSSH, ControlMaster"]
        for name, values in times.items():
            ratio = statistics.median(a / b for a, b in zip(values, base, strict=True))
            table.add_row(name, f"{min(values):.1f}", f"{statistics.median(values):.1f}", f"{max(values):.1f}", f"{ratio:.2f}")
        console.print(table)
        if live:
            table = Table("delay of a live line", "min, ms", "median, ms", "max, ms")
            for name, values in live.items():
                table.add_row(name, f"{min(values):.1f}", f"{statistics.median(values):.1f}", f"{max(values):.1f}")
            console.print(table)
        if loud:
            table = Table(f"{given.bytes / 1e6:.0f} MB of output", "min, MB/s", "median, MB/s", "max, MB/s", "of OpenSSH's")
            for name, values in loud.items():
                ratio = statistics.median(a / b for a, b in zip(values, loud["OpenSSH"], strict=True))
                row = (min(values), statistics.median(values), max(values))
                table.add_row(name, *(f"{value / 1e6:.0f}" for value in row), f"{ratio:.2f}")
            console.print(table)
    console.print(
        "to be at most 1.1 of OpenSSH's with a cold channel, 0.4 and 15 ms with a warm one; a live line within"
        " 20 ms; output at least 0.4, better 0.8"
    )


if __name__ == "__main__":
    main()
