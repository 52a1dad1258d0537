"""What a person sees of a chaos run, and its JSON for programs."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table

from chaos.check import Result
from chaos.faults import Done
from chaos.pulse import Pulse

_MOST_SHOWN = 20
_TITLES = {"systemLines": "system line", "exits": "end of a supervisor", "errorsLogged": "logged as an error"}


def recoveries_ms(done: list[Done], pulse: Pulse) -> dict[str, list[float]]:
    """By kind of fault: from its end to the next new line of any job at the backend."""
    found: dict[str, list[float]] = {}
    for one in done:
        waited_s = pulse.next_line_s(one.over_s)
        found.setdefault(one.kind, []).extend([] if waited_s is None else [waited_s * 1000])
    return found


def as_json(options: Mapping[str, Any], done: list[Done], kills: int, pulse: Pulse, result: Result) -> dict[str, Any]:
    """Everything in one object."""
    return {
        **options,
        "held": result.held,
        "faults": len(done),
        "kills": kills,
        "byKind": {
            kind: {"count": sum(1 for one in done if one.kind == kind), "nextLineMs": _figures(times)}
            for kind, times in sorted(recoveries_ms(done, pulse).items())
        },
        "jobs": result.jobs,
        "containerJobs": result.containers,
        "serverJobs": result.on_servers,
        "lines": result.lines,
        "longestSilenceS": round(pulse.longest_silence_s(), 1),
        "systemLines": dict(result.system),
        "exits": dict(result.exits),
        "errorsLogged": dict(result.errors),
        "broken": result.broken,
    }


def show(console: Console, found: Mapping[str, Any]) -> None:
    """Two tables, and what did not hold."""
    faults = Table("fault", "times", "median", "longest", title="Faults, and from their end to the next line of any job (ms)")
    for kind, of_kind in found["byKind"].items():
        figures = of_kind["nextLineMs"]
        faults.add_row(kind, str(of_kind["count"]), f"{figures['median']:.0f}", f"{figures['longest']:.0f}")
    faults.add_section()
    faults.add_row("all", str(found["faults"]), "", "")
    faults.add_row("SIGKILL of supervisor, streamer, workers", str(found["kills"]), "", "")
    for column in faults.columns[1:]:
        column.justify = "right"
    results = Table("promise", "result", title=f"Results, seed {found['seed']}")
    results.add_row("jobs submitted", f"{found['jobs']} ({found['containerJobs']} container, {found['serverJobs']} ssh)")
    results.add_row("lines", str(found["lines"]))
    for promise, cases in found["broken"].items():
        results.add_row(promise, f"[red]{len(cases)}[/red]" if cases else "0")
    console.print(faults)
    console.print(results)
    for what in ("systemLines", "exits", "errorsLogged"):
        for text, count in found[what].items():
            console.print(f"{_TITLES[what]}, {count} times: {text}", markup=False)
    for promise, cases in found["broken"].items():
        for case in cases[:_MOST_SHOWN]:
            console.print(f"{promise}: {case}", markup=False, style="red")
        if len(cases) > _MOST_SHOWN:
            console.print(f"{promise}: {len(cases) - _MOST_SHOWN} more (--json FILE has all)", style="red")


def _figures(times: list[float]) -> dict[str, float]:
    return {
        "median": round(statistics.median(times), 1) if times else 0.0,
        "longest": round(max(times), 1) if times else 0.0,
    }
