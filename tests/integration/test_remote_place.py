"""What runs on a server, with each shell that it may meet there: real processes, pipes and files, no connection."""

import contextlib
import hashlib
import io
import os
import re
import shlex
import signal
import subprocess
import tarfile
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from cronium.worker.launcher import Credit, Drained, Ended, Failed, OutputLost, OutputWaits, Results, Segment, Started
from cronium.worker.ssh.commands import (
    KeepReader,
    Marker,
    RemoteError,
    RemotePlace,
    Reply,
    Words,
    clean_command,
    list_command,
    parse_cleaned,
    parse_listed,
    results_command,
)

from .launcher_place import PATIENCE_S, Shell, make_shells, wait_until
from .remote_place import RemoteServer, follow_segments, remote_server, stream

KIB = 1024


@pytest.fixture(scope="module")
def shells() -> Iterator[dict[str, Shell]]:
    with tempfile.TemporaryDirectory(prefix="cr-", dir="/tmp") as folder:
        Path(folder).chmod(0o755)
        yield make_shells(Path(folder))


@pytest.fixture(params=["dash", "bash", "busybox"])
def shell(request: pytest.FixtureRequest, shells: dict[str, Shell]) -> Shell:
    return shells[request.param]


@pytest.fixture
def server(shell: Shell) -> Iterator[RemoteServer]:
    with remote_server(shell) as made:
        yield made


@pytest.fixture
def dash_server(shells: dict[str, Shell]) -> Iterator[RemoteServer]:
    """Where nothing depends on the kind of shell."""
    with remote_server(shells["dash"]) as made:
        yield made


# ---- A job's life ----


def test_a_job_from_its_start_to_its_end(server: RemoteServer) -> None:
    """Output, exit code, events, results; the directory is private; afterwards nothing is left (the fixture looks)."""
    script = 'echo out; echo err >&2; echo "{}" >>"$CRONIUM_EVENTS"; echo x >"$CRONIUM_OUTPUT_DIR/a"; exit 3'
    run, keep = server.start(script)
    facts = run.ready()
    assert facts.uid == server.uid
    assert facts.there
    assert facts.boot_id == Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    assert replace(keep.channel.ready(), up_s=facts.up_s) == facts  # a second may have passed
    assert keep.wait_for(Drained) == Drained(4, 4)
    assert keep.find(Ended) == [Ended(3, "exit")]
    run.wait_for(lambda: (run.out, run.err) == (b"out\n", b"err\n"), "the output")
    keep.channel.wait_for(lambda: keep.channel.err == b"{}\n", "the event")
    assert [server.base.stat().st_mode & 0o777, server.files.stat().st_mode & 0o777] == [0o700, 0o700]
    [results] = keep.find(Results)
    found = Marker().feed(server.finished(results_command(server.place)))
    assert found
    assert len(found[1]) == results.size_bytes
    with tarfile.open(fileobj=io.BytesIO(found[1])) as archive:
        assert "./a" in archive.getnames()


def test_the_script_has_the_login_s_world_and_nothing_of_ours(server: RemoteServer) -> None:
    run, keep = server.start("pwd; env -0")
    keep.wait_for(Drained)
    run.take()
    folder, _, rest = run.out.decode().partition("\n")
    said = dict(line.split("=", 1) for line in rest.split("\0") if line)
    assert folder == said["HOME"] == str(server.home)
    assert said["CRONIUM_TOKEN"] == server.place.name
    assert not {"CRONIUM_PLACE", "CRONIUM_READER", "CRONIUM_REMOTE_TTL_S", "CRONIUM_STDIN_WAIT_S"} & said.keys()


def test_the_shell_for_scripts_may_be_an_absolute_path(server: RemoteServer) -> None:
    run, keep = server.start("echo $0", interpreter="/no/such/shell", environment={"TOKEN": "secret"})
    assert keep.wait_for(Failed) == Failed("interpreter_missing", "/no/such/shell")
    wait_until(lambda: not (server.files / "run/env").read_bytes(), "nothing of its secrets")
    assert server.clean()
    run, keep = server.start("echo ${BASH_VERSION:+bash}", interpreter="/bin/bash")
    keep.wait_for(Drained)
    run.take()
    assert run.out == b"bash\n"


def test_a_login_shell_that_talks_is_heard_out(shell: Shell) -> None:
    """A .bashrc that prints, also without a newline at its end, on both streams."""
    talk = 'printf "Welcome!\\n@cron"; printf "oops" >&2; exec "$@"'
    with remote_server(shell, before=("sh", "-c", talk, "sh")) as server:
        run = server.run()
        keep = server.keep()
        run.send(stream("echo hi; echo ho >&2"))
        run.send_end()
        keep.wait_for(Drained)
        run.wait_for(lambda: (run.out, run.err) == (b"hi\n", b"ho\n"), "the output")


def test_a_home_that_cannot_be_written_to_does_not_matter(shells: dict[str, Shell]) -> None:
    with remote_server(shells["dash"], environment={"HOME": "/proc"}) as server:
        run, keep = server.start('cd; pwd; touch "$HOME/x" 2>/dev/null || exit 5')
        assert keep.wait_for(Ended) == Ended(5, "exit")
        run.wait_for(lambda: run.out == b"/proc\n", "the output")


@pytest.mark.parametrize("name", ["dash", "busybox"])
def test_without_setsid_a_job_runs_and_leaves_nothing(shells: dict[str, Shell], name: str) -> None:
    with tempfile.TemporaryDirectory(prefix="cr-", dir="/tmp") as tools:
        Path(tools).chmod(0o755)
        for folder in reversed(shells[name].path.split(":")):
            for tool in Path(folder).iterdir() if Path(folder).is_dir() else ():
                link = Path(tools) / tool.name
                link.unlink(missing_ok=True)
                link.symlink_to(tool)
        (Path(tools) / "setsid").unlink()
        with remote_server(Shell(name, Path(tools) / "sh", tools)) as server:
            run, keep = server.start("sleep 1000 & echo up; trap 'exit 9' TERM; while :; do sleep 0.05; done")
            run.wait_for(lambda: run.out == b"up\n", "the script")
            run.drop()
            keep.channel.drop()
            keep = server.keep("r2")
            assert keep.look().launcher_alive
            assert keep.ask(Words.cancel(1)) == Reply("cancel", "told")
            assert keep.wait_for(Drained)
            assert keep.find(Ended) == [Ended(9, "cancel")]


# ---- The base directory ----


def refusal(server: RemoteServer) -> str:
    run = server.run()
    with pytest.raises(RemoteError) as caught:
        run.finish()
    return caught.value.code


def test_a_name_that_is_taken_is_said(server: RemoteServer) -> None:
    """Whoever comes second sees it: the request of a dead worker may be carried out late."""
    server.run().ready()
    assert refusal(server) == "taken"


def test_a_base_directory_of_somebody_else_is_refused(shell: Shell) -> None:
    with remote_server(shell) as server:
        server.base.mkdir(mode=0o755)
        if os.geteuid() == 0:
            assert refusal(server) == "base_not_ours"
            os.chown(server.base, server.uid, server.uid)
        assert refusal(server) == "base_not_ours"  # open to others
        server.base.chmod(0o700)
        server.base.rename(server.home / "elsewhere")
        server.base.symlink_to(server.home / "elsewhere")
        assert refusal(server) == "base_not_ours"
        server.base.unlink()


def test_missing_parents_are_made_where_that_is_possible(dash_server: RemoteServer) -> None:
    dash_server.place = RemotePlace(str(dash_server.home / "a/b's/c"), dash_server.place.name)
    assert dash_server.run().ready().there
    assert dash_server.clean()
    dash_server.place = RemotePlace("/proc/no/c", dash_server.place.name)
    assert refusal(dash_server) == "cannot_make"


# ---- Segments ----


def test_a_flood_goes_through_segments_exactly(server: RemoteServer) -> None:
    """No byte is lost or doubled where a file ends and the next begins; the disk holds two bounds a stream at most."""
    unread, total = 256 * KIB, 3 * 1024 * KIB
    command = f"yes 0123456789abcdefghijklmnopqrstuvwxyz | head -c {total}"
    run, keep = server.start(f"{command} & {command} >&2; wait", max_unread_bytes=unread)
    told = 0

    def all_there() -> bool:
        nonlocal told
        told = follow_segments(run, keep, told)
        held = sum(path.stat().st_size for path in server.files.glob("std*.*") if path.exists())
        assert held <= 2 * 2 * (unread + 65536)
        return bool(keep.find(Drained)) and len(run.out) + len(run.err) >= 2 * total

    wait_until(all_there, "the flood")
    line = b"0123456789abcdefghijklmnopqrstuvwxyz\n"
    expected = hashlib.sha256((line * (total // len(line) + 1))[:total]).hexdigest()
    assert [hashlib.sha256(data).hexdigest() for data in (run.out, run.err)] == [expected, expected]
    assert keep.find(Drained) == [Drained(total, total)]
    assert len(keep.find(Segment)) >= 2 * 10
    assert keep.find(OutputLost) == []


def test_nobody_reads_and_the_place_holds_the_bound(server: RemoteServer) -> None:
    """Then somebody comes, reads from where the last one was, and everything is there once."""
    unread = 192 * KIB
    run, keep = server.start("head -c 1000000 /dev/zero | tr '\\0' x", max_unread_bytes=unread)
    run.wait_for(lambda: len(run.out) > unread - 65536, "the bound")
    first = run.out[:100_000]
    for channel in (run, keep.channel):
        channel.drop()
    time.sleep(0.3)
    assert (server.files / "stdout.0").stat().st_size <= unread
    read, keep = server.read(len(first), 0, "r2"), server.keep("r2")
    read.ready()
    told = 0

    def all_there() -> bool:
        nonlocal told
        read.take()
        keep.pay(Credit(len(first) + len(read.out), 0))
        segments = keep.find(Segment)
        for segment in segments[told:]:
            keep.channel.send(Words.next(segment.stream, segment.offset) * 2)  # said twice it changes nothing
        told = len(segments)
        return bool(keep.find(Drained))

    wait_until(all_there, "the rest")
    read.wait_for(lambda: len(first) + len(read.out) >= 1_000_000, "the rest")
    assert first + read.out == b"x" * 1_000_000
    assert keep.find(Drained) == [Drained(1_000_000, 0)]
    last = server.read(1_000_000, 0, "r3")
    assert last.ready().there
    with pytest.raises(RemoteError) as caught:
        server.read(10, 0, "r4").finish()
    assert caught.value.code == "gone"


@pytest.mark.parametrize("name", ["dash", "bash", "busybox"])
def test_no_process_to_be_had_at_the_switch_loses_nothing(shells: dict[str, Shell], name: str) -> None:
    """The job takes every process its user may have, while its output goes through segments."""
    hog = """
import os, sys, time
children = []
try:
    while True:
        child = os.fork()
        if child == 0:
            time.sleep(1.5)
            os._exit(0)
        children.append(child)
except OSError:
    pass
for number in range(60000):
    os.write(1, b"%09d\\n" % number)
"""
    limited = ("bash", "-c", 'ulimit -u 60; exec "$@"', "bash")
    environment = {"PATH": f"{shells[name].path}:{os.environ['PATH']}"}
    with remote_server(shells[name], before=limited, environment=environment) as server:
        run = server.run()
        run.ready()
        server.before = ()
        keep = server.keep()
        run.send(stream(hog, interpreter="python3", max_unread_bytes=65536))
        run.send_end()

        def segments() -> list[tuple[int, Path]]:
            return sorted((int(path.suffix[1:]), path) for path in server.files.glob("stdout.*"))

        def all_there() -> bool:
            start, path = segments()[-1]
            keep.pay(Credit(start + path.stat().st_size, 0))
            return bool(keep.find(Drained))

        wait_until(all_there, "the job's end")
        assert b"".join(path.read_bytes() for _, path in segments()) == b"".join(b"%09d\n" % number for number in range(60000))
        assert len(segments()) >= 5
        assert keep.find(OutputLost) == []


# ---- Connections come and go ----


def test_after_a_lost_connection_the_job_goes_on_and_no_reader_stays(server: RemoteServer) -> None:
    """Also when nothing is ever printed again that would tell a follower that nobody listens."""
    run, keep = server.start(
        "echo one; while [ ! -e go ]; do sleep 0.02; done; echo two; exit 4", working_directory=str(server.home)
    )
    run.wait_for(lambda: run.out == b"one\n", "the first line")
    keep.wait_for(Started)
    for channel in (run, keep.channel):
        channel.drop()
    for channel in (run, keep.channel):
        channel.process.wait(PATIENCE_S)

    def readers() -> list[psutil.Process]:
        return [process for process in server.processes() if is_job(process, "CRONIUM_READER") and not is_job(process)]

    wait_until(lambda: not readers(), "no reader")
    (server.home / "go").touch()
    read, keep = server.read(4, 0, "r2"), server.keep("r2", keep.state_bytes)
    assert keep.wait_for(Ended) == Ended(4, "exit")
    read.wait_for(lambda: read.out == b"two\n", "the second line")


def test_live_output_comes_at_once(shells: dict[str, Shell]) -> None:
    """A line is here before the next one is printed, 20 ms later, with GNU's tail as with none."""
    for name in ("dash", "busybox"):
        with remote_server(shells[name]) as server:
            script = "i=0; while [ $i -lt 200 ]; do i=$((i + 1)); echo $i >printed; echo $i; sleep 0.02; done"
            run, _ = server.start(script, working_directory=str(server.home))
            run.ready()
            behind = []
            while not run.out.endswith(b"200\n"):
                had = len(run.out)
                run.wait_for(lambda: len(run.out) > had and run.out.endswith(b"\n"), "a line")  # noqa: B023 - called at once
                if printed := (server.home / "printed").read_text():
                    behind.append(int(printed) - int(run.out.split()[-1]))
            print(f"{name}: {behind.count(0)} of {len(behind)} lines came before the next; at most {max(behind)} behind")
            assert sorted(behind)[len(behind) // 2] == 0


def test_a_waiting_job_costs_its_readers_nothing(dash_server: RemoteServer) -> None:
    """Where tail is woken by inotify, nothing runs while nothing is printed."""
    run, keep = dash_server.start("echo up; sleep 1000")
    run.wait_for(lambda: run.out, "the script")
    keep.wait_for(Started)
    time.sleep(0.3)

    def used_s() -> float:
        return sum(sum(process.cpu_times()[:4]) for process in dash_server.processes())

    before_s = used_s()
    time.sleep(1)
    assert used_s() - before_s <= 0.02


# ---- Nobody feeds it, nobody comes back ----


@pytest.mark.parametrize("how", ["end", "wait", "cancel"])
def test_a_launcher_that_gets_no_job_removes_its_place(server: RemoteServer, how: str) -> None:
    """And its channels end: a slot that is no use any more says so, and nobody stays to listen where nothing comes."""
    run = server.run(stdin_wait_s=0.3 if how == "wait" else PATIENCE_S)
    keep = server.keep()
    assert keep.channel.ready().there
    match how:
        case "end":
            run.send_end()
        case "cancel":
            wait_until((server.files / "run/stderr.pipe").exists, "the launcher")
            assert keep.ask(Words.cancel(1)) == Reply("cancel", "told")
        case _:
            pass
    failed = keep.wait_for(Failed)
    assert failed.reason == ("cancelled" if how == "cancel" else "no_input")
    run.finish()
    wait_until(lambda: not server.files.exists(), "the place's removal")
    keep.channel.finish()


def test_a_stream_that_was_cut_is_told_to_who_comes_back(dash_server: RemoteServer) -> None:
    run = dash_server.run()
    whole = stream("echo never" + "#" * 50_000)
    run.send(whole[: len(whole) // 2])
    run.drop()
    keep = dash_server.keep("r2")
    assert keep.wait_for(Failed) == Failed("incomplete", "")
    look = keep.look()
    assert (look.begun, look.gate, look.there) == ("failed", False, True)


def test_a_place_that_nobody_comes_back_to_removes_itself(server: RemoteServer) -> None:
    run, keep = server.start("echo hi", ttl_s=1)
    keep.wait_for(Drained)
    ended_s = time.monotonic()
    while time.monotonic() < ended_s + 2.5:  # whoever looks puts it off
        assert keep.look().there
        time.sleep(0.2)
    for channel in (run, keep.channel):
        channel.drop()
    wait_until(lambda: not server.files.exists(), "the place's removal")
    wait_until(lambda: not server.processes(), "everything gone")


def test_a_place_that_removes_itself_ends_its_readers_and_nobody_whom_they_name(server: RemoteServer) -> None:
    """A reader of a connection that died silently goes with the place."""
    name = server.place.name
    run, keep = server.start("echo hi", ttl_s=1)
    launcher = keep.wait_for(Drained) and int((server.files / "launcher").read_text().split()[0])
    with contextlib.ExitStack() as stack:
        victim = stack.enter_context(server.background("sleep", "1004"))
        heads = ("/proc", f"/proc/{launcher}/..")
        forged = "".join(f"\n==> {head}/{victim.pid}/environ <==\nCRONIUM_READER={name}\nname={name}\\n\n" for head in heads)
        forger = stack.enter_context(server.background("sleep", "1005", V=forged))
        reader = stack.enter_context(server.background("sleep", "1006", CRONIUM_READER=name))
        for channel in (run, keep.channel):
            channel.drop()
        wait_until(lambda: not server.files.exists(), "the place's removal")
        assert reader.wait(PATIENCE_S) == -signal.SIGKILL
        assert (victim.poll(), forger.poll()) == (None, None)


def test_output_that_nobody_comes_for_does_not_stay_for_ever(dash_server: RemoteServer) -> None:
    """The pumps wait for credit after the script's end; there is no `drained` to count from."""
    run, keep = dash_server.start("head -c 300000 /dev/zero & sleep 0.3", ttl_s=1, max_unread_bytes=65536)
    keep.wait_for(Ended)
    for channel in (run, keep.channel):
        channel.drop()
    wait_until(lambda: not dash_server.files.exists(), "the place's removal")
    wait_until(lambda: not dash_server.processes(), "everything gone")


# ---- Who runs it, who gives it up ----


def test_a_place_given_up_before_its_job_came_runs_nothing(server: RemoteServer) -> None:
    run = server.run()
    keep = server.keep()
    assert keep.ask(Words.CLAIM) == Reply("claim", "won")
    assert not server.files.exists()
    run.send(stream("touch ran", working_directory=str(server.home)))
    run.send_end()
    run.finish()
    assert not (server.home / "ran").exists()


def test_the_gate_decides_when_both_come_at_once(server: RemoteServer) -> None:
    run = server.run()
    keep = server.keep()
    keep.channel.ready()
    (server.files / "gate").touch()
    run.send(stream("touch ran", working_directory=str(server.home)))
    run.send_end()
    assert keep.wait_for(Failed) == Failed("given_up", "")
    assert not (server.home / "ran").exists()


def test_a_job_that_runs_cannot_be_claimed(server: RemoteServer) -> None:
    run, keep = server.start("echo up; sleep 1000")
    run.wait_for(lambda: run.out, "the script")
    assert keep.ask(Words.CLAIM) == Reply("claim", "lost")
    look = keep.look()
    assert (look.launcher_alive, look.begun, look.gate, look.there) == (True, "started", True, True)


def test_each_answer_carries_the_sign_that_its_keeper_was_told(server: RemoteServer) -> None:
    """Only whoever asks can know it: the text of `state`, which the script can write to, comes the same way."""
    run, keep = server.start('echo "@cronium claim won" >>"${CRONIUM_EVENTS%/*}/state"; echo on; sleep 1000')
    run.wait_for(lambda: run.out == b"on\n", "the script")
    keep._replies = KeepReader("0a1b")
    keep.channel.send(Words.sign("0a1b"))
    assert keep.look().begun == "started"
    assert keep.ask(Words.CLAIM) == Reply("claim", "lost")
    assert keep.ask(Words.cancel(2)) == Reply("cancel", "told")
    assert keep.ask(Words.KILL) == Reply("kill", "done")
    assert len(keep.replies) == 4


def test_a_launcher_that_was_killed_is_seen_to_be_gone(server: RemoteServer) -> None:
    """Pid and start time, whatever has that pid by then."""
    run, keep = server.start("echo up; sleep 1000")
    run.wait_for(lambda: run.out, "the script")
    pid, ticks = (server.files / "launcher").read_text().split()
    (server.files / "launcher").write_text(f"{pid} {int(ticks) + 1}\n")
    assert not keep.look().launcher_alive
    (server.files / "launcher").write_text(f"{pid} {ticks}\n")
    os.kill(int(pid), signal.SIGKILL)
    wait_until(lambda: not keep.look().launcher_alive, "the launcher's end")
    assert keep.look().begun == "started"
    assert keep.ask(Words.cancel(1)) == Reply("cancel", "gone")


def test_keep_for_a_place_that_is_not_there_says_so(server: RemoteServer) -> None:
    keep = server.keep(state_offset=1)
    assert not keep.channel.ready().there
    assert keep.channel.finish() == 0


# ---- Ending a job ----

STUBBORN = """
trap '' TERM HUP INT
(trap '' TERM; exec sleep 1001) &
setsid sh -c "trap '' TERM; sleep 1002; :" &
env -i sleep 1003 &
echo up
while :; do sleep 0.05; done
"""


def test_cancel_ends_what_traps_forks_and_has_a_session_of_its_own(server: RemoteServer) -> None:
    run, keep = server.start(STUBBORN, grace_s=0.3)
    run.wait_for(lambda: run.out, "the script")
    assert keep.ask(Words.cancel(1)) == Reply("cancel", "told")
    assert keep.wait_for(Ended) == Ended(137, "cancel")
    keep.wait_for(Drained)
    wait_until(lambda: not [process for process in server.processes() if is_job(process)], "the job's end")


def test_a_second_cancel_kills_at_once(server: RemoteServer) -> None:
    run, keep = server.start(STUBBORN, grace_s=PATIENCE_S * 2)
    run.wait_for(lambda: run.out, "the script")
    keep.ask(Words.cancel(1))
    time.sleep(0.2)
    keep.ask(Words.cancel(2))
    assert keep.wait_for(Ended) == Ended(137, "cancel")


TIDY = "trap 'echo tidy; sleep 1.5; echo tidied; exit 5' TERM; echo up; while :; do sleep 0.05; done"


@pytest.mark.parametrize("fed", ["at once", "slowly"])
def test_a_cancel_said_again_cuts_no_grace(server: RemoteServer, fed: str) -> None:
    """Its answer may be lost with the connection, or its worker may die. Nor does it matter that the job was long in coming."""
    run, keep = server.run(stdin_wait_s=0.3 if fed == "slowly" else PATIENCE_S), server.keep()
    whole = stream(f"{TIDY} {'#' * 50_000}")
    if fed == "slowly":
        run.send(whole[: len(whole) // 2])
        time.sleep(0.8)
        run.send(whole[len(whole) // 2 :])
    else:
        run.send(whole)
    run.send_end()
    run.wait_for(lambda: run.out == b"up\n", "the script")
    assert keep.ask(Words.cancel(1)) == Reply("cancel", "told")
    run.wait_for(lambda: b"tidy" in run.out, "the first")
    for channel in (run, keep.channel):
        channel.drop()
    read, keep = server.read(0, 0, "r2"), server.keep("r2")
    assert keep.ask(Words.cancel(1)) == Reply("cancel", "told")
    assert keep.wait_for(Ended) == Ended(5, "cancel")
    read.wait_for(lambda: read.out == b"up\ntidy\ntidied\n", "all of it")


# Its own directory is gone, it hears no TERM, and one process of its session has nothing of us in its environment.
_UNMAKES_ITS_PLACE = """
trap '' TERM
env -i /bin/sleep 1000 &
rm -rf "$CRONIUM_DIR"
echo gone
while :; do sleep 1; done
"""


@pytest.mark.parametrize("why", ["deadline", "cancel", "second cancel"])
def test_a_script_that_removes_its_directory_is_ended_all_the_same(server: RemoteServer, why: str) -> None:
    run, keep = server.start(_UNMAKES_ITS_PLACE, deadline_s=2 if why == "deadline" else 0, grace_s=60 if "second" in why else 1)
    run.wait_for(lambda: run.out == b"gone\n", "the script")
    if why != "deadline":
        assert keep.ask(Words.cancel(1)) == Reply("cancel", "told")
    if why == "second cancel":
        assert keep.ask(Words.cancel(2)) == Reply("cancel", "told")
    assert keep.wait_for(Ended) == Ended(137, "deadline" if why == "deadline" else "cancel")
    keep.wait_for(Drained)


def test_a_place_that_its_script_has_removed_can_still_be_ended(server: RemoteServer) -> None:
    heard = 'until [ -e "${CRONIUM_DIR%/*}/contact" ]; do sleep 0.05; done'
    script = f"{heard}; trap '' TERM; rm -rf \"${{CRONIUM_DIR%/*}}\"; echo gone; while :; do sleep 1; done"
    run, keep = server.start(script)
    run.wait_for(lambda: run.out == b"gone\n", "the script")
    assert keep.ask(Words.cancel(2)) == Reply("cancel", "gone")
    assert keep.ask(Words.KILL) == Reply("kill", "done")
    assert keep.look().launcher_alive is False


@pytest.mark.parametrize("how", ["kill", "clean"])
def test_whoever_ends_a_place_whose_directory_the_script_removed_finds_its_session(server: RemoteServer, how: str) -> None:
    run, keep = server.start(_UNMAKES_ITS_PLACE)
    run.wait_for(lambda: run.out == b"gone\n", "the script")
    pid = int((server.files / "launcher").read_text().split()[0])
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: not keep.look().launcher_alive, "the launcher's end")
    if how == "kill":
        assert keep.ask(Words.KILL) == Reply("kill", "done")
        wait_until(lambda: not [one for one in server.processes() if is_job(one)], "the job's end")
    else:
        assert server.clean()


def test_kill_ends_a_place_whose_launcher_does_not_react(server: RemoteServer) -> None:
    run, keep = server.start(STUBBORN)
    run.wait_for(lambda: run.out, "the script")
    pid = int((server.files / "launcher").read_text().split()[0])
    os.kill(pid, signal.SIGSTOP)
    assert keep.ask(Words.KILL) == Reply("kill", "done")
    wait_until(lambda: not [process for process in server.processes() if is_job(process, "CRONIUM_PLACE")], "the job's end")
    look = keep.look()
    assert (look.launcher_alive, look.begun, look.there) == (False, "started", True)
    run.take()
    assert run.out == b"up\n"


def is_job(process: psutil.Process, *variables: str) -> bool:
    """Whether it carries the job's token or one of these, or is a sleep that has no environment."""
    try:
        carries = {"CRONIUM_TOKEN", *variables} & process.environ().keys()
        return bool(carries or {"1000", "1003"} & set(process.cmdline()))
    except psutil.NoSuchProcess:
        return False


# ---- Cleaning up ----


def test_clean_ends_and_removes_whatever_there_is(server: RemoteServer) -> None:
    """A running job with directories that it cannot write to, and readers whose connection died silently; then nothing."""
    run, _ = server.start(
        STUBBORN.replace("echo up", "mkdir -p out/d; touch out/d/f; chmod 500 out/d; echo up"),
        working_directory=str(server.files / "run"),
    )
    run.wait_for(lambda: run.out, "the script")
    other = "cronium-test-0123456789abcdef"
    for _ in range(2):
        said = parse_cleaned(server.finished(clean_command(server.place.temp_dir, [server.place.name, other])))
        assert said.names == {server.place.name, other}
        assert not server.files.exists()
        wait_until(lambda: not server.processes(), "everything gone")


def test_clean_touches_nothing_of_another_place(dash_server: RemoteServer) -> None:
    run, keep = dash_server.start("echo up; sleep 1000")
    run.wait_for(lambda: run.out, "the script")
    dash_server.finished(clean_command(dash_server.place.temp_dir, [dash_server.place.name[:-1] + "x"]))
    look = keep.look()
    assert look.launcher_alive
    assert look.there


@pytest.mark.parametrize("how", ["clean", "kill"])
def test_who_forges_what_is_shown_of_processes_has_no_other_killed(server: RemoteServer, how: str) -> None:
    """What `head` prints between files anybody can put into an environment, or an argument. Nor does it hide what is ours."""
    name = server.place.name
    said = "".join(f"CRONIUM_{variable}={name}\n" for variable in ("PLACE", "TOKEN", "READER")) + f"name={name}\\n\n"
    heads = ["/proc", *(f"/proc/{os.getpid() + offset}/.." for offset in range(3000))]
    with contextlib.ExitStack() as stack:
        victim = stack.enter_context(server.background("sleep", "1004"))
        forged = [f"\n==> {head}/{victim.pid}/{file} <==\n{said}" for head in heads for file in ("environ", "cmdline")]
        pieces = ["".join(forged[at : at + 400]) for at in range(0, len(forged), 400)]
        others = [
            victim,
            stack.enter_context(server.background("sleep", "1005", **{f"V{number}": text for number, text in enumerate(pieces)})),
            stack.enter_context(server.background("sh", "-c", "read _", pieces[0])),
            stack.enter_context(server.background("sleep", "1006", V=f"x\n{said}", W=f"x\nCRONIUM_TOKEN={name}")),
        ]
        hide = shlex.quote(f"A=\n==> /proc/{victim.pid}/environ <==\nX=1")
        hidden = f'env -i PATH="$PATH" {hide} CRONIUM_TOKEN="$CRONIUM_TOKEN" setsid sleep 1007 &\n'
        run, keep = server.start(hidden + STUBBORN)
        run.wait_for(lambda: run.out, "the script")

        def ours() -> list[psutil.Process]:
            theirs = {process.pid for process in others}
            return [process for process in server.processes() if process.pid not in theirs and is_job(process)]

        wait_until(lambda: {"1001", "1002", "1003", "1007"} <= {process.cmdline()[-1] for process in ours()}, "what it starts")
        assert server.clean() if how == "clean" else keep.ask(Words.KILL) == Reply("kill", "done")
        assert [process.poll() for process in others] == [None] * 4
        wait_until(lambda: not ours(), "the job's end")


def test_list_names_the_places_of_this_installation(server: RemoteServer) -> None:
    assert parse_listed(server.finished(list_command(server.place.temp_dir, "test"))).names == frozenset()
    server.run().ready()
    (server.base / "cronium-tester-00").mkdir()
    said = parse_listed(server.finished(list_command(server.place.temp_dir, "test")))
    assert said.names == {server.place.name}
    assert said.facts.uid == server.uid


# ---- A full disk ----


@pytest.fixture
def small_disk() -> Iterator[Path]:
    """Of 4 MiB. (Needs to be root, as do the tests with network namespaces.)"""
    with tempfile.TemporaryDirectory(prefix="cr-", dir="/tmp") as folder:
        subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=4m,mode=1777", "cronium-test", folder], check=True, timeout=PATIENCE_S
        )
        try:
            yield Path(folder)
        finally:
            subprocess.run(["umount", "-l", folder], check=True, timeout=PATIENCE_S)


def test_a_disk_that_fills_holds_the_script_and_nothing_is_lost(shell: Shell, small_disk: Path) -> None:
    """It waits, which is told; what it printed is there when there is room again, and its exit code is its own.

    busybox has nothing to reserve space with: there what one copy may write must still fit.
    """
    with remote_server(shell, at=small_disk) as server:
        go = server.home / "go"
        run, keep = server.start(f"echo up; until [ -e {go} ]; do sleep 0.05; done; seq 300000; exit 6")
        run.wait_for(lambda: run.out, "the script")
        fill(small_disk / "big", 600 * 1024 if shell.name == "busybox" else 0)
        go.touch()
        assert keep.wait_for(OutputWaits) == OutputWaits("stdout", "disk_full")
        fill(small_disk / "big", 0)
        time.sleep(0.5)
        assert not keep.find(Ended)
        (small_disk / "big").unlink()
        assert keep.wait_for(Ended) == Ended(6, "exit")
        keep.wait_for(Drained)
        assert keep.find(OutputLost) == []
        run.wait_for(lambda: run.out.endswith(b"300000\n"), "the rest")
        assert run.out == b"up\n" + b"".join(b"%d\n" % number for number in range(1, 300001))


def test_a_job_that_is_cut_off_does_not_wait_for_the_disk(shell: Shell, small_disk: Path) -> None:
    """Its deadline has ended it: what does not fit is lost, and told."""
    with remote_server(shell, at=small_disk) as server:
        _, keep = server.start("head -c 6000000 /dev/zero; sleep 1000", deadline_s=2)
        keep.wait_for(OutputWaits)
        fill(small_disk / "big", 0)
        assert keep.wait_for(Ended).why == "deadline"
        keep.wait_for(Drained)
        assert [(lost.stream, lost.reason) for lost in keep.find(OutputLost)] == [("stdout", "disk_full")]


def test_a_disk_that_is_full_from_the_start_is_a_clear_failure(shell: Shell, small_disk: Path) -> None:
    with remote_server(shell, at=small_disk) as server:
        server.run().ready()  # makes the base directory
        assert server.clean()
        wait_until(lambda: not server.processes(), "the end of all that may give space back yet")
        (small_disk / "big").write_bytes(bytes(small_disk.stat().st_blksize))
        fill(small_disk / "big", 0)
        assert refusal(server) == "no_space"
        assert not server.files.exists()


def test_a_disk_that_fills_before_the_job_came_is_a_clear_failure(shell: Shell, small_disk: Path) -> None:
    with remote_server(shell, at=small_disk) as server:
        run, keep = server.run(), server.keep()
        keep.channel.ready()
        wait_until((server.files / "run/stderr.pipe").exists, "the launcher")
        fill(small_disk / "big", 8192)
        run.send(stream("echo never"))
        run.send_end()
        assert keep.wait_for(Failed).reason == "disk_full"


def fill(path: Path, leave_bytes: int) -> None:
    with path.open("ab", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError:
            file.truncate(max(0, file.tell() - leave_bytes))


# ---- The text itself ----


def test_the_texts_pass_shellcheck() -> None:
    path = Path(__file__).resolve().parents[2] / "worker/cronium/worker/ssh/remote.sh"
    shellcheck(str(path))
    found = re.search(r"^follow_loop='\n(.*?)^'\n", path.read_text(), re.DOTALL | re.MULTILINE)
    assert found
    shellcheck("--shell=sh", "-", text=found[1])


def shellcheck(*arguments: str, text: str = "") -> None:
    done = subprocess.run(["shellcheck", *arguments], input=text, text=True, capture_output=True, timeout=PATIENCE_S, check=False)
    assert done.returncode == 0, done.stdout
