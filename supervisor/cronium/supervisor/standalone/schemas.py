"""The bodies of requests (PROTOCOL: contract dialect), checked with all their errors at once. Pure.

Unknown fields are kept and ignored. Log lines are not here: frames.py checks them in bulk.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints
from pydantic.alias_generators import to_camel

from cronium.supervisor.standalone.coverage import Expected, Totals

Identifier = Annotated[str, StringConstraints(min_length=1, max_length=200)]
ReportedStatus = Literal["acknowledged", "preparing", "running", "completed", "failed", "timeout", "cancelled"]
TerminalStatus = Literal["completed", "failed", "timeout", "cancelled"]
_MOST_ATTEMPTS = 1_000_000
Count = Annotated[int, Field(ge=0, le=2**62)]


class Body(BaseModel):
    """Any request's body."""

    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True, frozen=True, extra="allow")


class Acknowledge(Body):
    """POST /jobs/{id}/acknowledge."""

    orchestrator_id: Identifier
    timestamp: datetime
    estimated_start_time: datetime | None = None


class Progress(Body):
    """How far a job says it is."""

    percentage: float | None = None
    message: str | None = None


class Renew(Body):
    """POST /jobs/{id}/lease/renew."""

    renewal_token: str
    extension_seconds: float = Field(gt=0)
    progress: Progress | None = None


class StatusReport(Body):
    """PUT /jobs/{id}/status."""

    status: ReportedStatus
    timestamp: datetime
    details: dict[str, Any] | None = None
    epoch: int | None = None

    @property
    def attempt(self) -> int | None:
        """Of which attempt it is said, when it is said."""
        attempt = (self.details or {}).get("attempt")
        return attempt if type(attempt) is int and 0 <= attempt <= _MOST_ATTEMPTS else None


class StreamTotals(Body):
    """Sums over the lines of one stream as they were sent, newlines included."""

    lines: Count = 0
    bytes: Count = 0
    crc32: Annotated[str, StringConstraints(pattern=r"^[0-9a-fA-F]{8}$")] = "00000000"

    def totals(self) -> Totals:
        """As a value to compare."""
        return Totals(self.lines, self.bytes, int(self.crc32, 16))


class SentLogs(Body):
    """`logs` of complete: what was sent in this epoch. No line at all: lastSequence is firstSequence - 1 (or 0)."""

    first_sequence: int | None = Field(default=None, ge=0)
    last_sequence: Count
    stdout: StreamTotals = StreamTotals()
    stderr: StreamTotals = StreamTotals()

    def expected(self, epoch_first: int) -> Expected:
        """As a value to check."""
        first = self.first_sequence or epoch_first
        return Expected(first, max(self.last_sequence, first - 1), self.stdout.totals(), self.stderr.totals())


class Output(Body):
    """The last 1 MiB of each stream."""

    stdout: str = ""
    stderr: str = ""


class Complete(Body):
    """POST /jobs/{id}/complete."""

    status: TerminalStatus
    exit_code: int | None = None
    output: Output = Output()
    output_truncated: bool = False
    artifacts: dict[str, Any] | None = None
    script_output: Any = None
    condition: bool | None = None
    metrics: dict[str, Any] | None = None
    timestamp: datetime
    attempt: int | None = Field(default=None, ge=0, le=_MOST_ATTEMPTS)
    epoch: int | None = None
    logs: SentLogs | None = None


class LogUpload(Body):
    """POST /jobs/{id}/logs; `entries` are checked as the payload of a WebSocket frame is."""

    entries: list[dict[str, Any]]
    metadata: dict[str, Any] | None = None
    epoch: int | None = None


class Health(Body):
    """POST /orchestrator/health."""

    orchestrator_id: Identifier
    timestamp: datetime
    status: Literal["healthy", "degraded", "unhealthy"] | str
    version: str | None = None
    uptime: float | None = None
    components: dict[str, Any] | None = None
    metrics: dict[str, Any] | None = None


class SubmitJob(Body):
    """POST /api/client/jobs: a QueuedJob, or the parts of its `execution` alone."""

    id: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._:-]{0,199}$")] | None = None
    execution: dict[str, Any] | None = None
