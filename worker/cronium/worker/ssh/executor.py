"""The SSH executor: jobs on servers, over connections that a worker keeps between them.

Runs in a worker; one instance may run many attempts, one after the other.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator

import structlog

from cronium.common.errors import ExecutionError, Reason
from cronium.common.ids import is_remote_place
from cronium.common.job import InvalidJobError, Job, JobProblem, parse_job
from cronium.common.messages import Message, ReleaseConnections, WarmUp
from cronium.common.servers import Server, servers_of
from cronium.worker.executor import Attempt, Complete, Control, Update
from cronium.worker.settings import WorkerSettings
from cronium.worker.ssh.attempt import place_names, run
from cronium.worker.ssh.commands import RemoteError, clean_command, list_command, parse_cleaned, parse_listed
from cronium.worker.ssh.connection import Connection
from cronium.worker.ssh.plan import problems_of
from cronium.worker.ssh.pool import Pool
from cronium.worker.ssh.settings import settings_of

_COMMAND_S = 30.0
_MOST_BYTES = 1024 * 1024
_log = structlog.get_logger()


class SshExecutor:
    """The way to servers (see `cronium.worker.executor.Executor` and `Resident`)."""

    name = "ssh"

    def __init__(self, settings: WorkerSettings, tell: Callable[[Message], None]) -> None:
        self._settings = settings_of(settings)
        self._pool = Pool(self._settings, tell, warm=settings.number > 0)  # an `exec` has no second job
        self._found: dict[str, Connection] = {}
        self._last: tuple[str, set[str]] = ("", set())  # the last attempt's place, and the names of it that may exist

    def validate(self, job: Job) -> tuple[JobProblem, ...]:
        """See `Executor`."""
        return problems_of(job, self._settings)

    def execute(self, attempt: Attempt, control: Control) -> Iterator[Update]:
        """See `Executor`."""
        made: set[str] = set()
        self._last = ("", made)
        for update in run(attempt, control, self._pool, self._settings, made):
            if isinstance(update, Complete):  # only what surely nobody has made since needs no removal
                self._last = (attempt.place, made)
            yield update

    def cleanup(self, place: str, job: Job | None = None) -> None:
        """See `Executor`. Without the job only where the last look for leftovers has found it."""
        if job is None:
            connection = self._found.get(place)
            if connection is not None and connection.alive:
                self._remove(connection, place)
            return
        names = place_names(place, servers := servers_of(job))
        last, made = self._last
        # What was never made needs nobody to go there for it.
        todo = [server for server in servers if place != last or names[server.key] in made]
        broken_off = ExecutionError(Reason.INTERNAL, "its removal broke off: see the worker's log")
        troubles = dict.fromkeys((server.key for server in todo), broken_off)

        def remove(server: Server) -> None:
            try:
                self._remove_at(server, names[server.key], job.id)
            except ExecutionError as error:
                troubles[server.key] = error
            else:
                del troubles[server.key]

        # All at the same time: one that says nothing must not use up the time of those behind it.
        threads = [threading.Thread(target=remove, args=(server,), name="cleanup", daemon=True) for server in todo]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if troubles:
            errors = list(troubles.values())
            first = next((error for error in errors if error.reason is Reason.UNREACHABLE), errors[0])
            raise ExecutionError(first.reason, "; ".join(error.message for error in errors), retryable=first.retryable)
        self._last = ("", set())

    def make_ready(self, stop: Callable[[], bool]) -> None:
        """See `Executor`. Which servers there are is not known before there are jobs for them."""

    def places(self) -> frozenset[str]:
        """See `Executor`. On the servers that this worker is connected to."""
        self._found.clear()
        for server, connection in self._pool.idle():
            command = list_command(self._settings.ssh.execution.temp_dir, self._settings.installation)
            try:
                found = connection.run(command, _COMMAND_S, max_bytes=_MOST_BYTES)
                names = (name for name in parse_listed(found.stdout).names if is_remote_place(name, self._settings.installation))
                self._found |= dict.fromkeys(names, connection)
            except (ExecutionError, RemoteError) as error:
                _log.info("not looked for leftovers", server=str(server.address), error=str(error))
            _log.debug("looked for leftovers", server=str(server.address), places=len(self._found))
        return frozenset(self._found) - self._pool.waiting()

    def leave(self) -> None:
        """See `Executor`. Launchers that wait see the end of their connection."""

    # --- Resident --------------------------------------------------------------------------------------------------------

    def tend(self, now_s: float) -> float:
        """See `Resident`."""
        return self._pool.tend(now_s)

    def descriptors(self) -> tuple[int, ...]:
        """See `Resident`."""
        return self._pool.descriptors()

    def hear(self, message: Message) -> None:
        """See `Resident`."""
        match message:
            case ReleaseConnections(servers):
                self._pool.release(servers)
            case WarmUp(raw):
                try:
                    servers_to_reach = servers_of(parse_job(raw))
                except InvalidJobError as error:
                    _log.warning("not a job for servers", error=str(error))
                    return
                for server in servers_to_reach:
                    self._pool.warm_up(server)
            case _:
                pass

    def close(self) -> None:
        """See `Resident`."""
        self._pool.close()

    def _remove_at(self, server: Server, name: str, job_id: str) -> None:
        """In a helper thread: a connection that is not there is made for this alone."""
        connection = self._pool.peek(server)
        if connection is not None:
            try:
                self._remove(connection, name, job_id)
            except ExecutionError as error:  # it is just being lost, or takes no further command
                _log.info("not removed over the connection that is there", place=name, error=error.message)
                connection.close()  # before there is another one
            else:
                return
        connection = self._pool.reach(server, job_id)
        try:
            self._remove(connection, name, job_id)
        finally:
            connection.close()

    def _remove(self, connection: Connection, name: str, job_id: str | None = None) -> None:
        found = connection.run(clean_command(self._settings.ssh.execution.temp_dir, (name,)), _COMMAND_S, max_bytes=_MOST_BYTES)
        try:
            gone, why = name in parse_cleaned(found.stdout).names, "it is still there"
        except RemoteError as error:
            gone, why = False, error.detail
        fields = {"server": str(connection.server.address), "key": connection.key, "place": name}
        job = {} if job_id is None else {"job": job_id}
        self._pool.audit.append("ssh.cleanup", result="removed" if gone else "failed", **job, **fields)
        if not gone:
            raise ExecutionError(
                Reason.SERVER_UNSUITABLE,
                f"{name} could not be removed on {connection.server.address} ({why}): remove it there",
                retryable=True,
            )
