"""Where packages come from: the distribution of this machine, its mirrors, keys and proxies, and its package manager.

Asks apt; installs a program only when a builder orders it to. Runs in the command line's process.
"""

import os
import platform
import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from .events import ImageBuildError
from .tool import lines_of

_ASK_TIMEOUT_S = 60
_INSTALL_TIMEOUT_S = 600.0
_QUIET = {"DEBIAN_FRONTEND": "noninteractive", "LC_ALL": "C.UTF-8"}
_KEYRINGS = Path("/usr/share/keyrings")
# What a root made from nothing cannot know: how this machine gets out, and whom it trusts on the way.
_NETWORK_OPTION = re.compile(r"Acquire::(https?|ftp)::(.*::)?(Proxy|ProxyAutoDetect|CAInfo|Verify-\w+|Proxy::\S+) ")


@dataclass(frozen=True, slots=True)
class Distribution:
    """What packages are made of here. `sources` are one-line entries of apt, empty for the distribution's own mirrors."""

    family: str
    codename: str
    sources: tuple[str, ...]
    keyring: Path | None
    apt_options: tuple[str, ...]


def this_distribution() -> Distribution:
    """Find out. Raises ImageBuildError where there is no apt."""
    release = platform.freedesktop_os_release()
    family = next((name for name in ("debian", "ubuntu") if name in _families(release)), None)
    codename = release.get("VERSION_CODENAME")
    if family is None or codename is None or shutil.which("apt-get") is None:
        raise ImageBuildError(
            f"Images can be built from packages on Debian and Ubuntu only; this is {release.get('PRETTY_NAME', 'neither')}. "
            "Next: reach an image registry and use `--from alpine`, or build on such a machine and carry the images over "
            "with `docker save` and `docker load`."
        )
    keyring = _KEYRINGS / f"{family}-archive-keyring.gpg"
    return Distribution(
        family=family,
        codename=codename,
        sources=_sources(family),
        keyring=keyring if keyring.exists() else None,
        apt_options=tuple(line for line in _ask("apt-config", "dump") if _NETWORK_OPTION.match(line)),
    )


def _families(release: dict[str, str]) -> list[str]:
    return [release.get("ID", ""), *release.get("ID_LIKE", "").split()]


def _sources(family: str) -> tuple[str, ...]:
    """The mirrors that this machine itself uses, without anybody else's packages."""
    entry = "$(ORIGIN)|deb $(REPO_URI) $(RELEASE) $(COMPONENT)"
    origin = f"{family.capitalize()}|"
    found = _ask("apt-get", "indextargets", "--format", entry, "Created-By: Packages")
    return tuple(dict.fromkeys(line.removeprefix(origin) for line in found if line.startswith(origin)))


def _ask(*command: str) -> list[str]:
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=_ASK_TIMEOUT_S)
    return done.stdout.splitlines()


def install(*packages: str) -> Iterator[str]:
    """Install programs on this machine, and yield what apt says. Raises ImageBuildError without root, ToolError."""
    if os.geteuid() != 0:
        raise ImageBuildError(
            f"{' and '.join(packages)} must be installed, and that needs root. Next: `sudo apt-get install {' '.join(packages)}`."
        )
    yield from lines_of(["apt-get", "update"], timeout_s=_INSTALL_TIMEOUT_S, environment=_QUIET)
    command = ["apt-get", "install", "--yes", "--no-install-recommends", *packages]
    yield from lines_of(command, timeout_s=_INSTALL_TIMEOUT_S, environment=_QUIET)


def install_into(root: Path, packages: tuple[str, ...], *, timeout_s: float) -> Iterator[str]:
    """Add packages to a root that still has its package lists, with this machine's apt; yields what apt says.

    The root needs no apt of its own. Raises ToolError.
    """
    config = root.with_suffix(".apt.conf")
    config.write_text(
        f'Dir "{root}/";\nDPkg::Chroot-Directory "{root}";\nAPT::Install-Recommends "false";\nAcquire::Retries "3";\n'
    )
    command = ["apt-get", "install", "--yes", *packages]
    yield from lines_of(command, timeout_s=timeout_s, environment={**_QUIET, "APT_CONFIG": str(config)})
