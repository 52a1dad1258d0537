"""The configuration as people and programs see it: what is in force, what is wrong, and the documents made of the model.

Runs in the command line's process. Nothing here reads or decides anything; secrets are hidden by the time they arrive.
"""

from collections.abc import Iterable
from dataclasses import asdict
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from cronium.common.config.keys import ROOT, Key, all_keys
from cronium.common.config.load import DEFAULT_SOURCE, LoadedConfig
from cronium.common.config.problems import ConfigProblem


def render_effective(loaded: LoadedConfig) -> RenderableType:
    """Every key with its value and where that came from; what differs from the default stands out."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("key", overflow="fold")
    table.add_column("value", overflow="fold")
    table.add_column("from", overflow="fold")
    above: list[str] = []
    for key in all_keys().values():
        *sections, leaf = key.path.split(".")
        for depth in range(_shared(sections, above), len(sections)):
            table.add_row(Text("  " * depth + sections[depth], "bold cyan"))
        above = sections
        source = loaded.sources[key.path]
        style = "dim" if source == DEFAULT_SOURCE else ""
        value = Text(_visible(key.show(key.value_in(loaded.config))), style or "green")
        table.add_row(Text("  " * len(sections) + leaf, style), value, Text(_visible(source), style))
    return Group(table, *(_warning(warning) for warning in loaded.warnings))


def render_problems(problems: Iterable[ConfigProblem]) -> RenderableType:
    """All that is wrong, each with its place, its value, what is allowed and what was probably meant."""
    found = tuple(problems)
    lines: list[Text] = []
    for problem in found:
        head = Text("✗ ", "bold red")
        head.append(_visible(problem.path or "the file"), "bold")
        if problem.source:
            head.append(f"  {_visible(problem.source)}", "dim")
        value = f"{_visible(problem.value)} " if problem.value else ""
        lines += [head, Text(f"    {value}{_visible(problem.message)}")]
        if problem.nearest:
            lines.append(Text(f"    did you mean {problem.nearest}?", "yellow"))
        if problem.allowed:
            lines.append(Text(f"    allowed: {problem.allowed}", "green"))
    count = "1 problem" if len(found) == 1 else f"{len(found)} problems"
    lines.append(Text(f"{count}: correct the above, then check with `cronium-supervisor validate`.", "bold"))
    return Group(*lines)


def effective_dict(loaded: LoadedConfig) -> dict[str, Any]:
    """For `--json`: `config` as in the YAML (seconds and bytes as numbers, secrets hidden), `sources` and `warnings`."""
    return {
        "config": {ROOT: loaded.config.model_dump(mode="json", by_alias=True)},
        "sources": dict(loaded.sources),
        "warnings": [asdict(warning) for warning in loaded.warnings],
    }


def problems_dict(problems: Iterable[ConfigProblem]) -> dict[str, Any]:
    """For `--json`: `problems`, each with path, message, value, allowed, nearest and source."""
    return {"problems": [asdict(problem) for problem in problems]}


def config_table_markdown() -> str:
    """The README's table of all keys."""
    rows = ["| key | environment | default | allowed | meaning |", "|---|---|---|---|---|"]
    for key in all_keys().values():
        names = ", ".join(f"`{name}`" for name in key.env)
        if key.secret:
            names += " (each also with `_FILE`)"
        if key.env_last:
            names += f"; last of all {', '.join(f'`{name}`' for name in key.env_last)}"
        default = f"`{key.show(key.default)}`" if key.default is not None else ""
        cells = (f"`{key.path}`", names, default, key.allowed, key.description)
        rows.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(rows) + "\n"


def config_yaml() -> str:
    """The text of etc/cronium-orchestrator.yaml: every key with its default and a line that explains it."""
    lines = [
        "# All keys of cronium-supervisor, each with its default. Copy what you change; the rest may be left out.",
        "# The environment wins: CRONIUM_<PATH>, as CRONIUM_JOBS_MAX_CONCURRENT for jobs.maxConcurrent; lists as a,b.",
        "# ${VAR} and ${VAR:-default} are filled in, $${ stands for ${ itself; an empty value or null is 'not set'.",
        "# Durations: 100ms, 30s, 5m, 1h, 1h30m; a plain number is seconds.",
        "# Sizes: 512MB, 2GB, 512Mi; 1KB is 1024 bytes, as with docker run; a plain number is bytes.",
        f"{ROOT}:",
    ]
    above: list[str] = []
    for key in all_keys().values():
        *sections, leaf = key.path.split(".")
        shared = _shared(sections, above)
        lines += [""] if shared == 0 and above != sections else []
        lines += [f"{'  ' * (depth + 1)}{sections[depth]}:" for depth in range(shared, len(sections))]
        above = sections
        indent = "  " * (len(sections) + 1)
        lines += [f"{indent}# {key.description} [{key.allowed}]", f"{indent}{leaf}: {_yaml(key)}"]
    return "\n".join(lines) + "\n"


def _shared(one: list[str], other: list[str]) -> int:
    """How many of their first sections two keys have in common."""
    pairs = list(zip(one, other, strict=False))
    return next((depth for depth, (left, right) in enumerate(pairs) if left != right), len(pairs))


def _yaml(key: Key) -> str:
    match key.default:
        # The file would hide variables that count less than it: so it names them.
        case str(text) if key.env_last:
            return f'"${{{key.env_last[0]}:-{text}}}"'
        case None if len(key.env) > 1:
            return f'"${{{key.env[-1]}:-}}"'
        case str(text) if ":" in text:
            return f'"{text}"'
        case _:
            return key.show(key.default)


def _warning(warning: ConfigProblem) -> Text:
    return Text(f"! {_visible(str(warning))}", "yellow")


def _visible(text: str) -> str:
    """`text` without control characters: a value must not move the reader's cursor."""
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in text)
