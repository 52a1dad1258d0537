"""Between the core's language and that of the other processes: their messages as events, its actions as messages. Pure.

Runs in the supervisor's loop. What has no counterpart is told by a type checker (actions) or in the log (messages).
"""

from __future__ import annotations

import structlog

from cronium.common.addresses import STREAMER_IDENTITY
from cronium.common.messages import (
    Announce,
    AskSummary,
    AttemptEnded,
    AttemptProgress,
    AttemptStatus,
    CancelAttempt,
    CancelHeard,
    Forget,
    Housekeep,
    HousekeepingDone,
    Message,
    PlacesSeen,
    PlacesUnknown,
    Settled,
    StopWorker,
    StreamerReady,
    Summary,
    WorkerBeat,
    WorkerIdle,
    WorkerReady,
)
from cronium.supervisor.core import actions as do
from cronium.supervisor.core import events as on

Order = (
    do.AnnounceWriter
    | do.Summarize
    | do.ForgetOutput
    | do.CancelAt
    | do.SettleAt
    | do.StopWorkerProcess
    | do.TidyAt
    | do.RemoveAt
)
_log = structlog.get_logger()


def event_of(message: Message) -> on.Event | None:
    """What a message of a worker or of the streamer means; None when it means nothing to a supervisor."""
    match message:
        case WorkerReady(worker):
            return on.WorkerIsReady(worker)
        case WorkerBeat(worker, _, memory_bytes):
            return on.WorkerBeats(worker, memory_bytes)
        case WorkerIdle(worker, job_id, generation, memory_bytes):
            return on.WorkerIsIdle(worker, job_id, generation, memory_bytes)
        case PlacesSeen(worker, places):
            return on.WorkerSaw(worker, places)
        case HousekeepingDone(worker):
            return on.WorkerHasTidied(worker)
        case AttemptStatus(worker, job_id, generation, status):
            return on.AttemptSaid(worker, job_id, generation, status)
        case AttemptProgress(worker, job_id, generation, percentage, text):
            return on.AttemptSaid(worker, job_id, generation, None, percentage, text)
        case AttemptEnded(worker, job_id, generation, outcome):
            return on.AttemptOver(worker, job_id, generation, outcome)
        case StreamerReady():
            return on.StreamerIsReady()
        case Summary():
            return on.SummaryHeard(message)
        case CancelHeard(job_id):
            return on.CancelRequested(job_id)
        case _:
            _log.warning("message refused", error=f"{type(message).__name__} is not for the supervisor")
            return None


def message_of(order: Order) -> tuple[bytes, Message]:
    """Whom an order is for, and how it is said."""
    match order:
        case do.AnnounceWriter(job_id, worker, epoch, generation, next_sequence):
            return STREAMER_IDENTITY, Announce(job_id, worker, epoch, generation, next_sequence)
        case do.Summarize(job_id, epoch):
            return STREAMER_IDENTITY, AskSummary(job_id, epoch)
        case do.ForgetOutput(job_id, epoch):
            return STREAMER_IDENTITY, Forget(job_id, epoch)
        case do.CancelAt(worker, job_id, generation):
            return worker.encode(), CancelAttempt(job_id, generation)
        case do.SettleAt(worker, job_id, generation):
            return worker.encode(), Settled(job_id, generation)
        case do.StopWorkerProcess(worker):
            return worker.encode(), StopWorker()
        case do.TidyAt(worker, starting):
            return worker.encode(), Housekeep(starting=starting, leaving=False)
        case do.RemoveAt(worker, places):
            return worker.encode(), PlacesUnknown(places)
