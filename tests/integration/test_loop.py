"""The supervisor's loop with all its parts, but no jobs: what it does in moments that hardly ever come."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

PROGRAM = """
import os, signal, sqlite3, sys, time
from multiprocessing import forkserver
from cronium.common.config.load import load_config
from cronium.common.crypto import Seal
from cronium.common.logging import configure_logging
from cronium.supervisor import loop as module
from cronium.supervisor.backend.contract import ContractBackend
from cronium.supervisor.backend.http import BackendSession
from cronium.supervisor.backend.lanes import BackendLanes
from cronium.supervisor.core import actions as do
from cronium.supervisor.core.core import Core
from cronium.supervisor.core.roles import FORKSERVER, MONITOR
from cronium.supervisor.journal import Journal
from cronium.supervisor.loop import Loop
from cronium.supervisor.pool.descriptors import wait_readable
from cronium.supervisor.pool.forks import Forks
from cronium.supervisor.pool.settings import monitor_settings, worker_settings
from cronium.supervisor.pool.staff import Forked, Staff
from cronium.supervisor.serve import _rules
from cronium.supervisor.start import prepare_runtime_dir
from cronium.supervisor.status.observer import Observer

PATIENCE_S = 60


class Orders:
    # Leave when `until` holds.
    def __init__(self):
        self.until, self.rounds = None, 0

    def fileno(self):
        return self.pipe[0]

    pipe = os.pipe()

    def events(self, busy, *, stuck=False):
        self.rounds += 1
        return []

    def leave_now(self, now_s):
        assert time.monotonic() < GIVE_UP_S
        return self.until()


def run(until):
    orders.until, loop._leaving = until, False
    loop.run()


def who():
    return {name: descriptor for descriptor, name in staff.descriptors().items()}


if __name__ == "__main__":
    GIVE_UP_S = time.monotonic() + PATIENCE_S
    configure_logging("loop", "info", "console")
    config = load_config(None, os.environ, standalone=True).config
    config.state_dir.mkdir()
    prepare_runtime_dir(config.runtime_dir)
    forks = Forks(config.runtime_dir)
    monitor = Forked("cronium.supervisor.monitor.main", lambda: monitor_settings(config))
    staff = Staff(forks, worker_settings(config, "loop-test"), {MONITOR: monitor})
    core = Core(_rules(config, "loop-test"), 1, staff.roles)
    journal = Journal(config.state_dir / "journal.db", Seal(b"k" * 32))
    session = BackendSession("http://127.0.0.1:9", "token", "loop-test", 1.0)
    lanes = BackendLanes(lambda: ContractBackend(session, "loop-test", ()))
    orders = Orders()
    loop = Loop(core, journal, staff, lanes, orders, config.runtime_dir, Observer("loop-test"), 0.1)
    run(lambda: MONITOR in who() and any(worker.idle() for worker in core.workers()))
    scenario(globals())
    loop.close()
    print("fine", flush=True)
"""

TOGETHER = """
def scenario(_):
    # As after some deaths in a row the monitor is started again after a pause; the loop rests until that is over.
    monitor = core._roles._roles[MONITOR]
    monitor.young, monitor.started_s = 3, time.monotonic()
    signal.pidfd_send_signal(who()[MONITOR], signal.SIGKILL)
    run(lambda: not monitor.up)
    assert not monitor.asked
    name, descriptor = next((name, one) for name, one in who().items() if name.startswith("worker"))
    signal.pidfd_send_signal(descriptor, signal.SIGKILL)
    assert wait_readable(descriptor, PATIENCE_S)
    time.sleep(max(0.0, monitor.due_s - time.monotonic()) + 0.1)
    assert loop._router.poll(PATIENCE_S * 1000)  # somebody beats: at that step the monitor is started
    loop._deaths({descriptor: 1})
    assert monitor.asked
    assert name not in loop._watched.values()
    loop._deaths(dict(loop._poller.poll(0)))
    run(lambda: MONITOR in who())
    forks.kill_forkserver()
    assert wait_readable(who()[FORKSERVER], PATIENCE_S)
    forkserver.ensure_running()  # which takes the status of the one that is dead
    staff.signal(FORKSERVER, signal.SIGUSR2)
    run(lambda: MONITOR in who() and FORKSERVER in who() and any(worker.idle() for worker in core.workers()))
"""

LOCKED = """
import zmq
from cronium.common.addresses import VITALS, endpoint
from cronium.common.messages import StatusReport
from cronium.common.wire import unpack
from cronium.supervisor.status.report import Report


def reports():
    found = []
    while listener.poll(1500 if not found else 0):
        message = unpack(listener.recv())
        if isinstance(message, StatusReport):
            found.append(Report.from_json(message.report))
    return found


def scenario(_):
    global listener
    listener = loop._context.socket(zmq.SUB)
    listener.setsockopt(zmq.SUBSCRIBE, b"")
    listener.connect(endpoint(config.runtime_dir, VITALS))
    time.sleep(0.5)  # until the loop's next round it is not known that somebody listens
    run(lambda: any(not report.journal_waits_for_disk for report in reports()))
    module._TOLD_AGAIN_S = 1.0
    other = sqlite3.connect(config.state_dir / "journal.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    orders.rounds, orders.until, loop._leaving = 0, lambda: orders.rounds >= 4, False
    step = do.Step((do.PutPollKey("x"),), (do.Exit(),))
    assert loop._committed(step) == ()
    said = reports()[-1]
    assert said.journal_waits_for_disk and said.status == "degraded", said
    assert said.reasons[0].startswith("the journal cannot be written"), said
    other.execute("ROLLBACK")
    assert loop._committed(step) == step.actions
    loop._pulse.round(time.monotonic() + 2, loop._status)
    assert not reports()[-1].journal_waits_for_disk
"""

LEASED = """
import http.server, threading
from cronium.supervisor.backend.contract import iso
from cronium.supervisor.core.state import JobRecord, JobState, Lease, RetryRule
asked = []


class Backend(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        renews = self.path.endswith("/a/lease/renew")
        asked.extend([self.path] if renews else [])
        lease = {"expiresAt": iso(time.time_ns() // 10**6 + 3000), "renewalToken": f"token-{len(asked)}"}
        answer = str({"success": 1, "lease": lease}).replace("'", '"').encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)


def scenario(_):
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Backend)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    session._base = f"http://127.0.0.1:{server.server_port}"
    now_ms = time.time_ns() // 10**6
    record = JobRecord("a", 5, now_ms, now_ms, JobState.WAITING, RetryRule(2, delay_s=3600.0), lease=Lease("token-0", now_ms))
    record = record.but(acknowledged=True, attempt=1, retry_at_ms=now_ms + 3_600_000)
    journal.commit([do.PutJob(record, b"{}")])
    core.restore([record], {}, None, now_ms)
    other = sqlite3.connect(config.state_dir / "journal.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")

    def until():
        if len(asked) >= 4 and other.in_transaction:
            other.execute("ROLLBACK")
        return False

    orders.until, loop._leaving = until, False
    assert loop._committed(do.Step((do.PutPollKey("x"),), ())) == ()
    assert len(asked) >= 4
    (kept,) = [one for one in journal.load().records if one.job_id == "a"]
    assert kept == core.job("a")
    assert kept.lease.token >= "token-3"
    server.shutdown()
"""


FLOODED = """
import psutil, zmq
from cronium.common.addresses import SUPERVISOR, endpoint


def scenario(_):
    other = sqlite3.connect(config.state_dir / "journal.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    peer = zmq.Context().socket(zmq.DEALER)
    peer.setsockopt(zmq.IDENTITY, b"worker-9")
    peer.connect(endpoint(config.runtime_dir, SUPERVISOR))
    large, sent = bytes(4 * 1024 * 1024), 0
    before = psutil.Process().memory_info().rss
    until_s = time.monotonic() + 5

    def until():
        for _ in range(20):
            peer.send(large, copy=False)
        return time.monotonic() >= until_s

    orders.until, loop._leaving = until, False
    assert loop._committed(do.Step((do.PutPollKey("x"),), (do.Exit(),))) == ()
    grown = psutil.Process().memory_info().rss - before
    assert grown < 150 * 1024 * 1024, grown
    other.execute("ROLLBACK")
    peer.close(linger=0)
"""


UNREADABLE = """
from cronium.supervisor.core.state import JobRecord, JobState


def scenario(_):
    now_ms = time.time_ns() // 10**6
    job = b'{"id": "b", "execution": {"target": {"type": "local"}, "script": {"type": "bash", "content": "true"}}}'
    records = [JobRecord(name, 5, now_ms, now_ms, JobState.READY, acknowledged=True) for name in "ab"]
    journal.commit([do.PutJob(record, job) for record in records])
    journal._db.execute("UPDATE payload SET sealed = x'00' WHERE job_id = 'a'")
    core.restore(records, {}, None, now_ms)
    run(lambda: core.job("a").state is JobState.ENDED and core.job("b").state is JobState.RUNNING)
    assert journal.ended("a").outcome.error.reason == "worker_lost"
    journal._db.execute("UPDATE outcome SET sealed = x'00' WHERE job_id = 'a'")
    orders.rounds = 0
    loop._carry_out(do.SayComplete("a", "key", 1, 1, None, None))
    run(lambda: orders.rounds >= 4)
"""


def said(folder: Path, scenario: str) -> str:
    """What a program with a whole loop in it writes; it has come to its end in good order."""
    program = folder / "loop_program.py"
    program.write_text(scenario + PROGRAM.replace("scenario(globals())", "scenario(None)"))
    environ = {
        **os.environ,
        "CRONIUM_STATE_DIR": str(folder / "state"),
        "CRONIUM_RUNTIME_DIR": str(folder / "run"),
        "CRONIUM_DOCKER_HOST": f"unix://{folder}/no-engine.sock",
        "CRONIUM_MAX_CONCURRENT": "2",
        "CRONIUM_MONITORING_HEALTH_PORT": "0",
        "CRONIUM_MONITORING_METRICS_PORT": "0",
        "CRONIUM_WORKERS_HEARTBEAT_INTERVAL": "100ms",
    }
    done = subprocess.run(
        [sys.executable, program],
        env=environ,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=120,
        check=False,
    )
    assert (done.returncode, done.stdout.splitlines()[-1:]) == (0, ["fine"]), done.stdout
    return done.stdout


def test_a_role_that_is_started_while_a_death_is_looked_at_does_no_harm(tmp_runtime_dir: Path) -> None:
    """A message that is heard just then may have everybody watched anew, the dead one too."""
    assert "role died" in said(tmp_runtime_dir, TOGETHER)


def test_why_the_journal_cannot_be_written_is_told_again_while_it_lasts(tmp_runtime_dir: Path) -> None:
    """Guards: what a full log has rotated away is told anew, and the reason is the true one."""
    log = said(tmp_runtime_dir, LOCKED)
    assert 2 <= log.count("everything waits: another program has locked the file; end that program") <= 4


def test_leases_are_renewed_while_the_journal_cannot_be_written(tmp_runtime_dir: Path) -> None:
    """Promise 5: else another host would get the jobs, and run them beside us."""
    said(tmp_runtime_dir, LEASED)


def test_what_waits_for_a_supervisor_whose_disk_is_full_stays_where_it_comes_from(tmp_runtime_dir: Path) -> None:
    """Promise 7: ends of jobs are as large as what they gave back, and are said again while nobody settles them."""
    said(tmp_runtime_dir, FLOODED)


def test_a_job_that_cannot_be_read_from_the_journal_ends_and_others_go_on(tmp_runtime_dir: Path) -> None:
    """A sector that has gone bad while we run ended the supervisor, and the next one at the same job."""
    log = said(tmp_runtime_dir, UNREADABLE)
    assert "a job cannot be read, others go on: check the disk" in log
    assert "job a cannot be read from the journal" in log
