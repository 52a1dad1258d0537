"""What a container that has ended still holds where its files lie on a volume: only the engine can give it out.

Runs in a worker, as a part of the follower. An engine that is away is waited for as one would be that takes the place over; a
script whose end was heard is not run again because the rest of what it said is out of reach.
"""

from __future__ import annotations

import time
from collections.abc import Generator, Iterator
from dataclasses import replace

from cronium.common.errors import ExecutionError, Reason
from cronium.worker.container.execution import Execution
from cronium.worker.container.files import Files
from cronium.worker.container.waiting import AFTER_DEADLINE_S, AT_LEAST_S, TELL_S
from cronium.worker.executor import Gap, Told, Update
from cronium.worker.launcher import OutputLost, Results, Stream

_FIRST_PAUSE_S, _MAX_PAUSE_S = 0.1, 5.0
_WHY = "engine_away"


def fetch_rest(execution: Execution, files: Files) -> Generator[Update, None, bool]:
    """Whether all of it is here now. Raises ExecutionError when nobody knows how the job has ended either."""
    began_s, pause_s, told = time.monotonic(), _FIRST_PAUSE_S, False
    give_up_s = max(execution.deadline_s() + AFTER_DEADLINE_S, began_s + AT_LEAST_S)
    while not _fetched(execution, files):
        now_s = time.monotonic()
        if now_s >= give_up_s or execution.control.cancelled() > 1:
            yield from _without(execution)
            return False
        if not told and now_s > began_s + TELL_S:
            told = True
            yield Told(f"the rest of what the job said waits for {_engine(execution)}, which does not answer: start it")
        execution.control.wait((), pause_s)
        pause_s = min(_MAX_PAUSE_S, pause_s * 2)
    return True


def _fetched(execution: Execution, files: Files) -> bool:
    try:
        execution.ask(files.fetch)
    except ExecutionError as error:
        if error.reason is not Reason.ENGINE_DOWN:
            raise
        execution.engine_was_away = True
        return False
    return True


def _without(execution: Execution) -> Iterator[Update]:
    """Go on to the outcome with what was heard, and say what is missing."""
    story = execution.story
    if story.ended is None:
        raise ExecutionError(
            Reason.ENGINE_DOWN,
            f"{_engine(execution)} has not come back, and nobody knows how the job has ended: start the engine (the job's "
            "container is then removed), see what the script has done, and run the job again if that is right",
            retryable=False,
            place=execution.attempt.place,
        )
    sizes = story.drained
    stdout, stderr = (None, None) if sizes is None else (sizes.stdout_bytes, sizes.stderr_bytes)
    ends: dict[Stream, int | None] = {"stdout": stdout, "stderr": stderr}
    for name, end in ends.items():
        offset = execution.offsets[name]
        if end != offset:
            story.lost.append(OutputLost(name, _WHY, ""))
            yield Gap(name, f"what {name} said last is lost: {_engine(execution)} has not come back", offset)
    if sizes is None or story.results is not None:
        story.results = replace(story.results or Results(None), failure=f"{_engine(execution)} has not come back")


def _engine(execution: Execution) -> str:
    return f"the Docker engine at {execution.settings.container.docker.endpoint}"
