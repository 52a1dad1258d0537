"""Which lines of a job are here, and whether they are all that its supervisor sent. Pure.

Lines come in frames of consecutive numbers, mostly in order, sometimes late or twice. What is here is a set of *extents*,
disjoint ranges that grow together, each with the totals of its streams. CRC-32 of two neighbours combines without their
text (zlib's crc32_combine), so a job of any size is checked from one row. Each epoch has extents of its own.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

_POLYNOMIAL = 0xEDB88320  # of CRC-32, bits reflected (zlib)

State = Literal["true", "false", "pending"]


def _multiply(a: int, b: int) -> int:
    """a times b modulo the polynomial; the highest bit is x to the power 0."""
    mask, product = 1 << 31, 0
    while mask:
        if a & mask:
            product ^= b
        mask >>= 1
        b = (b >> 1) ^ _POLYNOMIAL if b & 1 else b >> 1
    return product


@lru_cache(maxsize=1024)
def _shift(size_bytes: int) -> int:
    """x to the power 8·size_bytes: what so many further bytes do to a CRC."""
    result, power = 1 << 31, 1 << 23  # x^0 and x^8
    while size_bytes:
        if size_bytes & 1:
            result = _multiply(power, result)
        power = _multiply(power, power)
        size_bytes >>= 1
    return result


@dataclass(frozen=True, slots=True)
class Totals:
    """Sums over lines of one stream as they were sent: how many, their bytes and CRC-32 as UTF-8, each with its newline.

    A line that was sent in pieces counts when it ends (as in the supervisor's own sums: messages.StreamTotals).
    """

    lines: int = 0
    bytes: int = 0
    crc32: int = 0

    def __add__(self, later: Totals) -> Totals:
        """The totals of these lines followed by later ones."""
        if not later.bytes:
            return self
        crc32 = _multiply(_shift(later.bytes), self.crc32) ^ later.crc32
        return Totals(self.lines + later.lines, self.bytes + later.bytes, crc32)

    def as_json(self) -> dict[str, Any]:
        """As the protocol has it: crc32 in 8 hex digits."""
        return {"lines": self.lines, "bytes": self.bytes, "crc32": f"{self.crc32:08x}"}


@dataclass(frozen=True, slots=True)
class Extent:
    """Lines `first` to `last` of one epoch, without a hole, and the totals of both streams."""

    first: int
    last: int
    stdout: Totals
    stderr: Totals

    def __add__(self, later: Extent) -> Extent:
        """Two neighbours as one."""
        return Extent(self.first, later.last, self.stdout + later.stdout, self.stderr + later.stderr)


@dataclass(frozen=True, slots=True)
class Expected:
    """What a supervisor says it sent in its epoch (`logs` of complete)."""

    first: int
    last: int
    stdout: Totals
    stderr: Totals


@dataclass(frozen=True, slots=True)
class Verdict:
    """The outcome of the check: the state, ranges not here yet, and what differs."""

    state: State
    missing: tuple[tuple[int, int], ...] = ()
    problems: tuple[str, ...] = ()


def uncovered(extents: Iterable[Extent], first: int, last: int) -> list[tuple[int, int]]:
    """The parts of first..last that no extent has. `extents` are in order."""
    missing: list[tuple[int, int]] = []
    at = first
    for extent in extents:
        if extent.first > last:
            break
        if extent.first > at:
            missing.append((at, extent.first - 1))
        at = max(at, extent.last + 1)
    if at <= last:
        missing.append((at, last))
    return missing


def joined(extents: Sequence[Extent], new: Extent) -> tuple[Extent, list[Extent]]:
    """The extent that `new` makes with its neighbours among `extents`, and those that it replaces."""
    before = next((e for e in extents if e.last + 1 == new.first), None)
    after = next((e for e in extents if e.first == new.last + 1), None)
    whole = new
    if before is not None:
        whole = before + whole
    if after is not None:
        whole = whole + after
    return whole, [e for e in (before, after) if e is not None]


def check(expected: Expected, extents: Sequence[Extent]) -> Verdict:
    """Whether the extents of an epoch, in order, are what its supervisor says it sent."""
    missing = tuple(uncovered(extents, expected.first, expected.last))
    beyond = [e for e in extents if e.last > expected.last or e.first < expected.first]
    if beyond:
        seen = ", ".join(f"{e.first}-{e.last}" for e in beyond)
        return Verdict("false", missing, (f"lines {seen} are here, {expected.first}-{expected.last} were announced",))
    if missing:
        return Verdict("pending", missing)
    here = extents[0] if extents else Extent(expected.first, expected.last, Totals(), Totals())
    problems = tuple(
        f"{name}: {said.as_json()} announced, {got.as_json()} here"
        for name, said, got in (("stdout", expected.stdout, here.stdout), ("stderr", expected.stderr, here.stderr))
        if said != got
    )
    return Verdict("false" if problems else "true", (), problems)
