"""This installation's own network, made when the first job asks for `bridge`.

Jobs on it reach the world and not each other (inter-container communication off).
"""

from __future__ import annotations

import fcntl

from cronium.common.errors import ExecutionError, Reason
from cronium.worker.container.engine import Engine
from cronium.worker.container.settings import Settings
from cronium.worker.container.spec import LABEL_INSTALLATION


def ensure_network(engine: Engine, network: str, settings: Settings) -> None:
    """Have the network that a job names. Raises ExecutionError when it is somebody else's and not there."""
    if network == "none":
        return
    if network == "bridge":
        if not engine.has_network(settings.bridge):
            _make(engine, settings)
    elif not engine.has_network(network):
        raise ExecutionError(
            Reason.CREATE_FAILED,
            f"there is no network {network} on this engine: make it with `docker network create {network}`",
            network=network,
        )


def _make(engine: Engine, settings: Settings) -> None:
    """Make our network, one worker at a time: the engine would make two of the same name, and then start nothing on either."""
    settings.findings.mkdir(mode=0o700, parents=True, exist_ok=True)
    with (settings.findings / "network.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not engine.has_network(settings.bridge):
            engine.make_network(settings.bridge, {LABEL_INSTALLATION: settings.installation})


def remove_network(engine: Engine, settings: Settings) -> bool:
    """Remove our own network unless jobs still run on it; whether it is gone."""
    return engine.remove_network(settings.bridge)
