"""Removing all that an installation has left: its places' containers, volumes and files, its network.

For whoever knows that none of its jobs runs any more. What it does not find in the installation's own folder it leaves alone.
"""

from __future__ import annotations

from cronium.worker.container.engine import Engine
from cronium.worker.container.networks import remove_network
from cronium.worker.container.removal import remove_place
from cronium.worker.container.settings import settings_of
from cronium.worker.settings import WorkerSettings


def remove_leftovers(worker: WorkerSettings) -> None:
    """Harmless when there are none. Raises ExecutionError, and is then to be done again."""
    settings = settings_of(worker)
    engine = Engine(worker.container.docker)
    try:
        for folder in settings.places.glob("*"):
            remove_place(engine, folder.name, settings)
        remove_network(engine, settings)
    finally:
        engine.close()
