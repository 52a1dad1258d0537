"""An upgrade is a restart: another version is installed over the one that runs, `supervisorctl restart`, and no job notices.

Under a real supervisord, with the program section that we ship. Promise 5.
"""

from __future__ import annotations

import re
import shutil
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from peers.ssh_world import Servers
from peers.world import World, numbered

ROOT = Path(__file__).resolve().parents[2]
SOURCES = ("common", "worker", "supervisor")
NEXT = "99.0.0"
EACH, LINES = 3, 150
SLOW = f'for i in $(seq 1 {LINES}); do echo "line $i"; sleep 0.1; done; exit {{code}}'
DAEMON = """
[supervisord]
nodaemon=true
pidfile={folder}/supervisord.pid
logfile={folder}/supervisord.log

[unix_http_server]
file={folder}/supervisord.sock

[rpcinterface:supervisor]
supervisor.rpcinterface_factory=supervisor.rpcinterface:make_main_rpcinterface

[supervisorctl]
serverurl=unix://{folder}/supervisord.sock

[include]
files={folder}/program.conf
"""


class Installed(World):
    """A world whose supervisor is installed in a folder, and is a child of supervisord."""

    def start(self) -> None:
        """Install this version, and have supervisord start it."""
        self.install()
        (self.folder / "supervisord.conf").write_text(DAEMON.format(folder=self.folder))
        (self.folder / "program.conf").write_text(self._program())
        super().start()

    @property
    def sources(self) -> Path:
        """Where it is installed."""
        return self.folder / "installed"

    def command(self) -> list[str]:
        """What `World` starts."""
        return [sys.executable, "-m", "supervisor.supervisord", "--configuration", str(self.folder / "supervisord.conf")]

    def install(self) -> None:
        """This version."""
        for name in SOURCES:
            ignored = shutil.ignore_patterns("__pycache__")
            shutil.copytree(ROOT / name, self.sources / name, dirs_exist_ok=True, ignore=ignored)

    def install_next(self) -> None:
        """The next one: another number, and one more migration of the journal."""
        package = self.sources / "common/cronium/common/__init__.py"
        package.write_text(re.sub(r'VERSION = ".*"', f'VERSION = "{NEXT}"', package.read_text()))
        module = self.sources / "supervisor/cronium/supervisor/journal/migrations.py"
        step = 'def _to_next(db: sqlite3.Connection, _seal: Seal) -> None:\n    db.execute("CREATE TABLE of_next (at TEXT)")\n'
        text, changed = re.subn(r"^(MIGRATIONS\b.*)\)$", rf"{step}\n\n\1, _to_next)", module.read_text(), flags=re.MULTILINE)
        assert changed == 1
        module.write_text(text)

    def control(self, *arguments: str) -> str:
        """`supervisorctl`."""
        command = [sys.executable, "-m", "supervisor.supervisorctl", "-c", str(self.folder / "supervisord.conf"), *arguments]
        return subprocess.run(command, capture_output=True, text=True, timeout=90, check=True, cwd=self.folder).stdout

    def schema(self) -> int:
        """The journal's version."""
        with closing(sqlite3.connect(f"file:{self.state / 'journal.db'}?mode=ro", uri=True)) as db:
            return int(db.execute("PRAGMA user_version").fetchone()[0])

    def _program(self) -> str:
        """The section that we ship, with the lines set that a person is told to set."""
        ours = {
            "command": f"{sys.executable} -m cronium.supervisor run",
            "user": None,
            "environment": f'PYTHONPATH="{":".join(str(self.sources / name) for name in SOURCES)}"',
            "stdout_logfile": str(self.log),
        }
        lines = []
        for line in (ROOT / "etc/supervisor/cronium-supervisor.conf").read_text().splitlines():
            key = line.partition("=")[0]
            if key not in ours:
                lines.append(line)
            elif (value := ours[key]) is not None:
                lines.append(f"{key}={value}")
        return "\n".join(lines) + "\n"


@pytest.fixture
def servers() -> Iterator[Servers]:
    with Servers() as servers:
        yield servers


@pytest.mark.timeout(180)
def test_jobs_do_not_notice_an_upgrade(docker_endpoint: str, runner_images: object, servers: Servers) -> None:
    """All lines once and in order, exit codes right, started once; the journal is the new version's."""
    environ = servers.environ(CRONIUM_JOBS_MAX_CONCURRENT=str(2 * EACH))
    with Installed(docker_endpoint, environ=environ) as world:
        jobs = [world.submit(SLOW.format(code=code)) for code in range(EACH)]
        jobs += [world.submit(SLOW.format(code=code), target=servers.target()) for code in range(EACH)]
        for job in jobs:
            world.until_said(job, "line 5")
        containers, schema = sorted(world.running()), world.schema()
        world.install_next()
        began_s = time.monotonic()
        assert "started" in world.control("restart", "cronium-supervisor")
        print(f"restarted by supervisord in {time.monotonic() - began_s:.1f} s (it waits two seconds to call it started)")
        waiting = world.submit("echo new")
        assert set(world.running()) & set(containers), "the jobs are to run over the restart"
        assert world.done(waiting).stdout == ["new"]
        for number, job in enumerate(jobs):
            done = world.done(job)
            assert (done.stdout, done.job["exitCode"], done.job["attempts"]) == (numbered(LINES), number % EACH, 1)
            assert not done.system
        assert f'"version":"{NEXT}"' in world.log.read_text()
        assert world.schema() == schema + 1
        world.assert_nothing_left()
        servers.wait_until_tidy()
