"""Leftovers of this installation on the engine and in the state folder: containers, volumes, folders whose place nobody knows.

Runs in a process of its own, started by name by the supervisor (`python -m cronium.worker.container.reaper`), as the supervisor
itself must not talk to an engine: that may block. The order is what makes it safe without any clock: first everything is listed,
then the supervisor is asked which of it is unknown. A place is in its journal before anything of it exists, so what is listed and
unknown is over. Only a worker's short trials are in no journal: those are left alone while they are young.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import structlog

from cronium.common.config.model import Container, Docker
from cronium.common.errors import ExecutionError
from cronium.worker.container.engine import Engine
from cronium.worker.container.networks import remove_network
from cronium.worker.container.probe import PLACE_PREFIX
from cronium.worker.container.removal import remove_place
from cronium.worker.container.settings import Settings
from cronium.worker.container.spec import LABEL_INSTALLATION, LABEL_PLACE

_TRIAL_S = 60.0  # a trial of an image takes half a second, and at most half a minute
_log = structlog.get_logger()


def places_seen(engine: Engine, settings: Settings) -> frozenset[str]:
    """Every place of which there is something. Raises ExecutionError."""
    mine = {LABEL_INSTALLATION: settings.installation}
    folders = tuple(settings.places.iterdir()) if settings.places.is_dir() else ()
    found = (
        *((labels.get(LABEL_PLACE, ""), created_s) for labels, created_s in engine.containers(mine)),
        *((labels.get(LABEL_PLACE, ""), 0) for labels in engine.volumes(mine)),
        *((folder.name, _changed_s(folder)) for folder in folders),
    )
    trials_until_s = time.time() - _TRIAL_S
    return frozenset(name for name, since_s in found if name and not (PLACE_PREFIX in name and since_s > trials_until_s))


def _changed_s(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except FileNotFoundError:  # removed a moment ago
        return 0.0


def reap(engine: Engine, settings: Settings, unknown_of: Callable[[frozenset[str]], Iterable[str]]) -> tuple[str, ...]:
    """Remove the places that `unknown_of` picks out of those seen; which were removed.

    Raises ExecutionError when it cannot look.
    """
    seen = places_seen(engine, settings)
    removed = []
    for place in sorted(seen.intersection(unknown_of(seen))):
        try:
            remove_place(engine, place, settings)
        except ExecutionError as error:  # the next round has it
            _log.warning("leftover not removed yet", place=place, error=error.message)
        else:
            removed.append(place)
    return tuple(removed)


def main(arguments: Sequence[str] | None = None) -> int:
    """Say what is there (a JSON list, one line), read what of it is unknown (the same), remove that, say what was removed.

    `--network` instead removes the installation's own network if no job is on it. Exit code 1 with a line on stderr when the
    engine cannot be asked.
    """
    parser = argparse.ArgumentParser(prog="cronium-reaper")
    parser.add_argument("--installation", required=True)
    parser.add_argument("--state-dir", required=True, type=Path)
    parser.add_argument("--endpoint", required=True)
    parser.add_argument("--api-version", default="auto")
    parser.add_argument("--timeout", type=float, default=60)
    parser.add_argument("--network", action="store_true")
    given = parser.parse_args(arguments)
    docker = Docker(endpoint=given.endpoint, version=given.api_version, timeout=given.timeout)
    settings = Settings(Container(docker=docker), given.installation, given.state_dir, 0, 0, 0, 0)
    engine = Engine(docker)
    try:
        if given.network:
            remove_network(engine, settings)
            return 0
        _say(reap(engine, settings, _ask))
    except ExecutionError as error:
        sys.stderr.write(f"{error.message}\n")
        return 1
    finally:
        engine.close()
    return 0


def _ask(seen: frozenset[str]) -> list[str]:
    _say(seen)
    line = sys.stdin.readline()
    return [str(place) for place in json.loads(line)] if line else []


def _say(places: Iterable[str]) -> None:
    sys.stdout.write(json.dumps(sorted(places)) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
