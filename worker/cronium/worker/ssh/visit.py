"""One server's part of an attempt: reach it, make or find the place, read along, come back whenever the way there is lost.

Runs in a worker. A visit is a state machine: `step` does what can be done without waiting, in the phase it is in; what blocks
(dialing, opening a channel, fetching) is an errand in a helper thread. The order of the phases:

    connect → begin → follow → fetch → over
    connect → attach → inquire → follow (somebody may have made the place already, or the connection was lost)
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, replace

import structlog

from cronium.common.errors import ExecutionError, Reason
from cronium.common.messages import Results
from cronium.common.servers import Server
from cronium.worker.errand import Errand
from cronium.worker.executor import Control, Gap, Log, Told, Update
from cronium.worker.gather import results_of
from cronium.worker.judgement import Ending, cancelled_before_start
from cronium.worker.launcher import DEFAULT_MAX_UNREAD_BYTES
from cronium.worker.ssh.absence import Absence
from cronium.worker.ssh.collect import Collected, Collector
from cronium.worker.ssh.commands import Facts, Look, RemotePlace, Reply, Words
from cronium.worker.ssh.connection import Connection
from cronium.worker.ssh.flow import STREAMS, Flow
from cronium.worker.ssh.hearing import Hearing, now_ms
from cronium.worker.ssh.outcome import Facts as Known
from cronium.worker.ssh.outcome import decide
from cronium.worker.ssh.pool import Pool, Waiting
from cronium.worker.ssh.session import READ_BYTES, Session, asked, fed, reading, started
from cronium.worker.ssh.settings import Settings
from cronium.worker.ssh.verdicts import ended_from_outside, given_up, rebooted, refused, unreachable, vanished
from cronium.worker.ssh.watch import QUIET_S, Finding, Watch
from cronium.worker.story import Story

_PIECES_A_ROUND = 8
_INLINE_BYTES = 64 * 1024  # of a payload: what a channel's window always takes at once
_CLEAR_WITHIN_S = 20.0  # a launcher that was fed says so, one that was not leaves
_INQUIRE_S = 0.05
_ORDER_AGAIN_S = 0.1
_CUT_WITHIN_S = 10.0  # of silence: what a script has cut off its own files does not come any more
_UPTIME_SLACK_S = 5.0  # our clock may have been set a little; a host does not boot in less
_REST_BESIDE_BYTES = 4 * 1024 * 1024  # beyond what may be unread (the place may be older than our limit): pipes
_NOTHING = Collected()
_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Task:
    """What is to be run there. `name`: of the place; `label`: of its files and lines, empty for an attempt's only place.

    `placed_ms` (Unix): when the place was named, 0 if that is not known; nothing of it can be older.
    """

    server: Server
    name: str
    label: str
    job_id: str
    payload: Callable[[], bytes]
    interpreter: str
    timeout_s: float
    adopt: bool
    begun: bool
    placed_ms: int = 0


class Visit:
    """`over` once there is nothing more to do here; then `ending` and `results` are there."""

    def __init__(self, task: Task, offsets: dict[str, int], control: Control, pool: Pool, settings: Settings) -> None:
        self.server = task.server
        self._task, self._offsets, self._control, self._pool, self._settings = task, offsets, control, pool, settings
        self._place = RemotePlace(settings.ssh.execution.temp_dir, task.name)
        self._log = _log.bind(job_id=task.job_id, server=str(task.server.address))
        self._phase: Callable[[float], Iterator[Update]] = self._connect
        self._fresh = not task.adopt  # nothing of the place can be there
        self.over = False
        self.ending: Ending | None = None
        self.results = Results()
        # The way there.
        self._absence = Absence()
        self.give_up_ms = 0
        self._connection: Connection | None = None
        self._session: Session | None = None
        self._slot: Waiting | None = None
        self._dial: Errand[Connection] = Errand(Connection.close)
        self._open: Errand[Session] = Errand(Session.close)
        self._collector = Collector(task.server, self._place, task.label, control, settings, self._audit)
        # The place.
        self._payload, self._uploading = b"", False
        self._flow = Flow(settings.max_unread_bytes)
        self._watch = Watch(
            settings.ssh.connection_pool.keepalive_interval,
            task.timeout_s + settings.grace_s,
            len(STREAMS) * max(settings.max_unread_bytes, DEFAULT_MAX_UNREAD_BYTES) + _REST_BESIDE_BYTES,
        )
        self._stored_bytes = 0
        self._hearing = Hearing(
            task.server,
            task.label,
            (task.placed_ms if task.adopt else 0) or now_ms(),
            settings.max_events_bytes,
            offsets,
            self._watch,
            self._flow,
            begun=task.begun or any(offsets.values()),
        )
        self._asked_s = self._clear_by_s = 0.0
        self._gone_s: float | None = None
        self._boot_id: str | None = None  # of the host that the job was handed to
        self._cancels = 0
        self._ordering, self._ordered_s = False, 0.0

    # --- for the attempt -----------------------------------------------------------------------------------------------

    def step(self, now_s: float) -> Iterator[Update]:
        """Do what can be done now."""
        if not self.over:
            yield from self._phase(now_s)
            if self.begun and self._absence.is_to_be_told(now_s):
                yield Told(f"the connection to {self.server.name} is lost; the script goes on there", self._task.label)

    @property
    def place(self) -> str:
        """The name of the place on its server."""
        return self._task.name

    @property
    def begun(self) -> bool:
        """Whether its script is known to have been started."""
        return self._hearing.begun

    @property
    def started_ms(self) -> int:
        """When (Unix), 0 while that is not known."""
        return self._hearing.started_ms

    @property
    def ended_ms(self) -> int:
        """When its script ended (Unix), or this visit."""
        return self._hearing.ended_ms

    @property
    def trouble(self) -> ExecutionError | None:
        """Why the place is out of reach."""
        return self._absence.trouble

    @property
    def touched(self) -> bool:
        """Whether something of the place may be there."""
        return not self._fresh

    def descriptors(self) -> tuple[int, ...]:
        """Readable when there is something to do."""
        errands = tuple(errand.descriptor for errand in (self._dial, self._open, self._collector))
        slot = () if self._slot is None else (self._slot.opening.descriptor,)
        return (*errands, *slot, *(() if self._session is None else self._session.descriptors()))

    def look_after_s(self, now_s: float) -> float:
        """How long one may wait before the next step."""
        if self._phase in (self._connect, self._attach):
            return 0.5 if self._dial.out else max(0.01, min(0.5, self._absence.again_s - now_s))
        if self._phase == self._inquire:
            return 0.05
        keep_due_s = None if self._session is None else self._session.keep_due_s
        return 0.2 if keep_due_s is None else max(0.0, min(0.2, keep_due_s - now_s))

    def away(self, now_s: float) -> bool:
        """Whether the server has been out of reach for longer than a worker is held for it."""
        if self.over or self._absence.since_s is None:
            return False
        if (self._fresh and not self.begun) or self._control.cancelled() > 1:
            return True
        return now_s - self._absence.since_s > self._control.patience_s()

    def close(self) -> None:
        """Let go of everything; the place stays."""
        for errand in (self._dial, self._open, self._collector):
            errand.close()
        self._drop_session()
        if self._slot is not None:
            self._slot.close()
        self._pool.give_back(self.server)

    # --- the way there -------------------------------------------------------------------------------------------------

    def _connect(self, now_s: float) -> Iterator[Update]:
        back = self._dial.take()
        if back is not None:
            connection, error = back
            if connection is not None:
                self._pool.reached(self.server, connection, used=True)
            elif error is not None:
                self._pool.not_reached(self.server, error)
                self._pool.announce()
                self._not_reached(error, now_s)
                return
        if self._control.cancelled() and self._fresh and not self.begun:
            self._conclude(cancelled_before_start())
            return
        connection = None if self._dial.out else self._pool.get(self.server)
        if connection is not None:
            yield from self._arrived(connection, now_s)
        elif not self._dial.out and now_s >= self._absence.again_s and not self._pool.is_warming(self.server):
            self._dial.send(lambda: self._pool.reach(self.server, self._task.job_id))

    def _not_reached(self, error: ExecutionError, now_s: float) -> None:
        if self._fresh and not self.begun and error.reason is not Reason.UNREACHABLE:
            self._conclude(error)
            return
        self._log.info("server not reached", error=error.message, reason=error.reason.value)
        self._leave(now_s, error)
        self._absence.login_failed(now_s, error)

    def _leave(self, now_s: float, error: ExecutionError) -> None:
        """The place is out of reach from now on."""
        self._absence.begins(now_s, error)
        wait_s = self._settings.ssh.unreachable_after + (self._task.timeout_s if self.begun else 0.0)
        began_ms = (self.started_ms or self._task.placed_ms if self.begun else 0) or now_ms()
        self.give_up_ms = self.give_up_ms or began_ms + round(wait_s * 1000)

    def _arrived(self, connection: Connection, now_s: float) -> Iterator[Update]:
        self._absence.again_s = 0.0
        self._connection = connection
        self._phase = self._begin if self._fresh else self._attach
        yield from self._phase(now_s)

    def _settled(self, now_s: float) -> Iterator[Update]:
        """The place is heard (again)."""
        self.give_up_ms = 0
        if (lost_s := self._absence.hears(now_s)) is not None:
            yield Told(f"connected to {self.server.name} again after {lost_s:.0f} s", self._task.label)

    def _lost(self, now_s: float, error: ExecutionError) -> None:
        """The connection is of no use any more: make another."""
        if self._watch.stuck or self._watch.endless:  # there is nothing to come back for
            self._conclude(self._given_up())
            return
        self._log.info("connection lost", error=error.message)
        self._drop_session()
        self._connection = None
        self._pool.lose(self.server)
        self._leave(now_s, error)
        self._absence.connection_lost(now_s)
        self._phase = self._connect

    def _drop_session(self) -> None:
        if self._session is not None:
            self._session.close()
            self._session = None
        self._flow.anew()
        self._ordering = False
        self._absence.session_ends()

    def _reopen(self, now_s: float, error: ExecutionError) -> None:
        """A channel was lost or not to be had: over the same connection if it lives, not for ever."""
        self._uploaded("failed", error=error.message)
        soon = self._absence.channel_lost(now_s)
        if self._refused_for_good(error):
            self._conclude(error)
            return
        if self._watch.stuck or self._watch.endless:  # there is nothing to come back for
            self._conclude(self._given_up())
            return
        if self._connection is None or not self._connection.alive or not soon:
            self._lost(now_s, error)
        else:
            self._log.debug("channel lost", error=error.message)
            self._drop_session()
            self._leave(now_s, error)
            self._phase = self._attach

    def _refused_for_good(self, error: ExecutionError) -> bool:
        """A server that takes no second channel never will; one that misbehaves is left alone. Unless a script runs there."""
        if error.reason is Reason.SERVER_UNSUITABLE:
            self._pool.crowded(self.server)
            if self.begun:
                return False
        elif error.reason is not Reason.SSH_PROTOCOL or self.begun:
            return False
        return self._absence.is_refused_for_good()

    # --- a new place ---------------------------------------------------------------------------------------------------

    def _begin(self, now_s: float) -> Iterator[Update]:
        """Start the job: with the launcher that waits here, or with a new one."""
        if self._control.cancelled():
            self._conclude(cancelled_before_start())
            return
        self._anew(now_s)
        self._payload = self._task.payload()
        self._uploading = True
        self._audit("ssh.command", interpreter=self._task.interpreter, result="ordered")
        self._fresh = False  # from here on there may be something
        self._slot = self._pool.take_slot(self.server, self._task.name)
        if self._slot is not None:
            self._phase = self._feed
            yield from self._feed(now_s)
        else:
            self._begin_cold()

    def _begin_cold(self) -> None:
        connection, place, payload = self._connection, self._place, self._payload
        assert connection is not None  # noqa: S101 - `_arrived` comes before
        ttl_s, timeout_s = self._settings.ssh.execution.remote_ttl, self._timeout_s
        self._open.send(lambda: started(connection, place, payload, ttl_s, timeout_s))
        self._phase = self._await_session

    def _feed(self, now_s: float) -> Iterator[Update]:
        """Hand the job to the launcher that waits, as soon as it does."""
        slot = self._slot
        assert slot is not None  # noqa: S101 - asked by the caller
        if slot.session is None:
            back = slot.opening.take()
            if back is None:
                return
            slot.session, _ = back
        session, self._slot, slot.session = slot.session, None, None
        slot.close()
        if session is None:
            self._begin_cold()  # a late request of the slot's would find its name taken
            return
        payload, timeout_s = self._payload, self._timeout_s
        try:
            taken = session.offer(payload) if len(payload) <= _INLINE_BYTES else 0
        except ExecutionError as error:
            session.close()
            self._reopen(now_s, error)
            return
        if taken == len(payload):
            yield from self._begin_to_follow(session, now_s)
            return
        rest = payload[taken:]
        self._open.send(lambda: fed(session, rest, timeout_s))
        self._phase = self._await_session

    def _await_session(self, now_s: float) -> Iterator[Update]:
        back = self._open.take()
        if back is None:
            return
        session, error = back
        if session is None:
            self._reopen(now_s, error or unreachable(self.server, "the job could not be handed over"))
            return
        yield from self._begin_to_follow(session, now_s)

    def _uploaded(self, result: str, **fields: object) -> None:
        if self._uploading:
            self._uploading = False
            self._audit("ssh.upload", bytes=len(self._payload), result=result, **fields)

    def _begin_to_follow(self, session: Session, now_s: float) -> Iterator[Update]:
        self._uploaded("succeeded")
        self._session = session
        self._watch.begin(now_s)
        self._phase = self._follow
        yield from self._follow(now_s)

    def _anew(self, now_s: float) -> None:
        """Whatever the place has said is heard from its start."""
        self._hearing.anew()
        self._gone_s, self._asked_s, self._clear_by_s = None, 0.0, now_s + _CLEAR_WITHIN_S

    # --- a place that may be there -------------------------------------------------------------------------------------

    def _attach(self, now_s: float) -> Iterator[Update]:
        """Open the place's own channel, and find out what is there."""
        yield from ()
        connection, place = self._connection, self._place
        if connection is None or not connection.alive:
            self._lost(now_s, unreachable(self.server, "the connection has ended"))
        elif now_s >= self._absence.again_s:
            timeout_s = self._timeout_s
            self._open.send(lambda: asked(connection, place, timeout_s))
            self._phase = self._await_attached

    def _await_attached(self, now_s: float) -> Iterator[Update]:
        yield from ()
        back = self._open.take()
        if back is None:
            return
        session, error = back
        if session is None:
            self._reopen(now_s, error or unreachable(self.server, "the place could not be asked"))
            return
        self._session = session
        self._anew(now_s)
        self._phase = self._inquire

    def _inquire(self, now_s: float) -> Iterator[Update]:
        """Is the place there, has its script been started? If surely not, it is taken away and made anew."""
        session = self._session
        assert session is not None  # noqa: S101 - `_attach` comes before
        yield from self._hearing.take(session, now_s)
        if session.refusal is not None:
            yield from self._refused(session, now_s)
        elif session.facts is not None and not session.facts.there:
            yield from self._nothing_there(now_s)
        elif session.broken is not None:
            self._reopen(now_s, session.broken)
        else:
            yield from self._hear_inquired(session, now_s)

    def _hear_inquired(self, session: Session, now_s: float) -> Iterator[Update]:
        while session.replies:
            match session.replies.popleft():
                case Look(there=False):
                    yield from self._nothing_there(now_s)
                    return
                case Look(begun="started"):
                    self._read_on(session)
                    return
                case Look(begun="no") if self.begun or self._story.started is not None:  # who else can have changed that?
                    self._read_on(session)
                    return
                case Look(begun="failed") if self._story.failed is None:
                    pass  # its words are on their way
                case Look(begun="failed") if self._story.begun:
                    self._conclude(None)
                    return
                case Look(gate=True, launcher_alive=False):  # it was ended on its way to the script
                    self._gone_s = self._gone_s or now_s
                    if now_s > self._gone_s + QUIET_S:
                        self._conclude(ended_from_outside(self.server, self._watch, self._story, ordered=self._cancels > 0))
                        return
                case Look(gate=False) | Look(launcher_alive=False):
                    session.say(Words.CLAIM)
                case Reply("claim", "won"):
                    self._drop_session()
                    self._phase = self._begin
                    yield from self._begin(now_s)
                    return
                case _:
                    pass
        if now_s > self._clear_by_s:
            self._reopen(now_s, unreachable(self.server, "the job's place neither starts nor leaves"))
        elif session.facts is not None and now_s >= self._asked_s + _INQUIRE_S:
            self._asked_s = now_s
            session.say(Words.LOOK)

    def _nothing_there(self, now_s: float) -> Iterator[Update]:
        facts = self._session.facts if self._session is not None else None
        was_rebooted = facts is not None and self._was_rebooted(facts)
        self._drop_session()
        if was_rebooted:  # also when it was not heard of its start: it may have been what did it
            self._conclude(rebooted(self.server))
        elif self.begun:
            self._conclude(vanished(self.server, self._settings.ssh.execution.temp_dir, self._task.name))
        else:
            self._phase = self._begin
            yield from self._begin(now_s)

    def _was_rebooted(self, facts: Facts) -> bool:
        """Whether the host was booted since the job was, or may have been, handed to it. Its place would be gone with /tmp."""
        if None not in (facts.boot_id, self._boot_id):
            return facts.boot_id != self._boot_id
        if facts.up_s is None or not self._task.placed_ms or not self._task.adopt:
            return False
        return facts.up_s + _UPTIME_SLACK_S < (now_ms() - self._task.placed_ms) / 1000

    def _read_on(self, session: Session) -> None:
        """It has begun: open its output where we are."""
        offsets, timeout_s = dict(self._offsets), self._timeout_s
        self._hearing.begun = True
        self._session = None  # until the errand brings it back
        self._open.send(lambda: reading(session, offsets, timeout_s))
        self._phase = self._await_session

    # --- reading along -------------------------------------------------------------------------------------------------

    def _follow(self, now_s: float) -> Iterator[Update]:
        session = self._session
        assert session is not None  # noqa: S101 - set by whoever chose this phase
        yield from self._hearing.take(session, now_s)
        quiet = yield from self._output(session, now_s)
        if session.refusal is not None:
            yield from self._refused(session, now_s)
            return
        if session.made is not None:
            self._boot_id = session.made.boot_id
        if session.keep_due_s is not None and now_s >= session.keep_due_s:
            session.start_keep(self._timeout_s)
        if session.settled and not self._absence.heard:
            yield from self._settled(now_s)
        if (yield from self._drained(now_s, quiet=quiet)):
            self._drop_session()
            self._phase = self._fetch
            yield from self._fetch(now_s)
            return
        if session.broken is not None and quiet:
            self._reopen(now_s, session.broken)
            return
        durable = {name: self._control.durable(name, self._task.label) for name in STREAMS}
        if session.settled:  # not before: the reader that is to go on in the next segment may not be there to hear it
            for word in self._flow.words(self._offsets, durable, now_s):
                session.say(word)
            self._order(session, now_s)
        self._hear_replies(session, now_s)
        stored = durable == self._offsets
        reading = self._control.room() > 0 and (stored or sum(durable.values()) > self._stored_bytes)
        self._stored_bytes = sum(durable.values())
        self._look_after(session, quiet=quiet and stored, reading=reading, now_s=now_s)

    def _output(self, session: Session, now_s: float) -> Generator[Update, None, bool]:
        """What has come; whether that is all there is now."""
        for _ in range(_PIECES_A_ROUND):
            room = self._control.room()
            if room <= 0:
                return False
            piece = session.take(min(room, READ_BYTES))
            if piece is None:
                return True
            stream, data = piece
            self._watch.speak(now_s, len(data))
            self._offsets[stream] += len(data)
            yield Log(stream, data, self._offsets[stream], self._task.label)
        return False

    def _refused(self, session: Session, now_s: float) -> Iterator[Update]:
        """The place cannot be made, or there is none to read."""
        refusal = session.refusal
        assert refusal is not None  # noqa: S101 - asked by the caller
        if refusal.code == "gone":
            yield from self._nothing_there(now_s)
            return
        if refusal.code == "taken":  # an earlier request of ours was carried out late, or a slot's
            self._reopen(now_s, unreachable(self.server, "the job's place is there already"))
            return
        error = refused(self.server, refusal)
        if self.begun:  # it runs there all the same: come back until it is mended
            self._log.info("place not to be read", error=error.message)
            self._reopen(now_s, ExecutionError(Reason.UNREACHABLE, error.message))
        else:
            self._conclude(error)

    def _order(self, session: Session, now_s: float) -> None:
        """The end that people ask for: a word for each time, each after the answer to the one before."""
        wanted = min(2, self._control.cancelled())
        if wanted <= self._cancels or self._ordering or now_s < self._ordered_s + _ORDER_AGAIN_S or self._story.ended is not None:
            return
        self._ordering, self._ordered_s = True, now_s
        self._audit("ssh.cancel", result="ordered")
        session.say(Words.cancel(self._cancels + 1))

    def _hear_replies(self, session: Session, now_s: float) -> None:
        while session.replies:
            self._watch.hear(now_s)
            match session.replies.popleft():
                case Look(launcher_alive=alive):
                    self._watch.look(now_s, launcher_alive=alive)
                case Reply("cancel", answer):
                    self._ordering = False
                    if answer == "told":
                        self._cancels += 1
                    else:
                        session.say(Words.LOOK)  # the launcher is not there yet, or not any more
                case _:
                    pass

    def _look_after(self, session: Session, *, quiet: bool, reading: bool, now_s: float) -> None:
        """Does the connection still live, does the place?"""
        match self._watch.judge(self._story, quiet=quiet, reading=reading, now_s=now_s):
            case Finding.LOOK:
                session.say(Words.LOOK)
            case Finding.KILL:
                session.say(Words.KILL)
            case Finding.ANEW:
                self._reopen(now_s, unreachable(self.server, "the launcher has gone before it had begun"))
            case Finding.LOST:
                if self._connection is not None:
                    self._connection.close()
                silent_s = now_s - self._watch.heard_s
                self._lost(now_s, unreachable(self.server, f"nothing was heard for {silent_s:.0f} s"))
            case Finding.OVER:
                text = "its launcher was ended from outside: some of its output, or its files, may be missing"
                self._conclude(self._given_up(), Collected(problem=text if self._story.ended is not None else ""))
            case Finding.NOTHING:
                pass

    def _given_up(self) -> ExecutionError:
        story, timeout_s = self._story, self._task.timeout_s
        return given_up(self.server, self._watch, story, timeout_s, ordered=self._cancels > 0)

    def _drained(self, now_s: float, *, quiet: bool) -> Generator[Update, None, bool]:
        """Whether the place has said its last word, and all of its output is here."""
        if self._story.drained is None:
            return self._story.failed is not None and self._story.begun and self._story.started is None and quiet
        sizes = {"stdout": self._story.drained.stdout_bytes, "stderr": self._story.drained.stderr_bytes}
        short = [name for name, size in sizes.items() if size is None or self._offsets[name] < size]
        if not short:
            return True
        if not quiet or now_s <= self._watch.spoke_s + _CUT_WITHIN_S:
            return False
        for name in short:
            text = f"the rest of {name} is missing on {self.server.name}: the script has changed its own files there"
            yield Gap(name, text, self._offsets[name], self._task.label)
        return True

    # --- the end ---------------------------------------------------------------------------------------------------------

    def _fetch(self, now_s: float) -> Iterator[Update]:
        """What the job left in its output directory."""
        said = self._story.results
        if said is None or not said.size_bytes:
            self._conclude(None)
            return
        match (yield from self._collector.step(self._connection, said.size_bytes, now_s)):
            case Collected() as collected:
                self._conclude(None, collected)
            case ExecutionError() as error:
                self._reopen(now_s, error)
            case None:
                pass

    def _conclude(self, verdict: ExecutionError | None, collected: Collected = _NOTHING) -> None:
        self._drop_session()
        self._collector.stop()
        self.ending = ending = decide(
            Known(
                self.server,
                self._story,
                self._task.timeout_s,
                self._task.interpreter,
                verdict,
                cancelled=self._control.cancelled() > 0,
            )
        )
        results = results_of(self._story, self._hearing.events, collected.archive, self._settings.max_results_bytes)
        problems = (collected.problem,) if collected.problem else ()
        self.results = replace(results, problems=(*results.problems, *problems))
        self._hearing.ended_ms = self.ended_ms or now_ms()
        if self.touched:
            reason = ending.error.reason.value if ending.error is not None else None
            self._audit("ssh.ended", result=ending.status, exit_code=ending.exit_code, reason=reason)
        self.over = True
        self._absence.over()

    # --- small things ----------------------------------------------------------------------------------------------------

    @property
    def _story(self) -> Story:
        return self._hearing.story

    @property
    def _timeout_s(self) -> float:
        return self._settings.ssh.connection_pool.connect_timeout

    def _audit(self, event: str, **fields: object) -> None:
        key = self._connection.key if self._connection is not None else None
        server = str(self.server.address)
        self._pool.audit.append(event, job=self._task.job_id, server=server, key=key, place=self._task.name, **fields)
