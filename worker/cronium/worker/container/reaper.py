"""What there is of this installation's places on the engine and in the state folder, whoever left it there.

Runs in an idle worker. Safe without any clock: first everything is listed here, then the supervisor says which of it is unknown.
A place is in its journal before anything of it exists, so what is listed and unknown is over. Only a short trial of an image is
in no journal: it says so while it lasts.
"""

from __future__ import annotations

from cronium.worker.container.engine import Engine
from cronium.worker.container.probe import trials_under_way
from cronium.worker.container.settings import Settings
from cronium.worker.container.spec import LABEL_INSTALLATION, LABEL_PLACE


def places_seen(engine: Engine, settings: Settings) -> frozenset[str]:
    """Every place of which there is something. Raises ExecutionError."""
    mine = {LABEL_INSTALLATION: settings.installation}
    folders = tuple(settings.places.iterdir()) if settings.places.is_dir() else ()
    found = (
        *(labels.get(LABEL_PLACE, "") for labels in engine.containers(mine)),
        *(labels.get(LABEL_PLACE, "") for labels in engine.volumes(mine)),
        *(folder.name for folder in folders),
    )
    return frozenset(filter(None, found)) - trials_under_way(settings)  # asked last: one that begins now is not in the list
