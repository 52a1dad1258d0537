"""Reading along with a job until its container has ended: output, its own words, limits that the engine does not hold for us.

Runs in a worker. The loop waits for three things at once: the place's files, the connection that ends with the container, and
errands to the engine. It never calls the engine itself, so a dead or slow dockerd stops nothing here.
"""

from __future__ import annotations

import time
from collections.abc import Generator, Iterator

from cronium.worker.container.end import End
from cronium.worker.container.enforce import Enforcer
from cronium.worker.container.execution import Execution, now_ms
from cronium.worker.container.files import READ_BYTES, STREAMS, Files
from cronium.worker.container.rest import fetch_rest
from cronium.worker.container.watch import Watch
from cronium.worker.executor import Gap, Status, Told, Update
from cronium.worker.launcher import Ended, OutputLost, OutputWaits, Started, StateEvent

_PIECES_A_ROUND = 8  # then credit, cancellation and limits have their turn
_STRAGGLERS_S = 5.0  # how long what is on its way may take after the container's end
_NO_ROOM_S = 0.05  # the worker's wait ends by itself when there is room again


def follow(execution: Execution) -> Iterator[Update]:
    """Until the container has ended and all of its output is read, or nothing can be known any more."""
    files = execution.files
    assert files is not None  # noqa: S101 - `create` or `adopt` come before
    end, enforcer, watch = End(execution), Enforcer(execution), Watch(execution)
    fetched = told_flood = False
    try:
        while True:
            over = end.known  # asked before reading: what is read after the end is all there is
            if over and not told_flood and execution.flooded:
                told_flood = True
                yield from _left_out(execution, files)
            yield from _news(execution, files)
            quiet = yield from _output(execution, files)
            files.give_back({name: execution.control.durable(name) for name in STREAMS})
            if over and quiet:
                if fetched:
                    break
                if files.drained or time.monotonic() > end.known_s + _STRAGGLERS_S:
                    fetched = yield from fetch_rest(execution, files)
                    if not fetched:
                        break
                    continue
            if not over:
                enforcer.look()
                watch.look()
                if end.look():
                    continue
            if not execution.control.room():
                execution.control.wait((), _NO_ROOM_S)
            elif quiet:
                descriptors = (*files.descriptors(), *end.descriptors(), *enforcer.descriptors(), *watch.descriptors())
                execution.control.wait(descriptors, min(files.look_after_s(), end.look_after_s()))
    finally:
        for errands in (end, enforcer, watch):
            errands.close()
    execution.peak_cpu_percent = watch.peak_cpu_percent


def _output(execution: Execution, files: Files) -> Generator[Update, None, bool]:
    """Some of what is there; whether that was all."""
    for _ in range(_PIECES_A_ROUND):
        room = execution.control.room()
        if room <= 0:
            return False
        piece = files.take(min(room, READ_BYTES))
        if piece is None:
            return True
        execution.offsets[piece.stream] = piece.offset
        yield piece
    return False


def _left_out(execution: Execution, files: Files) -> Iterator[Update]:
    """After a flood: what nobody would want to read is not sent either."""
    for name in STREAMS:
        gap = files.leave_out(name)
        if gap is not None:
            execution.offsets[name] = gap.offset
            yield gap


def _news(execution: Execution, files: Files) -> Iterator[Update]:
    while data := files.news("state"):
        for event in execution.story.feed(data):
            yield from _told(execution, event)
    while data := files.news("events"):
        progress = execution.events.feed(data)
        if progress is not None:
            yield progress


def _told(execution: Execution, event: StateEvent) -> Iterator[Update]:
    match event:
        case Started():
            execution.begin(time.monotonic(), now_ms())
            yield Status("running")
        case Ended():
            execution.ended_ms = now_ms()
        case OutputWaits(stream, reason):
            text = f"{stream} waits ({reason.replace('_', ' ')}) where the job's place is: make room there, then it goes on"
            yield Told(text)
        case OutputLost(stream, reason, detail):
            offset = execution.offsets[stream]
            yield Gap(stream, f"some of {stream} was lost in its place: {reason.replace('_', ' ')} {detail}".rstrip(), offset)
        case _:
            pass
