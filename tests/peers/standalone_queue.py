"""A real standalone queue in a process of its own, and an orchestrator that speaks the contract dialect to it by hand."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import uuid
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson
import requests
import websocket

from cronium.supervisor.standalone.client import StandaloneClient

NOW = "2026-01-15T10:00:00Z"
PATIENCE_S = 20.0  # on a machine that does other things too


def eventually(condition: Callable[[], Any], what: str) -> Any:
    """The first true value of a condition."""
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        if value := condition():
            return value
        time.sleep(0.01)
    raise AssertionError(f"not within {PATIENCE_S:g} s: {what}")


@dataclass
class Queue:
    """The process. `settings` are passed to it as they are. `log`: where its stderr goes, if not to ours."""

    settings: dict[str, Any]
    log: Path | None = None
    process: subprocess.Popen[bytes] = field(init=False)
    ready: dict[str, Any] = field(init=False)

    def start(self) -> None:
        with self.log.open("ab") if self.log else nullcontext() as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "cronium.supervisor.standalone"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log
            )
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps(self.settings).encode())
        self.process.stdin.close()
        line = self.process.stdout.readline()
        assert line, f"the queue did not start: {self.process.wait(PATIENCE_S)}"
        self.ready = json.loads(line)
        self.settings["port"] = self.ready["port"]

    def end(self, number: int = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        code = self.process.wait(PATIENCE_S)
        assert self.process.stdout is not None
        self.process.stdout.close()
        return code

    @property
    def token(self) -> str:
        return Path(self.settings["token_file"]).read_text().strip()

    @property
    def folder(self) -> Path:
        return Path(self.settings["database"]).parent

    def client(self) -> StandaloneClient:
        return StandaloneClient(self.ready["clientUrl"], self.token)

    def orchestrator(self, name: str | None = None) -> Orchestrator:
        return Orchestrator(self, name or f"orchestrator-{uuid.uuid4().hex[:8]}")

    def submit(self, **job: Any) -> str:
        with self.client() as client:
            return client.submit({"script": {"type": "bash", "content": "echo hi"}, **job}).id

    def job(self, job_id: str) -> dict[str, Any]:
        with self.client() as client:
            return client.job(job_id)


@contextmanager
def running_queue(folder: Path, **settings: Any) -> Iterator[Queue]:
    queue = Queue(
        {
            "database": str(folder / "queue.db"),
            "token_file": str(folder / "token"),
            "parent_pid": os.getpid(),
            "log_format": "console",
            "log_level": "warning",
            **settings,
        }
    )
    queue.start()
    try:
        yield queue
    finally:
        if queue.process.poll() is None:
            queue.end(signal.SIGKILL)  # a quick end; an orderly one has tests of its own


class Orchestrator:
    """Says what a supervisor says. Answers are (status, body)."""

    def __init__(self, queue: Queue, name: str) -> None:
        self.queue = queue
        self.name = name
        self.http = requests.Session()
        self.http.headers.update({"Authorization": f"Bearer {queue.token}", "X-Orchestrator-Id": name})

    def ask(self, method: str, path: str, key: str | None = None, **request: Any) -> requests.Response:
        headers = {} if key is None else {"Idempotency-Key": key}
        return self.http.request(method, self.queue.ready["apiUrl"] + path, headers=headers, timeout=PATIENCE_S + 10, **request)

    def poll(self, key: str | None = None, **query: Any) -> dict[str, Any]:
        answer = self.ask("GET", "/jobs/queue", key, params=query)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def take(self, job_id: str) -> dict[str, Any]:
        """Poll until that job comes, and acknowledge it: the acknowledgement's answer."""
        eventually(lambda: job_id in [job["id"] for job in self.poll(limit=50)["jobs"]], f"{job_id} is offered")
        return self.acknowledge(job_id).json()

    def acknowledge(self, job_id: str) -> requests.Response:
        return self.ask("POST", f"/jobs/{job_id}/acknowledge", json={"orchestratorId": self.name, "timestamp": NOW})

    def renew(self, job_id: str, token: str, seconds: float = 60) -> requests.Response:
        return self.ask("POST", f"/jobs/{job_id}/lease/renew", json={"renewalToken": token, "extensionSeconds": seconds})

    def status(self, job_id: str, status: str, key: str | None = None, **body: Any) -> requests.Response:
        return self.ask("PUT", f"/jobs/{job_id}/status", key, json={"status": status, "timestamp": NOW, **body})

    def complete(self, job_id: str, status: str = "completed", key: str | None = None, **body: Any) -> requests.Response:
        said = {"status": status, "exitCode": 0, "output": {"stdout": "", "stderr": ""}, "metrics": {}, "timestamp": NOW}
        return self.ask("POST", f"/jobs/{job_id}/complete", key, json={**said, **body})

    def upload(self, job_id: str, entries: list[dict[str, Any]], **body: Any) -> requests.Response:
        return self.ask("POST", f"/jobs/{job_id}/logs", json={"entries": entries, "metadata": {}, **body})

    @contextmanager
    def socket(self) -> Iterator[LogSocket]:
        connection = websocket.create_connection(
            self.queue.ready["wsUrl"], timeout=PATIENCE_S, header=[f"Authorization: Bearer {self.queue.token}"]
        )
        socket = LogSocket(connection)
        socket.send(
            {
                "type": "authenticate",
                "payload": {"token": self.queue.token, "orchestratorId": self.name, "version": "1", "encodings": ["gzip"]},
            }
        )
        try:
            yield socket
        finally:
            connection.close()


class SocketClosedError(ConnectionError):
    """The queue closed the connection."""


class LogSocket:
    """The WebSocket of an orchestrator."""

    def __init__(self, connection: websocket.WebSocket) -> None:
        self.connection = connection
        self._id = 0

    def send(self, frame: dict[str, Any]) -> None:
        self.connection.send(orjson.dumps(frame).decode())

    def send_lines(self, entries: list[dict[str, Any]], *, epoch: int | None = 1, members: int = 0) -> int:
        """Send a log frame, as text or as gzip of so many members; its id."""
        self._id += 1
        frame = orjson.dumps({"type": "log", "id": self._id, "epoch": epoch, "payload": entries})
        if members == 0:
            self.connection.send(frame.decode())
        else:
            size = -(-len(frame) // members)
            parts = [frame[start : start + size] for start in range(0, len(frame), size)]
            self.connection.send_binary(b"".join(zlib.compress(part, 1, wbits=31) for part in parts))
        return self._id

    def receive(self) -> dict[str, Any]:
        text = self.connection.recv()
        if not text:  # so websocket-client tells a close frame
            raise SocketClosedError
        frame: dict[str, Any] = orjson.loads(text)
        return frame

    def acknowledged(self, number: int) -> dict[str, Any]:
        """The acknowledgement of a frame, which must be the next one."""
        frame = self.receive()
        assert frame["type"] == "ack", frame
        assert frame["payload"]["messageId"] == number
        payload: dict[str, Any] = frame["payload"]
        return payload


def lines(job_id: str, first: int, texts: list[str], stream: str = "stdout") -> list[dict[str, Any]]:
    """Log entries, numbered from `first`."""
    return [
        {"jobId": job_id, "stream": stream, "line": text, "timestamp": 1_700_000_000_000, "sequence": first + index}
        for index, text in enumerate(texts)
    ]


def sums(entries: list[dict[str, Any]]) -> dict[str, Any]:
    """`logs` of complete for these entries, reckoned the plain way."""
    totals: dict[str, Any] = {}
    for stream in ("stdout", "stderr"):
        mine = [entry for entry in entries if entry["stream"] == stream]
        text = "".join(entry["line"] + ("" if entry.get("continued") else "\n") for entry in mine).encode()
        ended = sum(1 for entry in mine if not entry.get("continued"))
        totals[stream] = {"lines": ended, "bytes": len(text), "crc32": f"{zlib.crc32(text):08x}"}
    sequences = [entry["sequence"] for entry in entries]
    return {"firstSequence": min(sequences), "lastSequence": max(sequences), **totals}
