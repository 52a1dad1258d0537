"""Any output is fine: what a job prints, however odd, comes back by both ways to a place's files, and nothing grows."""

from __future__ import annotations

import hashlib
import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cronium.common.errors import ExecutionError, Reason
from cronium.worker.executor import Log
from peers.container_world import LoopControl, Told, World

MIB = 1024 * 1024


@pytest.fixture(params=["host", "exec"])
def world(
    request: pytest.FixtureRequest, docker_endpoint: str, installation: str, runner_images: object, tmp_path: Path
) -> Iterator[World]:
    """Once with files of this host, once with files read through the engine."""
    world = World(docker_endpoint, installation, tmp_path, {"files": request.param})
    yield world
    world.close()


@pytest.fixture
def host_world(docker_endpoint: str, installation: str, runner_images: object, tmp_path: Path) -> Iterator[World]:
    world = World(docker_endpoint, installation, tmp_path, logging={"max_unread": MIB})
    yield world
    world.close()


def test_which_way_the_files_go_is_found_out(
    docker_endpoint: str, installation: str, runner_images: object, tmp_path: Path
) -> None:
    """On this machine the engine sees our files."""
    world = World(docker_endpoint, installation, tmp_path)
    attempt = world.attempt(world.job("echo hi"))
    assert world.follow(attempt).stdout == b"hi\n"
    assert (world.files_of(attempt) / "stdout").read_bytes() == b"hi\n"
    world.close()


def test_odd_bytes_come_as_they_were_printed(world: World) -> None:
    """Binary, NUL, carriage returns, no newline at the end, both streams."""
    told = world.run(r"printf 'a\0b\r\377\n'; printf 'x\ny' >&2; printf end")
    assert told.stdout == b"a\0b\r\xff\nend"
    assert told.stderr == b"x\ny"
    assert told.gaps == []


def test_much_output_of_both_streams_is_exact(world: World) -> None:
    """Order within a stream is exact; nothing is lost at the container's end."""
    told = world.run("seq 400000 & seq 300000 >&2; wait")
    assert told.stdout == "".join(f"{n}\n" for n in range(1, 400001)).encode()
    assert told.stderr == "".join(f"{n}\n" for n in range(1, 300001)).encode()
    assert told.outcome.status == "completed"


def test_reopening_its_own_streams_truncates_nothing(world: World) -> None:
    """`echo x >/dev/stderr` cuts a file; a pipe it cannot."""
    told = world.run("echo a; echo b >/dev/stdout; echo c >/dev/stderr; echo d | tee /dev/stderr; echo e >&2")
    assert told.stdout == b"a\nb\nd\n"
    assert told.stderr == b"c\nd\ne\n"


def test_a_program_left_in_the_background_does_not_hold_the_job(world: World) -> None:
    """It keeps stdout open, and is ended."""
    told = world.run("(while :; do sleep 1; done) & echo done")
    assert told.stdout == b"done\n"
    assert told.outcome.status == "completed"


def test_events_and_results_come_by_both_ways(world: World) -> None:
    """Also what is said at the very end."""
    told = world.run('cronium_output "[1]"; echo data > "$CRONIUM_OUTPUT_DIR/f"; cronium_progress 100 done')
    assert told.outcome.results.script_output == b"[1]"
    assert [(file.path, file.content) for file in told.outcome.results.files] == [("f", b"data\n")]
    assert told.progress[-1].percentage == 100


def test_never_more_is_handed_over_than_there_is_room_for(world: World) -> None:
    """The worker's memory is bounded by what it asks for."""
    attempt = world.attempt(world.job("seq 200000"))
    sizes = [len(update.data) for update in world.updates(attempt, LoopControl(room_bytes=5000)) if isinstance(update, Log)]
    assert max(sizes) <= 5000
    assert sum(sizes) == sum(len(f"{n}\n") for n in range(1, 200001))


def test_without_credit_the_script_waits_and_its_place_stays_small(world: World) -> None:
    """Promise 7: nobody reads, nothing is lost, nothing grows; then all of it comes."""
    small = World(
        world.settings.container.docker.endpoint,
        world.installation,
        world.settings.state_dir,
        {"files": world.settings.container.files},
        logging={"max_unread": MIB},
    )
    told = _held(small, "head -c 8000000 /dev/urandom | tee /tmp/copy; md5sum /tmp/copy >&2")
    assert hashlib.md5(told.stdout).hexdigest().encode() == told.stderr.split()[0]
    assert told.outcome.status == "completed"
    small.close()


def _held(world: World, script: str) -> Told:
    """Take 1 MiB, then say for a second that nothing is durable; then go on."""
    released = []
    control = LoopControl(lag=lambda stream, offset: offset if released else 0)
    attempt = world.attempt(world.job(script))
    told = Told()
    quiet_s = [time.monotonic()]

    def wait(descriptors: tuple[int, ...], timeout_s: float) -> frozenset[int]:
        if told.stdout and time.monotonic() > quiet_s[0] + 1:
            released.append(True)
        return LoopControl.wait(control, descriptors, timeout_s)

    control_waiting: Any = control
    control_waiting.wait = wait
    most = 0
    for update in world.updates(attempt, control):
        told.take(update)
        quiet_s[0] = time.monotonic()
        if not released:
            most = max(most, len(told.stdout))
    assert released
    assert most <= 2 * MIB
    return told


def test_space_of_durable_output_is_given_back(host_world: World) -> None:
    """The place holds little while much goes through it; offsets stay."""
    attempt = host_world.attempt(host_world.job("head -c 40000000 /dev/zero | tr '\\0' x; sleep 0.3; echo end"))
    most = 0
    total = 0
    for update in host_world.updates(attempt, LoopControl()):
        if isinstance(update, Log):
            total += len(update.data)
            most = max(most, (host_world.files_of(attempt) / "stdout").stat().st_blocks * 512)
    assert total == 40_000_004
    assert most <= 4 * MIB


def test_a_script_that_cuts_its_own_log_is_told_so(host_world: World) -> None:
    """It spoils its own log and nothing else."""
    # (A file that has grown again before anybody looked cannot be told from one that was never cut.)
    told = host_world.run("echo first; sleep 0.5; : > /cronium/stdout; sleep 2; echo second; echo third")
    assert any("cut its own stdout" in gap.message for gap in told.gaps)
    assert told.stdout.startswith(b"first\n")
    assert told.stdout.endswith(b"third\n")
    assert told.outcome.status == "completed"


def test_a_hole_of_terabytes_is_skipped(host_world: World) -> None:
    """A sparse file is no output."""
    told = host_world.run("echo a; sleep 0.3; truncate -s 50G /cronium/stdout; sleep 0.3; echo b; sleep 0.3")
    assert told.stdout.replace(b"\0", b"") == b"a\nb\n"
    assert len(told.stdout) < 4 * MIB
    assert any("never written" in gap.message for gap in told.gaps)


@pytest.mark.parametrize("file", ["stdout", "results", "events", "state"])
def test_a_flood_past_the_pump_ends_the_job(host_world: World, file: str) -> None:
    """Promise 7 against a hostile script."""
    limits = {"max_results": MIB, "max_events": MIB}
    world = World(
        host_world.settings.container.docker.endpoint,
        host_world.installation,
        host_world.settings.state_dir,
        limits,
        logging={"max_unread": MIB},
    )
    control = LoopControl(lag=lambda stream, offset: 0)
    told = world.run(f"exec dd if=/dev/zero of=/cronium/{file} bs=1M count=3000 oflag=append conv=notrunc", control)
    assert told.reason == "output_flood"
    world.close()


def test_lies_in_the_state_file_end_in_an_outcome(host_world: World) -> None:
    """Garbage and invented lines harm nobody but the job itself."""
    lies = "printf '\\nended 0 exit\\ndrained 0 0\\n' >> /cronium/state"
    told = host_world.run(f"head -c 100000 /dev/urandom >> /cronium/state; {lies}; echo on; exit 4")
    assert (told.stdout, told.outcome.exit_code) == (b"on\n", 4)


def test_without_inotify_the_files_are_polled(host_world: World) -> None:
    """fs.inotify.max_user_instances is small, and others use it too."""
    from inotify_simple import INotify

    taken = []
    try:
        while True:
            taken.append(INotify())
    except OSError:
        pass
    try:
        told = host_world.run("echo a; sleep 0.1; echo b")
    finally:
        for instance in taken:
            instance.close()
    assert told.stdout == b"a\nb\n"


def test_nothing_stays_open_after_an_attempt(world: World) -> None:
    """File descriptors of a worker that runs many jobs."""
    for _ in range(4):  # the pool of connections fills
        world.run("true")
    before = _open_files()
    for _ in range(4):
        world.run("echo a")
    assert _open_files() <= before + 3


def _open_files() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


@pytest.fixture
def small_state(tmp_path: Path) -> Iterator[Path]:
    """A state folder on a file system of 8 MiB. (Needs to be root.)"""
    folder = tmp_path / "small"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m,mode=0700", "none", folder], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


@pytest.mark.parametrize("trouble", ["full", "read-only", "no-inode"])
def test_a_state_folder_that_takes_no_place_is_told(
    docker_endpoint: str, installation: str, small_state: Path, trouble: str
) -> None:
    """With the path and what to do; the job has not begun, so it can be run again."""
    world = World(docker_endpoint, installation, small_state, {"files": "host"})
    try:
        world.run("true")  # what the image can do is known
        used = os.statvfs(small_state)
        remount = {"full": "size=1m", "read-only": "ro", "no-inode": f"nr_inodes={used.f_files - used.f_ffree}"}[trouble]
        subprocess.run(["mount", "-o", f"remount,{remount}", small_state], check=True)
        with pytest.raises(ExecutionError) as raised:
            world.run("true")
        assert (raised.value.reason, raised.value.retryable) == (Reason.DISK_FULL, True)
        assert str(small_state / "places") in raised.value.message
    finally:
        world.close()


def test_output_that_cannot_be_fetched_to_a_full_disk_is_told(docker_endpoint: str, installation: str, small_state: Path) -> None:
    """What the engine has of a container that has ended needs room here; the engine is not to blame."""
    world = World(docker_endpoint, installation, small_state, {"files": "exec"})
    try:
        world.run("true")
        with pytest.raises(ExecutionError) as raised:
            world.run("sleep 0.3; head -c 12000000 /dev/zero >$CRONIUM_OUTPUT_DIR/big")
        assert raised.value.reason is Reason.DISK_FULL
        assert str(small_state / "places") in raised.value.message
    finally:
        world.close()
