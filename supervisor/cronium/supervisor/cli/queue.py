"""The way from a command to the standalone queue: where it is, and how its errors end a command.

Runs in the command line's process. A supervisor with `--standalone` writes down where its queue is, in its state folder.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from cronium.supervisor.cli.options import USAGE, fail, load_or_exit

if TYPE_CHECKING:
    from cronium.supervisor.standalone.client import StandaloneClient

ADDRESS_FILE = Path("standalone/address.json")
_START = "start one with `cronium-supervisor run --standalone`, or name one with --url and --token-file"
_INVALID = frozenset({400, 413, 422})


@contextmanager
def queue(config: Path | None, url: str | None, token_file: Path | None) -> Iterator[StandaloneClient]:
    """A client of the queue; what goes wrong with it ends the command: 2 when the request is not valid, otherwise 1."""
    from cronium.supervisor.standalone.client import StandaloneClient, StandaloneError

    if url is None or token_file is None:
        known_url, known_token_file = _address(config)
        url, token_file = url or known_url, token_file or known_token_file
    try:
        token = token_file.read_text().strip()
    except OSError as error:
        fail(f"the queue's token file {token_file} cannot be read ({error.strerror}): {_START}")
    try:
        with StandaloneClient(url, token) as client:
            yield client
    except StandaloneError as error:
        fail(error, USAGE if error.status in _INVALID else 1, error.problems)


def _address(config: Path | None) -> tuple[str, Path]:
    path = load_or_exit(config, standalone=True).config.state_dir / ADDRESS_FILE
    try:
        address = json.loads(path.read_bytes())
        return str(address["clientUrl"]), Path(address["tokenFile"])
    except FileNotFoundError:
        fail(f"there is no standalone queue here ({path} is missing): {_START}")
    except OSError as error:
        fail(f"{path} cannot be read ({error.strerror}): be the user that the supervisor runs as, or name another queue")
    except (ValueError, KeyError, TypeError):
        fail(f"{path} is damaged: {_START}")
