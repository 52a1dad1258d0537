"""This installation's own network, made when the first job asks for `bridge`.

Jobs on it reach the world and not each other (inter-container communication off).
"""

from __future__ import annotations

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
            engine.make_network(settings.bridge, {LABEL_INSTALLATION: settings.installation})
    elif not engine.has_network(network):
        raise ExecutionError(
            Reason.CREATE_FAILED,
            f"there is no network {network} on this engine: make it with `docker network create {network}`",
            network=network,
        )


def remove_network(engine: Engine, settings: Settings) -> bool:
    """Remove our own network unless jobs still run on it; whether it is gone."""
    return engine.remove_network(settings.bridge)
