"""The jobs of a chaos run: scripts of many kinds, and exactly what each will have printed. Pure.

Each adds a line to a file outside of its place, which counts its runs whatever becomes of their output, and says first that it
runs, with a number that no second run could repeat.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

from chaos.marks import IN_CONTAINER

TIMEOUT_S = 1500
RUN = "RUN"
_LONG_LINE = 40_000  # more than one entry holds
_NUMBERS_A_LINE = 8


@dataclass(frozen=True, slots=True)
class Planned:
    """A job as it will be. `stdout`: without its first line, `RUN <id> <number>`. `server`: on which; None: a container."""

    id: str
    kind: str
    script: str
    type: str
    exit_code: int
    stdout: tuple[str, ...]
    stderr: tuple[str, ...]
    server: int | None


@dataclass(frozen=True, slots=True)
class _Part:
    """A piece of a script with what it prints."""

    script: str
    stdout: list[str]
    stderr: list[str]


def _paced(name: str, first: int, count: int, pause_s: float) -> _Part:
    """A line, a pause, a line. Every tenth goes to stderr."""
    script = (
        f"i={first}; while [ $i -lt {first + count} ]; do "
        f'if [ $((i % 10)) = 0 ]; then echo "{name} e $i" >&2; else echo "{name} o $i"; fi; sleep {pause_s:.2f}; i=$((i+1)); done'
    )
    numbers = range(first, first + count)
    return _Part(script, [f"{name} o {i}" for i in numbers if i % 10], [f"{name} e {i}" for i in numbers if not i % 10])


def _burst(name: str, first: int, count: int, stream: str = "stdout") -> _Part:
    """Many lines at once."""
    said = [f"{name} b {i}" for i in range(first, first + count)]
    script = f"seq -f '{name} b %.0f' {first} {first + count - 1}"
    return _Part(script, said, []) if stream == "stdout" else _Part(f"{script} >&2", [], said)


def _noise(name: str, seed: int, count: int) -> _Part:
    """Many lines that do not compress well: they fill the spool. Numbers of MINSTD, exact in awk's floating point."""
    said, x = [], seed
    for i in range(count):
        numbers = []
        for _ in range(_NUMBERS_A_LINE):
            x = x * 16807 % 2147483647
            numbers.append(str(x))
        said.append(f"{name} n {i} {' '.join(numbers)}")
    script = (
        f'awk \'BEGIN {{ x = {seed}; for (i = 0; i < {count}; i++) {{ s = "{name} n " i; '
        f'for (k = 0; k < {_NUMBERS_A_LINE}; k++) {{ x = (x * 16807) % 2147483647; s = s sprintf(" %d", x) }} print s }} }}\''
    )
    return _Part(script, said, [])


def _long_line(name: str) -> _Part:
    return _Part(f"printf '{name} %0{_LONG_LINE}d\\n' 7", [f"{name} {7:0{_LONG_LINE}d}"], [])


def _nap(seconds: float) -> _Part:
    return _Part(f"sleep {seconds:.2f}", [], [])


def _short(name: str, choose: random.Random) -> list[_Part]:
    return [_burst(name, 1, choose.randint(1, 40)), _burst(name, 1, choose.randint(1, 5), "stderr")]


def _long(name: str, choose: random.Random) -> list[_Part]:
    pause_s = choose.choice((0.1, 0.2, 0.5))
    return [_paced(name, 1, int(choose.uniform(20, 60) / pause_s), pause_s)]


def _chatty(name: str, choose: random.Random) -> list[_Part]:
    parts = []
    for block in range(choose.randint(3, 8)):
        parts += [_burst(name, block * 5000, choose.randint(500, 5000)), _nap(choose.uniform(0.1, 2))]
    return [*parts, _long_line(name)]


def _noisy(name: str, choose: random.Random) -> list[_Part]:
    parts = []
    for block in range(choose.randint(3, 10)):
        parts += [
            _noise(f"{name}.{block}", choose.randint(1, 2_000_000_000), choose.randint(1000, 8000)),
            _nap(choose.uniform(0.1, 3)),
        ]
    return parts


def _both(name: str, choose: random.Random) -> list[_Part]:
    parts = []
    for block in range(choose.randint(2, 6)):
        parts += [_burst(name, block * 300, 200), _burst(name, block * 300, 50, "stderr"), _nap(choose.uniform(0.2, 3))]
    return parts


def _silent(name: str, choose: random.Random) -> list[_Part]:
    return [_nap(choose.uniform(0.5, 25))]


# Kind, how often, what it does. A job of any kind may fail.
_KINDS: tuple[tuple[str, int, Callable[[str, random.Random], list[_Part]]], ...] = (
    ("short", 5, _short),
    ("long", 4, _long),
    ("chatty", 2, _chatty),
    ("noisy", 2, _noisy),
    ("both", 3, _both),
    ("silent", 2, _silent),
)
_PYTHON = """import sys, time
for i in range({count}):
    print("{name} p", i, flush=True, file=sys.stderr if i % 7 == 0 else sys.stdout)
    time.sleep({pause})
sys.exit({code})
"""


def plan(number: int, choose: random.Random, servers: int, ran: str) -> Planned:
    """The job of that number. `ran`: the folder on the servers for what says that a job ran (in containers: `IN_CONTAINER`)."""
    name = f"j{number}"
    server = choose.randrange(servers) if servers and choose.random() < 0.5 else None
    code = choose.randint(1, 99) if choose.random() < 0.3 else 0
    kind, _, make = choose.choices(_KINDS, [weight for _, weight, _ in _KINDS])[0]
    if server is None and choose.random() < 0.1:
        return _python(name, choose, code)
    parts = make(name, choose)
    mark = f'echo ran >>{IN_CONTAINER if server is None else ran}/{name}; echo "{RUN} {name} $$-$(date +%s%N)"'
    script = "\n".join([mark, *(part.script for part in parts), f"exit {code}"]) + "\n"
    stdout = tuple(line for part in parts for line in part.stdout)
    stderr = tuple(line for part in parts for line in part.stderr)
    return Planned(name, kind, script, "bash", code, stdout, stderr, server)


def _python(name: str, choose: random.Random, code: int) -> Planned:
    count = choose.randint(5, 100)
    script = f'open("{IN_CONTAINER}/{name}", "a").write("ran\\n")\n'
    script += f'import time; print("{RUN} {name}", time.time_ns(), flush=True)\n'
    script += _PYTHON.format(count=count, name=name, pause=round(choose.uniform(0.01, 0.3), 2), code=code)
    stdout = tuple(f"{name} p {i}" for i in range(count) if i % 7)
    stderr = tuple(f"{name} p {i}" for i in range(count) if not i % 7)
    return Planned(name, "python", script, "python", code, stdout, stderr, None)
