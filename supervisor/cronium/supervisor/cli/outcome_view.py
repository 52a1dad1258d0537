"""How a job ended and what it gave back beside its output, for people, for programs, and as files.

Runs in the command line's process. Reads nothing; writes only the files that the job left, where it is told to.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.markup import escape

from cronium.common.messages import Outcome, ResultFile

_MAX_SHOWN = 500


def outcome_lines(outcome: Outcome, saved_in: Path | None) -> Iterator[str]:
    """What is worth knowing beside the output, as rich markup."""
    results = outcome.results
    for name, value in (("output", results.script_output), ("variables", results.variables)):
        if value is not None:
            yield f"[dim]{name}[/dim] {escape(_shortened(value.decode()))}"
    if results.condition is not None:
        yield f"[dim]condition[/dim] {str(results.condition).lower()}"
    for file in results.files:
        where = escape(str(saved_in / file.path)) if saved_in is not None else f"{escape(file.path)} (--output-dir saves it)"
        yield f"[dim]file[/dim] {where}, {len(file.content)} bytes"


def outcome_dict(outcome: Outcome) -> dict[str, Any]:
    """For programs: status, exitCode, error, times in Unix ms, results, usage. Files by path and size, without their content."""
    results, error, usage = outcome.results, outcome.error, outcome.usage
    return {
        "status": outcome.status,
        "exitCode": outcome.exit_code,
        "error": None if error is None else asdict(error) | {"details": dict(error.details)},
        "startedMs": outcome.started_ms,
        "endedMs": outcome.ended_ms,
        "scriptOutput": _parsed(results.script_output),
        "condition": results.condition,
        "variables": _parsed(results.variables),
        "files": [{"path": file.path, "mimeType": file.mime_type, "size": len(file.content)} for file in results.files],
        "problems": list(results.problems),
        "usage": {
            "peakCpuPercent": usage.peak_cpu_percent,
            "peakMemoryBytes": usage.peak_memory_bytes,
            "networkRxBytes": usage.network_rx_bytes,
            "networkTxBytes": usage.network_tx_bytes,
        },
    }


def save_files(files: tuple[ResultFile, ...], folder: Path) -> None:
    """Write the job's files below `folder`, which is made. Their paths are harmless (`container.results`). Raises OSError."""
    folder.mkdir(parents=True, exist_ok=True)
    for file in files:
        path = folder / file.path
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(file.content)


def _parsed(text: bytes | None) -> Any:
    return None if text is None else json.loads(text)


def _shortened(text: str) -> str:
    return text if len(text) <= _MAX_SHOWN else f"{text[:_MAX_SHOWN]}… ({len(text)} characters)"
