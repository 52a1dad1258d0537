"""What the monitor serves, asked for as Prometheus or a load balancer would."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import requests
from prometheus_client.parser import text_string_to_metric_families

from peers.own_supervisor import until

_SERVING = re.compile(r'"message":"serving",.*?"metadata":(\{.*?\})')


@dataclass(frozen=True)
class Pages:
    """Where they are."""

    health_url: str
    metrics_url: str

    @classmethod
    def of(cls, log: Path) -> Pages:
        """As the supervisor's log says, once it does; the last monitor's count."""
        found: dict[str, str] = {}

        def said() -> bool:
            for line in _SERVING.findall(log.read_text()):
                found.update(json.loads(line))
            return {"health", "metrics"} <= found.keys()

        until(said, "health and metrics are served")
        return cls(found["health"], found["metrics"])

    def health(self) -> tuple[int, dict[str, Any]]:
        """The status code, and the body."""
        answer = requests.get(self.health_url, timeout=10)
        return answer.status_code, answer.json()

    def metrics(self) -> dict[tuple[str, ...], float]:
        """Each sample by its name and the values of its labels: `("cronium_jobs", "running")`."""
        answer = requests.get(self.metrics_url, timeout=10)
        assert answer.status_code == 200
        assert answer.headers["content-type"].startswith("text/plain; version=")
        families = text_string_to_metric_families(answer.text)
        return {(one.name, *one.labels.values()): one.value for family in families for one in family.samples}
