"""What makes the first job as quick as the others: the configured images are here, and what they can do is known.

Runs in a worker's helper thread at the supervisor's start. What is missing is said, with what to do; it holds nothing up.
"""

from __future__ import annotations

from collections.abc import Callable

import structlog

from cronium.common.errors import ExecutionError
from cronium.worker.container import images, probe
from cronium.worker.container.engine import Engine
from cronium.worker.container.settings import Settings

_log = structlog.get_logger()


def make_ready(engine: Engine, settings: Settings, stop: Callable[[], bool]) -> None:
    """Look at each configured image once; pull it when that is wanted (`images.prePull`). Raises nothing of its own.

    `stop` is asked between two images.
    """
    wanted = settings.container.images
    for name in dict.fromkeys((wanted.bash, wanted.python, wanted.node)):
        if stop():
            return
        try:
            here = images.present(engine, name, settings)
            if here is None and (wanted.pre_pull or images.twin(name) is not None):
                here = images.fetch(engine, name, settings)
            if here is not None:
                probe.finding(engine, *here, settings)
        except ExecutionError as error:
            _log.warning("image not ready: jobs that need it will fail", image=name, error=error.message)
