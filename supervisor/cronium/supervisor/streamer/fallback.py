"""Log lines by HTTP while the WebSocket is away: `POST {base}/jobs/{id}/logs` (PROTOCOL.md), in a thread of its own.

Takes the same batches in the same order as the WebSocket and answers with the same events. Several batches of a job go in one
request; one that is refused for good is tried batch by batch, so that only the bad one is set aside. Anything else is tried
again until the socket is back: the spool forgets what was taken, so only the backend's own word counts (`backend/http.py`).
"""

from __future__ import annotations

import queue
import random
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from urllib.parse import quote

import orjson
import structlog
import zmq

from cronium.common.messages import Batch
from cronium.supervisor.backend.http import Answer, BackendSession
from cronium.supervisor.streamer.frames import DamagedError, entries_of
from cronium.supervisor.streamer.settings import StreamerSettings
from cronium.supervisor.streamer.transport import Answered, Teller

_log = structlog.get_logger()

_TIMEOUT_S = 20.0
_MAX_ANSWER_BYTES = 1024 * 1024
_BETWEEN_REQUESTS_S = 0.06  # PROTOCOL.md: 1000 log requests a minute
_FIRST_PAUSE_S, _LAST_PAUSE_S = 1.0, 60.0
_MOST_WAITING = 256
_MOST_BYTES = 1024 * 1024  # of encoded lines in one request
_TELL_TIMEOUT_S = 5.0


@dataclass(frozen=True, slots=True)
class _Waiting:
    frame_id: int
    batch: Batch


class HttpFallback:
    """The other way to the backend. `send` belongs to the loop's thread."""

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], settings: StreamerSettings) -> None:
        self._context, self._settings = context, settings
        self._orders: queue.Queue[_Waiting] = queue.Queue(_MOST_WAITING)
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run, name="http fallback", daemon=True)
        self._thread.start()

    def send(self, frame_id: int, batch: Batch) -> bool:
        """Queue a batch; False when no more can be queued now."""
        try:
            self._orders.put_nowait(_Waiting(frame_id, batch))
        except queue.Full:
            return False
        return True

    def end(self) -> None:
        """Take nothing up any more; a request that is under way may still be answered. Does not wait."""
        self._ending.set()

    def join(self, timeout_s: float) -> bool:
        """Wait for the thread's end; False when it did not come in time."""
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def _run(self) -> None:
        teller = Teller(self._context, _TELL_TIMEOUT_S)
        given = self._settings
        session = BackendSession(given.http_url, given.token, given.orchestrator_id, _TIMEOUT_S, _MAX_ANSWER_BYTES)
        try:
            while not self._ending.is_set():
                for group in _grouped(self._take()):
                    self._deliver(session, teller, group)
        except zmq.ZMQError as error:
            if not self._ending.is_set():
                _log.error("the loop does not listen any more", error=str(error))
        finally:
            session.close()
            teller.close()

    def _take(self) -> list[_Waiting]:
        """What waits; at least one, or nothing after a moment."""
        found: list[_Waiting] = []
        try:
            found.append(self._orders.get(timeout=0.2))
            while len(found) < _MOST_WAITING:
                found.append(self._orders.get_nowait())
        except queue.Empty:
            pass
        return found

    def _deliver(self, session: BackendSession, teller: Teller, group: Sequence[_Waiting]) -> None:
        """Bring one job's batches over, however long it takes."""
        pause_s = _FIRST_PAUSE_S
        while not self._ending.is_set():
            try:
                answer = self._post(session, [waiting.batch for waiting in group])
            except DamagedError as error:
                self._refused(session, teller, group, str(error))
                return
            if answer.success:
                for waiting in group:
                    teller.tell(Answered(waiting.frame_id, success=True, error=""))
                self._ending.wait(_BETWEEN_REQUESTS_S)
                return
            if answer.refused:
                self._refused(session, teller, group, answer.reason)
                return
            wait_s = answer.retry_after_s or pause_s
            _log.warning("log lines not taken by HTTP", error=answer.reason, again_in_s=round(wait_s, 1))
            self._ending.wait(wait_s * random.uniform(1.0, 1.2))  # noqa: S311 - spreads requests, hides nothing
            pause_s = min(pause_s * 2, _LAST_PAUSE_S)

    def _refused(self, session: BackendSession, teller: Teller, group: Sequence[_Waiting], reason: str) -> None:
        if len(group) == 1:
            teller.tell(Answered(group[0].frame_id, success=False, error=reason))
            return
        for waiting in group:
            self._deliver(session, teller, [waiting])

    def _post(self, session: BackendSession, batches: Sequence[Batch]) -> Answer:
        first, last = batches[0], batches[-1]
        end = last.first_sequence + last.lines - 1
        metadata = {
            "orchestratorId": self._settings.orchestrator_id,
            "uploadTime": datetime.now(UTC).isoformat(timespec="milliseconds"),
            "sequenceStart": first.first_sequence,
            "sequenceEnd": end,
            "isComplete": False,
        }
        entries = b",".join(entries_of(batch)[1:-1] for batch in batches)
        body = b'{"entries":[%b],"epoch":%d,"metadata":%b}' % (entries, first.epoch, orjson.dumps(metadata))
        key = f"logs-{first.job_id}-{first.epoch}-{first.first_sequence}-{end}"
        return session.ask("POST", f"/jobs/{quote(first.job_id, safe='')}/logs", body=body, key=key)


def _grouped(waiting: Sequence[_Waiting]) -> list[list[_Waiting]]:
    """By job and epoch, in order, each group of a bounded size and without a hole."""
    groups: list[list[_Waiting]] = []
    open_groups: dict[tuple[str, int], tuple[list[_Waiting], int]] = {}
    for item in waiting:
        key = (item.batch.job_id, item.batch.epoch)
        group, size = open_groups.get(key, ([], 0))
        follows = group and group[-1].batch.after.next_sequence == item.batch.first_sequence
        if not follows or size + item.batch.size > _MOST_BYTES:
            group, size = [], 0
            groups.append(group)
        group.append(item)
        open_groups[key] = (group, size + item.batch.size)
    return groups
