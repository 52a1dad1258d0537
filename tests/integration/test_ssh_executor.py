"""Jobs on a server, driven through the executor against real sshds: no lost connection, worker or process loses a line or an end.

Every test runs its scripts for real; what they leave behind on the server fails the module's end (`Servers` looks for it).
"""

from __future__ import annotations

import contextlib
import pwd
import random
import re
import secrets
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson
import psutil
import pytest

from cronium.common.errors import ExecutionError
from cronium.common.job import Job, parse_job
from cronium.common.messages import Connected, ReleaseConnections, ServerSeen, WarmUp
from cronium.common.servers import servers_of
from cronium.worker.executor import Gap, Parked, Progress, Status
from cronium.worker.executor import Told as SystemLine
from cronium.worker.ssh import collect, fetch
from cronium.worker.ssh.commands import RemotePlace
from cronium.worker.ssh.dial_places import place_to_dial
from cronium.worker.ssh.session import opened
from peers.container_world import LoopControl, Told
from peers.ssh_attempt import SshWorld, later
from peers.ssh_world import Servers
from peers.sshd import new_key

KEEPALIVE_S = 3
BOOT = "0a0a0a0a-0000-0000-0000-000000000000"


@pytest.fixture(scope="module")
def servers() -> Iterator[Servers]:
    with Servers(3) as made:
        yield made


@pytest.fixture
def world(servers: Servers, tmp_path: Path) -> Iterator[SshWorld]:
    made = SshWorld(servers, tmp_path, connection_pool={"keepalive_interval": KEEPALIVE_S})
    yield made
    made.close()


@pytest.fixture
def ran(servers: Servers) -> Path:
    """A file to which each run of a script appends a line."""
    return servers.folder / f"ran-{secrets.token_hex(4)}"


def numbered(count: int, pause_s: float = 0.01, code: int = 7) -> str:
    return f"for i in $(seq 1 {count}); do echo line $i; sleep {pause_s}; done; exit {code}"


def lines(count: int) -> bytes:
    return b"".join(b"line %d\n" % number for number in range(1, count + 1))


def kept(world: SshWorld) -> Any:
    return next(iter(world.executor._pool._kept.values()))


def place_of(servers: Servers, name: str) -> Path:
    return next(path for path in servers.places() if path.name == name)


def launcher_of(servers: Servers, name: str) -> psutil.Process:
    file = place_of(servers, name) / "launcher"
    until(lambda: file.exists() and file.read_text().endswith("\n"))
    return psutil.Process(int(file.read_text().split()[0]))


def limits(world: SshWorld, **values: int) -> None:
    """Other limits than the configuration's least."""
    world.executor._settings = replace(world.executor._settings, **values)


def system_lines(told: Told) -> list[str]:
    return [update.message for update in told.updates if isinstance(update, SystemLine | Gap)]


# --- what a script says and how it ends ----------------------------------------------------------------------------------


@pytest.mark.parametrize("code", [0, 3, 124, 137, 143, 255])
def test_a_scripts_own_exit_code_is_told_as_it_is(world: SshWorld, code: int) -> None:
    """124, 137 and 143 of a script are not taken for a deadline or a kill of ours."""
    outcome = world.run(world.job(f"exit {code}")).outcome
    assert (outcome.status, outcome.exit_code) == ("completed" if code == 0 else "failed", code)


def test_output_arrives_byte_by_byte(world: SshWorld) -> None:
    script = (
        "import os, sys\n"
        "os.write(1, bytes(range(256)) * 4000)\n"
        "os.write(2, b'\\xff\\x00no end')\n"
        "sys.stdout.buffer.write(b'x' * 10_000_000 + b'\\n' + b'last')"
    )
    told = world.run(world.job(script, "python"))
    assert told.stdout == bytes(range(256)) * 4000 + b"x" * 10_000_000 + b"\nlast"
    assert told.stderr == b"\xff\x00no end"


def test_a_million_lines_arrive(world: SshWorld) -> None:
    told = world.run(world.job("seq 1 1000000"))
    assert told.stdout == b"".join(b"%d\n" % number for number in range(1, 1_000_001))


def test_helpers_and_results_work_as_in_a_container(world: SshWorld) -> None:
    shell = (
        "cronium_input; cronium_output '{\"a\": 1}'; cronium_progress 50 half; cronium_set_condition true; "
        "cd $CRONIUM_OUTPUT_DIR; echo data >a.txt; mkdir b; head -c 300000 /dev/zero >b/z"
    )
    told = world.run(world.job(shell, inputData={"n": 5}))
    assert b'"n":5' in told.stdout.replace(b" ", b"")
    results = told.outcome.results
    assert (results.script_output, results.condition) == (b'{"a":1}', True)
    assert {file.path: len(file.content) for file in results.files} == {"a.txt": 5, "b/z": 300_000}
    assert told.progress == [Progress(50.0, "half")]
    python = "import cronium; print(cronium.input()); cronium.output({'x': 2})"
    told = world.run(world.job(python, "python", inputData={"n": 6}))
    assert told.outcome.results.script_output == b'{"x":2}'


def test_environment_and_directory_reach_the_script_and_values_show_nowhere(world: SshWorld, servers: Servers) -> None:
    """Promise 6: no value in any process's arguments, on either side."""
    secret, seen = "s3cr3t-V4lue", []
    folder = servers.folder / "work" / "deep"
    stop = threading.Event()

    def look() -> None:
        while not stop.is_set():
            for process in psutil.process_iter():
                try:
                    seen.extend(word for word in process.cmdline() if secret in word)
                except psutil.Error:
                    continue

    thread = threading.Thread(target=look)
    thread.start()
    script = {"type": "bash", "content": 'pwd; echo "$TOKEN" | tr a-z A-Z; sleep 0.5', "workingDirectory": str(folder)}
    target = servers.target(0)
    job = parse_job({"id": "job-env", "execution": {"target": target, "script": script, "environment": {"TOKEN": secret}}})
    try:
        told = world.run(job)
    finally:
        stop.set()
        thread.join()
    assert told.stdout.decode().split() == [str(folder), secret.upper()], told.outcome
    assert not seen


def test_links_and_a_spoilt_results_file_do_no_harm(world: SshWorld) -> None:
    link = world.run(world.job("cd $CRONIUM_OUTPUT_DIR; ln -s /etc/passwd l; ln -s ../../.. up; echo good >g")).outcome.results
    assert [file.path for file in link.files] == ["g"]
    assert len(link.problems) == 2
    spoilt = world.run(world.job('cd "${CRONIUM_EVENTS%/*}"; rm results; mkdir results; echo x >$CRONIUM_OUTPUT_DIR/x')).outcome
    assert spoilt.status == "completed"
    assert spoilt.results.problems


def test_results_beyond_the_limit_are_cut_and_told(world: SshWorld) -> None:
    limits(world, max_results_bytes=100_000)
    results = world.run(world.job("cd $CRONIUM_OUTPUT_DIR; echo a >a; head -c 900000 /dev/zero >b")).outcome.results
    assert any("maxResults" in problem for problem in results.problems)
    assert sum(len(file.content) for file in results.files) <= 100_000


def test_a_script_that_spoils_its_own_state_spoils_its_log_only(world: SshWorld) -> None:
    script = (
        'cd "${CRONIUM_EVENTS%/*}"; echo before; printf "segment stdout 99999999999\\nsegment stdout 3\\n" >>state; '
        'for i in 1 2 3; do echo "output_lost stdout disk_full $i" >>state; done; head -c 300000 /dev/zero >>state; '
        "echo >>state; echo after; exit 4"
    )
    limits(world, max_unread_bytes=65536)
    told = world.run(world.job(script))
    assert told.stdout == b"before\nafter\n"
    assert told.outcome.exit_code == 4
    assert len(system_lines(told)) == 1


# --- flow control ----------------------------------------------------------------------------------------------------------


def test_output_beyond_the_most_unread_waits_on_the_server(world: SshWorld, servers: Servers) -> None:
    """Promise 7: bounded there while nothing of it is safe here; then all of it, over many segments."""
    unread = 256 * 1024
    limits(world, max_unread_bytes=unread)
    held, most = threading.Event(), 0
    control = LoopControl(lag=lambda stream, offset: 0 if not held.is_set() else offset)
    job, place = world.job("seq 1 400000; echo all >&2"), world.place()

    def watch() -> None:
        nonlocal most
        deadline_s = time.monotonic() + 1.5
        while time.monotonic() < deadline_s:
            most = max([most, *(path.stat().st_size for path in servers.folder.glob(f"jobs-*/{place}/std*.*"))])
            time.sleep(0.02)
        held.set()

    thread = threading.Thread(target=watch)
    thread.start()
    told = world.attempt(job, place, control=control)
    thread.join()
    segments = list(place_of(servers, place).glob("stdout.*"))
    world.executor.cleanup(place, job)
    assert unread - 65536 <= most <= unread + 65536
    assert told.stdout == b"".join(b"%d\n" % number for number in range(1, 400_001))
    assert told.stderr == b"all\n"
    assert len(segments) == 1, "what is durable is removed"


@pytest.mark.parametrize("login", ["", "sleep 0.2\n"], ids=["quick login", "slow login"])
def test_a_connection_lost_at_each_segments_end_loses_nothing(world: SshWorld, servers: Servers, login: str) -> None:
    """Also where the reader of the output is long in coming, so that the place speaks of the next segment before it is there."""
    (servers.all[0].home / ".bashrc").write_text(login)
    try:
        lose_connections_at_segments_ends(world, servers)
    finally:
        (servers.all[0].home / ".bashrc").unlink()


def lose_connections_at_segments_ends(world: SshWorld, servers: Servers) -> None:
    unread = 256 * 1024
    limits(world, max_unread_bytes=unread)
    killed = 0

    def kill_at_ends(told: Told) -> bool:
        nonlocal killed
        if len(told.stdout) >= (killed + 1) * (unread - 65536):
            killed += 1
            servers.all[0].kill_sessions()
        return False

    told = world.attempt(job := world.job("seq 1 250000; exit 9"), place := world.place(), until=kill_at_ends)
    world.executor.cleanup(place, job)
    assert killed >= 5
    assert told.stdout == b"".join(b"%d\n" % number for number in range(1, 250_001))
    assert told.outcome.exit_code == 9


# --- connections and workers that are lost ---------------------------------------------------------------------------------


def test_sessions_killed_again_and_again_lose_no_line(world: SshWorld, servers: Servers, ran: Path) -> None:
    dice, stop, kills = random.Random(4), threading.Event(), 0

    def kill() -> None:
        nonlocal kills
        while not ran.exists() and not stop.wait(0.01):
            pass  # a job that has not begun is given back at the first loss, and this is about one that has
        while not stop.wait(dice.uniform(0.02, 0.4)):
            kills += servers.all[0].kill_sessions() > 0

    thread = threading.Thread(target=kill)
    thread.start()
    told = world.attempt(job := world.job(f"echo run >>{ran}; " + numbered(500)), place := world.place())
    stop.set()
    thread.join()
    world.executor.cleanup(place, job)
    assert kills >= 10
    assert told.stdout == lines(500)
    assert told.outcome.exit_code == 7
    assert ran.read_text() == "run\n"


def test_the_next_line_comes_soon_after_a_killed_session(world: SshWorld, servers: Servers) -> None:
    gaps_s: list[float] = []
    last_s = killed_s = time.monotonic()

    def watch(told: Told) -> bool:
        """Lines come every 10 ms: what a kill costs is the longest silence until the next kill."""
        nonlocal last_s, killed_s
        now_s = time.monotonic()
        if gaps_s:
            gaps_s[-1] = max(gaps_s[-1], now_s - last_s)
        last_s = now_s
        if told.stdout and now_s > killed_s + 0.6:
            servers.all[0].kill_sessions()
            gaps_s.append(0.0)
            last_s = killed_s = time.monotonic()
        return len(gaps_s) == 11

    told = world.attempt(job := world.job(numbered(3000)), place := world.place(), until=watch)
    world.executor.cleanup(place, job)
    took_s = sorted(gaps_s[:10])
    print(f"from a killed session to the next line: median {took_s[5] * 1000:.0f} ms of 10")
    assert told.stdout == lines(told.stdout.count(b"\n"))
    assert took_s[5] < 5


def test_a_silent_link_is_noticed(servers: Servers, tmp_path: Path) -> None:
    """No packet and no reset: a stopped sshd session. Another connection reads on."""
    world = SshWorld(servers, tmp_path, connection_pool={"keepalive_interval": 1})
    stopper = later(0.8, lambda: servers.all[0].signal_sessions(signal.SIGSTOP))
    stopped_s = time.monotonic() + 0.8
    try:
        told = world.attempt(job := world.job(numbered(300)), place := world.place())
    finally:
        stopper.join()
        servers.all[0].signal_sessions(signal.SIGCONT)
    world.executor.cleanup(place, job)
    world.close()
    assert told.stdout == lines(300)
    assert time.monotonic() - stopped_s < 30


def test_sshd_stopped_and_started_again(world: SshWorld, servers: Servers) -> None:
    def restart() -> None:
        servers.all[0].stop()
        time.sleep(1)
        servers.all[0].start()

    timer = later(0.5, restart)
    told = world.attempt(job := world.job(numbered(250)), place := world.place())
    timer.join()
    world.executor.cleanup(place, job)
    assert told.stdout == lines(250)
    assert told.outcome.exit_code == 7


@pytest.mark.parametrize("delay_s", [0.0, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3])
def test_a_worker_killed_at_the_start_starts_no_script_twice(
    world: SshWorld, servers: Servers, ran: Path, delay_s: float
) -> None:
    """Whatever of the place there is by then: the one that adopts it runs the script, or reads it on."""
    job, place = world.job(f"echo run >>{ran}; echo 0123456789; sleep 0.3; exit 5"), world.place()
    until_s = time.monotonic() + delay_s
    control = _Leaving(until_s)
    told = _leave_at(world, job, place, control, Told())
    if delay_s in (0.05, 0.2):
        servers.all[0].kill_sessions()
    old = world.executor
    world.another()
    offsets = {"stdout": len(told.stdout), "stderr": 0}
    told = world.attempt(job, place, adopt=True, offsets=offsets, told=told)
    old.close()
    world.executor.cleanup(place, job)
    assert told.stdout == b"0123456789\n"
    assert told.outcome.exit_code == 5
    assert ran.read_text() == "run\n"


class _GoneError(Exception):
    """The worker is dead."""


class _Leaving(LoopControl):
    def __init__(self, until_s: float) -> None:
        super().__init__()
        self.until_s = until_s

    def wait(self, descriptors: tuple[int, ...], timeout_s: float) -> frozenset[int]:
        if time.monotonic() >= self.until_s:
            raise _GoneError
        return super().wait(descriptors, min(timeout_s, max(0.0, self.until_s - time.monotonic())))


def _leave_at(world: SshWorld, job: Job, place: str, control: _Leaving, told: Told) -> Told:
    offsets = {"stdout": len(told.stdout), "stderr": 0}
    with contextlib.suppress(_GoneError):
        world.attempt(job, place, adopt=bool(told.stdout), offsets=offsets, control=control, told=told)
    return told


@pytest.mark.parametrize("delay_s", [0.0, 0.1, 0.2])
def test_a_worker_killed_after_the_end_is_taken_over(world: SshWorld, servers: Servers, ran: Path, delay_s: float) -> None:
    """Also in the middle of fetching the results."""
    job = world.job(f"echo run >>{ran}; echo hi; head -c 5000000 /dev/zero >$CRONIUM_OUTPUT_DIR/z; exit 6")
    place = world.place()
    told = world.attempt(job, place, until=lambda told: told.stdout == b"hi\n")
    until(lambda: "drained" in (place_of(servers, place) / "state").read_text())
    world.another()
    leaving = _Leaving(time.monotonic() + delay_s)
    told = _leave_at(world, job, place, leaving, told)
    world.executor.close()
    world.another()
    told = world.attempt(job, place, adopt=True, begun=True, offsets={"stdout": 3, "stderr": 0}, told=told)
    world.executor.cleanup(place, job)
    assert told.stdout == b"hi\n"
    assert told.outcome.exit_code == 6
    assert [len(file.content) for file in told.outcome.results.files] == [5_000_000]
    assert ran.read_text() == "run\n"


@pytest.mark.parametrize("after_bytes", [0, 3_000_000])
def test_a_connection_lost_while_files_are_fetched_costs_no_file(
    world: SshWorld, servers: Servers, monkeypatch: pytest.MonkeyPatch, after_bytes: int
) -> None:
    """Neither before the first byte nor in the middle: the end of a channel is no end of the files."""
    check, came, killed = fetch._Limits.check, 0, 0

    def counted(limits: fetch._Limits, came_bytes: int) -> None:
        nonlocal came, killed
        came += came_bytes
        if not killed and came >= after_bytes:
            killed = servers.all[0].kill_sessions()
        check(limits, came_bytes)

    monkeypatch.setattr(fetch._Limits, "check", counted)
    told = world.run(world.job("for i in 1 2 3; do head -c 7000000 /dev/urandom >$CRONIUM_OUTPUT_DIR/$i; done; exit 6"))
    assert killed
    assert told.outcome.exit_code == 6
    assert told.outcome.results.problems == ()
    assert sorted((file.path, len(file.content)) for file in told.outcome.results.files) == [(n, 7_000_000) for n in "123"]


def test_what_a_script_writes_to_its_state_is_no_answer(world: SshWorld, servers: Servers, ran: Path) -> None:
    """Neither while it is read along nor to whoever takes it over and asks what is there."""
    look = f"@cronium look launcher=gone begun=no gate=no place=no boot={BOOT}"
    forge = f'printf "%s\\n" "{look}" "@cronium claim won" >>"${{CRONIUM_EVENTS%/*}}/state"'
    job = world.job(f"echo run >>{ran}; echo hi; for i in $(seq 30); do {forge}; sleep 0.2; done; echo ho; exit 6")
    place = world.place()
    told = world.attempt(job, place, until=lambda told: told.stdout == b"hi\n")
    world.another()
    told = world.attempt(job, place, adopt=True, offsets={"stdout": 3, "stderr": 0}, told=told)
    world.executor.cleanup(place, job)
    assert (told.stdout, told.outcome.exit_code, ran.read_text()) == (b"hi\nho\n", 6, "run\n")


def test_a_start_is_heard_once_whatever_a_script_writes_to_its_state(world: SshWorld, servers: Servers) -> None:
    """Not as thousands of them, nor as one before the server's last boot; also where its connection is lost meanwhile."""
    forge = f'yes "started 1 1 {BOOT}" | head -5000 >>"${{CRONIUM_EVENTS%/*}}/state"'
    later(1.5, servers.all[0].kill_sessions)
    told = world.run(world.job(f"echo hi; {forge}; sleep 5; echo ho; exit 6"))
    assert (told.stdout, told.outcome.exit_code) == (b"hi\nho\n", 6), told.outcome
    assert [update.status for update in told.updates if isinstance(update, Status)] == ["preparing", "running"]


def test_a_late_request_of_a_dead_worker_is_no_second_run(world: SshWorld, servers: Servers, ran: Path) -> None:
    """Its place is there, and its launcher waits for a job that never comes."""
    job, place = world.job(f"echo run >>{ran}; echo hi"), world.place()
    connection = world.executor._pool.reach(servers_of(job)[0])
    opened(connection, RemotePlace(str(servers.folder / "jobs"), place), 60, 60, 10)
    told = world.attempt(job, place)
    connection.close()
    world.executor.cleanup(place, job)
    assert (told.stdout, ran.read_text()) == (b"hi\n", "run\n")


def until(condition: Callable[[], object], within_s: float = 20) -> None:
    deadline_s = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline_s, "not in time"
        time.sleep(0.02)


# --- out of reach ----------------------------------------------------------------------------------------------------------


def test_a_fresh_job_for_a_dead_server_is_parked_at_once(world: SshWorld, servers: Servers) -> None:
    servers.all[2].stop()
    try:
        began_s = time.monotonic()
        told = world.attempt(world.job("echo hi", "bash", 2), world.place())
    finally:
        servers.all[2].start()
    parked = told.updates[-1]
    assert isinstance(parked, Parked)
    assert (parked.begun, parked.error.reason) == (False, "unreachable")
    assert time.monotonic() - began_s < 5
    assert abs(parked.give_up_ms - time.time() * 1000 - 900_000) < 20_000


def test_a_begun_job_out_of_reach_is_parked_and_completed_later(world: SshWorld, servers: Servers, ran: Path) -> None:
    job, place = world.job(f"echo run >>{ran}; " + numbered(300)), world.place()
    later(0.7, servers.all[0].stop)
    control = LoopControl(patience=1.5)
    began_ms = time.time() * 1000
    try:
        told = world.attempt(job, place, control=control)
    finally:
        servers.all[0].start()
    parked = told.updates[-1]
    assert isinstance(parked, Parked)
    assert parked.begun
    assert abs(parked.give_up_ms - (began_ms + 60_000 + 900_000)) < 10_000
    world.executor.close()
    world.another()
    told = world.attempt(job, place, adopt=True, begun=True, offsets=control.offsets, told=told)
    world.executor.cleanup(place, job)
    assert told.stdout == lines(300)
    assert (told.outcome.exit_code, ran.read_text()) == (7, "run\n")


def test_a_place_taken_over_has_the_time_of_its_start(world: SshWorld, servers: Servers) -> None:
    """Not that at which it was read again: from it the report's times are reckoned, and how long it is waited for."""
    job, place = world.job("echo hi; until [ -e $HOME/on ] || [ $SECONDS -gt 20 ]; do sleep 0.1; done; exit 3"), world.place()
    placed_ms = round(time.time() * 1000)
    world.attempt(job, place, until=lambda told: bool(told.stdout))
    world.another()
    time.sleep(2.5)
    later(1.5, (Path(pwd.getpwnam(servers.all[0].user).pw_dir) / "on").touch)
    offsets = {"stdout": 3, "stderr": 0}
    told = world.attempt(job, place, adopt=True, begun=True, offsets=offsets, placed_ms=placed_ms)
    world.executor.cleanup(place, job)
    assert told.outcome.exit_code == 3
    assert placed_ms <= told.outcome.started_ms
    assert told.outcome.ended_ms - told.outcome.started_ms > 2500


def test_a_place_that_nobody_reaches_is_given_up_when_it_would_have_been(world: SshWorld, servers: Servers) -> None:
    """However often another worker has tried since."""
    placed_ms = round(time.time() * 1000) - 30_000
    servers.all[0].stop()
    control = LoopControl(patience=0.1)
    try:
        told = world.attempt(world.job("true"), world.place(), adopt=True, begun=True, placed_ms=placed_ms, control=control)
    finally:
        servers.all[0].start()
    parked = told.updates[-1]
    assert isinstance(parked, Parked)
    assert parked.give_up_ms == placed_ms + (60 + 900) * 1000


def test_files_wait_on_the_server_while_our_disk_is_full(world: SshWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    """For more tries than a broken way is given."""
    monkeypatch.setattr(collect, "_FULL_PAUSE_S", 0.3)
    scratch = world.executor._settings.scratch
    scratch.mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", scratch], check=True, timeout=10)

    def make_room() -> None:
        subprocess.run(["mount", "-o", "remount,size=8m", scratch], check=True, timeout=10)

    timer = later(5, make_room)
    try:
        told = world.run(world.job("head -c 500000 /dev/urandom >$CRONIUM_OUTPUT_DIR/z"))
        timer.join()
    finally:
        world.close()
        subprocess.run(["umount", scratch], check=True, timeout=10)
    assert [len(file.content) for file in told.outcome.results.files] == [500_000]
    assert told.outcome.results.problems == ()
    assert len([line for line in system_lines(told) if "is full: make room there" in line]) == 1


def test_files_that_cannot_be_kept_are_told(world: SshWorld) -> None:
    scratch = world.executor._settings.scratch
    scratch.parent.mkdir(exist_ok=True)
    scratch.write_text("no folder")
    told = world.run(world.job("echo 1 >$CRONIUM_OUTPUT_DIR/z"))
    assert told.outcome.status == "completed"
    assert f"cannot be kept in {scratch}" in told.outcome.results.problems[0]


def test_a_place_that_is_gone_is_told_and_not_run_anew(world: SshWorld, servers: Servers, ran: Path) -> None:
    job, place = world.job(f"echo run >>{ran}; echo hi; sleep 30"), world.place()
    world.attempt(job, place, until=lambda told: bool(told.stdout))
    world.executor.cleanup(place, job)
    told = world.attempt(job, place, adopt=True, begun=True, offsets={"stdout": 3, "stderr": 0})
    assert (told.reason, ran.read_text()) == ("place_vanished", "run\n")


def test_a_rebooted_host_is_told(world: SshWorld, servers: Servers) -> None:
    job, place = world.job("echo hi; sleep 30"), world.place()
    world.attempt(job, place, until=lambda told: bool(told.stdout))
    world.another()
    state = place_of(servers, place) / "state"
    launcher_of(servers, place).kill()
    state.write_text(re.sub(r"(started \d+ \d+) \S+", r"\1 0f0f0f0f-0000-0000-0000-000000000000", state.read_text()))
    told = world.attempt(job, place, adopt=True, begun=True, offsets={"stdout": 3, "stderr": 0})
    world.executor.cleanup(place, job)
    assert told.reason == "host_rebooted"


def test_a_host_that_was_booted_since_its_place_was_named_runs_nothing_twice(
    world: SshWorld, servers: Servers, ran: Path
) -> None:
    """Promise 5: the job was handed over, and nobody has heard of its start: it may have been what brought the host down."""
    job = world.job(f"echo run >>{ran}")
    booted_ms = round((time.time() - time.clock_gettime(time.CLOCK_BOOTTIME)) * 1000)
    place = world.place()
    told = world.attempt(job, place, adopt=True, placed_ms=booted_ms - 60_000)
    assert (told.reason, ran.exists()) == ("host_rebooted", False)
    assert told.outcome.error is not None
    assert told.outcome.error.retryable
    told = world.attempt(job, place, adopt=True, placed_ms=booted_ms + 1000)
    world.executor.cleanup(place, job)
    assert (told.outcome.status, ran.read_text()) == ("completed", "run\n")


@pytest.mark.parametrize("noise", ["sleep 30", "while :; do echo x; sleep 0.1; done"])
def test_a_killed_launcher_is_noticed_and_its_script_ended(world: SshWorld, servers: Servers, noise: str) -> None:
    job, place = world.job(f"echo hi; {noise}"), world.place()
    later(1, lambda: launcher_of(servers, place).kill())
    began_s = time.monotonic()
    told = world.attempt(job, place)
    world.executor.cleanup(place, job)
    assert told.reason == "place_vanished"
    assert time.monotonic() - began_s < 20


def test_a_launcher_killed_after_the_scripts_end_leaves_its_exit_code(world: SshWorld, servers: Servers) -> None:
    limits(world, max_unread_bytes=65536)
    job, place = world.job("seq 1 30000; exit 3"), world.place()

    def ended() -> bool:
        return any(b"ended" in path.read_bytes() for path in servers.folder.glob(f"jobs-*/{place}/state"))

    gate = threading.Event()
    control = LoopControl(lag=lambda stream, offset: offset if gate.is_set() else min(offset, 100_000))

    def kill() -> None:
        until(ended)
        launcher_of(servers, place).kill()
        gate.set()

    thread = threading.Thread(target=kill)
    thread.start()
    told = world.attempt(job, place, control=control)
    thread.join()
    world.executor.cleanup(place, job)
    assert told.outcome.exit_code == 3
    assert any("may be missing" in problem for problem in told.outcome.results.problems)


def test_a_script_that_kills_its_own_launcher_ends(world: SshWorld) -> None:
    script = 'read -r pid _ <"${CRONIUM_EVENTS%/*}/launcher"; echo hi; kill -9 $pid; sleep 30'
    told = world.run(world.job(script))
    assert told.stdout == b"hi\n"
    assert told.reason == "place_vanished"


def test_a_full_disk_is_told(servers: Servers, tmp_path: Path) -> None:
    disk = servers.folder / "small"
    disk.mkdir(exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m,mode=1777", "none", str(disk)], check=True)
    world = SshWorld(servers, tmp_path, execution={"temp_dir": str(disk / "jobs")})
    try:
        told = world.run(world.job("head -c 6000000 /dev/zero || true; echo end; exit 3", timeout=3))
        assert told.reason == "timeout", told.outcome
        assert any("stdout waits (disk full)" in line for line in system_lines(told))
        with contextlib.suppress(OSError), (disk / "more").open("wb", buffering=0) as file:
            while file.write(bytes(4096)):
                pass
        told = world.run(world.job("echo hi"))
        assert told.outcome.status == "failed"
        assert told.reason in ("server_unsuitable", "disk_full", "launch_failed")
        assert "space" in told.outcome.error.message or "disk" in told.outcome.error.message  # type: ignore[union-attr]
    finally:
        world.close()
        until(lambda: not servers.processes())
        subprocess.run(["umount", str(disk)], check=True)
        disk.rmdir()


def test_a_place_that_a_full_disk_has_no_room_for_is_refused(servers: Servers, tmp_path: Path, ran: Path) -> None:
    """The script does not run, and the error names the directory."""
    disk = servers.folder / "full"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m,mode=1777", "none", str(disk)], check=True)
    world = SshWorld(servers, tmp_path, execution={"temp_dir": str(disk / "jobs")})
    try:
        with contextlib.suppress(OSError), (disk / "more").open("wb", buffering=0) as file:
            while file.write(bytes(4096)):
                pass
        told = world.run(world.job(f"echo run >>{ran}"))
        assert not ran.exists()
        assert (told.outcome.status, told.reason) == ("failed", "server_unsuitable")
        message = told.outcome.error.message  # type: ignore[union-attr]
        assert "make room there" in message
        assert str(disk) in message
        (disk / "more").unlink()
        assert world.run(world.job(f"echo run >>{ran}")).outcome.status == "completed"
    finally:
        world.close()
        until(lambda: not servers.processes())
        subprocess.run(["umount", str(disk)], check=True)
        disk.rmdir()


@pytest.mark.parametrize("wrong", ["mode", "owner", "link", "file"])
def test_a_directory_that_is_not_ours_is_refused(servers: Servers, tmp_path: Path, wrong: str) -> None:
    uid = pwd.getpwnam(servers.all[0].user).pw_uid
    base = servers.folder / f"odd-{wrong}-{uid}"
    target = servers.folder / "target"
    target.mkdir(exist_ok=True)
    match wrong:
        case "mode":
            base.mkdir(mode=0o755)
            shutil.chown(base, uid)
        case "owner":
            base.mkdir(mode=0o700)
            shutil.chown(base, uid + 1)
        case "link":
            base.symlink_to(target)
        case _:
            base.write_text("")
    world = SshWorld(servers, tmp_path, execution={"temp_dir": str(servers.folder / f"odd-{wrong}")})
    told = world.attempt(world.job("echo hi"), world.place())
    world.close()
    assert told.reason == "server_unsuitable", told.updates
    assert str(base) in told.outcome.error.message  # type: ignore[union-attr]


# --- the end that people ask for ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("delay_s", [0.0, 0.1, 0.2, 0.3])
def test_cancel_on_the_way_to_the_script(world: SshWorld, delay_s: float) -> None:
    control = LoopControl()
    later(delay_s, lambda: setattr(control, "cancels", 1))
    began_s = time.monotonic()
    told = world.attempt(job := world.job("sleep 30"), place := world.place(), control=control)
    world.executor.cleanup(place, job)
    assert told.outcome.status == "cancelled"
    assert time.monotonic() - began_s < 15


def test_cancel_ends_everything(world: SshWorld, servers: Servers) -> None:
    """A script that traps, its background children, one in a session of its own: twice means at once."""
    script = "trap 'echo trapped' TERM; sleep 100 & setsid sleep 101 & echo hi; while :; do sleep 0.1; done"
    for cancels, least_s in ((1, 1.5), (2, 0.0)):
        control = LoopControl()
        job, place = world.job(script), world.place()
        began: list[float] = []

        def cancel(told: Told, control: LoopControl = control, began: list[float] = began, cancels: int = cancels) -> bool:
            if not began and b"hi" in told.stdout:
                began.append(time.monotonic())
                control.cancels = cancels
            return False

        told = world.attempt(job, place, control=control, until=cancel)
        took_s = time.monotonic() - began[0]
        world.executor.cleanup(place, job)
        assert told.outcome.status == "cancelled"
        assert b"trapped" in told.stdout or cancels == 2
        assert least_s <= took_s < 10
    assert not [process for process in psutil.process_iter(["cmdline"]) if process.info["cmdline"] == ["sleep", "101"]]


@pytest.mark.parametrize("how", ["session", "worker"])
def test_a_cancelled_job_that_is_taken_over_keeps_its_grace(world: SshWorld, servers: Servers, how: str) -> None:
    """What was told before is not known for sure, and said again."""
    job = world.job("trap 'echo tidy; sleep 1; echo tidied; exit 5' TERM; echo a; while :; do sleep 0.05; done")
    place, control, told = world.place(), LoopControl(), Told()

    def cancel(told: Told) -> bool:
        control.cancels = int(told.stdout.startswith(b"a"))
        return b"tidy" in told.stdout

    told = world.attempt(job, place, control=control, until=cancel, told=told)
    if how == "session":
        servers.all[0].kill_sessions()
    world.another()
    offsets = {"stdout": len(told.stdout), "stderr": 0}
    told = world.attempt(job, place, adopt=True, begun=True, offsets=offsets, control=control, told=told)
    world.executor.cleanup(place, job)
    assert told.stdout == b"a\ntidy\ntidied\n"
    assert (told.outcome.status, told.outcome.exit_code) == ("cancelled", 5)


def test_cancel_while_away_holds_no_worker(world: SshWorld, servers: Servers) -> None:
    job, place, control = world.job("echo hi; sleep 30"), world.place(), LoopControl(patience=60)

    def leave() -> None:
        servers.all[0].stop()
        control.cancels = 2

    later(0.7, leave)
    try:
        told = world.attempt(job, place, control=control)
        assert isinstance(told.updates[-1], Parked)
    finally:
        servers.all[0].start()
    told = world.attempt(job, place, adopt=True, begun=True, offsets={"stdout": 3, "stderr": 0}, control=control)
    world.executor.cleanup(place, job)
    assert told.outcome.status == "cancelled"


def test_a_deadline_is_told_and_children_that_hold_stdout_are_gone(world: SshWorld) -> None:
    told = world.run(world.job("(setsid sleep 102; echo never) & exec sleep 103", timeout=1))
    assert told.outcome.status == "timeout"
    assert told.stdout == b""
    told = world.run(world.job("setsid sleep 104 & sleep 105 & echo done"))
    assert (told.stdout, told.outcome.exit_code) == (b"done\n", 0)
    left = [p for p in psutil.process_iter(["cmdline"]) if p.info["cmdline"] and p.info["cmdline"][-1] in ("102", "104", "105")]
    assert not left


# --- several servers -----------------------------------------------------------------------------------------------------------


def test_several_servers_give_one_outcome(world: SshWorld, tmp_path: Path) -> None:
    script = (
        'p=${SSH_CONNECTION##* }; echo "at $p"; echo $p >$CRONIUM_OUTPUT_DIR/port; '
        f'[ "$p" != {world.servers.all[1].port} ] || exit 5; exit 0'
    )
    told = world.run(world.job(script, "bash", 0, 1, 2))
    outcome = told.outcome
    assert (outcome.status, outcome.exit_code) == ("failed", 5)
    assert [part.status for part in outcome.servers] == ["completed", "failed", "completed"]
    assert outcome.error is not None
    assert "web-1" in outcome.error.message
    files = {file.path: file.content.strip().decode() for file in outcome.results.files}
    assert files == {f"web-{n}/port": str(world.servers.all[n].port) for n in range(3)}


def test_several_servers_run_at_the_same_time(world: SshWorld, servers: Servers) -> None:
    """Each waits for what the others do, so that one after the other would end at the deadline."""
    here = servers.folder / f"here-{secrets.token_hex(4)}"
    script = f": >{here}-${{SSH_CONNECTION##* }}; until set -- {here}-*; [ $# = 3 ]; do sleep 0.05; done; echo all"
    told = world.run(world.job(script, "bash", 0, 1, 2, timeout=30))
    assert told.outcome.status == "completed"
    assert told.stdout == b"all\n" * 3


def test_one_dead_server_of_several_holds_back_no_other(world: SshWorld, servers: Servers, ran: Path) -> None:
    """They go on and finish; then the attempt is parked, and completed later without a second run of theirs."""
    job, place = world.job(f"echo run >>{ran}; echo here", "bash", 0, 1), world.place()
    servers.all[1].stop()
    control = LoopControl(patience=1)
    try:
        told = world.attempt(job, place, control=control)
    finally:
        servers.all[1].start()
    assert isinstance(told.updates[-1], Parked)
    assert (told.stdout, ran.read_text()) == (b"here\n", "run\n")
    world.another()
    again = world.attempt(job, place, adopt=True)
    world.executor.cleanup(place, job)
    assert again.outcome.status == "completed"
    assert ran.read_text() == "run\nrun\n"


def test_servers_that_say_nothing_do_not_hold_up_the_removal_on_others(servers: Servers, tmp_path: Path) -> None:
    """All at the same time, and each one's trouble is told."""
    world = SshWorld(servers, tmp_path, connection_pool={"connect_timeout": 2})
    took_s = []
    for count in (1, 4):
        with contextlib.ExitStack() as stack:
            silent = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
            ports = [each.getsockname()[1] for each in silent]
            job, place = world.job("true", "bash", 0, 1), world.place()
            details = [{**servers.all[0].server_details(name=f"silent-{port}"), "port": port} for port in ports]
            metadata = {**job.metadata, "servers": [*details, *job.metadata["servers"]]}
            job = job.model_copy(update={"metadata": metadata})
            began_s = time.monotonic()
            with pytest.raises(ExecutionError) as caught:
                world.executor.cleanup(place, job)
            took_s.append(time.monotonic() - began_s)
        assert all(f":{port}" in caught.value.message for port in ports)
    world.close()
    assert took_s[1] < 2.5 * took_s[0], took_s


# --- warm slots ---------------------------------------------------------------------------------------------------------------


def warm(world: SshWorld) -> str:
    """Tend until a launcher waits; its place."""
    pool = world.executor._pool
    world.tend(lambda: any(k.slot and k.slot.session and k.slot.session.facts for k in pool._kept.values()))
    return str(kept(world).slot.place)


def told_slots(world: SshWorld) -> set[str]:
    last = [message for message in world.told if isinstance(message, Connected)][-1]
    return {slot.place for slot in last.slots}


def test_a_slot_is_used_once_and_told(world: SshWorld) -> None:
    world.run(job := world.job("echo hi"))
    slot = warm(world)
    assert told_slots(world) == {slot}
    began_s = time.monotonic()
    told = world.attempt(job, slot)
    assert told.stdout == b"hi\n"
    print(f"warm, whole: {time.monotonic() - began_s:.3f} s")
    world.executor.cleanup(slot, job)
    assert slot not in told_slots(world)
    assert warm(world) != slot


@pytest.mark.parametrize("harm", ["launcher", "connection", "all"])
def test_a_dead_slot_does_no_harm(world: SshWorld, servers: Servers, ran: Path, harm: str) -> None:
    world.run(world.job("echo hi"))
    slot = warm(world)
    if harm in ("launcher", "all"):
        launcher_of(servers, slot).kill()
    if harm in ("connection", "all"):
        servers.all[0].kill_sessions()
    if harm == "all":
        shutil.rmtree(place_of(servers, slot), ignore_errors=True)  # what is left of it there removes itself meanwhile
    told = world.attempt(job := world.job(f"echo run >>{ran}; echo hi; exit 3"), slot)
    world.executor.cleanup(slot, job)
    assert (told.stdout, told.outcome.exit_code) == (b"hi\n", 3), told.outcome
    assert ran.read_text() == "run\n"


def test_what_waits_is_released_and_leaves_nothing(world: SshWorld, servers: Servers) -> None:
    job = world.job("echo hi")
    raw = {"id": job.id, "execution": {"target": servers.target(0), "script": {"type": "bash", "content": "echo hi"}}}
    world.executor.hear(WarmUp(orjson.dumps(raw)))
    slot = warm(world)
    assert world.executor.places() == frozenset()
    world.executor.hear(ReleaseConnections((servers_of(job)[0].key,)))
    assert told_slots(world) == set()
    until(lambda: slot not in {path.name for path in servers.places()})


def test_an_idle_connection_is_closed(servers: Servers, tmp_path: Path) -> None:
    world = SshWorld(servers, tmp_path, connection_pool={"idle_timeout": 4})
    world.run(world.job("echo hi"))
    warm(world)
    before = servers.all[0].connections()
    world.tend(lambda: not world.executor._pool._kept)
    until(lambda: servers.all[0].connections() < before)
    assert told_slots(world) == set()
    world.close()


def test_an_unused_connection_on_a_silent_link_is_let_go(servers: Servers, tmp_path: Path) -> None:
    """Nothing but a question shows it; and one that answers is kept."""
    pool = {"health_check_interval": 1, "connect_timeout": 1, "idle_timeout": 600, "warm": False}
    world = SshWorld(servers, tmp_path, connection_pool=pool)
    world.run(world.job("echo hi"))
    connection, until_s = kept(world).connection, time.monotonic() + 3.5
    while time.monotonic() < until_s:
        world.executor.tend(time.monotonic())
        time.sleep(0.01)
    assert kept(world).connection is connection
    assert connection.alive
    assert servers.all[0].signal_sessions(signal.SIGSTOP)
    try:
        world.tend(lambda: not world.executor._pool._kept, within_s=30)
    finally:
        servers.all[0].signal_sessions(signal.SIGCONT)
    assert not connection.alive
    assert [message for message in world.told if isinstance(message, Connected)][-1].servers == ()
    world.close()


def test_leftovers_are_found_and_removed(world: SshWorld, servers: Servers) -> None:
    job, place = world.job("echo hi; sleep 60"), world.place()
    world.attempt(job, place, until=lambda told: bool(told.stdout))
    warm(world)
    assert world.executor.places() == {place}
    world.executor.cleanup(place)
    assert world.executor.places() == frozenset()


# --- what it costs --------------------------------------------------------------------------------------------------------------


def test_many_attempts_leak_nothing(world: SshWorld) -> None:
    process = psutil.Process()
    job = world.job("echo hi")
    world.run(job)
    before = (process.num_fds(), threading.active_count())
    for _ in range(15):
        world.run(job)
    until(lambda: process.num_fds() <= before[0] and threading.active_count() <= before[1])


def test_a_silent_job_costs_no_cpu(world: SshWorld) -> None:
    process, used = psutil.Process(), []

    def measure() -> None:
        before, began_s = process.cpu_times(), time.monotonic()
        time.sleep(3)
        after = process.cpu_times()
        used.append((after.user + after.system - before.user - before.system) / (time.monotonic() - began_s))

    thread = threading.Thread(target=measure)
    later(1, thread.start)
    world.run(world.job("sleep 4.5"))
    thread.join()
    print(f"CPU during a silent job: {used[0]:.1%} of a core")
    assert used[0] < 0.2


def test_a_wait_for_our_own_place_to_dial_is_no_failure_of_the_server(servers: Servers, tmp_path: Path) -> None:
    """Its breaker counts failures: a burst at a server whose logins are slow must not open it."""
    world = SshWorld(servers, tmp_path, connection_pool={"max_dials": 1, "connect_timeout": 1})
    job = world.job("true")
    (server,) = servers_of(job)
    with place_to_dial(world.settings.runtime_dir, server.address, 1, time.monotonic()):
        told = world.attempt(job, world.place())
    assert isinstance(told.updates[-1], Parked)
    assert "raise ssh.connectionPool.maxDials" in told.updates[-1].error.message
    assert not [message for message in world.told if isinstance(message, ServerSeen)]
    world.close()


@pytest.mark.parametrize("trouble", ["key invalid", "unreadable file", "jump host refuses", "server refuses", "server unknown"])
def test_only_a_server_that_answered_itself_is_said_to_be_reached(servers: Servers, tmp_path: Path, trouble: str) -> None:
    """Its breaker closes by that: what was wrong before anybody got there says nothing of a dead server."""
    jump = f"nobody-known@{servers.all[1].address}:{servers.all[1].port}"
    more, ssh = {
        "key invalid": ({"privateKey": "no key"}, {}),
        "unreadable file": ({}, {"known_hosts_file": tmp_path}),
        "jump host refuses": ({"proxyJump": jump}, {}),
        "server refuses": ({"privateKey": new_key()}, {}),
        "server unknown": ({}, {"known_hosts_file": tmp_path / "empty"}),
    }[trouble]
    (tmp_path / "empty").touch()
    world = SshWorld(servers, tmp_path, **ssh)
    script = {"type": "bash", "content": "true"}
    job = parse_job({"id": "j", "execution": {"target": servers.target(0, **more), "script": script}})
    told = world.attempt(job, world.place())
    assert told.outcome.status == "failed"
    assert told.outcome.error is not None
    seen = [message.reached for message in world.told if isinstance(message, ServerSeen)]
    assert seen == ([True] if trouble.startswith("server") else []), told.outcome.error.message
    world.close()


def test_the_record_names_the_job_that_a_connection_was_made_for(servers: Servers, tmp_path: Path) -> None:
    """Issue: one entry for every connection and host key decision, with its job."""
    world = SshWorld(servers, tmp_path)
    job = world.job("true")
    world.run(job)
    world.close()
    lines = [line for path in world.settings.audit_dir.glob("*.jsonl") for line in path.read_bytes().splitlines()]
    jobs: dict[str, set[str | None]] = {}
    for entry in map(orjson.loads, lines):
        jobs.setdefault(entry["event"], set()).add(entry.get("job"))
    assert [jobs[event] for event in ("ssh.connect", "ssh.host_key", "ssh.login", "ssh.command")] == [{job.id}] * 4


def test_the_record_has_what_was_done_for_a_job_and_what_came_of_it(servers: Servers, tmp_path: Path) -> None:
    """Issue: one entry for every connection, command, upload and download, with job, server, key and result."""
    world = SshWorld(servers, tmp_path, connection_pool={"warm": False})
    control = LoopControl()
    job = world.job("trap 'echo x >$CRONIUM_OUTPUT_DIR/x; exit 5' TERM; echo up; while :; do sleep 0.05; done")

    def cancel() -> None:
        control.cancels = 1

    later(1.0, cancel)
    told = world.run(job, control=control)
    assert (told.outcome.status, len(told.outcome.results.files)) == ("cancelled", 1)
    world.close()
    lines = [line for path in world.settings.audit_dir.glob("*.jsonl") for line in path.read_bytes().splitlines()]
    entries = [entry for entry in map(orjson.loads, lines) if entry["event"].startswith("ssh.")]
    (server,) = servers_of(job)
    assert {entry["server"] for entry in entries} == {str(server.address)}
    assert all(entry["key"].startswith("SHA256:") for entry in entries)
    results = {entry["event"]: entry.get("result") for entry in entries if entry.get("job") == job.id}
    assert results == {
        "ssh.connect": "succeeded",
        "ssh.host_key": "known",
        "ssh.login": "succeeded",
        "ssh.command": "ordered",
        "ssh.upload": "succeeded",
        "ssh.cancel": "ordered",
        "ssh.download": "fetched",
        "ssh.ended": "cancelled",
        "ssh.cleanup": "removed",
    }
    (place,) = {entry["place"] for entry in entries if entry["event"] == "ssh.upload"}
    commands = [(entry["command"], entry.get("place")) for entry in entries if entry["event"] == "ssh.exec"]
    assert commands == [("run", place), ("keep", place), ("fetch", place), ("clean", None)]
    assert [entry["result"] for entry in entries if entry["event"] == "ssh.disconnect"] == ["we closed it"]
