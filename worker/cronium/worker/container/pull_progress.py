"""How far a pull is, told in the log every two seconds. Runs in a worker; fed with the steps of the engine's stream."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import structlog

_PROGRESS_S = 2.0
_log = structlog.get_logger()


class PullProgress:
    """Tells in the log how far a pull is, every two seconds."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._layers: dict[str, tuple[int, int]] = {}
        self._next_s = 0.0

    def tell(self, step: Mapping[str, Any], now_s: float) -> None:
        """Take one step of the engine's stream (Engine API, ImageCreate: `progressDetail` in bytes, by layer)."""
        detail = step.get("progressDetail") or {}
        if step.get("status") == "Downloading" and detail.get("total"):
            self._layers[str(step.get("id"))] = (int(detail["current"]), int(detail["total"]))
        if now_s >= self._next_s:
            self._next_s = now_s + _PROGRESS_S
            done = sum(layer[0] for layer in self._layers.values())
            total = sum(layer[1] for layer in self._layers.values())
            percent = round(100 * done / total) if total else 0
            _log.info("pulling image", image=self._name, bytes=done, total=total, percent=percent)
