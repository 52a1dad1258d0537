"""Going on with a place that another worker may have made.

Runs in a worker. A launcher that was never fed leaves by itself once its owner's death has closed its stdin; so whoever adopts
waits until the place says `started` or has ended. Only what surely never started is removed and made anew. A place with its files
on this host needs no engine for it once they say that the script has begun: it is read on at once, whatever dockerd does.
"""

from __future__ import annotations

import time
from collections.abc import Iterator

from cronium.common.errors import ExecutionError, Reason
from cronium.worker.container.engine import ContainerState
from cronium.worker.container.engine_files import EngineFiles
from cronium.worker.container.execution import Execution, now_ms
from cronium.worker.container.host_files import HostFiles
from cronium.worker.container.moments import age_of, age_there, engine_ms
from cronium.worker.container.spec import LABEL_FILES
from cronium.worker.executor import Status, Update

_BOUND_S = 15.0  # an orphaned launcher leaves after 80-250 ms; on a machine that is busy it may take longer
_LOOK_S = 0.02
_CREATED = "created"


def adopt(execution: Execution) -> Iterator[Update]:
    """Find out what is there. Afterwards `execution.container` is set if there is something to go on with."""
    if not execution.attempt.adopt:
        return
    if execution.container or begun_here(execution):
        yield Status("running")
        return
    found = _look(execution)
    if found is not None and found.status == _CREATED and execution.story.begun:
        execution.forget()  # started since the engine was asked: what it said then is no end
        found = _look(execution)
    if found is None:
        _nothing_there(execution)
        return
    if found.running and not execution.story.over:
        found = _destroy(execution, found)
    if not execution.story.begun:
        _discard(execution)
    elif found.status == _CREATED:
        _judge_files(execution, began=True)  # the volume is an earlier container's: whoever made this one did not get further
    else:
        _go_on(execution, found)
    if execution.story.started is not None:
        yield Status("running")


def began_before(execution: Execution) -> bool:
    """Whether the volume that a new container was given holds the story of an earlier one, which ended: then there is its end to
    be told. A start that was on its way when that one was removed may have been carried out; only now nothing more can come.

    Raises ExecutionError: it began, and how it ended nobody knows (place_vanished).
    """
    made = execution.container
    execution.files = execution.open_files(EngineFiles.kind)
    _fetch(execution)
    _read_story(execution)
    _judge_files(execution, began=False)
    if execution.container:
        return True
    execution.container = made
    return False


def begun_here(execution: Execution) -> bool | None:
    """Whether files on this host say that the script has begun since this host was booted: then there is enough to go on with.

    None: nobody can say, for there are no files, or not of this boot.
    """
    try:
        execution.files = execution.open_files(HostFiles.kind)
    except FileNotFoundError:
        return None
    _read_story(execution)
    started = execution.story.started
    age_s = None if started is None else age_of(started.start_ticks, started.boot_id)
    if age_s is None:
        execution.forget()
        return None if started is not None else False
    execution.container, execution.adopted = execution.attempt.place, True
    execution.begin(time.monotonic() - age_s, now_ms() - round(age_s * 1000))
    return True


def _nothing_there(execution: Execution) -> None:
    """No container: never made, or somebody has removed it. Which one, the files that it left know."""
    place = execution.attempt.place
    began = any(execution.offsets.values())
    if execution.unstarted:  # an engine that died while it made the place has left its volume, perhaps
        execution.ask(lambda: execution.engine.remove_volume(place))
    else:
        began = began or execution.ask(lambda: execution.engine.has_volume(place))
    try:
        execution.files = execution.open_files(HostFiles.kind)
    except FileNotFoundError:
        pass
    else:
        _read_story(execution)
    _judge_files(execution, began=began)
    execution.unstarted = not execution.container


def _judge_files(execution: Execution, *, began: bool) -> None:
    """What is left of a place whose container is gone. Raises ExecutionError (place_vanished)."""
    place = execution.attempt.place
    if not (began or execution.story.begun):
        execution.forget()
    elif execution.story.drained is not None:
        execution.container = place  # it had ended, and all that it said is here
    else:
        execution.let_go()
        raise ExecutionError(
            Reason.PLACE_VANISHED,
            "the job had been started, and its container is gone: look who removes containers (`docker events`)",
            place=place,
        )


def _look(execution: Execution) -> ContainerState | None:
    """The container once it is clear what it is, and what its files say."""
    found = execution.ask(lambda: execution.engine.state(execution.attempt.place))
    if found is None:
        return None
    try:
        execution.files = execution.open_files(found.labels.get(LABEL_FILES, HostFiles.kind))
    except FileNotFoundError:
        return found  # made by a late request of a dead worker; its files were never there, so it was never fed
    return _until_clear(execution, found)


def _until_clear(execution: Execution, found: ContainerState) -> ContainerState:
    engine, place = execution.engine, execution.attempt.place
    give_up_s = time.monotonic() + _BOUND_S
    while True:
        if not found.running:
            _fetch(execution)
        _read_story(execution)
        if execution.story.over or not found.running or time.monotonic() > give_up_s:
            return found
        execution.control.wait((), _LOOK_S)
        again = execution.ask(lambda: engine.state(place))
        if again is None:
            return found
        found = again


def _read_story(execution: Execution) -> None:
    while execution.files is not None and (data := execution.files.news("state")):
        execution.story.feed(data)


def _fetch(execution: Execution) -> None:
    if execution.files is not None:
        execution.ask(execution.files.fetch)


def _destroy(execution: Execution, found: ContainerState) -> ContainerState:
    """End a launcher that neither starts nor leaves, and read once more what it said."""
    engine, place = execution.engine, execution.attempt.place
    execution.ask(lambda: engine.kill(place, "SIGKILL"))
    give_up_s = time.monotonic() + _BOUND_S
    while found.running and time.monotonic() < give_up_s:
        execution.control.wait((), _LOOK_S)
        again = execution.ask(lambda: engine.state(place))
        if again is None:
            break
        found = again
    _fetch(execution)
    _read_story(execution)
    return found


def _discard(execution: Execution) -> None:
    """Remove what never started; whether that is so is certain only afterwards: a start that was on its way may have come first.

    Files on a volume cannot be read without a container: the next one looks (`began_before`).
    """
    execution.ask(lambda: execution.engine.remove(execution.attempt.place))
    execution.unstarted = False
    _read_story(execution)
    _judge_files(execution, began=False)


def _go_on(execution: Execution, found: ContainerState) -> None:
    execution.container, execution.adopted = found.container_id, True
    age_s = _age_s(execution) if found.running else None
    started_ms = engine_ms(found.started_at) if age_s is None else now_ms() - round(age_s * 1000)
    execution.begin(time.monotonic() - (age_s or 0.0), started_ms or now_ms())
    if found.running:
        execution.stream = execution.ask(lambda: execution.engine.attach(found.container_id, stdin=False))
    else:
        execution.fate = found


def _age_s(execution: Execution) -> float | None:
    """Seconds since a running script was started, by no wall clock: the engine's may differ from ours, and each may be set.

    None: nobody can say. Then its time counts from now for us; its launcher ends it at its deadline all the same.
    """
    started = execution.story.started
    if started is None or started.start_ticks is None:
        return None
    age_s = age_of(started.start_ticks, started.boot_id)
    if age_s is not None:
        return age_s
    try:
        uptime = execution.ask(lambda: execution.engine.run(execution.container, ["cat", "/proc/uptime"], "0:0"))
    except ExecutionError as error:
        if error.reason is Reason.ENGINE_DOWN:
            raise
        return None  # it has just ended
    return age_there(started.start_ticks, uptime)
