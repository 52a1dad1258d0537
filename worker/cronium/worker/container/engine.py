"""Everything that is said to a Docker engine by the container executor, with a deadline on each call.

Runs in a worker, mostly in a helper thread of it (`Control.call`). What docker-py and requests raise becomes an ExecutionError
with a reason and a next step; a 404 where absence is an answer is an answer. Nothing here decides anything.
"""

from __future__ import annotations

import tarfile
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO, Any, cast

import requests
from docker import APIClient
from docker.errors import APIError, DockerException, ImageNotFound, NotFound

from cronium.common.config.model import Docker
from cronium.common.errors import ExecutionError, Reason
from cronium.worker.container.pull_progress import PullProgress
from cronium.worker.container.stream import STDOUT, Feeder, Stream

_READ = 256 * 1024
PING_S = 3  # an engine that is well answers within milliseconds
_POOL = 4  # idle connections a worker keeps
_MAX_SAID = 64 * 1024
_REMOVAL_S, _REMOVAL_PAUSE_S = 15.0, 0.05


class NameTakenError(Exception):
    """A container of this name is there already."""


@dataclass(frozen=True, slots=True)
class Description:
    """What the engine says of itself."""

    engine_id: str
    storage_driver: str
    backing_filesystem: str


@dataclass(frozen=True, slots=True)
class ContainerState:
    """A container as `inspect` shows it. `status`: created, running, exited, dead …; times are the engine's (RFC 3339)."""

    container_id: str
    status: str
    exit_code: int
    oom_killed: bool
    error: str
    started_at: str
    finished_at: str
    labels: Mapping[str, str]
    volumes: tuple[str, ...]

    @property
    def running(self) -> bool:
        """Whether its processes are there."""
        return self.status in {"running", "paused", "restarting"}


class Engine:
    """One engine. Calls may come from several threads; connections are pooled, and made at first use."""

    def __init__(self, docker: Docker) -> None:
        self._docker = docker
        self._lock = threading.Lock()
        self._made: APIClient | None = None
        self._description: Description | None = None

    @property
    def _client(self) -> APIClient:
        with self._lock:
            if self._made is None:
                self._made = APIClient(
                    base_url=self._docker.endpoint,
                    version=self._docker.version,
                    timeout=int(max(1, self._docker.timeout)),
                    max_pool_size=_POOL,
                )
            return self._made

    def close(self) -> None:
        """Drop the connections."""
        with self._lock:
            if self._made is not None:
                self._made.close()
                self._made = None

    # --- the engine ----------------------------------------------------------------------------------------------------

    def ping(self) -> None:
        """Does it answer, within a few seconds? Raises ExecutionError."""
        made = self._made  # without the lock: somebody may be waiting for a hung engine with it
        version = made.api_version if made is not None else self._docker.version
        with self._told("ask the engine", Reason.ENGINE_ERROR):
            client = APIClient(base_url=self._docker.endpoint, version=version, timeout=PING_S)
            try:
                client.ping()
            finally:
                client.close()

    def describe(self) -> Description:
        """Who it is, and how it stores things; asked once (10 ms)."""
        if self._description is not None:
            return self._description
        with self._told("ask the engine", Reason.ENGINE_ERROR):
            info = self._client.info()
        backing = dict(pair for pair in info.get("DriverStatus") or () if len(pair) == 2)
        self._description = Description(
            str(info.get("ID", "")), str(info.get("Driver", "")), str(backing.get("Backing Filesystem", ""))
        )
        return self._description

    # --- images ----------------------------------------------------------------------------------------------------------

    def image_id(self, name: str) -> str | None:
        """The id of an image that is present."""
        with self._told(f"look for image {name}", Reason.ENGINE_ERROR):
            try:
                return str(self._client.inspect_image(name)["Id"])  # type: ignore[no-untyped-call]  # its stub is empty
            except NotFound:
                return None

    def pull(self, name: str, timeout_s: float) -> None:
        """Fetch an image from its registry. Raises ExecutionError: image_auth, image_missing or pull_failed."""
        repository, tag = split_reference(name)
        puller = APIClient(base_url=self._docker.endpoint, version=self._client.api_version, timeout=int(max(1, timeout_s)))
        try:
            with self._told(f"pull image {name}", Reason.PULL_FAILED):
                progress = PullProgress(name)
                for step in puller.pull(repository, tag=tag, stream=True, decode=True):
                    if "error" in step:
                        raise pull_error(name, str(step["error"]))
                    progress.tell(step, time.monotonic())
        except NotFound as error:
            raise pull_error(name, str(error.explanation)) from None
        finally:
            puller.close()

    # --- containers ------------------------------------------------------------------------------------------------------

    def create(self, name: str, body: Mapping[str, Any]) -> str:
        """Make a container; its id. Raises NameTakenError, or ExecutionError (image_missing, create_failed)."""
        with self._told(f"create container {name}", Reason.CREATE_FAILED):
            try:
                made = self._client.create_container_from_config(  # type: ignore[no-untyped-call]  # its stub is empty
                    dict(body), name=name
                )
                return str(made["Id"])
            except ImageNotFound:
                raise ExecutionError(
                    Reason.IMAGE_MISSING, f"image {body['Image']} is gone: pull or build it again", image=body["Image"]
                ) from None
            except APIError as error:
                if error.status_code == requests.codes.conflict:
                    raise NameTakenError(name) from None
                raise

    def attach(self, container: str, *, stdin: bool) -> Stream:
        """A connection to its standard streams; it ends with the container, or with the engine."""
        params = {"stdin": int(stdin), "stdout": 1, "stderr": 1, "stream": 1, "logs": 0}
        with self._told("attach to the container", Reason.START_FAILED):
            return Stream(self._client.attach_socket(container, params=params))

    def start(self, container: str, stream: Stream, payload: bytes) -> None:
        """Start it while the payload goes to its stdin."""
        feeder = Feeder(stream, payload, self._docker.timeout)
        feeder.start()
        with self._told("start the container", Reason.START_FAILED):
            self._client.start(container)
        feeder.finish()

    def state(self, container: str) -> ContainerState | None:
        """What has become of it; None when there is no such container."""
        with self._told("look at the container", Reason.ENGINE_ERROR):
            try:
                found = self._client.inspect_container(container)
            except NotFound:
                return None
        state = found["State"]
        return ContainerState(
            container_id=str(found["Id"]),
            status=str(state["Status"]),
            exit_code=int(state["ExitCode"]),
            oom_killed=bool(state.get("OOMKilled")),
            error=str(state.get("Error") or ""),
            started_at=str(state.get("StartedAt") or ""),
            finished_at=str(state.get("FinishedAt") or ""),
            labels=found["Config"].get("Labels") or {},
            volumes=tuple(str(mount["Name"]) for mount in found.get("Mounts") or () if mount.get("Type") == "volume"),
        )

    def kill(self, container: str, signal: str) -> None:
        """Send a signal; a container that is gone or has ended needs none."""
        with self._told(f"send {signal} to the container", Reason.ENGINE_ERROR):
            try:
                self._client.kill(container, signal)
            except NotFound:
                return
            except APIError as error:
                if error.status_code != requests.codes.conflict:  # it is not running
                    raise

    def remove(self, container: str) -> None:
        """End and remove it with its anonymous volumes; harmless when it is gone. Raises ExecutionError when it stays."""
        give_up_s = time.monotonic() + _REMOVAL_S
        with self._told("remove the container", Reason.ENGINE_ERROR):
            while True:
                try:
                    self._client.remove_container(container, v=True, force=True)
                except NotFound:
                    return
                except APIError as error:  # its removal is under way already
                    if error.status_code != requests.codes.conflict or time.monotonic() > give_up_s:
                        raise
                else:
                    return
                time.sleep(_REMOVAL_PAUSE_S)

    def containers(self, labels: Mapping[str, str]) -> tuple[Mapping[str, str], ...]:
        """The labels of all containers, running or not, that carry these."""
        with self._told("list containers", Reason.ENGINE_ERROR):
            found = self._client.containers(all=True, filters={"label": [f"{name}={value}" for name, value in labels.items()]})
        return tuple(one.get("Labels") or {} for one in found)

    def cpu_usec(self, container: str) -> int | None:
        """CPU time it has used so far; None when it does not run."""
        with self._told("sample the container", Reason.ENGINE_ERROR):
            try:
                sample = self._client.stats(container, stream=False, one_shot=True)
            except NotFound:
                return None
        used = sample.get("cpu_stats", {}).get("cpu_usage", {}).get("total_usage")
        return None if not used else int(used) // 1000

    def written_bytes(self, container: str) -> int | None:
        """Size of its writable layer: the engine walks it, so this costs with the number of files."""
        with self._told("measure the container", Reason.ENGINE_ERROR):
            found = self._client.containers(all=True, size=True, filters={"id": container})
        return int(found[0].get("SizeRw") or 0) if found else None

    # --- files in containers -----------------------------------------------------------------------------------------------

    def put(self, container: str, folder: str, archive: bytes) -> None:
        """Unpack a tar into a folder of a container that need not run."""
        with self._told("write files into the container", Reason.CREATE_FAILED):
            self._client.put_archive(container, folder, archive)

    def copy_out(self, container: str, path: str, skip: int, most: int, target: IO[bytes]) -> int | None:
        """Append bytes `skip` to `skip + most` of a plain file to `target`; the file's size, None when there is none.

        It comes as a tar from its first byte on: there is no other way to a file of a container that has ended.
        """
        with self._told("read a file of the container", Reason.ENGINE_ERROR):
            try:
                chunks, _ = self._client.get_archive(container, path, chunk_size=_READ)
            except NotFound:
                return None
            with tarfile.open(fileobj=cast("IO[bytes]", ChunkFile(chunks)), mode="r|") as tar:
                member = tar.next()
                content = tar.extractfile(member) if member is not None and member.isreg() else None
                if member is None or content is None:
                    return None
                _copy(content, target, skip, min(most, member.size - skip))
                return member.size

    def execute(self, container: str, command: list[str], user: str, *, stdin: bool = False) -> Stream:
        """Run a command in a running container; the connection to it."""
        with self._told("run a command in the container", Reason.ENGINE_ERROR):
            made = self._client.exec_create(container, command, stdin=stdin, stdout=True, stderr=True, user=user)
            return Stream(self._client.exec_start(made["Id"], socket=True))

    def run(self, container: str, command: list[str], user: str) -> bytes:
        """Run a command in a running container to its end (at most the engine's timeout); its stdout, at most 64 KiB."""
        stream = self.execute(container, command, user)
        said = b""
        deadline_s = time.monotonic() + self._docker.timeout
        try:
            while not stream.ended and len(said) < _MAX_SAID and time.monotonic() < deadline_s:
                piece = stream.take(_READ)
                if piece is None:
                    stream.wait(0.5)
                elif piece[0] == STDOUT:
                    said += piece[1]
        finally:
            stream.close()
        return said

    # --- networks and volumes ------------------------------------------------------------------------------------------------

    def has_network(self, name: str) -> bool:
        """Whether there is a network of exactly this name."""
        with self._told(f"look for network {name}", Reason.ENGINE_ERROR):
            return any(network["Name"] == name for network in self._client.networks(names=[name]))

    def make_network(self, name: str, labels: Mapping[str, str]) -> None:
        """A bridge on which containers do not reach each other; harmless when another was quicker."""
        with self._told(f"create network {name}", Reason.CREATE_FAILED):
            try:
                self._client.create_network(
                    name,
                    driver="bridge",
                    options={"com.docker.network.bridge.enable_icc": "false"},
                    labels=dict(labels),
                    check_duplicate=True,
                )
            except APIError as error:
                if error.status_code != requests.codes.conflict:
                    raise

    def remove_network(self, name: str) -> bool:
        """Remove it unless something is connected to it; whether it is gone."""
        with self._told(f"remove network {name}", Reason.ENGINE_ERROR):
            try:
                self._client.remove_network(name)
            except NotFound:
                return True
            except APIError as error:
                if error.status_code in {requests.codes.forbidden, requests.codes.conflict}:
                    return False
                raise
        return True

    def volumes(self, labels: Mapping[str, str]) -> tuple[Mapping[str, str], ...]:
        """The labels of all volumes that carry these."""
        with self._told("list volumes", Reason.ENGINE_ERROR):
            found = self._client.volumes(filters={"label": [f"{name}={value}" for name, value in labels.items()]})
        return tuple(volume.get("Labels") or {} for volume in found.get("Volumes") or ())

    def has_volume(self, name: str) -> bool:
        """Whether there is a volume of this name."""
        with self._told(f"look for volume {name}", Reason.ENGINE_ERROR):
            try:
                self._client.inspect_volume(name)
            except NotFound:
                return False
        return True

    def remove_volume(self, name: str) -> None:
        """Remove it; harmless when it is gone."""
        with self._told(f"remove volume {name}", Reason.ENGINE_ERROR):
            try:
                self._client.remove_volume(name, force=True)
            except NotFound:
                return

    # --- errors --------------------------------------------------------------------------------------------------------------

    @contextmanager
    def _told(self, doing: str, reason: Reason) -> Iterator[None]:
        """Turn what the libraries raise into our own error."""
        try:
            yield
        except NotFound as error:
            raise ExecutionError(reason, f"could not {doing}: {error.explanation}; see the engine's log") from error
        except APIError as error:
            raise ExecutionError(
                reason,
                f"could not {doing}: {error.explanation or error}; see the engine's log",
                status=error.status_code,
            ) from error
        except (DockerException, requests.RequestException, OSError, tarfile.TarError) as error:
            raise ExecutionError(
                Reason.ENGINE_DOWN,
                f"could not {doing}: the Docker engine at {self._docker.endpoint} does not answer ({_short(error)}): "
                "start it (`systemctl start docker`), or set container.docker.endpoint",
                endpoint=self._docker.endpoint,
            ) from error


class ChunkFile:
    """Chunks as a file that is read once from its start, as tarfile's stream mode wants it."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self._chunks = chunks
        self._rest = b""

    def read(self, size: int) -> bytes:
        """Up to `size` bytes; less only at the end."""
        parts = [self._rest]
        have = len(self._rest)
        while have < size and (chunk := next(self._chunks, b"")):
            parts.append(chunk)
            have += len(chunk)
        whole = b"".join(parts)
        self._rest = whole[size:]
        return whole[:size]


def _copy(source: IO[bytes], target: IO[bytes], skip: int, length: int) -> None:
    while skip > 0 and (data := source.read(min(_READ, skip))):
        skip -= len(data)
    while length > 0 and (data := source.read(min(_READ, length))):
        target.write(data)
        length -= len(data)


def split_reference(name: str) -> tuple[str, str | None]:
    """Repository and tag (or digest) as the pull call wants them; `latest` when none is said."""
    if "@" in name:
        repository, _, digest = name.partition("@")
        return repository, digest
    head, slash, last = name.rpartition("/")
    base, _, tag = last.partition(":")
    return head + slash + base, tag or "latest"


def pull_error(name: str, said: str) -> ExecutionError:
    """What a registry's refusal means."""
    lower = said.lower()
    if any(words in lower for words in ("unauthorized", "authentication required", "denied", "no basic auth")):
        return ExecutionError(
            Reason.IMAGE_AUTH,
            f"image {name} may not be pulled ({said}): check its name, and `docker login` its registry",
            image=name,
        )
    if any(words in lower for words in ("not found", "manifest unknown", "does not exist")):
        return ExecutionError(
            Reason.IMAGE_MISSING, f"there is no image {name} in its registry ({said}): check its name", image=name
        )
    return ExecutionError(
        Reason.PULL_FAILED,
        f"image {name} could not be pulled ({said}): check the way to its registry with `docker pull {name}`",
        image=name,
    )


def _short(error: BaseException) -> str:
    return str(error).splitlines()[0][:200] if str(error) else type(error).__name__
