"""Where state and sockets live when nobody says so."""

from pathlib import Path

import pytest

from cronium.common.config.dirs import default_runtime_dir, default_state_dir

USER = 4711  # nobody in /etc/passwd


@pytest.mark.parametrize(
    ("environ", "uid", "expected"),
    [
        ({"HOME": "/root", "XDG_STATE_HOME": "/x"}, 0, "/var/lib/cronium-supervisor"),
        ({"HOME": "/home/u"}, USER, "/home/u/.local/state/cronium-supervisor"),
        ({"HOME": "/home/u", "XDG_STATE_HOME": "/x"}, USER, "/x/cronium-supervisor"),
        ({"HOME": "/home/u", "XDG_STATE_HOME": "relative"}, USER, "/home/u/.local/state/cronium-supervisor"),
        ({}, USER, "/.local/state/cronium-supervisor"),
    ],
)
def test_state_lives_where_the_user_may_write(environ: dict[str, str], uid: int, expected: str) -> None:
    assert default_state_dir(environ, uid) == Path(expected)


@pytest.mark.parametrize(
    ("environ", "uid", "expected"),
    [
        ({"XDG_RUNTIME_DIR": "/run/user/0"}, 0, "/run/cronium-supervisor"),
        ({"HOME": "/home/u", "XDG_RUNTIME_DIR": "/run/user/7"}, USER, "/run/user/7/cronium-supervisor"),
        ({"HOME": "/home/u"}, USER, "/home/u/.local/state/cronium-supervisor/run"),
    ],
)
def test_sockets_live_in_the_runtime_directory(environ: dict[str, str], uid: int, expected: str) -> None:
    assert default_runtime_dir(environ, uid, default_state_dir(environ, uid)) == Path(expected)


def test_another_state_directory_brings_other_sockets() -> None:
    one, two = (default_runtime_dir({}, 0, Path(state)) for state in ("/srv/one", "/srv/two"))
    assert one.parent == two.parent == Path("/run")
    assert len({one, two, Path("/run/cronium-supervisor")}) == 3
    assert default_runtime_dir({}, 0, Path("/srv/one")) == one
