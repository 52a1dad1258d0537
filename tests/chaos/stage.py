"""Everything that a chaos run needs, real and in one folder: an engine, servers, the queue, proxies, a small disk, supervisord.

Started and ended here, each of them also in between; what is done to them, and when, is decided elsewhere.
"""

from __future__ import annotations

import configparser
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from random import Random
from typing import Any, Self
from urllib.parse import urlsplit

import psutil

from chaos.disk import SmallDisk
from chaos.marks import make_marks
from chaos.proxies import RepeatingProxy, Wire
from cronium.common.config.model import Workers
from cronium.worker.container.spec import LABEL_INSTALLATION
from peers.own_engine import OwnEngine
from peers.ssh_world import Servers
from peers.standalone_queue import Queue

SERVERS = 2
PROGRAM = "cronium-supervisor"
HUNG_AFTER_S = 3
_IMAGES = tuple(f"cronium/runner:{name}-debian" for name in ("bash", "python", "node"))
_ETC = Path(__file__).resolve().parents[2] / "etc/supervisor"
_READY_S = 120.0
_PATIENCE_S = 60.0

# Everything quicker than in production, so that ten minutes hold as many recoveries as possible.
_QUICKLY = {
    "CRONIUM_API_TIMEOUT": "3s",
    "CRONIUM_API_RETRY_INITIAL_DELAY": "200ms",
    "CRONIUM_API_RETRY_MAX_DELAY": "2s",
    "CRONIUM_JOBS_POLL_INTERVAL": "200ms",
    "CRONIUM_JOBS_POLL_MAX_INTERVAL": "2s",
    "CRONIUM_JOBS_POLL_WAIT": "5s",
    "CRONIUM_WORKERS_HEARTBEAT_INTERVAL": "500ms",
    "CRONIUM_JOBS_MAX_WORKER_DEATHS": "1000",  # or a job that we kill often enough is set aside, as it should be
    "CRONIUM_LOGGING_WEBSOCKET_RECONNECT_INTERVAL": "200ms",
    "CRONIUM_LOGGING_WEBSOCKET_RECONNECT_MAX_INTERVAL": "2s",
    "CRONIUM_LOGGING_WEBSOCKET_PING_INTERVAL": "3s",
    "CRONIUM_LOGGING_WEBSOCKET_ACK_TIMEOUT": "5s",
    "CRONIUM_LOGGING_WEBSOCKET_FALLBACK_AFTER": "4s",
    "CRONIUM_LOGGING_SPOOL_MAX_SIZE": "32MB",
    "CRONIUM_LOGGING_SPOOL_SEGMENT_SIZE": "1MB",
    "CRONIUM_LOGGING_MAX_UNREAD": "8MB",
    "CRONIUM_SSH_CONNECTION_POOL_KEEPALIVE_INTERVAL": "2s",
    "CRONIUM_SSH_CONNECTION_POOL_CONNECT_TIMEOUT": "5s",
    "CRONIUM_SSH_CIRCUIT_BREAKER_RECOVERY_TIMEOUT": "5s",
    "CRONIUM_MONITORING_HEALTH_PORT": "0",
    "CRONIUM_MONITORING_METRICS_PORT": "0",
}


class Stage:
    """Use as a context manager: everything runs, and at its end nothing does. `say` is told what is being done."""

    def __init__(self, source_engine: str, choose: Random, concurrent: int, say: Callable[[str], None]) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="crx-", dir="/tmp"))
        self.installation = f"chaos-{uuid.uuid4().hex[:12]}"
        self.state, self.runtime = self.folder / "state", self.folder / "run"
        self._temporary = self.folder / "tmp"
        self._temporary.mkdir()
        self.log = self.folder / "supervisor.log"
        self.ran_in_containers = self.folder / "ran"
        self.engine = OwnEngine(source_engine, _IMAGES, arguments=make_marks(self.ran_in_containers))
        self.servers = Servers(SERVERS)
        self.disk = SmallDisk(self.state / "spool")
        self.proxy = RepeatingProxy(choose)
        self.queue = Queue(
            {
                "database": str(self.folder / "queue" / "queue.db"),
                "token_file": str(self.folder / "queue" / "token"),
                "rate_factor": 1000,
                "lease_s": 30,
                "log_level": "warning",
                "max_finished_jobs": 1_000_000,
            },
            self.folder / "queue.log",
        )
        self.hangs_are_ended = "hung_after" in Workers.model_fields
        self._concurrent = concurrent
        self._say = say
        self._stack = ExitStack()
        self._supervisord: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        try:
            self._say("starting a dockerd, with the runner images")
            self._stack.enter_context(self.engine)
            self._say("starting servers, queue, proxies")
            self.servers.__enter__()
            self._stack.callback(self._end_servers)
            self.ran_on_servers = self.servers.folder / "ran"
            self.ran_on_servers.mkdir(mode=0o777)
            self.ran_on_servers.chmod(0o777)
            self._stack.callback(self.disk.unmount)
            self.disk.mount()
            self.queue.start()
            self._stack.callback(self._end_queue)
            self.proxy.start(self.queue.ready["apiUrl"])
            self._stack.callback(self.proxy.stop)
            parts = urlsplit(self.queue.ready["wsUrl"])
            self.wire = Wire(parts.port or 80)
            self._stack.callback(self.wire.close)
            self._websocket_url = parts._replace(netloc=f"127.0.0.1:{self.wire.port}").geturl()
            self._say("starting supervisord")
            self._start_supervisord()
            self._stack.callback(self._end_supervisord)
            self.wait_for_worker()
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def remove(self) -> None:
        """The folder with all logs."""
        shutil.rmtree(self.folder, ignore_errors=True)

    # --- supervisord -------------------------------------------------------------------------------------------------------

    def _start_supervisord(self) -> None:
        """With the files that are shipped; only what a person must set is set."""
        program = configparser.RawConfigParser(inline_comment_prefixes=(" ;",))
        program.read(_ETC / "cronium-supervisor.conf")
        section = program[f"program:{PROGRAM}"]
        section["command"] = f"{sys.executable} -m cronium.supervisor run"
        section["environment"] = ",".join(f'{name}="{value}"' for name, value in self._environ().items())
        section["stdout_logfile"] = str(self.log)
        section["stdout_logfile_maxbytes"] = "0"
        _write(program, self.folder / "program.conf")
        whole = configparser.RawConfigParser()
        whole.read(_ETC / "supervisord.conf")
        socket = self.folder / "sv.sock"
        whole["supervisord"].update({"pidfile": str(self.folder / "sv.pid"), "logfile": str(self.folder / "supervisord.log")})
        whole["unix_http_server"]["file"] = str(socket)
        whole["supervisorctl"]["serverurl"] = f"unix://{socket}"
        whole["include"]["files"] = str(self.folder / "program.conf")
        _write(whole, self.folder / "supervisord.conf")
        environ = {name: value for name, value in os.environ.items() if not name.startswith("CRONIUM_")}
        with (self.folder / "supervisord.out").open("ab") as out:
            self._supervisord = subprocess.Popen(
                [sys.executable, "-m", "supervisor.supervisord", "-c", str(self.folder / "supervisord.conf")],
                env=environ,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                start_new_session=True,
                cwd=self.folder,
            )

    def _environ(self) -> dict[str, str]:
        more = {"CRONIUM_WORKERS_HUNG_AFTER": f"{HUNG_AFTER_S}s"} if self.hangs_are_ended else {}
        return {
            "TMPDIR": str(self._temporary),
            "CRONIUM_ID": self.installation,
            "CRONIUM_API_URL": self.proxy.url,
            "CRONIUM_WS_URL": self._websocket_url,
            "CRONIUM_SERVICE_TOKEN_FILE": self.queue.settings["token_file"],
            "CRONIUM_STATE_DIR": str(self.state),
            "CRONIUM_RUNTIME_DIR": str(self.runtime),
            "CRONIUM_DOCKER_HOST": self.engine.endpoint,
            "CRONIUM_JOBS_MAX_CONCURRENT": str(self._concurrent),
            **_QUICKLY,
            **self.servers.environ(),
            **more,
        }

    def control(self, *words: str) -> str:
        """`supervisorctl WORDS`; what it said."""
        command = [sys.executable, "-m", "supervisor.supervisorctl", "-c", str(self.folder / "supervisord.conf"), *words]
        done = subprocess.run(command, capture_output=True, text=True, timeout=_PATIENCE_S + 30, cwd=self.folder, check=False)
        return done.stdout + done.stderr

    def _end_supervisord(self) -> None:
        if self._supervisord is None:
            return
        mine = self.processes()
        self._supervisord.terminate()
        try:
            self._supervisord.wait(_PATIENCE_S + 30)
        except subprocess.TimeoutExpired:
            self._supervisord.kill()
            self._supervisord.wait(_PATIENCE_S)
        for process in mine:
            try:
                process.kill()
            except psutil.NoSuchProcess:
                continue

    # --- our processes -----------------------------------------------------------------------------------------------------

    def supervisor(self) -> psutil.Process | None:
        """The one that supervisord has started last, if it is there."""
        assert self._supervisord is not None
        for child in _children(self._supervisord.pid):
            if title(child) is not None:
                return child
        return None

    def processes(self) -> list[psutil.Process]:
        """The supervisor and all below it."""
        supervisor = self.supervisor()
        return [] if supervisor is None else [supervisor, *_children(supervisor.pid, recursive=True)]

    def role(self, name: str) -> list[psutil.Process]:
        """Our processes whose title begins so: supervisor, forkserver, streamer, monitor, worker."""
        return [one for one in self.processes() if (title(one) or "").startswith(f"cronium: {name}")]

    def wait_for_worker(self) -> None:
        """Until it is up. Raises RuntimeError with its log when it is not."""
        deadline_s = time.monotonic() + _READY_S
        while not self.role("worker"):
            if time.monotonic() > deadline_s:
                said = "".join(path.read_text(errors="replace")[-4000:] for path in (self.folder / "supervisord.out", self.log))
                raise RuntimeError(f"no worker within {_READY_S:g} s:\n{said}")
            time.sleep(0.05)

    # --- what is there -----------------------------------------------------------------------------------------------------

    def in_engine(self) -> list[str]:
        """Containers, networks, volumes of this installation."""
        chosen = {"label": f"{LABEL_INSTALLATION}={self.installation}"}
        with self.engine.client() as client:
            found = [f"container {one['Names']} {one['State']}" for one in client.api.containers(all=True, filters=chosen)]
            found += [f"network {one['Name']}" for one in client.api.networks(filters=chosen)]
            volumes: list[dict[str, Any]] = client.api.volumes(filters=chosen)["Volumes"] or []
            return found + [f"volume {one['Name']}" for one in volumes]

    def place_folders(self) -> list[str]:
        """Folders of places in the state folder."""
        return [f"place folder {path.name}" for path in (self.state / "places").glob("*")]

    def temporary_files(self) -> list[str]:
        """What lies in the folder for temporary files."""
        return [f"temporary file {path}" for path in self._temporary.iterdir()]

    def exits(self) -> list[str]:
        """How each supervisor ended that supervisord has seen ending by itself, as it says it."""
        return re.findall(rf"exited: {PROGRAM} \((.*?); ", (self.folder / "supervisord.log").read_text())

    def _end_servers(self) -> None:
        """Whatever is left there was told before: it is ended without another word."""
        self.servers.__exit__(RuntimeError, None, None)

    def _end_queue(self) -> None:
        if self.queue.process.poll() is None:
            self.queue.end()


def title(process: psutil.Process) -> str | None:
    """`cronium: …`, or None for what is not (or not yet) one of ours."""
    try:
        words = process.cmdline()
    except psutil.Error:
        return None
    return words[0] if words and words[0].startswith("cronium: ") else None


def _children(pid: int, *, recursive: bool = False) -> list[psutil.Process]:
    try:
        return psutil.Process(pid).children(recursive=recursive)
    except psutil.NoSuchProcess:
        return []


def _write(parser: configparser.RawConfigParser, path: Path) -> None:
    with path.open("w") as file:
        parser.write(file, space_around_delimiters=False)
    path.chmod(0o600)
