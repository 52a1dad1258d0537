"""How old a script is, by the clock that nobody sets."""

from __future__ import annotations

import pytest

from cronium.worker.container.moments import age_there


@pytest.mark.parametrize(
    ("ticks", "uptime", "age_s"),
    [
        (100_000, b"1234.50 99.00\n", 234.5),
        (200_000, b"1234.50 99.00\n", 0.0),  # it cannot have been started after now
        (None, b"1234.50 99.00\n", None),
        (100_000, b"", None),
        (100_000, b"OCI runtime exec failed", None),
    ],
)
def test_the_age_on_another_host_comes_from_its_uptime(ticks: int | None, uptime: bytes, age_s: float | None) -> None:
    """Anything else than a number is no answer."""
    assert age_there(ticks, uptime) == age_s
