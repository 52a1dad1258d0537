"""Removing everything of a place: container, volumes, folder.

Runs in a worker's helper thread, or in the reaper.
"""

from __future__ import annotations

import shutil

from cronium.worker.container.engine import Engine
from cronium.worker.container.settings import Settings


def remove_place(engine: Engine, place: str, settings: Settings) -> None:
    """Whatever of it there is; harmless when there is nothing. Raises ExecutionError, and is then to be done again."""
    engine.remove(place)
    engine.remove_volume(place)
    shutil.rmtree(settings.places / place, ignore_errors=True)
