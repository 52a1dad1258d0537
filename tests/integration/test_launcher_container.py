"""The launcher where it is at home: in locked-down containers of a real engine, with all of their limits."""

import time

import pytest
from docker import DockerClient

from cronium.common.job import ScriptType
from cronium.worker.launcher import Ended, OutputLost, Results, Started, Usage

from .launcher_place import EVERYTHING, container_place, wait_until

MIB = 1024 * 1024


@pytest.fixture(scope="module")
def image(runner_images: dict[ScriptType, str]) -> str:
    return runner_images[ScriptType.BASH]


def test_a_job_in_a_container(docker_client: DockerClient, image: str) -> None:
    """Exit code, both streams, results and usage; nobody's leave is asked to kill what it left running there."""
    with container_place(docker_client, image) as place:
        place.files.pay(EVERYTHING)
        place.start(
            "echo out; echo err >/dev/stderr; echo data >$CRONIUM_OUTPUT_DIR/f; echo $CRONIUM_OUTPUT_DIR;"
            "(setsid env -i sleep 500 &); exit 3"
        )
        assert place.finish() == 3
        place.files.check_drained()
        assert place.files.read("stdout") == b"out\n/workspace/cronium-output\n"
        assert place.files.read("stderr") == b"err\n"
        assert place.files.ended == Ended(3, "exit")
        assert place.files.find(Results)
        [usage] = place.files.find(Usage)
        assert usage.peak_memory_bytes is None or usage.peak_memory_bytes > 100_000
        assert usage.cpu_usec
        assert (usage.rx_bytes, usage.tx_bytes) == (0, 0)


def test_the_script_cannot_read_its_log_files(docker_client: DockerClient, image: str) -> None:
    with container_place(docker_client, image) as place:
        place.files.pay(EVERYTHING)
        place.start("cat /cronium/stdout /cronium/state /cronium/events || echo no; echo x >/cronium/credit || echo neither")
        assert place.finish() == 0
        assert place.files.read("stdout") == b"no\nneither\n"


def test_a_stopped_container_is_a_cancelled_job(docker_client: DockerClient, image: str) -> None:
    with container_place(docker_client, image) as place:
        place.files.pay(EVERYTHING)
        place.start("trap 'echo bye; exit 9' TERM; echo up; sleep 500 & wait")
        wait_until(lambda: place.files.size("stdout"), "the script")
        place.container.kill("SIGTERM")
        assert place.finish() == 9
        assert place.files.ended == Ended(9, "cancel")
        assert place.files.read("stdout") == b"up\nbye\n"


def test_a_reader_that_came_by_exec_is_spared(docker_client: DockerClient, image: str) -> None:
    """Where the host cannot see the files, they are read that way: it must outlive the script."""
    with container_place(docker_client, image) as place:
        place.start("sleep 500 & echo; sleep 0.5; head -c 60000 /dev/zero", max_unread_bytes=65536)
        place.files.wait_for(Started)
        reader = docker_client.api.exec_create(place.container.id, ["sh", "-c", "while :; do sleep 0.05; done; echo"])["Id"]
        docker_client.api.exec_start(reader, detach=True)
        place.files.wait_for(Ended)
        time.sleep(0.5)
        assert docker_client.api.exec_inspect(reader)["Running"]
        left = place.execute("for p in /proc/[0-9]*; do tr '\\0' ' ' <$p/cmdline | cut -c1-40; echo; done")
        assert "sleep 500" not in left
        place.files.pay(EVERYTHING)
        assert place.finish() == 0


def test_no_byte_is_lost_while_a_script_prints_at_its_process_limit(docker_client: DockerClient, image: str) -> None:
    """It takes every pid that comes free and never stops trying; then the credit stops, then both go on."""
    script = """
        (exec >/dev/null 2>&1; sh -c 'while :; do sleep 0.3 & done'; while :; do sh -c 'while :; do sleep 0.2 & done'; done) &
        i=0
        while [ $i -lt 60000 ]; do echo "line $i 0123456789012345678901234567890123456789"; i=$((i + 1)); done
        echo done >&2
    """
    with container_place(docker_client, image, pids=24) as place:
        place.start(script, max_unread_bytes=MIB, deadline_s=50)
        wait_until(lambda: place.files.size("stdout") > MIB - 65536, "the bound")
        time.sleep(1)
        assert place.files.size("stdout") <= MIB
        place.files.pay(EVERYTHING)
        place.finish()
        expected = b"".join(b"line %d 0123456789012345678901234567890123456789\n" % i for i in range(60000))
        assert place.files.read("stdout") == expected, place.files.state()
        assert place.files.ended == Ended(0, "exit")
        assert place.files.find(OutputLost) == []
        [usage] = place.files.find(Usage)
        assert usage.pids_hits


def test_a_script_that_holds_every_pid_still_prints(docker_client: DockerClient, image: str) -> None:
    """It forks until nothing more goes, and only then begins to print."""
    script = """
        sh -c 'trap "exec sleep 1000" EXIT; while :; do sleep 1000 & done' 2>/dev/null &
        SECONDS=0; while [ $SECONDS -lt 2 ]; do :; done
        for i in 1 2 3 4 5 6 7 8; do printf '%200000d' $i; done
        echo end >&2
    """
    with container_place(docker_client, image, pids=24) as place:
        place.start(script, max_unread_bytes=MIB)
        wait_until(lambda: place.files.size("stdout") > MIB - 65536, "the bound")
        place.files.pay(EVERYTHING)
        assert place.finish() == 0, place.files.state()
        assert place.files.read("stdout") == b"".join(b"%200000d" % i for i in range(1, 9))
        assert place.files.read("stderr") == b"end\n"
        [usage] = place.files.find(Usage)
        assert usage.pids_hits


def test_a_full_disk_holds_the_script_and_nothing_is_lost(docker_client: DockerClient, image: str) -> None:
    """It waits, which is told once; all that it printed is there when there is room again, and its exit code is its own."""
    small = {"/small": "rw,uid=1000,gid=1000,size=4m"}
    # The place's files are in the container this time, stdout on a small file system: what is in them is read by exec.
    text = (
        "set -- /run/cronium/files /run/cronium/run; mkdir $1; >$1/state; >$1/events; >$1/results; >$1/stderr; >/small/stdout;"
        "ln -s /small/stdout $1/stdout; printf '%20d %20d\\n' 99999999 99999999 >$1/credit;"
        "head -c 3500000 /dev/zero >/small/filler"
    )
    with container_place(docker_client, image, text=text, tmpfs=small) as place:
        place.start("seq 100000; until [ -e /small/end ]; do sleep 0.1; done; exit 4")
        wait_until(lambda: "output_waits stdout disk_full\n" in place.execute("cat /run/cronium/files/state"), "the full disk")
        place.execute("cat /dev/zero >>/small/filler; rm /small/filler")
        wait_until(lambda: place.execute("tail -c 7 /small/stdout") == "100000\n", "the rest")
        assert place.execute("seq 100000 | cmp - /small/stdout && echo same") == "same\n"
        assert place.execute("grep -c output_ /run/cronium/files/state") == "1\n"
        place.execute("touch /small/end")
        assert place.finish() == 4
