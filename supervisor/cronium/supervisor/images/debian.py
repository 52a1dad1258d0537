"""Builds the runner images from Debian (or Ubuntu) packages, for those who can reach no image registry.

One base root is made with mmdebstrap and imported as the bash image. For python and node a copy of it gets their
packages, and only what is new becomes a second layer, so the base is built and stored once. Runs in the command line's
process, as root, on a machine with apt. Nothing runs inside of a container, so the engine needs no network.
"""

import os
import platform
import re
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import docker
from docker.errors import DockerException

from cronium.common.job import ScriptType

from . import rootfs
from .catalog import Family, reference
from .events import BuildEvent, Built, Detail, ImageBuildError, Retrying, Step
from .tool import ToolError, lines_of

# Essential packages bring sh, tar, dd, mkfifo, stat, setsid and coreutils. The rest is what small scripts ask for.
_BASE = ("ca-certificates", "curl", "jq", "netbase", "procps", "tini", "tzdata")
_MORE = {ScriptType.PYTHON: ("python3",), ScriptType.NODE: ("nodejs",)}
_NOT_UNPACKED = ("doc/*", "info/*", "lintian/*", "locale/*", "man/*", "bash-completion/*", "perl5/debconf/po/*")
_CONFIG = (
    "USER 1000:1000",
    "WORKDIR /workspace",
    "ENV LANG=C.UTF-8",
    "ENV PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    'CMD ["bash"]',
)
_NAME = "cronium"
_UID = 1000
_BASE_STEPS = 9  # as many as mmdebstrap announces, and ours
_TOOL_TIMEOUT_S = 900.0
_TRIES = 3
_RETRY_AFTER_S = 3.0
# What apt says when the network, not the request, was at fault.
_DOWNLOAD_FAILED = re.compile(
    r"Failed to fetch|Temporary failure|Could not (connect|resolve)|Connection (failed|timed out|reset)|"
    r"Hash Sum mismatch|error-on=any|Unable to connect|5\d\d  "
)


@dataclass(frozen=True, slots=True)
class Distribution:
    """Which packages an image is made of: those of the machine it is built on."""

    codename: str
    sources: tuple[str, ...]
    keyring: Path | None
    apt_options: tuple[str, ...]
