"""What each kind of answer, or none, means: may it be tried again, or never. A small server gives the answers for real."""

from __future__ import annotations

import http.server
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from email.utils import formatdate

import pytest

from cronium.supervisor.backend.contract import ContractBackend
from cronium.supervisor.backend.http import BackendSession
from cronium.supervisor.core import actions as do
from cronium.supervisor.core import events as on

Handler = http.server.BaseHTTPRequestHandler
Reply = Callable[[Handler], None]


@contextmanager
def server(reply: Reply) -> Iterator[str]:
    class Replying(Handler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            reply(self)

        do_POST = do_PUT = do_GET

        def log_message(self, *args: object) -> None:
            pass

    running = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Replying)
    running.daemon_threads = True
    threading.Thread(target=running.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{running.server_address[1]}/api"
    finally:
        running.shutdown()
        running.server_close()


def answering(status: int, body: bytes, **headers: str) -> Reply:
    def reply(handler: Handler) -> None:
        handler.rfile.read(int(handler.headers.get("Content-Length", 0)))
        handler.send_response(status)
        for name, value in headers.items():
            handler.send_header(name.replace("_", "-"), value)
        handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        handler.wfile.write(body)

    return reply


def error(code: str) -> bytes:
    return json.dumps({"error": {"code": code, "message": "no"}}).encode()


def session(url: str, timeout_s: float = 5) -> BackendSession:
    return BackendSession(url, "the-token", "install-1", timeout_s)


@pytest.mark.parametrize(
    ("status", "code", "refused"),
    [
        (400, "VALIDATION_INVALID_PARAMS", True),
        (403, "AUTHZ_INSUFFICIENT_PERMISSIONS", True),
        (404, "RESOURCE_NOT_FOUND", True),
        (409, "RESOURCE_ALREADY_PROCESSED", True),
        (409, "CONFLICT", False),
        (401, "AUTH_EXPIRED_TOKEN", False),
        (408, "", False),
        (425, "", False),
        (429, "RATE_LIMIT_EXCEEDED", False),
        (500, "INTERNAL_ERROR", False),
        (503, "SERVICE_UNAVAILABLE", False),
        (302, "", False),
    ],
)
def test_what_is_refused_for_good_and_what_may_be_tried_again(status: int, code: str, refused: bool) -> None:
    with server(answering(status, error(code))) as url:
        answer = session(url).ask("POST", "/x", body={})
    assert not answer.success
    assert answer.refused is refused
    assert str(status) in answer.reason


def test_the_token_is_not_carried_to_where_a_redirect_points() -> None:
    asked: list[str] = []

    def elsewhere(handler: Handler) -> None:
        asked.append(handler.path)
        answering(200, b"{}")(handler)

    with server(elsewhere) as other, server(answering(302, b"", Location=other)) as url:
        assert not session(url).ask("GET", "/x").success
    assert asked == []


@pytest.mark.parametrize("body", [b"", b"<html>", b"[1]", b"{", b"\xff\xfe", b"null"])
def test_an_answer_that_is_no_json_object_is_no_success(body: bytes) -> None:
    with server(answering(200, body)) as url:
        answer = session(url).ask("GET", "/x")
    assert answer.success is False
    assert answer.refused is False


def test_a_204_is_a_success_without_a_word_and_a_false_success_is_none() -> None:
    """`success: false` with a 200 says that nothing was done: to be said again."""
    with server(answering(204, b"")) as url:
        assert session(url).ask("POST", "/x", body={}).success
    with server(answering(200, b'{"success": false, "error": "not now"}')) as url:
        answer = session(url).ask("POST", "/x", body={})
    assert (answer.success, answer.refused) == (False, False)
    assert "not now" in answer.reason


def test_a_backend_that_is_not_there_hangs_or_hangs_up_may_be_asked_again() -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        assert session(f"http://127.0.0.1:{nobody.getsockname()[1]}").ask("GET", "/x").status == 0

    def hangs(handler: Handler) -> None:
        time.sleep(1.5)

    def hangs_up(handler: Handler) -> None:
        handler.connection.shutdown(socket.SHUT_RDWR)

    for reply in (hangs, hangs_up):
        with server(reply) as url:
            answer = session(url, 0.3).ask("GET", "/x")
        assert (answer.status, answer.success, answer.refused) == (0, False, False)
        assert answer.reason


def test_an_answer_without_end_is_cut_off() -> None:
    def endless(handler: Handler) -> None:
        handler.send_response(200)
        handler.send_header("Content-Length", str(1 << 40))
        handler.end_headers()
        try:
            while True:
                handler.wfile.write(b"x" * 65536)
        except OSError:
            pass

    with server(endless) as url:
        assert "larger" in session(url, 30).ask("GET", "/x").reason


def test_an_answer_that_trickles_ends_with_the_patience_for_all_of_it() -> None:
    """Each byte comes in time; a thread that waits for all of them would be gone for an hour."""

    def trickles(handler: Handler) -> None:
        handler.send_response(200)
        handler.send_header("Content-Length", "10000")
        handler.end_headers()
        try:
            while True:
                handler.wfile.write(b" ")
                time.sleep(0.05)
        except OSError:
            pass

    began_s = time.monotonic()
    with server(trickles) as url:
        assert "in time" in session(url, 0.5).ask("GET", "/x").reason
    assert time.monotonic() - began_s < 3


@pytest.mark.parametrize("value", ["2", "0", "a date", "soon", ""])
def test_retry_after_is_read_as_a_number_or_a_date(value: str) -> None:
    header = formatdate(time.time() + 300, usegmt=True) if value == "a date" else value
    with server(answering(429, error("RATE_LIMIT_EXCEEDED"), Retry_After=header)) as url:
        after = session(url).ask("GET", "/x").retry_after_s
    if value in ("soon", ""):
        assert after is None
    elif value.isdigit():
        assert after == float(value)
    else:
        assert after is not None
        assert 200 < after <= 301


def test_every_request_says_who_asks() -> None:
    seen: list[dict[str, str]] = []

    def look(handler: Handler) -> None:
        seen.append(dict(handler.headers))
        answering(200, b"{}")(handler)

    with server(look) as url:
        session(url).ask("POST", "/x", body={}, key="key-1")
    headers = seen[0]
    assert headers["Authorization"] == "Bearer the-token"
    assert headers["X-Orchestrator-Id"] == "install-1"
    assert headers["Idempotency-Key"] == "key-1"
    assert {"X-Service-Name", "X-Service-Version", "X-Request-Id", "Accept"} <= headers.keys()


def poll(url: str) -> on.Polled | on.PollFailed:
    return ContractBackend(session(url), "install-1", ("script",)).poll(do.Poll("key", 5, 0.0))


def test_a_bad_job_among_good_ones_is_refused_alone_with_every_reason() -> None:
    good = {"id": "good", "execution": {"script": {"type": "bash", "content": "echo"}}}
    bad = {"id": "bad", "priority": 99, "execution": {"script": {"type": "perl", "content": 1}, "timeout": -1}}
    body = json.dumps({"jobs": [good, bad, "nonsense", {"no": "id"}], "metadata": {"nextPollAfter": 3, "cancelled": ["x"]}})
    with server(answering(200, body.encode())) as url:
        polled = poll(url)
    assert isinstance(polled, on.Polled)
    assert [job.job_id for job in polled.jobs] == ["good", "bad"]
    assert polled.jobs[0].refusal is None
    refusal = polled.jobs[1].refusal
    assert refusal is not None
    assert refusal.error is not None
    problems = refusal.error.details["problems"]
    assert isinstance(problems, list)
    assert len(problems) == 4
    assert (polled.next_after_s, polled.cancelled) == (3.0, ("x",))


@pytest.mark.parametrize("body", [b"{}", b'{"jobs": 1}', b'{"jobs": null}'])
def test_an_answer_of_the_queue_without_jobs_is_a_failed_poll(body: bytes) -> None:
    with server(answering(200, body)) as url:
        assert isinstance(poll(url), on.PollFailed)


def test_a_backend_of_another_dialect_is_told_and_none_of_its_jobs_is_taken() -> None:
    job = {"id": "good", "execution": {"script": {"type": "bash", "content": "echo"}}}
    body = json.dumps({"jobs": [job], "count": 1}).encode()
    with server(answering(200, body)) as url:
        failed = poll(url)
        certain = ContractBackend(session(url), "install-1", (), certain=True).poll(do.Poll("key", 5, 0.0))
    assert isinstance(failed, on.PollFailed)
    assert "contract dialect" in failed.reason
    assert isinstance(certain, on.Polled)


@pytest.mark.parametrize("status", [404, 409, 410])
def test_a_lease_that_is_gone_is_lost_and_nothing_else_is(status: int) -> None:
    action = do.RenewLease("a/b", "token", None, None)
    with server(answering(status, error("RESOURCE_NOT_FOUND"))) as url:
        assert isinstance(ContractBackend(session(url), "i", ()).renew(action), on.LeaseLost)
    with server(answering(500, error("INTERNAL_ERROR"))) as url:
        assert isinstance(ContractBackend(session(url), "i", ()).renew(action), on.LeaseUnanswered)
    with server(answering(200, b'{"lease": {"renewalToken": 5}}')) as url:
        assert isinstance(ContractBackend(session(url), "i", ()).renew(action), on.LeaseUnanswered)


def test_a_route_that_will_be_dropped_is_told_once_and_not_for_each_job() -> None:
    """Promise 7: what is remembered of it does not grow with the jobs."""
    with server(answering(200, b"{}", Sunset="Wed, 01 Dec 2027 00:00:00 GMT")) as url:
        asking = session(url)
        for number in range(5):
            for route in ("acknowledge", "complete"):
                asking.ask("POST", f"/jobs/job-{number}/{route}", body={})
    assert asking._warned == {"POST /jobs/{id}/acknowledge", "POST /jobs/{id}/complete"}
