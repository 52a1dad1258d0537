"""Between the core's language and that of the other processes: their messages as events, its actions as messages. Pure.

Runs in the supervisor's loop. What has no counterpart is told by a type checker (actions) or in the log (messages).
"""

from __future__ import annotations

import structlog

from cronium.common.addresses import MONITOR_IDENTITY, STREAMER_IDENTITY
from cronium.common.messages import (
    Announce,
    AskSummary,
    AttemptEnded,
    AttemptParked,
    AttemptProgress,
    AttemptStatus,
    CancelAttempt,
    CancelHeard,
    CleanedUp,
    CleanUp,
    Connected,
    Dispatch,
    Forget,
    Housekeep,
    HousekeepingDone,
    JobEpoch,
    Message,
    MonitorBeat,
    PlacesSeen,
    PlacesUnknown,
    ReleaseConnections,
    ServerSeen,
    Settled,
    StillWanted,
    StopWorker,
    StreamerBeat,
    StreamerReady,
    Summary,
    WarmUp,
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
    | do.WantOutput
    | do.CancelAt
    | do.SettleAt
    | do.StopWorkerProcess
    | do.TidyAt
    | do.RemoveAt
    | do.ReleaseAt
)
OrderWithJob = do.DispatchTo | do.WarmUpAt | do.CleanUpAt
_log = structlog.get_logger()


def event_of(message: Message) -> on.Event | None:
    """What a message of a worker or of the streamer means; None when it means nothing to a supervisor."""
    match message:
        case WorkerReady(worker):
            return on.WorkerIsReady(worker)
        case WorkerBeat(worker, progress, memory_bytes):
            return on.Beats(worker, progress, memory_bytes)
        case StreamerBeat(progress, memory_bytes):
            return on.Beats(STREAMER_IDENTITY.decode(), progress, memory_bytes)
        case MonitorBeat(progress, memory_bytes):
            return on.Beats(MONITOR_IDENTITY.decode(), progress, memory_bytes)
        case WorkerIdle(worker, job_id, generation, memory_bytes, removed):
            return on.WorkerIsIdle(worker, job_id, generation, memory_bytes, removed)
        case PlacesSeen(worker, places):
            return on.WorkerSaw(worker, places)
        case HousekeepingDone(worker):
            return on.WorkerHasTidied(worker)
        case AttemptStatus(worker, job_id, generation, status, _, place):
            return on.AttemptSaid(worker, job_id, generation, status, place=place)
        case AttemptProgress(worker, job_id, generation, percentage, text):
            return on.AttemptSaid(worker, job_id, generation, None, percentage, text)
        case AttemptEnded(worker, job_id, generation, outcome):
            return on.AttemptOver(worker, job_id, generation, outcome)
        case AttemptParked(worker, job_id, generation, server, error, give_up_ms, begun, touched, finished, missing, results):
            return on.AttemptParked(
                worker, job_id, generation, server, error, give_up_ms, begun, touched, finished, missing, results
            )
        case Connected(worker, servers, slots):
            return on.WorkerIsConnected(worker, servers, slots)
        case ServerSeen(worker, server, reached, reason):
            return on.ServerSeen(worker, server, reached, reason)
        case CleanedUp(worker, job_id, places):
            return on.LeftoversCleaned(worker, job_id, places)
        case StreamerReady():
            return on.StreamerIsReady()
        case Summary():
            return on.SummaryHeard(message)
        case CancelHeard(job_id):
            return on.CancelRequested(job_id)
        case _:
            _log.warning("message refused", error=f"{type(message).__name__} is not for the supervisor")
            return None


def message_with_job(order: OrderWithJob, job: bytes) -> tuple[bytes, Message]:
    """The same for orders that carry the job as the backend gave it."""
    worker = order.worker.encode()
    match order:
        case do.DispatchTo(_, job_id, attempt, generation, epoch, place, fresh, adopt, begun, begun_at, finished, placed_ms):
            return worker, Dispatch(
                job_id, job, attempt, generation, epoch, place, fresh, adopt, begun, begun_at, finished, placed_ms
            )
        case do.WarmUpAt():
            return worker, WarmUp(job)
        case do.CleanUpAt(_, job_id, places):
            return worker, CleanUp(job_id, job, places)


def message_of(order: Order) -> tuple[bytes, Message]:
    """Whom an order is for, and how it is said."""
    match order:
        case do.AnnounceWriter(job_id, worker, epoch, generation, next_sequence):
            return STREAMER_IDENTITY, Announce(job_id, worker, epoch, generation, next_sequence)
        case do.Summarize(job_id, epoch):
            return STREAMER_IDENTITY, AskSummary(job_id, epoch)
        case do.ForgetOutput(job_id, epoch):
            return STREAMER_IDENTITY, Forget(job_id, epoch)
        case do.WantOutput(jobs):
            return STREAMER_IDENTITY, StillWanted(tuple(JobEpoch(job_id, epoch) for job_id, epoch in jobs))
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
        case do.ReleaseAt(worker, servers):
            return worker.encode(), ReleaseConnections(servers)
