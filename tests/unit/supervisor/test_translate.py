"""What workers say of servers reaches the core whole, and so do its orders reach them."""

from __future__ import annotations

from cronium.common.errors import ExecutionError, Reason
from cronium.common.messages import (
    AttemptParked,
    CleanedUp,
    CleanUp,
    Connected,
    Dispatch,
    MonitorBeat,
    ReleaseConnections,
    ServerOutcome,
    ServerSeen,
    Slot,
    StreamerBeat,
    WarmUp,
    WorkerBeat,
    WorkerIdle,
)
from cronium.supervisor.core import actions as do
from cronium.supervisor.core import events as on
from cronium.supervisor.translate import event_of, message_of, message_with_job

ERROR = ExecutionError(Reason.UNREACHABLE, "no answer").report()
SLOTS = (Slot("s", "p"),)
FINISHED = (ServerOutcome("s", "web", "completed", 0),)


def test_what_workers_say() -> None:
    assert event_of(AttemptParked("w", "a", 2, "s", ERROR, 7, begun=True)) == on.AttemptParked(
        "w", "a", 2, "s", ERROR, 7, begun=True
    )
    assert event_of(Connected("w", ("s",), SLOTS)) == on.WorkerIsConnected("w", ("s",), SLOTS)
    assert event_of(ServerSeen("w", "s", reached=False, reason="why")) == on.ServerSeen("w", "s", reached=False, reason="why")
    assert event_of(CleanedUp("w", "a", ("p",))) == on.LeftoversCleaned("w", "a", ("p",))
    assert event_of(WorkerIdle("w", "a", 2, 5, removed=False)) == on.WorkerIsIdle("w", "a", 2, 5, removed=False)


def test_everybodys_beat_is_one_event() -> None:
    beat = StreamerBeat(3, 10, True, 0, 0, 0, 0, 0, False, 0, 0)
    assert event_of(WorkerBeat("worker-1", 3, 10)) == on.Beats("worker-1", 3, 10)
    assert event_of(beat) == on.Beats("streamer", 3, 10)
    assert event_of(MonitorBeat(3, 10)) == on.Beats("monitor", 3, 10)


def test_what_they_are_told() -> None:
    order = do.DispatchTo("w", "a", 1, 2, 3, "p", fresh=False, adopt=True, begun=True, finished=FINISHED)
    told = Dispatch("a", b"job", 1, 2, 3, "p", fresh=False, adopt=True, begun=True, finished=FINISHED)
    assert message_with_job(order, b"job") == (b"w", told)
    assert message_with_job(do.WarmUpAt("w", "a"), b"job") == (b"w", WarmUp(b"job"))
    assert message_with_job(do.CleanUpAt("w", "a", ("p",)), b"job") == (b"w", CleanUp("a", b"job", ("p",)))
    assert message_of(do.ReleaseAt("w", ("s",))) == (b"w", ReleaseConnections(("s",)))
