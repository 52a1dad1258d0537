"""Where state and sockets live when nobody says so, and how long the sockets' folder may be named.

Asks the machine for nothing but the user's home, and makes no folder.
"""

import hashlib
import os
import pwd
from collections.abc import Mapping
from pathlib import Path
from typing import Final

_NAME: Final = "cronium-supervisor"

SOCKET_NAME_BYTES: Final = len("pymp-xxxxxxxx/listener-xxxxxxxx")
"""The longest name of a socket in the runtime directory: multiprocessing's own, of the forkserver; ours are kept below it."""
_SOCKET_PATH_BYTES: Final = 107
"""sizeof(sun_path) of unix(7) is 108, with a NUL at the end."""
RUNTIME_DIR_BYTES: Final = _SOCKET_PATH_BYTES - len("/") - SOCKET_NAME_BYTES


def default_state_dir(environ: Mapping[str, str], uid: int) -> Path:
    """The state directory of user `uid`."""
    if uid == 0:
        return Path("/var/lib") / _NAME
    if base := _absolute(environ, "XDG_STATE_HOME"):
        return base / _NAME
    return _home(environ, uid) / ".local" / "state" / _NAME


def default_runtime_dir(environ: Mapping[str, str], uid: int, state_dir: Path) -> Path:
    """The runtime directory that goes with `state_dir`.

    An installation with a state directory of its own gets sockets of its own, so that two of them never meet.
    """
    name = _NAME
    if state_dir != default_state_dir(environ, uid):
        name += "-" + hashlib.sha256(os.fsencode(state_dir)).hexdigest()[:8]
    if uid == 0:
        return Path("/run") / name
    if base := _absolute(environ, "XDG_RUNTIME_DIR"):
        return base / name
    return state_dir / "run"


def _home(environ: Mapping[str, str], uid: int) -> Path:
    if home := _absolute(environ, "HOME"):
        return home
    try:
        return Path(pwd.getpwuid(uid).pw_dir)
    except KeyError:
        # A bare user id, as in a container without an entry in /etc/passwd: such a user writes below / or nowhere.
        return Path("/")


def _absolute(environ: Mapping[str, str], name: str) -> Path | None:
    """The folder in variable `name`; the XDG base directory specification says that a relative one is ignored."""
    path = Path(environ.get(name) or ".")
    return path if path.is_absolute() else None
