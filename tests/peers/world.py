"""A whole supervisor with its backend, each process a real one, in folders of its own. For acceptance tests and measurements."""

from __future__ import annotations

import itertools
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Any

import docker
import psutil
from docker.errors import NotFound

from cronium.common.job import ScriptType
from cronium.supervisor.standalone.client import LogLine, StandaloneClient
from cronium.worker.container.spec import LABEL_INSTALLATION
from peers.faulty_proxy import FaultyProxy
from peers.standalone_queue import Queue

GONE_WITHIN_S = 60  # promise 8: what a job needed is gone within a minute
_MOST_LOG_SHOWN = 20_000


@dataclass(frozen=True)
class Done:
    """A job that has ended, as the backend has it. `lines`: every entry, by number."""

    job: dict[str, Any]
    lines: list[LogLine]

    @property
    def report(self) -> dict[str, Any]:
        found: dict[str, Any] = self.job["report"]
        return found

    @property
    def reason(self) -> str | None:
        """Why it ended, when it did not complete."""
        error = self.report.get("error")
        return None if error is None else error["details"]["reason"]

    @property
    def took_s(self) -> float:
        """From its first status to its end, by the backend's clock."""
        began, ended = (datetime.fromisoformat(self.job[name]) for name in ("startedAt", "endedAt"))
        return (ended - began).total_seconds()

    def stream(self, name: str) -> list[str]:
        """The whole lines of a stream: pieces put together."""
        whole, pieces = [], []
        for line in self.lines:
            if line.stream == name:
                pieces.append(line.line)
                if not line.continued:
                    whole.append("".join(pieces))
                    pieces.clear()
        assert not pieces, "a line was never finished"
        return whole

    @property
    def stdout(self) -> list[str]:
        return self.stream("stdout")

    @property
    def stderr(self) -> list[str]:
        return self.stream("stderr")

    @property
    def system(self) -> list[str]:
        return self.stream("system")


class World:
    """The standalone queue and a supervisor that takes its jobs. Use as a context manager, which also sees to it that both leave
    nothing behind.

    `websocket_url` sends the output elsewhere than to the queue; `proxy` is put before its HTTP side. `environ` overrides
    configuration keys; `queue` settings of the queue. A start waits until there is a worker and (`wait_for_images`) the images
    were looked at.
    """

    def __init__(
        self,
        engine: str,
        *,
        websocket_url: str | None = None,
        environ: Mapping[str, str] | None = None,
        queue: Mapping[str, Any] | None = None,
        proxy: FaultyProxy | None = None,
        token_by_file: bool = False,
        wait_for_images: bool = True,
    ) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="crw-", dir="/tmp"))
        self.installation = f"world-{os.getpid()}-{uuid.uuid4().hex[:8]}"
        self.docker = docker.APIClient(base_url=engine, timeout=120)
        self._engine = engine
        self._websocket_url = websocket_url
        self._proxy = proxy
        self._token_by_file = token_by_file
        self._wait_for_images = wait_for_images
        self.environ = dict(environ or {})
        self.started_with: dict[str, str] = {}
        self.log = self.folder / "supervisor.log"
        self.state = self.folder / "state"
        self.runtime = self.folder / "run"
        self.queue = Queue(
            {
                "database": str(self.folder / "queue" / "queue.db"),
                "token_file": str(self.folder / "queue" / "token"),
                "rate_factor": 100,
                **(queue or {}),
            }
        )
        self.process: subprocess.Popen[bytes] | None = None
        self._client: StandaloneClient | None = None

    def __enter__(self) -> World:
        self.queue.start()
        try:
            self._client = self.queue.client()
            if self._proxy is not None:
                self._proxy.start(self.queue.ready["apiUrl"])
            self.start()
        except BaseException as error:
            self.__exit__(type(error), error, error.__traceback__)
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        left: list[str] = []
        try:
            if kind is None:
                left += self.wait_until_tidy()
            mine = self.processes()
            self.stop()
            left += [f"process {process}" for process in still_there(mine, 2)]
            left += [f"socket {path}" for path in self.runtime.rglob("*")]
            left += self._remove_containers()
            left += self._remove_networks()
        finally:
            self._end_all()
            if self._proxy is not None:
                self._proxy.stop()
            self.queue.end()
            if kind is not None or left:
                print(self.log.read_text(errors="replace")[-_MOST_LOG_SHOWN:])
            shutil.rmtree(self.folder, ignore_errors=True)
            self.docker.close()
        assert kind is not None or not left, f"left behind: {left}"

    def start(self) -> None:
        """Start the supervisor; it is ready when a worker is."""
        self.launch()
        assert self.process is not None
        deadline = time.monotonic() + 60
        while not self.roles("worker") or not self._images_are_known():
            assert self.process.poll() is None, self.log.read_text()
            assert time.monotonic() < deadline, "no worker within a minute"
            time.sleep(0.02)

    def launch(self) -> None:
        """Start the supervisor and wait for nothing."""
        environ = {
            **{name: value for name, value in os.environ.items() if not name.startswith("CRONIUM_")},
            "CRONIUM_ID": self.installation,
            "CRONIUM_API_URL": self._proxy.url if self._proxy is not None else self.queue.ready["apiUrl"],
            "CRONIUM_WS_URL": self._websocket_url or self.queue.ready["wsUrl"],
            **self._token(),
            "CRONIUM_STATE_DIR": str(self.state),
            "CRONIUM_RUNTIME_DIR": str(self.runtime),
            "CRONIUM_DOCKER_HOST": self._engine,
            "CRONIUM_MONITORING_HEALTH_PORT": "0",
            "CRONIUM_MONITORING_METRICS_PORT": "0",
            **self.environ,
        }
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(self.command(), env=environ, stderr=log, start_new_session=True)
        self.started_with = environ

    def command(self) -> list[str]:
        """What `start` starts."""
        return [sys.executable, "-m", "cronium.supervisor", "run"]

    def stop(self, number: int = signal.SIGTERM, timeout_s: float = 60) -> int:
        """Stop the supervisor; its exit code."""
        assert self.process is not None
        if self.process.poll() is None:
            self.process.send_signal(number)
        return self.process.wait(timeout_s)

    def kill(self) -> None:
        """SIGKILL the supervisor, as if it had crashed, and wait until all that dies with it is gone."""
        assert self.process is not None
        mine = self.processes()
        self.process.kill()
        self.process.wait(10)
        assert not (alive := still_there(mine, 10)), f"did not die with the supervisor: {alive}"

    def _token(self) -> dict[str, str]:
        if self._token_by_file:
            return {"CRONIUM_SERVICE_TOKEN_FILE": self.queue.settings["token_file"]}
        return {"CRONIUM_SERVICE_TOKEN": self.queue.token}

    def _images_are_known(self) -> bool:
        """At its first start it tries each runner image once; some tests want nothing else to be there."""
        if not self._wait_for_images:
            return True
        return len(re.findall(r'"message":"image (?:tried|not ready)', self.log.read_text())) >= len(ScriptType)

    # --- jobs --------------------------------------------------------------------------------------------------------

    def client(self) -> StandaloneClient:
        """To submit jobs with."""
        return self.queue.client()

    @property
    def backend(self) -> StandaloneClient:
        """The client of this world, for the thread of the test."""
        assert self._client is not None
        return self._client

    def submit(
        self, script: str, kind: str = "bash", *, check: bool = True, job: Mapping[str, Any] | None = None, **execution: Any
    ) -> str:
        """A script as a job, without a network unless it asks for one; the job's id. `job`: fields beside `execution`."""
        body = {"network": "none", "timeout": 100, **execution, "script": {"type": kind, "content": script}}
        return self.backend.submit({**(job or {}), "execution": body}, check=check).id

    def done(self, job_id: str, timeout_s: float = 100) -> Done:
        """Wait for a job's end. Whatever became of it: one terminal report, all lines here, numbers without holes."""
        job = self.backend.wait(job_id, timeout_s)
        lines = list(self.backend.logs(job_id))
        assert job["terminalReports"] == 1, job
        assert job["refusedReports"] == 0, job
        assert job["logsComplete"] is True, (job["status"], job["logsCheck"])
        assert [line.sequence for line in lines] == list(range(1, len(lines) + 1))
        return Done(job, lines)

    def run(self, script: str, kind: str = "bash", **execution: Any) -> Done:
        """Submit and wait."""
        return self.done(self.submit(script, kind, **execution))

    def until_said(self, job_id: str, text: str, timeout_s: float = 60) -> None:
        """Wait until the backend has an entry with this text."""
        deadline = time.monotonic() + timeout_s
        while not any(text in line.line for line in self.backend.logs(job_id)):
            assert time.monotonic() < deadline, f"{text!r} was not said in {timeout_s:g} s"
            time.sleep(0.05)

    # --- what is there -----------------------------------------------------------------------------------------------

    def roles(self, prefix: str) -> list[psutil.Process]:
        """Our processes whose title begins so: `worker`, `streamer`; the forkserver is the parent of the workers."""
        found = []
        for process in self.processes()[1:]:
            try:
                if process.cmdline()[0].startswith(f"cronium: {prefix}"):
                    found.append(process)
            except (psutil.Error, IndexError):
                continue
        return found

    def processes(self) -> list[psutil.Process]:
        """The supervisor and all its processes; none when it is not running."""
        assert self.process is not None
        try:
            supervisor = psutil.Process(self.process.pid)
            return [supervisor, *supervisor.children(recursive=True)]
        except psutil.NoSuchProcess:
            return []

    def containers(self) -> list[dict[str, Any]]:
        """Every container with our label, running or not."""
        found: list[dict[str, Any]] = self.docker.containers(
            all=True, filters={"label": f"{LABEL_INSTALLATION}={self.installation}"}
        )
        return found

    def running(self) -> list[str]:
        """The ids of those that run."""
        return [one["Id"] for one in self.containers() if one["State"] == "running"]

    def places(self) -> list[Path]:
        """Folders of places."""
        folder = self.state / "places"
        return sorted(folder.iterdir()) if folder.is_dir() else []

    def wait_until_tidy(self, within_s: float = GONE_WITHIN_S) -> list[str]:
        """Wait until no container and no place is left; what there still is after that time."""
        deadline = time.monotonic() + within_s
        while left := [f"container {one['Names']}" for one in self.containers()] + [
            f"place {path.name}" for path in self.places()
        ]:
            if time.monotonic() > deadline:
                break
            time.sleep(0.1)
        return left

    def assert_nothing_left(self, within_s: float = GONE_WITHIN_S) -> None:
        """No container and no place folder of ours, within a minute."""
        left = self.wait_until_tidy(within_s)
        assert not left, f"left behind: {left}"

    def networks(self) -> list[dict[str, Any]]:
        """Every network with our label."""
        found: list[dict[str, Any]] = self.docker.networks(filters={"label": f"{LABEL_INSTALLATION}={self.installation}"})
        return found

    def _remove_containers(self) -> list[str]:
        removed = []
        for one in self.containers():
            removed.append(f"container {one['Names']} ({one['State']})")
            try:
                self.docker.remove_container(one["Id"], force=True, v=True)
            except NotFound:
                continue
        return removed

    def _remove_networks(self) -> list[str]:
        removed = []
        for one in self.networks():
            removed.append(f"network {one['Name']}")
            try:
                self.docker.remove_network(one["Id"])
            except NotFound:
                continue
        return removed

    def _end_all(self) -> None:
        """Whatever a failed test left of our processes."""
        for process in self.processes():
            try:
                process.kill()
            except psutil.NoSuchProcess:
                continue
        if self.process is not None:
            self.process.wait(10)


def still_there(processes: Iterable[psutil.Process], within_s: float) -> list[psutil.Process]:
    """Which have not ended by then. A zombie has: whoever adopted it may collect it late."""
    deadline = time.monotonic() + within_s
    while alive := [process for process in processes if _lives(process)]:
        if time.monotonic() > deadline:
            break
        time.sleep(0.01)
    return alive


def _lives(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def memory_bytes(processes: Iterable[psutil.Process]) -> int:
    """What they hold together (PSS: shared pages are shared out)."""
    total = 0
    for process in processes:
        try:
            total += process.memory_full_info().pss
        except psutil.Error:
            continue
    return total


def numbered(count: int, text: str = "line") -> list[str]:
    """What `seq -f 'line %.0f' COUNT` prints."""
    return [f"{text} {number}" for number in itertools.islice(itertools.count(1), count)]
