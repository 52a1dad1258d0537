"""The phases of an attempt in a container, in their order: a phase is a function of the execution that yields updates.

Runs in a worker. To add one, write it here and put it into its list at the end. A phase that finds its work already done (a
place that was adopted) does nothing. What an attempt cannot go on without is raised as an ExecutionError; the place is then
cleaned up.
"""

from __future__ import annotations

import tarfile
from collections.abc import Generator, Iterator

from cronium.common.errors import ExecutionError, Reason
from cronium.worker.container import images, networks, probe
from cronium.worker.container.adoption import adopt, began_before
from cronium.worker.container.ending import conclude
from cronium.worker.container.engine import NameTakenError
from cronium.worker.container.engine_files import EngineFiles, empty_files, volume_mounts
from cronium.worker.container.execution import Execution, Phase
from cronium.worker.container.follow import follow
from cronium.worker.container.host_files import host_mounts, make_host_files
from cronium.worker.container.spec import FILES_DIR, WORKSPACE, Place, container
from cronium.worker.executor import Status, Update
from cronium.worker.judgement import cancelled_before_start
from cronium.worker.launcher import launcher_text
from cronium.worker.payload import payload

_NAME_TRIES = 20
_NAME_PAUSE_S = 0.25


def prepare(execution: Execution) -> Iterator[Update]:
    """Image, network, and the payload for the launcher. Not in the job's time."""
    if execution.container:
        return
    yield Status("preparing")
    settings, engine, plan = execution.settings, execution.engine, execution.plan
    here = execution.ask(lambda: images.present(engine, plan.image, settings))
    if here is None:
        here = yield from _fetch(execution)
    name, image_id = here
    execution.image = image_id
    execution.found = execution.ask(lambda: probe.finding(engine, name, image_id, settings))
    execution.ask(lambda: networks.ensure_network(engine, plan.network, settings))
    execution.payload = payload(
        execution.attempt.job,
        plan.script,
        attempt=execution.attempt.number,
        interpreter=plan.interpreter,
        timeout_s=plan.limits.timeout_s,
        grace_s=settings.grace_s,
        max_unread_bytes=settings.max_unread_bytes,
        max_results_bytes=settings.container.max_results,
    )


def create(execution: Execution) -> Iterator[Update]:
    """The place: its files and its container."""
    if execution.container:
        return
    yield from ()
    found = execution.found
    assert found is not None  # noqa: S101 - `prepare` comes before
    attempt, settings, engine = execution.attempt, execution.settings, execution.engine
    execution.touched = True
    execution.unstarted = execution.unstarted or not attempt.adopt
    by_exec = found.files == EngineFiles.kind
    if by_exec:
        mounts = volume_mounts(attempt.place, settings.installation)
    else:
        make_host_files(execution.folder)
        mounts = host_mounts(execution.folder)
    place = Place(attempt.place, attempt.job.id, attempt.number, found.files, mounts)
    profile = settings.container.security.seccomp_profile
    seccomp = profile.read_text(encoding="utf-8") if profile is not None else None
    size = len(execution.payload)
    body = container(execution.plan, place, execution.image, launcher_text(), size, found.machine, settings, seccomp)
    for _ in range(_NAME_TRIES):
        try:
            execution.container = execution.ask(lambda: engine.create(attempt.place, body))
        except NameTakenError:  # a dead worker's request was carried out late; its container was never fed
            execution.ask(lambda: engine.remove(attempt.place))
            execution.control.wait((), _NAME_PAUSE_S)
        else:
            break
    else:
        raise ExecutionError(
            Reason.CREATE_FAILED, f"the container's name {attempt.place} stays taken: look what holds it with `docker ps -a`"
        )
    if by_exec:
        if attempt.adopt and began_before(execution):
            return
        execution.ask(lambda: engine.put(execution.container, FILES_DIR, empty_files()))
    if not found.workspace:
        execution.ask(lambda: engine.put(execution.container, "/", workspace_folder(settings.owner)))
    execution.files = execution.open_files(found.files)


def start(execution: Execution) -> Iterator[Update]:
    """Hand the script over, and start it."""
    if execution.stream is not None or execution.story.begun:
        return
    yield from ()
    if execution.control.cancelled():
        raise cancelled_before_start()
    engine, container_id, payload = execution.engine, execution.container, execution.payload
    stream = execution.ask(lambda: engine.attach(container_id, stdin=True))
    execution.stream, execution.unstarted = stream, False
    execution.ask(lambda: engine.start(container_id, stream, payload))
    execution.payload = b""


def workspace_folder(owner: tuple[int, int]) -> bytes:
    """A tar that makes the workspace the job's, for images that have none."""
    member = tarfile.TarInfo(WORKSPACE.strip("/"))
    member.type, member.mode, (member.uid, member.gid) = tarfile.DIRTYPE, 0o755, owner
    return member.tobuf() + b"\0" * (2 * tarfile.BLOCKSIZE)


def _fetch(execution: Execution) -> Generator[Update, None, tuple[str, str]]:
    settings, engine, plan = execution.settings, execution.engine, execution.plan
    yield from ()
    return execution.ask(lambda: images.fetch(engine, plan.image, settings), settings.container.images.pull_timeout)


TO_THE_START: tuple[Phase, ...] = (adopt, prepare, create, start)
"""Up to the running script."""
TO_THE_END: tuple[Phase, ...] = (follow, conclude)
"""What comes then; an engine that is away holds none of it up."""
