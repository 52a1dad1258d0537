"""An idle supervisor with 10 workers: CPU and memory of each of its processes"""

from __future__ import annotations

import argparse
import os
import time

import psutil
from rich.console import Console
from rich.table import Table

from peers.world import World


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--workers", type=int, default=10)
    given = parser.parse_args()
    settings = {"CRONIUM_JOBS_MAX_CONCURRENT": str(given.workers - 1), "CRONIUM_WORKERS_SPARE": "1"}
    with World(os.environ["DOCKER_HOST"], environ=settings) as world:
        while len(world.roles("worker")) < given.workers:
            time.sleep(0.1)
        time.sleep(3)
        processes = world.processes()
        before = {p.pid: sum(p.cpu_times()[:2]) for p in processes}
        started = time.monotonic()
        time.sleep(given.seconds)
        passed = time.monotonic() - started
        table = Table("process", "CPU, % of a core", "PSS, MB", "USS, MB")
        total_cpu = total_pss = 0.0
        for process in processes:
            cpu = (sum(process.cpu_times()[:2]) - before[process.pid]) / passed * 100
            memory = process.memory_full_info()
            total_cpu, total_pss = total_cpu + cpu, total_pss + memory.pss / 1e6
            name = (process.cmdline() or [process.name()])[0]
            table.add_row(name[:60], f"{cpu:.2f}", f"{memory.pss / 1e6:.1f}", f"{memory.uss / 1e6:.1f}")
        table.add_row("all", f"{total_cpu:.2f}", f"{total_pss:.1f}", "")
        Console(width=120).print(table)
        assert psutil.pid_exists(processes[0].pid)


if __name__ == "__main__":
    main()
