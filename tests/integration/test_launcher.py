"""The launcher's contract, line by line, with each shell that it must run in: real processes, pipes and files on this host."""

import contextlib
import hashlib
import io
import os
import re
import signal
import subprocess
import tarfile
import tempfile
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import psutil
import pytest

from cronium.worker.launcher import (
    Credit,
    Ended,
    Failed,
    LaunchSpec,
    OutputLost,
    Results,
    Started,
    Usage,
    launch_stream,
    launcher_text,
)

from .launcher_place import EVERYTHING, PATIENCE_S, UID, HostPlace, Shell, host_place, make_shells, wait_until

MIB = 1024 * 1024


@pytest.fixture(scope="session")
def shells() -> Iterator[dict[str, Shell]]:
    # Not below pytest's own folder: that one is closed to the user that the launcher runs as.
    with tempfile.TemporaryDirectory(prefix="cr-", dir="/tmp") as folder:
        Path(folder).chmod(0o755)
        yield make_shells(Path(folder))


@pytest.fixture(params=["dash", "bash", "busybox"])
def shell(request: pytest.FixtureRequest, shells: dict[str, Shell]) -> Shell:
    return shells[request.param]


@pytest.fixture
def place(shell: Shell) -> Iterator[HostPlace]:
    with host_place(shell) as made:
        yield made


@pytest.fixture
def dash_place(shells: dict[str, Shell]) -> Iterator[HostPlace]:
    """Where nothing depends on the kind of shell."""
    with host_place(shells["dash"]) as made:
        yield made


# ---- How it ends ----


def test_a_job_s_output_and_exit_code(place: HostPlace) -> None:
    assert place.run_job("echo out; echo err >&2; exit 3") == 3
    assert place.files.ended == Ended(3, "exit")
    assert (place.files.read("stdout"), place.files.read("stderr")) == (b"out\n", b"err\n")
    assert place.files.find(OutputLost) == []


@pytest.mark.parametrize("code", [0, 124, 137, 143, 255])
def test_a_code_that_looks_like_a_timeout_or_a_signal_is_told_as_an_exit(dash_place: HostPlace, code: int) -> None:
    assert dash_place.run_job(f"exit {code}") == code
    assert dash_place.files.ended == Ended(code, "exit")


def test_a_script_that_dies_by_a_signal_has_its_code(dash_place: HostPlace) -> None:
    assert dash_place.run_job("echo a; kill -KILL $$") == 137
    assert dash_place.files.ended == Ended(137, "exit")


def test_state_tells_the_whole_story_in_order(place: HostPlace) -> None:
    """Whoever takes a place over goes by these lines: each fact is there, once, and in the order in which it became true."""
    place.run_job("exit 0")
    kinds = [type(event).__name__ for event in place.files.state()]
    assert kinds == ["Started", "Ended", "Usage", "Drained"]
    assert place.files.find(Usage) == [Usage(None, None, None, None, None)]  # a server's own figures are not the job's


def test_started_names_the_script_s_session_leader(dash_place: HostPlace) -> None:
    dash_place.files.pay(EVERYTHING)
    dash_place.start("sleep 100")
    started = dash_place.files.wait_for(Started)
    assert started.pid
    stat = Path(f"/proc/{started.pid}/stat").read_text()
    assert started.start_ticks == int(stat.rsplit(")", 1)[1].split()[19])
    assert started.boot_id == Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    wait_until(lambda: os.getsid(started.pid or 0) == started.pid, "a session of its own")
    os.kill(started.pid, signal.SIGTERM)
    assert dash_place.finish() == 143


def test_a_job_that_kills_the_wrapper_ends_with_that_signal(place: HostPlace) -> None:
    assert place.run_job("kill -KILL $PPID; sleep 100") == 137
    assert place.files.ended == Ended(137, "exit")


# ---- Deadline and cancel ----


def test_the_deadline_sends_term_and_the_script_may_tidy_up(place: HostPlace) -> None:
    assert place.run_job("trap 'echo bye; exit 7' TERM; echo up; sleep 100 & wait", deadline_s=0.3) == 7
    assert place.files.ended == Ended(7, "deadline")
    assert place.files.read("stdout") == b"up\nbye\n"


def test_after_the_grace_what_ignores_term_is_killed(place: HostPlace) -> None:
    assert place.run_job("trap '' TERM; while :; do sleep 0.1; done", deadline_s=0.2, grace_s=0.3) == 137
    assert place.files.ended == Ended(137, "deadline")


def test_the_deadline_counts_from_the_script_s_start(dash_place: HostPlace) -> None:
    """Waiting for the job to come, or for an image, does not eat its time."""
    time.sleep(0.6)
    assert dash_place.run_job("sleep 0.2; echo done", deadline_s=0.5) == 0


def test_cancel_is_term_to_the_launcher(place: HostPlace) -> None:
    place.files.pay(EVERYTHING)
    place.start("trap 'echo bye; exit 5' TERM; echo up; sleep 100 & wait", deadline_s=50)
    wait_until(lambda: place.files.read("stdout") == b"up\n", "the script")
    place.process.terminate()
    assert place.finish() == 5
    assert place.files.ended == Ended(5, "cancel")
    assert place.files.read("stdout") == b"up\nbye\n"


def test_a_signal_that_comes_while_term_is_passed_on_spoils_nothing(shell: Shell) -> None:
    """Shells mistake a status or a read then: the script was passed over, and killed after its grace."""
    for _ in range(5):
        with host_place(shell) as place:
            place.files.pay(EVERYTHING)
            place.start("trap 'echo bye; exit 5' TERM; echo up; while :; do sleep 0.05; done", grace_s=5)
            wait_until(lambda: place.files.read("stdout") == b"up\n", "the script")
            place.process.terminate()
            for _ in range(20):
                place.process.send_signal(signal.SIGUSR1)
            assert place.finish() == 5


def test_cancel_has_a_grace_too(place: HostPlace) -> None:
    place.files.pay(EVERYTHING)
    place.start("trap '' TERM; echo up; while :; do sleep 0.1; done", grace_s=0.3)
    wait_until(lambda: place.files.size("stdout"), "the script")
    place.process.terminate()
    assert place.finish() == 137
    assert place.files.ended == Ended(137, "cancel")


def test_a_second_term_changes_nothing_and_usr2_ends_the_grace(place: HostPlace) -> None:
    """Whoever takes a cancelled job over says TERM again."""
    place.files.pay(EVERYTHING)
    place.start("trap 'echo term' TERM; echo up; while :; do sleep 0.05; done", grace_s=PATIENCE_S * 2)
    wait_until(lambda: place.files.size("stdout"), "the script")
    place.process.terminate()
    wait_until(lambda: b"term" in place.files.read("stdout"), "the first TERM")
    place.process.terminate()
    time.sleep(0.3)
    assert place.files.find(Ended) == []
    place.process.send_signal(signal.SIGUSR2)
    assert place.finish() == 137
    assert place.files.ended == Ended(137, "cancel")


def test_a_cancel_before_the_job_came_ends_the_slot(dash_place: HostPlace) -> None:
    wait_until((dash_place.run / "stderr.pipe").exists, "the launcher")
    dash_place.process.terminate()
    assert dash_place.finish() == 143
    assert [failed.reason for failed in dash_place.files.find(Failed)] in (["cancelled"], [])


# ---- What is left running ----


def test_a_background_process_that_keeps_stdout_open_does_not_hold_the_job(place: HostPlace) -> None:
    """Also one in a session and with an environment of its own; and nothing of the job or the launcher is left afterwards."""
    assert place.run_job("sleep 1000 & setsid sleep 1001 & (trap '' TERM HUP; sleep 1002) & env -i sleep 1003 & echo hi") == 0
    assert place.files.read("stdout") == b"hi\n"
    wait_until(lambda: not place.processes(), "everything gone")


def test_ended_is_told_before_the_output_is_drained(place: HostPlace) -> None:
    """A full log does not hide that the script has ended."""
    place.start("echo; sleep 0.3; head -c 60000 /dev/zero; exit 4", max_unread_bytes=65536)
    assert place.files.wait_for(Ended) == Ended(4, "exit")
    assert place.files.size("stdout") == 1  # no room for a whole read; the rest is in the pipe
    assert place.process.poll() is None
    place.files.pay(Credit(1 << 30, 0))
    assert place.finish() == 4
    assert place.files.size("stdout") == 60001


def test_a_process_of_somebody_else_is_never_touched(place: HostPlace) -> None:
    """On a server only what carries the token, is in the script's session, or descends from the script, may be killed."""
    user = UID if os.geteuid() == 0 else None
    other_job = {**os.environ, "CRONIUM_TOKEN": "f" * 32}
    with subprocess.Popen(["sleep", "500"], env=other_job, user=user) as other:
        try:
            place.run_job("(setsid sleep 300 &) ; sleep 301 & echo")
            assert other.poll() is None
        finally:
            other.kill()


def test_without_a_token_it_refuses_to_run_outside_a_container(shells: dict[str, Shell], tmp_path: Path) -> None:
    """There it would take everything that runs for its own job."""
    (tmp_path / "files").mkdir()
    arguments: list[str | Path] = [shells["dash"].program, "-c", launcher_text(), "cronium", tmp_path / "files", tmp_path / "run"]
    done = subprocess.run(arguments, input=b"", timeout=PATIENCE_S, check=False)
    assert done.returncode == 125
    assert (tmp_path / "files/state").read_text().startswith("failed no_place")
    assert not (tmp_path / "run").exists()


# ---- What comes in ----


def test_an_empty_stdin_is_an_orphaned_slot(place: HostPlace) -> None:
    place.send(b"")
    assert place.finish() == 125
    assert place.files.state() == [Failed("no_input", "")]
    wait_until(lambda: not place.processes(), "everything gone")


def test_no_stdin_at_all_is_one_too(shell: Shell) -> None:
    with host_place(shell, stdin=subprocess.DEVNULL) as place:
        assert place.finish() == 125
        assert place.files.state() == [Failed("no_input", "")]


def test_a_first_byte_that_never_comes_ends_it(shell: Shell) -> None:
    with host_place(shell, environment={"CRONIUM_STDIN_WAIT_S": "0.3"}) as place:
        assert place.finish() == 125
        assert place.files.state() == [Failed("no_input", "")]
        wait_until(lambda: not place.processes(), "everything gone")


def test_a_job_that_has_begun_to_come_may_take_its_time(shell: Shell) -> None:
    stream = launch_stream(LaunchSpec(interpreter="bash", script=b"echo hi"))
    with host_place(shell, environment={"CRONIUM_STDIN_WAIT_S": "0.3"}) as place:
        assert place.process.stdin
        place.files.pay(EVERYTHING)
        place.process.stdin.write(stream[:20480])
        place.process.stdin.flush()
        time.sleep(0.8)
        place.send(stream[20480:])
        assert place.finish() == 0


@pytest.mark.parametrize("share", [0.1, 0.5, 1])
def test_a_stream_that_was_cut_starts_nothing(place: HostPlace, share: float) -> None:
    """A supervisor that dies while it writes must not leave half a job running."""
    stream = launch_stream(LaunchSpec(interpreter="bash", script=b"echo started\n" + b"#" * 100_000))
    place.send(stream[: int(stream.rindex(b"complete") * share)])
    assert place.finish() == 125
    assert place.files.state() == [Failed("incomplete", "")]
    assert place.files.size("stdout") == 0


def test_a_missing_interpreter_is_said(shells: dict[str, Shell]) -> None:
    with host_place(shells["busybox"]) as place:
        place.start("echo hi", interpreter="node")
        assert place.finish() == 127
        assert place.files.state() == [Failed("interpreter_missing", "node")]


def test_a_working_directory_is_made_and_used(place: HostPlace) -> None:
    directory = str(place.home / "a b'c")
    assert place.run_job("pwd", working_directory=directory) == 0
    assert place.files.read("stdout").decode() == directory + "\n"


def test_a_working_directory_that_cannot_be_is_said(place: HostPlace) -> None:
    place.start("echo hi", working_directory="/proc/none")
    assert place.finish() == 125
    assert place.files.state() == [Failed("working_directory", "/proc/none")]


# ---- The script's world ----

HARD_VALUES = {
    "QUOTES": "it's \"so\" \\ `id` $(id) $HOME ${x} ''",
    "LINES": "a\nb\n\n'c'\n",
    "BLANKS": "  two  \t ",
    "UNICODE": "ä€😀 \u0081\u0088 \x01\x7f",
    "EMPTY": "",
    "GLOB": "/* ? [a-z] ~ {a,b} !x #y",
    "run": "x",
    "files": "y",
    "IFS": "/x",
    "UID": "7",
    "LONG": "z" * 100_000,
}


def test_the_environment_arrives_as_it_is(place: HostPlace) -> None:
    """Any text, and names that the launcher or its shell use themselves."""
    assert place.run_job("env -0", environment=HARD_VALUES) == 0
    said = dict(line.split("=", 1) for line in place.files.read("stdout").decode().split("\0") if line)
    own = {"UID", "IFS"}  # bash, which is the script here and may be the launcher's shell, keeps these for itself
    assert {name: said.get(name) for name in HARD_VALUES if name not in own} == {
        name: value for name, value in HARD_VALUES.items() if name not in own
    }
    assert said["CRONIUM_EVENTS"] == str(place.files.folder / "events")
    assert said["CRONIUM_DIR"] == str(place.run)
    assert not {"BASH_ENV", "CRONIUM_PUMP", "CRONIUM_SHELL", "CRONIUM_STDIN_WAIT_S", "LC_ALL"} & said.keys()


def test_a_job_s_path_and_loader_settings_do_not_reach_the_launcher(place: HostPlace) -> None:
    environment = {"PATH": "/nowhere", "LD_PRELOAD": "/nowhere.so", "LC_ALL": "xx", "ENV": "/nowhere", "HOME": "/x"}
    assert place.run_job('mkdir x; echo "$PATH"; exit 3', environment=environment) == 3
    assert place.files.read("stdout").decode() == f"{place.run}/helpers:/nowhere\n"


def test_module_paths_keep_what_the_job_set(dash_place: HostPlace) -> None:
    dash_place.run_job('echo "$PYTHONPATH $NODE_PATH $PYTHONUNBUFFERED"', environment={"PYTHONPATH": "/mine"})
    helpers = f"{dash_place.run}/helpers"
    assert dash_place.files.read("stdout").decode() == f"{helpers}:/mine {helpers} 1\n"


def test_the_environment_s_file_is_empty_before_the_script_starts(place: HostPlace) -> None:
    place.run_job(
        'cat "$CRONIUM_DIR/env"; find "$CRONIUM_DIR" -type f -exec grep -l "$K" {} +; grep "$K" /proc/$PPID/environ',
        environment={"K": "s3cret"},
    )
    assert place.files.read("stdout") == b""


def test_the_script_sees_a_clean_slate(place: HostPlace) -> None:
    """No descriptor of ours, nothing on stdin, INT and QUIT not ignored where the tools allow it."""
    place.run_job("echo /proc/self/fd/*; cat; grep SigIgn /proc/self/status")
    fds, ignored = place.files.read("stdout").decode().splitlines()
    assert fds.split() == [f"/proc/self/fd/{fd}" for fd in (0, 1, 2, 3)] or fds.split()[:3] == [
        f"/proc/self/fd/{fd}" for fd in (0, 1, 2)
    ]
    assert not set(fds.split()) & {f"/proc/self/fd/{fd}" for fd in (4, 5, 6, 7, 8, 9)}
    if place.shell.name != "busybox":
        assert int(ignored.split()[1], 16) & 0b110 == 0


def test_the_script_is_run_as_it_is(place: HostPlace) -> None:
    assert place.run_job(b"printf '%s' '\xff\xfe\x81\x88'; exit 0\n\x00garbage") == 0
    assert place.files.read("stdout") == b"\xff\xfe\x81\x88"


# ---- Output ----


def test_a_reopened_stream_loses_nothing(place: HostPlace) -> None:
    """`echo x >/dev/stderr` opens its target anew; were that a file, it would be cut."""
    place.run_job("echo 1 >&2; echo 2 >/dev/stderr; echo 3 | tee /dev/stderr >/dev/null; echo 4 >/proc/self/fd/2; echo 5 >&2")
    assert place.files.read("stderr") == b"1\n2\n3\n4\n5\n"


def test_binary_output_is_exact(place: HostPlace) -> None:
    place.run_job("head -c 300000 /dev/urandom | tee /dev/stderr", max_unread_bytes=1 << 30)
    assert place.files.size("stdout") == 300_000
    assert place.files.read("stdout") == place.files.read("stderr")


def test_a_flood_is_held_at_the_bound_and_comes_out_exact(place: HostPlace) -> None:
    """Nobody reads: the place holds no more than was allowed, and the script waits. Then somebody does: every byte is there."""
    unread, total = 2 * MIB, 96 * MIB
    script = f"yes 0123456789abcdefghijklmnopqrstuvwxyz | head -c {total}"
    place.start(script, max_unread_bytes=unread)
    wait_until(lambda: place.files.size("stdout") > unread - 65536, "the bound")
    time.sleep(0.5)
    assert unread - 65536 < place.files.size("stdout") <= unread
    seen = _read_as_credit_is_given(place, unread)
    assert place.finish() == 0
    place.files.check_drained()
    line = b"0123456789abcdefghijklmnopqrstuvwxyz\n"
    expected = (line * (total // len(line) + 1))[:total]
    assert seen == hashlib.sha256(expected).hexdigest()


def _read_as_credit_is_given(place: HostPlace, unread: int) -> str:
    digest, offset = hashlib.sha256(), 0
    give_up = time.monotonic() + PATIENCE_S
    while time.monotonic() < give_up:
        running = place.process.poll() is None
        data = place.files.read("stdout", offset)
        assert len(data) <= unread
        if not data and not running:
            return digest.hexdigest()
        digest.update(data)
        offset += len(data)
        place.files.pay(Credit(offset, 0))
        for (_, old), (start, _) in pairwise(place.files.segments("stdout")):
            assert start <= offset
            old.unlink()
        time.sleep(0.001)
    raise AssertionError("the flood did not end")


def test_waiting_for_credit_costs_next_to_nothing(shell: Shell) -> None:
    with host_place(shell) as place:
        place.start("yes", max_unread_bytes=65536)
        wait_until(lambda: place.files.size("stdout"), "the bound")
        pump = _pump(place, "stdout")

        def used_s() -> float:
            times = pump.cpu_times()
            return float(times.user + times.system + times.children_user + times.children_system)

        before_s, began_s = used_s(), time.monotonic()
        time.sleep(2)
        assert (used_s() - before_s) / (time.monotonic() - began_s) < 0.10
        place.process.terminate()
        place.files.wait_for(Ended)
        place.files.pay(EVERYTHING)
        assert place.finish() == 143


def _pump(place: HostPlace, stream: str) -> psutil.Process:
    def find() -> psutil.Process | None:
        for child in psutil.Process(place.process.pid).children():
            if "cronium-pump" in child.cmdline() and stream in child.cmdline():
                return child
        return None

    found = wait_until(find, "the pump")
    assert found
    return found


def test_an_unreadable_credit_only_waits(dash_place: HostPlace) -> None:
    credit = dash_place.files.folder / "credit"
    credit.write_bytes(b"")
    dash_place.start("head -c 200000 /dev/zero", max_unread_bytes=65536)
    wait_until(lambda: dash_place.files.size("stdout"), "the first read")
    for garbage in (b"x y\n", b"  00000000000000099999 00000000000000099999\n", b"\0" * 42, b"-1 -1\n"):
        credit.write_bytes(garbage)
        time.sleep(0.15)
        assert dash_place.files.size("stdout") <= 65536
    credit.write_bytes(b"")
    dash_place.files.pay(EVERYTHING)
    assert dash_place.finish() == 0
    assert dash_place.files.size("stdout") == 200_000


def test_a_script_may_spoil_its_own_log_and_nothing_else(place: HostPlace) -> None:
    """It cuts its file, seeks in it, floods `state` with garbage: the job still ends, with what it printed later in place."""
    script = """
        files=${CRONIUM_EVENTS%/events}
        echo one; sleep 0.3; : >"$files/stdout.0"
        printf 'ended 0 exit' >>"$files/state"; head -c 10000 /dev/zero >>"$files/state"; echo >>"$files/state"
        dd if=/dev/zero of="$files/stderr.0" bs=1 count=1 seek=1000000 conv=notrunc 2>/dev/null
        echo two; echo err >&2
    """
    assert place.run_job(script) == 0
    assert place.files.read("stdout") == b"two\n"
    assert place.files.read("stderr").endswith(b"\0err\n")
    assert place.files.ended == Ended(0, "exit")


def test_a_cut_file_does_not_stop_a_held_pump(place: HostPlace) -> None:
    """Credit is an offset in the file as it is; a pump that counted for itself would wait for ever."""

    def held() -> bool:
        return 65536 < place.files.size("stdout") <= 131072

    place.start("head -c 1000000 /dev/zero", max_unread_bytes=131072)
    wait_until(held, "the bound")
    time.sleep(0.3)
    cut = place.files.size("stdout")
    os.truncate(place.files.folder / "stdout.0", 0)
    wait_until(held, "the bound again")
    place.files.pay(EVERYTHING)
    assert place.finish() == 0
    assert place.files.size("stdout") == 1_000_000 - cut


def test_a_lost_pump_is_a_broken_pipe_and_is_said(place: HostPlace) -> None:
    """A job that kills its own log's reader meets what any program does whose reader goes; the other stream is not touched."""
    place.files.pay(EVERYTHING)
    place.start(
        "echo hi; while [ ! -e go ]; do sleep 0.02; done; while echo more; do :; done; echo end >&2",
        working_directory=str(place.home),
    )
    wait_until(lambda: place.files.size("stdout"), "the script")
    pump = _pump(place, "stdout")
    for process in (pump, *pump.children()):
        with contextlib.suppress(psutil.NoSuchProcess):  # it may have been about to look at its file
            process.kill()
    (place.home / "go").touch()
    assert place.finish() == 141
    assert place.files.find(OutputLost) == [OutputLost("stdout", "pump_lost", "-")]


def test_output_beyond_the_file_size_limit_goes_nowhere_and_is_said(shell: Shell) -> None:
    """The script goes on, and its exit code is its own."""
    with host_place(shell, before=("bash", "-c", 'ulimit -f 1024; exec "$@"', "bash")) as place:  # of 1 KiB
        place.files.pay(EVERYTHING)
        place.start(f"head -c {3 * MIB} /dev/zero; echo ok >&2; exit 6")
        assert place.finish() == 6
        assert place.files.size("stdout") <= MIB
        assert [(lost.stream, lost.reason) for lost in place.files.find(OutputLost)] == [("stdout", "file_limit")]
        assert place.files.read("stderr") == b"ok\n"


# ---- Results ----


def test_what_is_left_in_the_output_folder_is_in_results(place: HostPlace) -> None:
    place.run_job('cd "$CRONIUM_OUTPUT_DIR"; echo data >a.txt; mkdir d; echo more >d/.b; ln -s /etc/passwd link')
    [results] = place.files.find(Results)
    assert results == Results(place.files.size("results"))
    with tarfile.open(fileobj=io.BytesIO(place.files.read("results"))) as archive:
        names = sorted(member.name.rstrip("/") for member in archive)
        assert names == [".", "./a.txt", "./d", "./d/.b", "./link"]
        assert archive.getmember("./link").issym()
        found = archive.extractfile("./d/.b")
        assert found
        assert found.read() == b"more\n"


def test_no_results_where_nothing_was_left(dash_place: HostPlace) -> None:
    dash_place.run_job("exit 0")
    assert dash_place.files.find(Results) == []
    assert dash_place.files.size("results") == 0


def test_results_end_at_their_limit(place: HostPlace) -> None:
    place.run_job('head -c 3000000 /dev/zero >"$CRONIUM_OUTPUT_DIR/big"; exit 2', max_results_bytes=MIB)
    [results] = place.files.find(Results)
    assert results.too_large
    assert results.size_bytes == place.files.size("results")
    assert MIB < place.files.size("results") <= MIB + 512
    assert place.files.ended == Ended(2, "exit")


# ---- The text itself ----


def test_the_pump_s_text_is_sound_shell() -> None:
    """It stands in the launcher as one string, where no checker looks; a shell's single quote in it would end it early."""
    found = re.search(r"^pump='\n(.*?)^'\n", launcher_text(), re.DOTALL | re.MULTILINE)
    assert found
    assert "'" not in found[1]
    _shellcheck("--shell=sh", "-", text=found[1])


def test_the_shell_files_pass_shellcheck() -> None:
    folder = Path(__file__).resolve().parents[2] / "worker/cronium/worker"
    files = [folder / "launcher.sh", folder / "helpers/cronium.sh"]
    _shellcheck(*map(str, files))


def _shellcheck(*arguments: str, text: str = "") -> None:
    done = subprocess.run(["shellcheck", *arguments], input=text, text=True, capture_output=True, timeout=PATIENCE_S, check=False)
    assert done.returncode == 0, done.stdout
