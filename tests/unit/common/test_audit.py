"""The audit log: nothing that was written in it can be changed, taken away or moved without that being found."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import stat
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cronium.common.audit import AuditLog, Fault, Verified, verify
from cronium.common.audit.chain import sealed
from cronium.common.logging import configure_logging, hiding

ENTRIES = 12


def written(folder: Path, entries: int = ENTRIES, **limits: int) -> Path:
    """A log; entry n (after the one that begins the file) has n as its job."""
    log = AuditLog(folder, **limits)
    for number in range(1, entries + 1):
        log.append("ssh.command", job=f"job-{number}", result="ok")
    return folder / "audit-000001.jsonl"


def read(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for path in sorted(folder.glob("audit-*")) for line in path.read_text().split("\n")[:-1]]


def right(folder: Path) -> Verified:
    found = verify(folder)
    assert isinstance(found, Verified), str(found)
    return found


def wrong(folder: Path) -> Fault:
    found = verify(folder)
    assert isinstance(found, Fault), str(found)
    return found


def edit(path: Path, change: Callable[[list[bytes]], list[bytes]]) -> None:
    path.write_bytes(b"".join(change(path.read_bytes().splitlines(keepends=True))))


# --- what is written


def test_an_entry_has_its_number_time_event_and_fields_in_a_line_of_its_own(tmp_path: Path) -> None:
    AuditLog(tmp_path / "audit").append("ssh.connect", job="j", server="web", user="root", key="SHA256:x", result="ok", port=22)
    first, entry = read(tmp_path / "audit")
    assert first["event"] == "audit.file"
    fields = {"job": "j", "server": "web", "user": "root", "key": "SHA256:x", "result": "ok", "port": 22}
    assert entry.items() >= ({"seq": 2, "event": "ssh.connect"} | fields).items()
    assert entry["time"].endswith("Z")
    assert list(entry)[-1] == "hash"


def test_only_its_owner_can_read_it(tmp_path: Path) -> None:
    written(tmp_path / "state" / "audit")
    assert stat.S_IMODE((tmp_path / "state" / "audit").stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "state" / "audit").iterdir()} == {0o600}


def test_no_secret_is_written(tmp_path: Path) -> None:
    """Promise 6: by its name, and wherever a known one stands."""
    configure_logging("test", "info", "json")
    with hiding(["s3cret-of-the-job"]):
        AuditLog(tmp_path).append("ssh.command", command="echo s3cret-of-the-job", password="hunter22", deep={"token": "tttt"})
    text = (tmp_path / "audit-000001.jsonl").read_text()
    assert not [secret for secret in ("s3cret", "hunter22", "tttt") if secret in text]
    assert read(tmp_path)[1]["command"] == "echo ***"
    right(tmp_path)


@pytest.mark.parametrize(
    "value", ["\ud800", "\x00\n\r\u2028", b"\xff", float("nan"), 2**80, object, {1: {2: [3]}}, "x" * 200_000, ["y" * 90_000]]
)
def test_any_value_can_be_written_and_checked(value: object, tmp_path: Path) -> None:
    log = AuditLog(tmp_path)
    log.append("first", value=value, seq=99, hash="x", time="never")
    log.append("second")
    assert right(tmp_path).last == 3
    entries = read(tmp_path)
    assert entries[1]["seq"] == 2
    assert len(json.dumps(entries[1])) < 70_000


def test_nothing_yet_is_right(tmp_path: Path) -> None:
    assert right(tmp_path / "none").last == 0
    assert right(tmp_path).last == 0


def test_a_log_as_it_was_written_is_right_and_says_where_it_ends(tmp_path: Path) -> None:
    written(tmp_path)
    found = right(tmp_path)
    assert (found.first, found.last, found.files, found.torn, found.lost) == (1, ENTRIES + 1, 1, 0, 0)
    assert found.hash == read(tmp_path)[-1]["hash"]


# --- what somebody may do to it


def swapped(lines: list[bytes]) -> list[bytes]:
    return [*lines[:4], lines[5], lines[4], *lines[6:]]


TAMPERING: dict[str, tuple[Callable[[list[bytes]], list[bytes]], int]] = {
    "a value edited": (lambda lines: [*lines[:4], lines[4].replace(b"job-4", b"job-X"), *lines[5:]], 5),
    "a blank added in a line": (lambda lines: [*lines[:4], lines[4].replace(b'"job":', b'"job": '), *lines[5:]], 5),
    "a hash edited": (lambda lines: [*lines[:4], lines[4].replace(lines[4][-10:-4], b"000000"), *lines[5:]], 5),
    "the first entry edited": (lambda lines: [lines[0].replace(b'"oldest":1', b'"oldest":2'), *lines[1:]], 1),
    "the last entry edited": (lambda lines: [*lines[:-1], lines[-1].replace(b"ok", b"no")], ENTRIES + 1),
    "a line removed": (lambda lines: [*lines[:4], *lines[5:]], 5),
    "the first line removed": (lambda lines: lines[1:], 1),
    "two lines exchanged": (swapped, 5),
    "a line doubled": (lambda lines: [*lines[:5], *lines[4:]], 6),
    "a line added": (lambda lines: [*lines[:4], b"{}\n", *lines[4:]], 5),
    "an empty line added": (lambda lines: [*lines[:4], b"\n", *lines[4:]], 5),
    "text added at the end": (lambda lines: [*lines, b"nothing\n"], ENTRIES + 2),
    "a line without its newline": (lambda lines: [*lines[:4], lines[4][:-1], *lines[5:]], 5),
    "a newline of another kind": (lambda lines: [*lines[:4], lines[4].replace(b"\n", b"\r\n"), *lines[5:]], 5),
    "the end cut off": (lambda lines: lines[:-3], ENTRIES - 2),
    "all but the first entry cut off": (lambda lines: lines[:1], 1),
    "the last line cut in two": (lambda lines: [*lines[:-1], lines[-1][:40]], ENTRIES + 1),
}


@pytest.mark.parametrize("what", TAMPERING)
@pytest.mark.parametrize("goes_on", [False, True], ids=["at rest", "and written on"])
def test_every_change_is_found_with_file_and_line(what: str, goes_on: bool, tmp_path: Path) -> None:
    """Promise: `audit verify` finds any edit, also after the next entries were written."""
    path = written(tmp_path)
    change, line = TAMPERING[what]
    edit(path, change)
    if goes_on:
        written(tmp_path, 3)
    found = wrong(tmp_path)
    assert found.file == path
    # What was cut off is only missed at the end; once the log goes on, the next entry says it.
    assert found.line in ((line, line + 1, line + 2) if goes_on and "cut" in what else (line,))


def test_an_edit_with_a_new_hash_is_found_at_the_next_line(tmp_path: Path) -> None:
    path = written(tmp_path)
    before = read(tmp_path)[3]["hash"]
    forged, _ = sealed(before, 5, "ssh.command", {"job": "job-4", "result": "something else"})
    edit(path, lambda lines: [*lines[:4], forged, *lines[5:]])
    assert wrong(tmp_path).line == 6


def test_a_chain_that_was_written_anew_does_not_fit_the_head(tmp_path: Path) -> None:
    path = written(tmp_path)
    head = (tmp_path / "head").read_bytes()
    for file in tmp_path.iterdir():
        file.unlink()
    written(tmp_path)  # the same entries, at another time
    (tmp_path / "head").write_bytes(head)
    assert wrong(tmp_path) == Fault(path, ENTRIES + 1, "head has another hash for this entry: either of them was edited")


@pytest.mark.parametrize("head", [None, b"", b"[]", b"rubbish"])
@pytest.mark.parametrize("goes_on", [False, True], ids=["at rest", "and written on"])
def test_a_head_that_is_gone_is_told(head: bytes | None, goes_on: bool, tmp_path: Path) -> None:
    written(tmp_path)
    (tmp_path / "head").unlink()
    if head is not None:
        (tmp_path / "head").write_bytes(head)
    if goes_on:
        written(tmp_path, 2)
    assert "head" in str(wrong(tmp_path))


def test_an_older_head_is_told(tmp_path: Path) -> None:
    written(tmp_path, 2)
    old = (tmp_path / "head").read_bytes()
    written(tmp_path, 3)
    (tmp_path / "head").write_bytes(old)
    assert wrong(tmp_path).file == tmp_path / "head"


@pytest.mark.parametrize("goes_on", [False, True], ids=["at rest", "and written on"])
def test_a_log_that_is_gone_is_told(goes_on: bool, tmp_path: Path) -> None:
    written(tmp_path).unlink()
    if goes_on:
        written(tmp_path, 2)
    assert isinstance(verify(tmp_path), Fault)


# --- several files


def test_a_full_file_is_followed_by_another_and_the_chain_goes_on(tmp_path: Path) -> None:
    written(tmp_path, 30, max_file_bytes=1500)
    found = right(tmp_path)
    assert found.files >= 4
    assert [entry["seq"] for entry in read(tmp_path)] == list(range(1, found.last + 1))
    assert max(path.stat().st_size for path in tmp_path.glob("audit-*")) < 2000


@pytest.mark.parametrize("number", [1, 2, 3])
def test_a_file_that_is_gone_is_told(number: int, tmp_path: Path) -> None:
    written(tmp_path, 30, max_file_bytes=1500)
    gone = tmp_path / f"audit-{number:06}.jsonl"
    gone.unlink()
    assert wrong(tmp_path) == Fault(gone, 0, "the file is missing")


@pytest.mark.parametrize("goes_on", [False, True], ids=["at rest", "and written on"])
def test_the_last_file_is_missed_too(goes_on: bool, tmp_path: Path) -> None:
    written(tmp_path, 30, max_file_bytes=1500)
    max(tmp_path.glob("audit-*")).unlink()
    if goes_on:
        written(tmp_path, 2, max_file_bytes=1500)
    assert isinstance(verify(tmp_path), Fault)


def test_two_files_exchanged_are_found(tmp_path: Path) -> None:
    written(tmp_path, 30, max_file_bytes=1500)
    second, third = tmp_path / "audit-000002.jsonl", tmp_path / "audit-000003.jsonl"
    text = second.read_bytes()
    second.write_bytes(third.read_bytes())
    third.write_bytes(text)
    assert (wrong(tmp_path).file, wrong(tmp_path).line) == (second, 1)


def test_old_files_go_and_the_chain_says_so(tmp_path: Path) -> None:
    """Promise 7: the disk is bounded."""
    limits = {"max_file_bytes": 1500, "max_files": 3}
    written(tmp_path, 60, **limits)
    assert len(list(tmp_path.glob("audit-*"))) == 3
    found = right(tmp_path)
    assert found.first > 1
    assert [entry["seq"] for entry in read(tmp_path)] == list(range(found.first, found.last + 1))
    oldest = min(tmp_path.glob("audit-*"))
    oldest.unlink()
    assert wrong(tmp_path) == Fault(oldest, 0, "the file is missing")


# --- crashes


@pytest.mark.parametrize("kept", [1, 30, 150])
def test_an_entry_that_a_crash_has_torn_stays_and_is_told_by_the_next(kept: int, tmp_path: Path) -> None:
    path = written(tmp_path)
    line, _ = sealed(read(tmp_path)[-1]["hash"], ENTRIES + 2, "ssh.command", {"job": "x" * 200})
    with path.open("ab") as file:
        file.write(line[:kept])
    assert right(tmp_path).torn == 1
    written(tmp_path, 2)
    found = right(tmp_path)
    assert (found.torn, found.last) == (1, ENTRIES + 1 + 3)
    assert line[:kept] in path.read_bytes()
    # What was told of it cannot be changed either.
    edit(
        path,
        lambda lines: [entry.replace(line[:kept], b"y" * kept) if entry == line[:kept] + b"\n" else entry for entry in lines],
    )
    assert wrong(tmp_path).line == ENTRIES + 2


def test_a_crash_between_an_entry_and_its_head_loses_nothing(tmp_path: Path) -> None:
    written(tmp_path)
    old = (tmp_path / "head").read_bytes()
    written(tmp_path, 1)
    (tmp_path / "head").write_bytes(old)
    assert right(tmp_path).last == ENTRIES + 2
    written(tmp_path, 1)
    assert right(tmp_path).last == ENTRIES + 3


def test_a_crash_at_a_files_beginning_loses_nothing(tmp_path: Path) -> None:
    (tmp_path / "audit-000001.jsonl").touch()
    written(tmp_path, 30, max_file_bytes=1500)
    (tmp_path / f"audit-{right(tmp_path).files + 1:06}.jsonl").touch()
    written(tmp_path, 30, max_file_bytes=1500)
    assert right(tmp_path).lost == 0


def _append_for_ever(folder: Path) -> None:
    log = AuditLog(folder, max_file_bytes=20_000)
    while True:
        log.append("ssh.command", process=os.getpid(), text="z" * 100)


def test_killed_writers_leave_a_log_that_is_right(tmp_path: Path) -> None:
    # Guards: promise 5, for the audit log; several processes, kill -9 at any instant.
    context = multiprocessing.get_context("fork")
    for _ in range(4):
        workers = [context.Process(target=_append_for_ever, args=(tmp_path,), daemon=True) for _ in range(3)]
        files = len(list(tmp_path.glob("audit-*")))
        for worker in workers:
            worker.start()
        while len(list(tmp_path.glob("audit-*"))) <= files:
            time.sleep(0.001)
        for worker in workers:
            assert worker.pid
            os.kill(worker.pid, signal.SIGKILL)
        for worker in workers:
            worker.join(30)
        right(tmp_path)
    AuditLog(tmp_path).append("last")
    assert right(tmp_path).files > 1


def _append(folder: Path, name: str, count: int) -> None:
    log = AuditLog(folder, max_file_bytes=10_000)
    for number in range(count):
        log.append("ssh.command", job=f"{name}-{number}")


def test_several_processes_write_one_chain_and_lose_nothing(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    workers = [context.Process(target=_append, args=(tmp_path, name, 100), daemon=True) for name in "abcd"]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
        assert worker.exitcode == 0
    right(tmp_path)
    jobs = [entry["job"] for entry in read(tmp_path) if "job" in entry]
    for name in "abcd":
        assert [job for job in jobs if job.startswith(name)] == [f"{name}-{number}" for number in range(100)]


# --- when it cannot be written


def test_an_entry_that_cannot_be_written_is_counted_later_and_never_raised(tmp_path: Path) -> None:
    """A job does not fail for its record; the record says what is missing."""
    (tmp_path / "audit").write_text("in the way")
    log = AuditLog(tmp_path / "audit")
    log.append("first")
    log.append("second")
    (tmp_path / "audit").unlink()
    log.append("third")
    assert [entry["event"] for entry in read(tmp_path / "audit")] == ["audit.file", "audit.lost", "third"]
    assert right(tmp_path / "audit").lost == 2


def test_a_full_disk_tears_an_entry_and_the_log_goes_on(tmp_path: Path) -> None:
    import resource

    path = written(tmp_path)
    log = AuditLog(tmp_path)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + 50, before[1]))
    try:
        log.append("does not fit")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    log.append("fits")
    found = right(tmp_path)
    assert (found.torn, found.lost) == (1, 1)
    assert [entry["event"] for entry in map(json.loads, path.read_text().splitlines()[-3:])] == [
        "audit.torn",
        "audit.lost",
        "fits",
    ]
