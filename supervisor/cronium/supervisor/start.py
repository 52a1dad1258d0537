"""The first steps of a supervisor, up to the forkserver: what must be so before anything of ours runs beside it.

Loads little itself, for the forkserver and the rest of the supervisor take as long to load, and do it at the same time then.
"""

from __future__ import annotations

import gc
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from cronium.common.config.model import Config
from cronium.common.crypto import KEY_VARIABLE, OLD_KEYS_VARIABLE, Seal, load_seal
from cronium.common.errors import CroniumError
from cronium.common.locks import lock
from cronium.common.process import dump_on_request, set_title
from cronium.supervisor.pool.descriptors import needed, raise_limit
from cronium.supervisor.pool.forks import Forks

TOKEN_VARIABLES = ("CRONIUM_SERVICE_TOKEN", "CRONIUM_API_TOKEN")
_LOCK_S = 2.0  # who only looks whether somebody has the folder holds its lock for a moment


class StartError(CroniumError):
    """The supervisor cannot start; the text says what, where and what to do."""


@dataclass(frozen=True, slots=True)
class Ready:
    """What the first steps have made. `keys`: variables that open what we store, for those who need them."""

    forks: Forks
    seal: Seal
    keys: dict[str, str]

    def __repr__(self) -> str:
        return "Ready()"


def start(config: Config, *, standalone: bool, tell: Callable[[str], None]) -> int:
    """Run a supervisor until it is stopped; see `serve`. Raises CroniumError when it cannot start."""
    set_title("supervisor")
    dump_on_request()
    _check_descriptors(config, raise_limit())
    config.state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    prepare_runtime_dir(config.runtime_dir)
    with _only_one(config.state_dir):
        seal = load_seal(config.state_dir, os.environ)
        for name in TOKEN_VARIABLES:
            os.environ.pop(name, None)  # before anything is forked: a worker must not hold it, nor what opens what we store
        keys = {name: os.environ.pop(name) for name in (KEY_VARIABLE, OLD_KEYS_VARIABLE) if name in os.environ}
        ready = Ready(Forks(config.runtime_dir), seal, keys)
        gc.disable()  # all that is loaded stays: see the workers' preload
        from cronium.supervisor.serve import serve  # noqa: PLC0415 - takes as long as the forkserver

        gc.freeze()
        gc.enable()
        return serve(config, ready, standalone=standalone, tell=tell)


def prepare_runtime_dir(path: Path) -> None:
    """Make the sockets' directory, for its owner only. Raises PermissionError when it belongs to somebody else."""
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    found = path.stat()
    if found.st_uid != os.geteuid():
        raise PermissionError(f"runtimeDir {path} belongs to user {found.st_uid}: name another one (CRONIUM_RUNTIME_DIR)")
    path.chmod(0o700)


def _check_descriptors(config: Config, limit: int) -> None:
    """Raises StartError when more workers are wanted than this process can have descriptors for."""
    wanted = needed(config.jobs.max_concurrent + config.workers.spare)
    if limit < wanted:
        raise StartError(
            f"jobs.maxConcurrent ({config.jobs.max_concurrent}) and workers.spare ({config.workers.spare}) need up to {wanted} "
            f"open files, and this process may have {limit}: raise its hard limit ('ulimit -Hn' shows it; LimitNOFILE= of "
            "systemd, --ulimit nofile= of Docker), or lower jobs.maxConcurrent (CRONIUM_MAX_CONCURRENT)"
        )


@contextmanager
def _only_one(state_dir: Path) -> Iterator[None]:
    """Hold the state folder's lock: the kernel gives it back when we die, so having it means that the last one is gone.

    Its text is our pid, for whoever has something to tell us (`cronium-supervisor drain`).
    """
    with (state_dir / "lock").open("a") as file:  # not "w": that would cut the text of whoever holds it
        try:
            lock(file.fileno(), _LOCK_S)
        except TimeoutError:
            raise StartError(
                f"another supervisor uses the state folder {state_dir}: stop it, or name another folder (CRONIUM_STATE_DIR)"
            ) from None
        file.truncate(0)
        file.write(f"{os.getpid()}\n")
        file.flush()
        yield
