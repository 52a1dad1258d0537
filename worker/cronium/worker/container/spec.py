"""A planned job as the body of the engine's `POST /containers/create`.

Pure. Nothing of the job's script, input or environment is in it: those go through the launcher's stdin. What is here can be
read by everybody who may call `docker inspect`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cronium.worker.container.limits import Plan
from cronium.worker.container.settings import Settings

FILES_DIR = "/cronium"
RUN_DIR = "/run/cronium"
WORKSPACE = "/workspace"

LABEL_INSTALLATION = "cronium.installation"
LABEL_JOB = "cronium.job"
LABEL_PLACE = "cronium.place"
LABEL_ATTEMPT = "cronium.attempt"
LABEL_FILES = "cronium.files"

LAUNCHER_PIDS = 10  # launcher.sh counts nine of its own, and the container's init
READER_PIDS = 12  # and where files are read by `exec`: two shells with two readers each, and what these fork
RUN_DIR_SLACK_BYTES = 8 * 1024 * 1024
_MIB = 1024 * 1024
_CPU_PERIOD_US = 100_000
_OOM_SCORE_ADJ = 500  # when the machine runs out of memory, jobs go before supervisor and engine
_OPEN_FILES = 4096  # an engine without CAP_SYS_RESOURCE cannot give more than it has itself; all have that
# The launcher itself says nothing but its own failures there: the job's output goes into the place's files.
_LOG = {"Type": "local", "Config": {"max-size": "1m", "max-file": "1", "compress": "false"}}


@dataclass(frozen=True, slots=True)
class Place:
    """Whose container it is, and how its files get there: `mounts` as the engine's API has them, `files` host or exec."""

    name: str
    job_id: str
    attempt: int
    files: str
    mounts: Sequence[Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class Machine:
    """What the engine offers: an init binary, quotas on a container's writable layer."""

    init: str
    disk_quota: bool


def container(
    plan: Plan,
    place: Place,
    image: str,
    launcher: str,
    payload_bytes: int,
    machine: Machine,
    settings: Settings,
    seccomp: str | None,
) -> dict[str, Any]:
    """The body. `payload_bytes`: size of what will be unpacked into the private tmpfs. `seccomp`: a profile's JSON text."""
    entrypoint = ["sh", "-c", launcher, "cronium", FILES_DIR, RUN_DIR]
    if machine.init == "tini":
        entrypoint = ["tini", "--", *entrypoint]
    return {
        "Image": image,
        "Entrypoint": entrypoint,
        "Cmd": [],
        "Hostname": "cronium-job",
        "User": settings.container.security.user,
        "WorkingDir": WORKSPACE,
        "OpenStdin": True,
        "StdinOnce": True,
        "AttachStdin": True,
        "AttachStdout": True,
        "AttachStderr": True,
        "Tty": False,
        "Healthcheck": {"Test": ["NONE"]},
        "Labels": labels(place, settings),
        "HostConfig": host_config(plan, place, payload_bytes, machine, settings, seccomp),
    }


def labels(place: Place, settings: Settings) -> dict[str, str]:
    """Ours win over configured ones."""
    return {
        **settings.container.labels,
        LABEL_INSTALLATION: settings.installation,
        LABEL_JOB: place.job_id,
        LABEL_PLACE: place.name,
        LABEL_ATTEMPT: str(place.attempt),
        LABEL_FILES: place.files,
    }


def host_config(
    plan: Plan, place: Place, payload_bytes: int, machine: Machine, settings: Settings, seccomp: str | None
) -> dict[str, Any]:
    """Limits, security, mounts, network."""
    limits, security = plan.limits, settings.container.security
    uid, gid = settings.owner
    mounts = [dict(mount) for mount in place.mounts]
    tmpfs = {RUN_DIR: _tmpfs(RUN_DIR_SLACK_BYTES + 2 * payload_bytes, f"mode=0700,uid={uid},gid={gid}")}
    if security.read_only_root_fs:
        mounts.append({"Type": "volume", "Target": WORKSPACE})
        tmpfs["/tmp"] = _tmpfs(limits.memory_bytes // 2, "mode=1777")  # noqa: S108 - a path in the container
    body: dict[str, Any] = {
        "Memory": limits.memory_bytes,
        "MemorySwap": limits.memory_bytes,  # both together: no swap on top
        "CpuPeriod": _CPU_PERIOD_US,  # not NanoCpus: those are refused where the machine has fewer cores
        "CpuQuota": max(1000, int(limits.cpu * _CPU_PERIOD_US)),
        "PidsLimit": limits.pids + LAUNCHER_PIDS + (READER_PIDS if place.files == "exec" else 0),
        "OomScoreAdj": _OOM_SCORE_ADJ,
        "Ulimits": [
            _ulimit("fsize", settings.container.resources.max_file_size),
            _ulimit("nofile", _OPEN_FILES),
            _ulimit("core", 0),
        ],
        "CapDrop": list(security.drop_capabilities),
        "Privileged": False,
        "ReadonlyRootfs": security.read_only_root_fs,
        "SecurityOpt": _security_options(settings, seccomp),
        "NetworkMode": settings.bridge if plan.network == "bridge" else plan.network,
        "Dns": [] if plan.network == "none" else list(settings.container.network.dns_servers),
        "Mounts": mounts,
        "Tmpfs": tmpfs,
        "LogConfig": _LOG,
        "RestartPolicy": {"Name": "no"},
        "AutoRemove": False,
    }
    if machine.init == "engine":
        body["Init"] = True
    if machine.disk_quota:
        body["StorageOpt"] = {"size": str(limits.disk_bytes)}
    return body


def _security_options(settings: Settings, seccomp: str | None) -> list[str]:
    # No word on seccomp gives the engine's default profile; `seccomp=default` is refused by it (moby 20.10: start fails).
    options = ["no-new-privileges:true"] if settings.container.security.no_new_privileges else []
    return [*options, f"seccomp={seccomp}"] if seccomp else options


def _tmpfs(size_bytes: int, rest: str) -> str:
    return f"rw,exec,nosuid,nodev,size={-(-size_bytes // _MIB)}m,{rest}"


def _ulimit(name: str, value: int) -> dict[str, Any]:
    return {"Name": name, "Soft": value, "Hard": value}
