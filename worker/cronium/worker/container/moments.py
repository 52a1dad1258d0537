"""The engine's times. Pure."""

from __future__ import annotations

from datetime import datetime


def engine_ms(text: str) -> int | None:
    """The engine's time (RFC 3339 with nanoseconds) in Unix ms; None for its zero, and for what is none."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return None
    return int(moment.timestamp() * 1000) if moment.year > 1 else None
