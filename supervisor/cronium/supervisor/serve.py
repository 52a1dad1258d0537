"""Puts the supervisor together from a configuration and runs it: the role `cronium: supervisor`.

Runs in the main thread of the supervisor's process; everything that can go wrong at start is said here, before any job is taken.
"""

from __future__ import annotations

import json
import os
import secrets
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import structlog

from cronium.common import VERSION
from cronium.common.config.model import Config
from cronium.common.crypto import KEY_VARIABLE, OLD_KEYS_VARIABLE
from cronium.common.ids import installation_id
from cronium.supervisor.backend.contract import ContractBackend
from cronium.supervisor.backend.http import BackendSession
from cronium.supervisor.backend.lanes import BackendLanes
from cronium.supervisor.core.core import Core
from cronium.supervisor.core.decisions import PollRules
from cronium.supervisor.core.roles import MONITOR, QUEUE, STREAMER
from cronium.supervisor.core.rules import Rules
from cronium.supervisor.journal import Journal
from cronium.supervisor.loop import Loop
from cronium.supervisor.pool.descriptors import wait_readable
from cronium.supervisor.pool.roles import Role
from cronium.supervisor.pool.settings import heartbeat_s, monitor_settings, worker_settings
from cronium.supervisor.pool.staff import Forked, Staff
from cronium.supervisor.start import Ready, StartError
from cronium.supervisor.status.observer import Observer
from cronium.supervisor.stop import StopOrders
from cronium.supervisor.streamer.settings import StreamerSettings

QUEUE_DIR = "standalone"
_QUEUE_START_S = 20.0
_REPORT_REST_BYTES = (
    16 * 1024 * 1024
)  # the last MiB of each stream, of which JSON writes a byte as six at the most; names, problems
_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Backend:
    """Where the backend is. `queue` is the role that runs it, when it is our own."""

    http_url: str
    websocket_url: str
    token: str
    queue: Role | None = None

    def __repr__(self) -> str:
        return f"Backend({self.http_url!r}, {self.websocket_url!r})"


def serve(config: Config, ready: Ready, *, standalone: bool, tell: Callable[[str], None]) -> int:
    """Run until stopped; the exit code: 0, or 70 when the restart intensity was exceeded.

    `tell` shows a line to a person in front of a terminal. Raises CroniumError when it cannot start.
    """
    orders = StopOrders(config.jobs.on_stop, tell)
    orders.install()
    installation = config.id or installation_id(config.state_dir)
    journal = Journal(config.state_dir / "journal.db", ready.seal)
    memory = journal.load()
    backend = start_queue(config, ready.keys, tell) if standalone else _configured(config)
    staff = Staff(
        ready.forks,
        worker_settings(config, installation),
        {
            STREAMER: Forked(
                "cronium.supervisor.streamer.main", lambda: _streamer_settings(config, backend, installation, ready.keys)
            ),
            MONITOR: Forked("cronium.supervisor.monitor.main", lambda: monitor_settings(config)),
        },
        backend.queue,
    )
    core = Core(_rules(config, installation), secrets.randbits(64), staff.roles)
    core.restore(memory.records, memory.ended, memory.poll_key, time.time_ns() // 1_000_000)
    lanes = BackendLanes(lambda: _speaker(config, backend, installation))
    observer = Observer(installation)
    loop = Loop(core, journal, staff, lanes, orders, config.runtime_dir, observer, heartbeat_s(config))
    _log.info("supervisor started", version=VERSION, installation=installation, backend=backend.http_url)
    tell(f"cronium-supervisor {VERSION} is running; jobs come from {backend.http_url}. Ctrl-C stops it.")
    try:
        return loop.run()
    finally:
        loop.close()
        _remove_sockets(config.runtime_dir)
        _log.info("supervisor stopped")


def start_queue(config: Config, keys: dict[str, str], tell: Callable[[str], None]) -> Backend:
    """Start the embedded queue and wait until it listens. Raises StartError when it does not."""
    folder = config.state_dir / QUEUE_DIR
    folder.mkdir(mode=0o700, exist_ok=True)
    token_file = folder / "token"
    settings = {
        "database": str(folder / "queue.db"),
        "token_file": str(token_file),
        "host": config.standalone.host,
        "port": config.standalone.port,
        "parent_pid": os.getpid(),
        "lease_s": config.standalone.lease,
        "max_body_bytes": _largest_report_bytes(config),
        "log_level": config.monitoring.logging.level,
        "log_format": config.monitoring.logging.format,
    }
    role = Role(QUEUE, "cronium.supervisor.standalone", lambda: json.dumps(settings).encode(), wants_stdout=True, environ=keys)
    role.start()
    ready = _ready_line(role)
    settings["port"] = ready["port"]  # a queue that is started again stays where it was
    (folder / "address.json").write_text(json.dumps({"clientUrl": ready["clientUrl"], "tokenFile": str(token_file)}) + "\n")
    tell(f"Standalone queue on {ready['clientUrl']} (token in {token_file})")
    return Backend(str(ready["apiUrl"]), str(ready["wsUrl"]), token_file.read_text().strip(), role)


def _largest_report_bytes(config: Config) -> int:
    """Of a job that gives back all it may (base64 takes four bytes for three), with its last output."""
    return 4 * (config.container.max_results + config.container.max_events) // 3 + _REPORT_REST_BYTES


def _ready_line(role: Role) -> dict[str, object]:
    assert role.process is not None  # noqa: S101 - just started
    assert role.process.stdout is not None  # noqa: S101 - it is a pipe
    line = role.process.stdout.readline() if wait_readable(role.process.stdout.fileno(), _QUEUE_START_S) else b""
    if not line:
        role.stop(time.monotonic())
        raise StartError(
            "the standalone queue did not start: what it wrote above says why (is its port taken? set standalone.port "
            "or CRONIUM_STANDALONE_PORT to another one, 0 for any)"
        )
    ready: dict[str, object] = json.loads(line)
    return ready


def _configured(config: Config) -> Backend:
    token = config.api.token
    if config.api.endpoint is None or token is None:
        raise StartError("no backend is configured: set CRONIUM_API_URL and CRONIUM_SERVICE_TOKEN, or use --standalone")
    return Backend(str(config.api.endpoint), str(config.logging.websocket.endpoint or ""), token.get_secret_value())


def _speaker(config: Config, backend: Backend, installation: str) -> ContractBackend:
    session = BackendSession(backend.http_url, backend.token, installation, config.api.timeout)
    return ContractBackend(session, installation, config.jobs.types, certain=config.api.dialect == "contract")


def _rules(config: Config, installation: str) -> Rules:
    jobs, retry, ssh = config.jobs, config.api.retry, config.ssh
    return Rules(
        installation=installation,
        polls=PollRules(jobs.poll_interval, jobs.poll_max_interval, jobs.poll_wait),
        batch_size=jobs.poll_batch_size,
        max_concurrent=jobs.max_concurrent,
        spare_workers=config.workers.spare,
        recycle_after_jobs=config.workers.recycle_after_jobs,
        recycle_above_bytes=config.workers.recycle_above_memory,
        worker_start_s=config.workers.start_timeout,
        max_worker_deaths=jobs.max_worker_deaths,
        status_interval_s=jobs.status_interval,
        keep_done_s=jobs.keep_done,
        keep_done_jobs=jobs.keep_done_jobs,
        keep_done_bytes=jobs.keep_done_size,
        max_results_bytes=config.container.max_results,
        retry_first_s=retry.initial_delay,
        retry_longest_s=retry.max_delay,
        connections_per_server=ssh.connection_pool.max_per_server,
        connections_idle_s=ssh.connection_pool.idle_timeout,
        connect_s=ssh.connection_pool.connect_timeout,
        breaker_failures=ssh.circuit_breaker.failure_threshold,
        breaker_recovery_s=ssh.circuit_breaker.recovery_timeout,
        breaker_fails=ssh.circuit_breaker.when_open == "fail",
        unreachable_after_s=ssh.unreachable_after,
        remote_ttl_s=ssh.execution.remote_ttl,
        hung_after_s=config.workers.hung_after,
        restart_intensity=config.workers.restart_intensity,
        restart_period_s=config.workers.restart_period,
    )


def _streamer_settings(config: Config, backend: Backend, installation: str, keys: dict[str, str]) -> dict[str, object]:
    settings = StreamerSettings(
        parent_pid=os.getpid(),
        runtime_dir=str(config.runtime_dir),
        state_dir=str(config.state_dir),
        spool_dir=str(config.state_dir / "spool"),
        websocket_url=backend.websocket_url,
        http_url=backend.http_url,
        token=backend.token,
        orchestrator_id=installation,
        version=VERSION,
        heartbeat_s=heartbeat_s(config),
        log_level=config.monitoring.logging.level,
        log_format=config.monitoring.logging.format,
        key=keys.get(KEY_VARIABLE, ""),
        old_keys=keys.get(OLD_KEYS_VARIABLE, ""),
    ).with_logging(config.logging)
    return asdict(replace(settings, websocket_url=backend.websocket_url))


def _remove_sockets(runtime_dir: Path) -> None:
    for pattern in ("*.sock", "dial-*.lock"):
        for path in runtime_dir.glob(pattern):
            path.unlink(missing_ok=True)
