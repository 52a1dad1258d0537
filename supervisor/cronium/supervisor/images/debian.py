"""Builds the runner images from Debian (or Ubuntu) packages, for those who can reach no image registry.

One base root is made with mmdebstrap and imported as the bash image. For python and node a copy of it gets their
packages, and only what is new becomes a second layer: the base is built once and stored once. Runs in the command line's
process, as root, on a machine with apt. Nothing runs inside of a container, so the engine needs no network.
"""

import os
import re
import shutil
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from docker import DockerClient
from docker.errors import DockerException

from cronium.common.job import ScriptType

from . import rootfs
from .catalog import Family, reference
from .distribution import Distribution, install, install_into, this_distribution
from .events import BuildEvent, Built, Detail, ImageBuildError, Retrying, Step
from .tool import ToolError, lines_of

# Essential packages bring sh, tar, dd, mkfifo, stat, setsid and coreutils. The rest is what small scripts ask for.
_BASE = ("ca-certificates", "curl", "jq", "netbase", "procps", "tini", "tzdata")
_ADDED = {ScriptType.PYTHON: ("python3",), ScriptType.NODE: ("nodejs",)}
_USER, _UID = "cronium", 1000
_CONFIG = (
    f"USER {_UID}:{_UID}",
    "WORKDIR /workspace",
    "ENV LANG=C.UTF-8",
    "ENV PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    'CMD ["bash"]',
)
_NOT_UNPACKED = ("bash-completion", "doc", "info", "lintian", "locale", "man")
_HOOKS = Path("/usr/share/mmdebstrap/hooks/maybe-merged-usr")  # without it `usrmerge` brings all of perl
# What mmdebstrap 1.x says when a stage begins, in this order; one that a later version words differently is not shown.
_STAGES = (
    "I: finding correct signed-by value...",
    "I: downloading packages with apt...",
    "I: extracting archives...",
    "I: installing essential packages...",
    "I: installing remaining packages inside the chroot...",
)
_TOOL_TIMEOUT_S = 900.0
_TRIES = 3
_RETRY_AFTER_S = 3.0
_WORKPLACES = Path("/var/tmp")  # noqa: S108 - /tmp may be small or without device files; ours is made by mkdtemp
# What apt says when the network, not the request, was at fault.
_DOWNLOAD_FAILED = re.compile(
    r"Failed to fetch|Temporary failure|Could not (connect|resolve)|Connection (failed|timed out|reset)|"
    r"Hash Sum mismatch|error-on=any|Unable to connect"
)


@dataclass(frozen=True, slots=True)
class _Steps:
    """The steps of one image."""

    name: str
    total: int

    def at(self, number: int, text: str) -> Step:
        return Step(self.name, number, self.total, text)


def build(client: DockerClient, scripts: Iterable[ScriptType]) -> Iterator[BuildEvent]:
    """Build the images for these script types, and the bash image with them, which is their base.

    Raises ImageBuildError when that is not possible here, or after the last try of something that failed.
    """
    if os.geteuid() != 0:
        raise ImageBuildError(
            "Building images from Debian packages needs root. Next: `sudo .venv/bin/python -m cronium.supervisor images build`, "
            "or, where a registry can be reached, `images build --from alpine`."
        )
    distribution = this_distribution()
    with rootfs.workplace(_WORKPLACES) as folder:
        try:
            yield from _build_base(client, distribution, folder)
            for script in scripts:
                if script is not ScriptType.BASH:
                    yield from _build_layer(client, script, folder)
        except ToolError as error:
            said = "\n".join(f"  {line}" for line in error.lines[-8:])
            raise ImageBuildError(
                f"Building from packages failed: {error}\n{said}\nNext: look whether `apt-get update` works here, and try again."
            ) from error
        except DockerException as error:
            raise ImageBuildError(
                f"The engine did not take the image: {error}. Next: see `docker info` and its free disk space, and try again."
            ) from error


def _build_base(client: DockerClient, distribution: Distribution, folder: Path) -> Iterator[BuildEvent]:
    begun = time.monotonic()
    steps = _Steps(reference(ScriptType.BASH, Family.DEBIAN), len(_STAGES) + 3)
    if shutil.which("mmdebstrap") is None:
        yield steps.at(1, "installing mmdebstrap")
        yield from (Detail(steps.name, line) for line in install("mmdebstrap", "gpg"))
    for event in _retried(steps.name, lambda: _mmdebstrap(distribution, folder / "base")):
        yield event
        if isinstance(event, Detail) and event.line in _STAGES:
            yield steps.at(_STAGES.index(event.line) + 2, event.line.removeprefix("I: ").rstrip("."))
    yield steps.at(steps.total - 1, "packing")
    rootfs.add_user(folder / "base", name=_USER, uid=_UID)
    rootfs.pack(folder / "base", folder / "base.tar")
    yield steps.at(steps.total, "importing")
    repository, tag = steps.name.split(":")
    client.api.import_image_from_file(str(folder / "base.tar"), repository, tag, changes=list(_CONFIG))
    yield _built(client, steps.name, begun)


def _mmdebstrap(distribution: Distribution, root: Path) -> Iterator[str]:
    shutil.rmtree(root, ignore_errors=True)  # what a failed try has left; mmdebstrap unmounts in every case
    unwanted = [f"--dpkgopt=path-exclude=/usr/share/{folder}/*" for folder in _NOT_UNPACKED]
    options = [
        "--mode=root",
        "--format=directory",
        "--variant=essential",
        "--skip=cleanup",  # the package lists are needed for the layers; what is left out of an image, `pack` knows
        f"--include={','.join(_BASE)}",
        *unwanted,
        "--dpkgopt=path-include=/usr/share/doc/*/copyright",
        '--aptopt=Acquire::Retries "3"',
        '--aptopt=APT::Install-Recommends "false"',
        *(f"--aptopt={option}" for option in distribution.apt_options),
    ]
    if _HOOKS.is_dir():
        options.append(f"--hook-dir={_HOOKS}")
    if distribution.keyring is not None:
        options.append(f"--keyring={distribution.keyring}")
    if distribution.family == "ubuntu" and not distribution.sources:
        options.append("--components=main,universe")
    command = ["mmdebstrap", *options, distribution.codename, str(root), *distribution.sources]
    return lines_of(command, timeout_s=_TOOL_TIMEOUT_S, environment={"LC_ALL": "C.UTF-8"})


def _build_layer(client: DockerClient, script: ScriptType, folder: Path) -> Iterator[BuildEvent]:
    begun = time.monotonic()
    steps = _Steps(reference(script, Family.DEBIAN), 4)
    root, archive = folder / script.value, folder / f"{script}.tar"
    yield steps.at(1, "copying the base")
    copied_ns = rootfs.copy(folder / "base", root)
    yield steps.at(2, f"installing {', '.join(_ADDED[script])}")
    yield from _retried(steps.name, lambda: install_into(root, _ADDED[script], timeout_s=_TOOL_TIMEOUT_S))
    yield steps.at(3, "packing")
    rootfs.pack(root, archive, newer_than_ns=copied_ns)
    yield steps.at(4, "adding the layer")
    _commit_layer(client, archive, steps.name)
    yield _built(client, steps.name, begun)


def _commit_layer(client: DockerClient, archive: Path, name: str) -> None:
    """Make an image of the bash image and a tar: by a container that is never started."""
    repository, tag = name.split(":")
    container = client.containers.create(reference(ScriptType.BASH, Family.DEBIAN), network_mode="none")
    try:
        with archive.open("rb") as layer:
            container.put_archive("/", layer)
        container.commit(repository, tag)
    finally:
        container.remove(force=True)


def _built(client: DockerClient, name: str, begun: float) -> Built:
    image = client.images.get(name)
    return Built(name, str(image.id), int(image.attrs["Size"]), time.monotonic() - begun)


def _retried(name: str, run: Callable[[], Iterator[str]]) -> Iterator[BuildEvent]:
    """Yield what a tool says; when a download failed, say so, wait, and run it again."""
    for left in reversed(range(_TRIES)):
        failures: list[str] = []
        try:
            for line in run():
                if _DOWNLOAD_FAILED.search(line):
                    failures.append(line)
                yield Detail(name, line)
        except ToolError:
            if not failures or left == 0:
                raise
            yield Retrying(name, failures[0], _RETRY_AFTER_S)
            time.sleep(_RETRY_AFTER_S)
        else:
            return
