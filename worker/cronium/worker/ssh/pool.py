"""The connections of one worker: at most one to each server, kept while they are of use, each with a launcher that waits.

Runs in a worker; which worker may connect to what is the supervisor's decision (it leases connections, so that all workers
together keep `maxPerServer`). Here they are kept alive, checked, closed when idle, and told of. Nothing here blocks but
`reach`, which runs in a helper thread.
"""

from __future__ import annotations

import math
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import structlog

from cronium.common.audit import AuditLog
from cronium.common.errors import ExecutionError, Reason
from cronium.common.ids import remote_place_name
from cronium.common.messages import Connected, Message, ServerSeen, Slot
from cronium.common.servers import Server
from cronium.worker.errand import Errand
from cronium.worker.ssh.commands import RemotePlace, discard_command
from cronium.worker.ssh.connection import Connection, Finished
from cronium.worker.ssh.dial import ANSWERED, DialSettings, dial
from cronium.worker.ssh.dial_places import NoPlaceError
from cronium.worker.ssh.keys import load_identity
from cronium.worker.ssh.known_hosts import KnownHosts
from cronium.worker.ssh.session import Session, opened
from cronium.worker.ssh.settings import Settings

_SAY_AGAIN_S = 10.0  # what was said of the connections may have been lost with a full queue
_LOOK_S = 1.0
_CHANNELS = 2  # that a job needs: without the second its script would run, and nobody hear how it ends
_MOST_BYTES = 1024 * 1024
_SLOT_LATER_S = 1.0  # after a connection that a job waits for: first that job, then a launcher for the next
_SLOT_AGAIN_S = 30.0  # after a slot that could not be made
_SLOT_AGE_S = 45.0  # then another launcher waits: where a server does not notice that we are gone, nothing stays for a minute
_SLOT_SLACK_S = 15.0  # a launcher waits longer than we count on it
_SLOT_BYTES = 64 * 1024  # of what a place without a job may say
_CLEAN_S = 60.0
# What tells that a server is out of reach, and not that it does not want us.
_OUT_OF_REACH = frozenset({Reason.UNREACHABLE, Reason.SSH_PROTOCOL})
_log = structlog.get_logger()


@dataclass(slots=True)
class Waiting:
    """A launcher that waits for its job: the place it has, and the channels to it once they are open."""

    place: str
    made_s: float
    opening: Errand[Session] = field(default_factory=lambda: Errand(Session.close))
    session: Session | None = None

    def close(self) -> None:
        """Let go of it: its launcher sees the end of its input, and removes its own directory."""
        if self.session is not None:
            self.session.close()
        self.opening.close()


@dataclass(slots=True)
class _Kept:
    server: Server
    connection: Connection
    used: bool = False
    idle_since_s: float = 0.0
    checked_s: float = 0.0
    check: Errand[None] = field(default_factory=Errand)
    cleaning: Errand[Finished] = field(default_factory=Errand)
    slot: Waiting | None = None
    slot_after_s: float = 0.0

    def close(self) -> None:
        if self.slot is not None:
            self.slot.close()
        self.check.close()
        self.cleaning.close()
        self.connection.close()


class Pool:
    """All of them. `tell` takes what the supervisor is to know."""

    def __init__(self, settings: Settings, tell: Callable[[Message], None], *, warm: bool) -> None:
        self._settings = settings
        self._tell = tell
        self._warm = warm and settings.ssh.connection_pool.warm
        self._dialing = DialSettings.of(settings.ssh, settings.runtime_dir)
        self._known_hosts = KnownHosts(settings.known_hosts, settings.ssh.known_hosts)
        self.audit = AuditLog(settings.audit_dir)
        self._kept: dict[str, _Kept] = {}
        self._warming: dict[str, tuple[Server, Errand[Connection]]] = {}
        self._orphans: dict[str, set[str]] = {}  # places of launchers that waited on connections that were lost
        self._said = self._connected()
        self._said_s = -math.inf
        self._ever = False

    # --- for an attempt ------------------------------------------------------------------------------------------------

    def get(self, server: Server) -> Connection | None:
        """The connection to a server, in use from now on; None when there is none that lives."""
        self._tend_warming(server.key)
        kept = self._kept.get(server.key)
        if kept is None:
            return None
        if not kept.connection.alive:
            self.lose(server)
            return None
        kept.used = True
        return kept.connection

    def is_warming(self, server: Server) -> bool:
        """Whether a connection to it is being made in advance: `get` will have it."""
        return server.key in self._warming

    def crowded(self, server: Server) -> None:
        """The server takes no further channel on this connection: no launcher waits on it any more."""
        kept = self._kept.get(server.key)
        if kept is None:
            return
        kept.slot_after_s = math.inf
        if kept.slot is not None:
            kept.slot.close()
            kept.slot = None
            self.announce()

    def peek(self, server: Server) -> Connection | None:
        """The connection to a server if it lives, whoever uses it."""
        kept = self._kept.get(server.key)
        return kept.connection if kept is not None and kept.connection.alive else None

    def reach(self, server: Server, job_id: str | None = None) -> Connection:
        """A new connection, for this job or in advance. Blocks, in a helper thread. Raises ExecutionError."""
        identity = load_identity(server, self._settings.ssh)
        connection = dial(server, self._dialing, identity, self._known_hosts, self.audit, job_id)
        try:
            connection.check_sessions(_CHANNELS, self._settings.ssh.connection_pool.connect_timeout)
        except ExecutionError as error:
            error.details[ANSWERED] = str(server.address)
            connection.close()
            raise
        return connection

    def reached(self, server: Server, connection: Connection, *, used: bool) -> None:
        """It is there: keep it."""
        self._drop(server.key)
        now_s = time.monotonic()
        slot_after_s = now_s + _SLOT_LATER_S if used else now_s
        self._kept[server.key] = kept = _Kept(
            server, connection, used, idle_since_s=now_s, checked_s=now_s, slot_after_s=slot_after_s
        )
        if orphans := self._orphans.pop(server.key, None):  # the server may not have noticed that nobody feeds them any more
            command = discard_command(self._settings.ssh.execution.temp_dir, orphans)
            kept.cleaning.send(lambda: connection.run(command, _CLEAN_S, max_bytes=_MOST_BYTES))
        self._ever = True
        self._tell(ServerSeen(self._settings.worker, server.key, reached=True))
        self.announce()

    def not_reached(self, server: Server, error: ExecutionError) -> None:
        """It is not there; or it does not let us in, which says that it lives; or we never came that far, which says nothing."""
        if error.reason in _OUT_OF_REACH and not isinstance(error, NoPlaceError):
            self._tell(ServerSeen(self._settings.worker, server.key, reached=False, reason=error.message))
        elif error.details.get(ANSWERED) == str(server.address):
            self._tell(ServerSeen(self._settings.worker, server.key, reached=True))

    def lose(self, server: Server) -> None:
        """The connection is of no use any more."""
        self._drop(server.key, lost=True)
        self.announce()

    def give_back(self, server: Server) -> None:
        """No attempt uses it any more."""
        kept = self._kept.get(server.key)
        if kept is not None:
            kept.used, kept.idle_since_s = False, time.monotonic()

    def take_slot(self, server: Server, place: str) -> Waiting | None:
        """The waiting launcher of this place, given away; None when there is none (any more)."""
        kept = self._kept.get(server.key)
        if kept is None or kept.slot is None or kept.slot.place != place:
            return None
        slot, kept.slot = kept.slot, None
        return slot

    def announce(self) -> None:
        """Say what is connected, and where launchers wait."""
        self._said = self._connected()
        self._said_s = time.monotonic()
        self._tell(self._said)

    # --- between attempts ----------------------------------------------------------------------------------------------

    def warm_up(self, server: Server) -> None:
        """Connect to a server before a job comes."""
        if server.key not in self._kept and server.key not in self._warming:
            errand: Errand[Connection] = Errand(Connection.close)
            self._warming[server.key] = (server, errand)
            errand.send(lambda: self.reach(server))

    def release(self, keys: tuple[str, ...]) -> None:
        """Close these if nobody uses them; whatever came of it is said."""
        for key in keys:
            if key in self._kept and not self._kept[key].used:
                self._drop(key)
        self.announce()

    def idle(self) -> tuple[tuple[Server, Connection], ...]:
        """The connections that live, with their servers."""
        return tuple((kept.server, kept.connection) for kept in self._kept.values() if kept.connection.alive)

    def waiting(self) -> frozenset[str]:
        """The places of launchers that wait here."""
        return frozenset(kept.slot.place for kept in self._kept.values() if kept.slot is not None)

    def descriptors(self) -> tuple[int, ...]:
        """Readable when `tend` has something to do."""
        return tuple(
            descriptor
            for kept in self._kept.values()
            for descriptor in (kept.check.descriptor, *((kept.slot.opening.descriptor,) if kept.slot is not None else ()))
        ) + tuple(errand.descriptor for _, errand in self._warming.values())

    def tend(self, now_s: float) -> float:
        """Look after all of them; when (monotonic) to come again."""
        for key in list(self._warming):
            self._tend_warming(key)
        for key, kept in list(self._kept.items()):
            if not self._tend(kept, now_s):
                self._drop(key, lost=True)
        if self._said != self._connected() or (self._ever and now_s > self._said_s + _SAY_AGAIN_S):
            self.announce()
        return now_s + _LOOK_S if self._kept or self._warming else math.inf

    def close(self) -> None:
        """All of them."""
        for key in list(self._kept):
            self._drop(key)
        for _, errand in self._warming.values():
            errand.close()
        self._warming.clear()

    def _tend_warming(self, key: str) -> None:
        if key not in self._warming:
            return
        server, errand = self._warming[key]
        back = errand.take()
        if back is None:
            return
        del self._warming[key]
        errand.close()
        connection, error = back
        if connection is not None and self.peek(server) is not None:
            connection.close()  # a job was quicker
        elif connection is not None:
            self.reached(server, connection, used=False)
        elif error is not None:
            _log.info("not connected in advance", server=str(server.address), error=error.message)
            self.not_reached(server, error)
            self.announce()

    def _tend(self, kept: _Kept, now_s: float) -> bool:
        """Whether it is to be kept."""
        pool = self._settings.ssh.connection_pool
        back = kept.check.take()
        if back is not None and back[1] is not None:
            _log.info("connection is dead", server=str(kept.server.address), error=back[1].message)
            return kept.used  # whoever uses it finds out by itself
        if not kept.connection.alive:
            return kept.used
        if kept.used:
            kept.checked_s = now_s
        elif now_s - kept.idle_since_s > pool.idle_timeout:
            return False
        elif now_s - kept.checked_s > pool.health_check_interval and not kept.check.out:
            kept.checked_s = now_s
            connection = kept.connection
            kept.check.send(lambda: connection.ping(pool.connect_timeout))
        self._tend_slot(kept, now_s)
        return True

    def _tend_slot(self, kept: _Kept, now_s: float) -> None:
        slot = kept.slot
        if slot is None:
            if self._warm and now_s >= kept.slot_after_s:
                self._make_slot(kept)
        elif slot.session is None:
            back = slot.opening.take()
            if back is not None:
                slot.session, error = back
                if slot.session is None:
                    _log.info("no launcher waits", server=str(kept.server.address), error=error.message if error else "")
                    slot.close()
                    kept.slot, kept.slot_after_s = None, now_s + _SLOT_AGAIN_S
        else:
            session = slot.session
            session.read()  # its channels end with its launcher
            odd = session.refusal is not None or len(session.state) + len(session.events) > _SLOT_BYTES
            if odd or session.broken is not None:  # whatever is wrong there is not wrong again at once
                kept.slot_after_s = now_s + _SLOT_AGAIN_S
            if odd or session.broken is not None or now_s > slot.made_s + _SLOT_AGE_S:
                slot.close()
                kept.slot = None

    def _make_slot(self, kept: _Kept) -> None:
        pool = self._settings.ssh.connection_pool
        name = remote_place_name(self._settings.installation, secrets.randbits(96))
        kept.slot = slot = Waiting(name, time.monotonic())
        self.announce()  # before anything of it exists
        place = RemotePlace(self._settings.ssh.execution.temp_dir, name)
        connection = kept.connection
        slot.opening.send(
            lambda: opened(
                connection, place, _SLOT_AGE_S + _SLOT_SLACK_S, self._settings.ssh.execution.remote_ttl, pool.connect_timeout
            )
        )

    def _connected(self) -> Connected:
        slots = tuple(Slot(key, kept.slot.place) for key, kept in sorted(self._kept.items()) if kept.slot is not None)
        return Connected(self._settings.worker, tuple(sorted(self._kept)), slots)

    def _drop(self, key: str, *, lost: bool = False) -> None:
        kept = self._kept.pop(key, None)
        if kept is None:
            return
        if lost and kept.slot is not None:
            self._orphans.setdefault(key, set()).add(kept.slot.place)
        kept.close()
