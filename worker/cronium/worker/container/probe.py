"""What an engine and an image can do, found out by trying it once in a short container, and kept.

Runs in a worker's helper thread. One container answers all: does the image have what the launcher needs, do files of this host
reach a container and come back (else they are read through `exec`), is there an init, do quotas work. The answer is kept by
engine and image id: neither changes what it can do under its id.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import secrets
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import structlog

from cronium.common.errors import ExecutionError, Reason
from cronium.worker.container.engine import Description, Engine
from cronium.worker.container.settings import Settings
from cronium.worker.container.spec import FILES_DIR, LABEL_INSTALLATION, LABEL_PLACE, WORKSPACE, Machine
from cronium.worker.container.stream import Stream

NEEDED = ("sh", "tar", "dd", "mkfifo", "stat")  # what launcher.sh calls beside builtins
PLACE_PREFIX = "probe-"

_QUOTA_DRIVERS = frozenset({"btrfs", "zfs", "devicemapper"})  # and overlay2 over xfs with pquota: that is tried
_NO_PROGRAM = ("executable file not found", "no such file or directory", "exec format error")
_WAIT_S = 30.0
_MAX_SAID = 4096
_TRIES = 4
_SCRIPT = f"""
for name in {" ".join(NEEDED)}; do command -v "$name" >/dev/null || echo "missing $name"; done
command -v tini >/dev/null && echo tini
[ -w {WORKSPACE} ] && echo workspace
[ -w {FILES_DIR}/probe ] && echo "$1" >{FILES_DIR}/probe
echo done
"""
_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Finding:
    """`missing`: of NEEDED. `files`: host or exec. `init`: engine, tini or none. `workspace`: it is there for the job's user."""

    missing: tuple[str, ...]
    files: str
    init: str
    disk_quota: bool
    workspace: bool

    @property
    def machine(self) -> Machine:
        """The part that a container's body depends on."""
        return Machine(self.init, self.disk_quota)


@dataclass(frozen=True, slots=True)
class _Attempt:
    """What to try next; each refusal of the engine takes one away."""

    init: bool = True
    bind: bool = True
    quota: bool = False


def finding(engine: Engine, image: str, image_id: str, settings: Settings) -> Finding:
    """What is known of this pair, or about 0.4 s of trying. Raises ExecutionError."""
    description = engine.describe()
    kept = settings.findings / f"{hashlib.sha256(description.engine_id.encode()).hexdigest()[:16]}.json"
    key = f"{image_id} {settings.container.security.user}"
    known = _read(kept)
    if key not in known:
        with _one_at_a_time(settings, image_id) as place:
            if key not in (known := _read(kept)):
                found_now = asdict(_probe(engine, image, image_id, place, description, settings))
                known = {**_read(kept), key: found_now}  # another image may have been tried meanwhile
                _write(kept, known)
    found = Finding(**{**known[key], "missing": tuple(known[key]["missing"])})
    if found.missing:
        raise ExecutionError(
            Reason.IMAGE_UNSUITABLE,
            f"image {image} has no {', '.join(found.missing)}, which starting a job needs: add it, or choose another image",
            image=image,
            missing=list(found.missing),
        )
    way = settings.container.files
    return found if way == "auto" else replace(found, files=way)


def _probe(engine: Engine, image: str, image_id: str, place: str, description: Description, settings: Settings) -> Finding:
    quota = description.storage_driver in _QUOTA_DRIVERS or description.backing_filesystem == "xfs"
    attempt = _Attempt(quota=quota)
    for _ in range(_TRIES):
        try:
            found = _try(engine, image_id, place, attempt, settings)
        except ExecutionError as error:
            lower = error.message.lower()
            if attempt.quota and "storage-opt" in lower:
                attempt = replace(attempt, quota=False)
            elif attempt.bind and ("bind source path does not exist" in lower or "mount" in lower):
                attempt = replace(attempt, bind=False)
            elif attempt.init and "docker-init" in lower:
                attempt = replace(attempt, init=False)
            elif any(words in lower for words in _NO_PROGRAM):
                return Finding(NEEDED, "exec", "none", False, False)  # without sh nothing else can be asked
            else:
                raise
        else:
            _log.info("image tried", image=image, **asdict(found))
            return found
    raise ExecutionError(Reason.ENGINE_ERROR, f"image {image} could not be tried: see the engine's log", image=image)


def _try(engine: Engine, image_id: str, place: str, attempt: _Attempt, settings: Settings) -> Finding:
    nonce = secrets.token_hex(8)
    with _shared_file(settings.places / place) as file:
        body = _body(image_id, file if attempt.bind else None, nonce, place, attempt, settings)
        try:
            container = engine.create(place, body)
            stream = engine.attach(container, stdin=False)
            try:
                engine.start(container, stream, b"")
                said = _listen(stream)
            finally:
                stream.close()
        finally:
            engine.remove(place)
        seen = file.read_text(encoding="ascii").strip() == nonce
    lines = said.splitlines()
    if "done" not in lines:
        raise ExecutionError(Reason.IMAGE_UNSUITABLE, f"its sh ended early ({said[:200]!r}): try `docker run` with it")
    return Finding(
        missing=tuple(line.removeprefix("missing ") for line in lines if line.startswith("missing ")),
        files="host" if seen else "exec",
        init="engine" if attempt.init else ("tini" if "tini" in lines else "none"),
        disk_quota=attempt.quota,
        workspace="workspace" in lines,
    )


def _body(image_id: str, file: Path | None, nonce: str, name: str, attempt: _Attempt, settings: Settings) -> dict[str, Any]:
    host: dict[str, Any] = {
        "NetworkMode": "none",
        "CapDrop": ["ALL"],
        "SecurityOpt": ["no-new-privileges:true"],
        "PidsLimit": 32,
        "Memory": 64 * 1024 * 1024,
        "MemorySwap": 64 * 1024 * 1024,
        "LogConfig": {"Type": "none"},
        "AutoRemove": True,  # also when its worker is killed meanwhile
    }
    if attempt.init:
        host["Init"] = True
    if attempt.quota:
        host["StorageOpt"] = {"size": str(256 * 1024 * 1024)}
    if file is not None:
        host["Mounts"] = [{"Type": "bind", "Source": str(file), "Target": f"{FILES_DIR}/probe"}]
    return {
        "Image": image_id,
        "Entrypoint": ["sh", "-c", _SCRIPT, "cronium", nonce],
        "Cmd": [],
        "User": settings.container.security.user,
        "WorkingDir": WORKSPACE,
        "AttachStdout": True,
        "AttachStderr": True,
        "Healthcheck": {"Test": ["NONE"]},
        "Labels": {LABEL_INSTALLATION: settings.installation, LABEL_PLACE: name},
        "HostConfig": host,
    }


@contextmanager
def _one_at_a_time(settings: Settings, image_id: str) -> Iterator[str]:
    """The name of a trial's place. Several workers meet a new image at once: one tries it, the others then know.

    The name stands in the lock's file, for the reaper; a dead worker's lock is free.
    """
    settings.findings.mkdir(mode=0o700, parents=True, exist_ok=True)
    lock_name = PLACE_PREFIX + hashlib.sha256(image_id.encode()).hexdigest()[:16]
    with (settings.findings / f"{lock_name}.lock").open("a+") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        place = f"cronium-{settings.installation}-{PLACE_PREFIX}{secrets.token_hex(8)}"
        lock.truncate(0)
        lock.write(place)
        lock.flush()
        yield place


def trials_under_way(settings: Settings) -> frozenset[str]:
    """The places of trials that workers of this installation make now."""
    found = set()
    for path in settings.findings.glob(f"{PLACE_PREFIX}*.lock"):
        with path.open() as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                found.add(lock.read())
    return frozenset(found)


@contextmanager
def _shared_file(folder: Path) -> Iterator[Path]:
    folder.mkdir(mode=0o700, parents=True)
    try:
        file = folder / "probe"
        file.touch()
        file.chmod(0o622)
        yield file
    finally:
        shutil.rmtree(folder)


def _listen(stream: Stream) -> str:
    """What it says until it ends."""
    said = b""
    deadline_s = time.monotonic() + _WAIT_S
    while not stream.ended and time.monotonic() < deadline_s:
        piece = stream.take(_MAX_SAID)
        if piece is None:
            stream.wait(0.5)
        elif len(said) < _MAX_SAID:
            said += piece[1]
    return said.decode("utf-8", "replace")


def _read(path: Path) -> Mapping[str, Any]:
    try:
        known: Mapping[str, Any] = json.loads(path.read_bytes())
    except (FileNotFoundError, ValueError):
        return {}
    return known


def _write(path: Path, known: Mapping[str, Any]) -> None:
    """In one step: another worker may read, or a kill may come. Two that write at once cost one of them a second try later."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(prefix=path.name, dir=path.parent)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        json.dump(known, file)
    Path(name).replace(path)
