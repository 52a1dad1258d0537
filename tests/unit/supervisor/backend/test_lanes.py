"""The threads in which the backend is spoken to, against a real server: nobody waits for somebody else's request."""

from __future__ import annotations

import http.server
import select
import threading
import time
from collections.abc import Iterator

import pytest

from cronium.supervisor.backend.contract import ContractBackend, iso
from cronium.supervisor.backend.http import BackendSession
from cronium.supervisor.backend.lanes import BackendLanes
from cronium.supervisor.core import actions as do
from cronium.supervisor.core import events as on


class SlowServer(http.server.ThreadingHTTPServer):
    """Answers every renewal at once but those of the job `slow`, which wait for `go_on`."""

    daemon_threads = True

    def __init__(self) -> None:
        self.go_on = threading.Event()
        super().__init__(("127.0.0.1", 0), _Handler)


class _Handler(http.server.BaseHTTPRequestHandler):
    server: SlowServer

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        if "/slow/" in self.path:
            self.server.go_on.wait(60)
        expires = iso(time.time_ns() // 10**6 + 60_000)
        answer = f'{{"lease": {{"expiresAt": "{expires}", "renewalToken": "t"}}}}'.encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *_: object) -> None:
        """Nothing."""


@pytest.fixture
def server() -> Iterator[SlowServer]:
    with SlowServer() as made:
        thread = threading.Thread(target=made.serve_forever)
        thread.start()
        yield made
        made.go_on.set()
        made.shutdown()
        thread.join()


def test_a_renewal_that_hangs_holds_up_no_other_job(server: SlowServer) -> None:
    """Promise 5: a lease that runs out for somebody else's request gives the job to another host."""
    url = f"http://127.0.0.1:{server.server_port}"
    lanes = BackendLanes(lambda: ContractBackend(BackendSession(url, "token", "test", 60.0), "test", ()))
    for job_id in ("slow", "a", "b", "c"):
        lanes.submit(do.RenewLease(job_id, "t", None, None))
    renewed: set[str] = set()
    while renewed != {"a", "b", "c"}:
        assert select.select([lanes.fileno()], [], [], 20)[0], f"only {renewed} have been renewed"
        renewed |= {event.job_id for event in lanes.take() if isinstance(event, on.LeaseRenewed)}
