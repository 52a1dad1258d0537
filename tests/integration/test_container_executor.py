"""One attempt after the other on a real engine: what a job may use, what it cannot do, and how its end is told."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import docker
import pytest

from cronium.common.errors import Reason
from cronium.worker.executor import Log
from peers.container_world import BASH, ExecutionError, LoopControl, World

MIB = 1024 * 1024


@pytest.fixture
def world(docker_endpoint: str, installation: str, runner_images: object, tmp_path: Path) -> Iterator[World]:
    world = World(docker_endpoint, installation, tmp_path)
    yield world
    world.close()


def test_a_script_runs_and_its_output_exit_code_and_usage_come_back(world: World) -> None:
    """The whole way, once."""
    told = world.run("echo out; echo err >&2; exit 7")
    assert (told.stdout, told.stderr) == (b"out\n", b"err\n")
    assert told.statuses == ["preparing", "running"]
    outcome = told.outcome
    assert (outcome.status, outcome.exit_code, told.reason) == ("failed", 7, "script_exit")
    assert outcome.started_ms <= outcome.ended_ms
    assert outcome.usage.peak_memory_bytes
    assert outcome.usage.peak_cpu_percent is not None
    assert outcome.usage.network_rx_bytes == 0


def test_nothing_is_left_after_cleanup_and_doing_it_again_is_harmless(world: World, docker_client: docker.DockerClient) -> None:
    """Promise 8."""
    attempt = world.attempt(world.job("true"))
    world.follow(attempt)
    assert world.files_of(attempt).is_dir()
    for _ in range(2):
        world.executor.cleanup(attempt.place)
        assert not world.files_of(attempt).exists()
        assert docker_client.containers.list(all=True, filters={"name": attempt.place}) == []
    assert list((world.settings.state_dir / "places").iterdir()) == []


def test_a_job_is_locked_down(world: World) -> None:
    """Non-root, no capabilities, no new privileges, the engine's seccomp profile, pids and memory without swap, init as PID 1."""
    told = world.run(
        """
        id -u; id -g
        grep -E '^(CapEff|CapPrm|CapBnd|NoNewPrivs|Seccomp):' /proc/self/status
        cat /proc/1/comm
        ulimit -c
        cat /proc/self/oom_score_adj
        """,
        resources={"memoryLimit": 64 * MIB, "pidsLimit": 20, "cpuLimit": 0.25},
    )
    lines = told.stdout.decode().split("\n")
    assert lines[:2] == ["1000", "1000"]
    status = dict(line.split(":\t") for line in lines[2:7])
    assert {int(status[name], 16) for name in ("CapEff", "CapPrm", "CapBnd")} == {0}
    assert (status["NoNewPrivs"], status["Seccomp"]) == ("1", "2")
    assert lines[7] in {"docker-init", "tini"}
    assert lines[8:10] == ["0", "500"]


def test_the_engine_is_told_the_limits(world: World, docker_client: docker.DockerClient) -> None:
    """Memory and swap are equal, pids and CPU as asked, and the log driver is bounded."""
    attempt = world.attempt(
        world.job("sleep 0.1", resources={"memoryLimit": 64 * MIB, "pidsLimit": 20, "cpuLimit": 0.25, "diskLimit": 8 * MIB})
    )
    world.follow(attempt)
    shown = docker_client.api.inspect_container(attempt.place)
    host = shown["HostConfig"]
    assert (host["Memory"], host["MemorySwap"]) == (64 * MIB, 64 * MIB)
    assert host["CpuQuota"] / host["CpuPeriod"] == 0.25
    assert host["PidsLimit"] == 30
    assert host["CapDrop"] == ["ALL"]
    assert host["LogConfig"] == {"Type": "local", "Config": {"max-size": "1m", "max-file": "1", "compress": "false"}}
    labels = shown["Config"]["Labels"]
    assert (labels["cronium.job"], labels["cronium.place"], labels["cronium.attempt"]) == (attempt.job.id, attempt.place, "1")


def test_neither_script_nor_secret_shows_in_inspect_or_on_disk(world: World, docker_client: docker.DockerClient) -> None:
    """Promise 6."""
    secret, marker = "s3cr3t-value-of-a-token", "marker-only-in-the-script"
    job = world.job(f"echo started; : {marker}; sleep 30", environment={"TOKEN": secret}, inputData={"x": secret})
    attempt = world.attempt(job)
    updates = world.updates(attempt, LoopControl())
    next(update for update in updates if isinstance(update, Log))
    shown = json.dumps(docker_client.api.inspect_container(attempt.place))
    running = json.dumps(docker_client.api.top(attempt.place, ps_args="-eo pid,args"))
    on_disk = b"".join(file.read_bytes() for file in world.settings.state_dir.rglob("*") if file.is_file())
    updates.close()
    for text in (shown, running, on_disk.decode("utf-8", "replace")):
        assert secret not in text
        assert marker not in text


def test_the_environment_and_input_reach_the_script(world: World) -> None:
    """Values with every odd character."""
    value = "a 'b' \"c\" $HOME `d` \\ \n é"
    script = 'printf "%s|" "$ODD"; cronium_input; cronium_get_variable k; pwd'
    told = world.run(script, environment={"ODD": value}, inputData={"x": [1]}, variables={"k": "v"})
    assert told.stdout.decode().split("|") == [value, '{"x":[1]}\nv\n/workspace\n']


def test_a_job_past_its_deadline_is_terminated_and_may_say_goodbye(world: World) -> None:
    """SIGTERM, grace, status timeout; the trap's output is not lost."""
    told = world.run("trap 'echo bye; exit 5' TERM; echo go; while :; do sleep 0.1; done", timeout=0.5)
    assert told.stdout == b"go\nbye\n"
    assert (told.outcome.status, told.outcome.exit_code, told.reason) == ("timeout", 5, "timeout")


def test_a_job_that_ignores_its_deadline_is_killed_after_the_grace(
    docker_endpoint: str, installation: str, tmp_path: Path
) -> None:
    """SIGKILL comes."""
    world = World(docker_endpoint, installation, tmp_path, jobs={"cancel_grace": 0.5})
    told = world.run("trap '' TERM; echo go; while :; do sleep 0.1; done", timeout=0.5)
    assert (told.outcome.status, told.outcome.exit_code) == ("timeout", 137)


def test_a_cancelled_job_is_terminated(world: World) -> None:
    """The first request is SIGTERM."""
    control = LoopControl()
    attempt = world.attempt(world.job("trap 'echo bye; exit 5' TERM; echo go; while :; do sleep 0.1; done"))
    seen = b""
    for update in world.updates(attempt, control):
        if isinstance(update, Log):
            seen += update.data
            control.cancels = 1
        last = update
    assert b"bye\n" in seen
    assert (last.outcome.status, last.outcome.exit_code) == ("cancelled", 5)  # type: ignore[union-attr]


def test_cancelled_twice_is_killed_at_once(docker_endpoint: str, installation: str, tmp_path: Path) -> None:
    """The second request does not wait for the grace."""
    world = World(docker_endpoint, installation, tmp_path, jobs={"cancel_grace": 600})
    control = LoopControl()
    attempt = world.attempt(world.job("trap '' TERM; echo go; while :; do sleep 0.1; done"))
    last = None
    for update in world.updates(attempt, control):
        if isinstance(update, Log):
            control.cancels += 2
        last = update
    assert last is not None
    assert (last.outcome.status, last.outcome.exit_code) == ("cancelled", 137)  # type: ignore[union-attr]
    world.close()


def test_a_job_cancelled_before_its_start_is_not_started(world: World) -> None:
    """No script runs for a person who has changed their mind."""
    with pytest.raises(ExecutionError) as raised:
        world.run("echo never", LoopControl(cancels=1))
    assert raised.value.reason is Reason.CANCELLED


def test_out_of_memory_is_said_with_the_limit(world: World) -> None:
    """Not 'exit code 137'."""
    told = world.run("x=$(head -c 200000000 /dev/zero | tr '\\0' x); echo ${#x}", resources={"memoryLimit": 32 * MIB})
    assert (told.outcome.status, told.reason) == ("failed", "oom")
    assert told.outcome.error is not None
    assert "32" in told.outcome.error.message
    assert told.outcome.error.details["memory_limit_bytes"] == 32 * MIB


def test_a_fork_bomb_meets_its_limit_and_nothing_is_lost(world: World) -> None:
    """Reason pids; the output before and after is there."""
    told = world.run(
        "echo before; exec dash -c 'for i in $(seq 60); do sleep 60 & done; echo after'", resources={"pidsLimit": 10}
    )
    assert told.stdout.startswith(b"before\n")
    assert (told.outcome.status, told.reason) == ("failed", "pids")


def test_a_signal_is_named(world: World) -> None:
    """The script's own end by a signal."""
    told = world.run("kill -SEGV $$")
    assert (told.outcome.exit_code, told.reason) == (139, "signal")
    assert told.outcome.error is not None
    assert "SIGSEGV" in told.outcome.error.message


def test_a_missing_interpreter_and_a_missing_directory_are_told(world: World) -> None:
    """Another try cannot mend the first."""
    told = world.run("print(1)", kind="python", image=BASH)
    assert (told.outcome.status, told.reason) == ("failed", "interpreter_missing")
    assert told.outcome.error is not None
    assert not told.outcome.error.retryable
    told = world.run("true", script={"workingDirectory": "/nowhere/at/all"})
    assert told.reason == "launch_failed"


def test_more_disk_than_allowed_ends_the_job(world: World) -> None:
    """By looking, where the storage driver has no quota."""
    told = world.run("head -c 60000000 /dev/zero > /workspace/big; sleep 30", resources={"diskLimit": 8 * MIB})
    assert (told.outcome.status, told.reason) == ("failed", "disk_full")


def test_a_read_only_root_leaves_workspace_and_tmp_writable(docker_endpoint: str, installation: str, tmp_path: Path) -> None:
    """And the workspace's volume is gone afterwards (the `installation` fixture looks)."""
    world = World(docker_endpoint, installation, tmp_path, {"security": {"read_only_root_fs": True}})
    told = world.run(
        "echo a > /workspace/a && echo b > /tmp/b && cat /workspace/a /tmp/b; touch /usr/x || echo refused; touch /x || echo no"
    )
    assert told.stdout == b"a\nb\nrefused\nno\n"
    world.close()


def test_results_events_and_variables_come_back(world: World) -> None:
    """Everything that the runtime helpers take."""
    told = world.run(
        """
        cronium_progress 50 half
        cronium_output '{"a": 1}'
        cronium_set_variable k '"v"'
        cronium_set_condition true
        mkdir -p "$CRONIUM_OUTPUT_DIR/sub"
        printf data > "$CRONIUM_OUTPUT_DIR/sub/a.txt"
        ln -s /etc/passwd "$CRONIUM_OUTPUT_DIR/link"
        mkfifo "$CRONIUM_OUTPUT_DIR/pipe"
        """
    )
    results = told.outcome.results
    assert told.progress[-1].percentage == 50
    assert results.script_output == b'{"a":1}'
    assert results.condition is True
    assert json.loads(results.variables or b"{}") == {"k": "v"}
    assert [(file.path, file.mime_type, file.content) for file in results.files] == [("sub/a.txt", "text/plain", b"data")]
    assert any("link" in problem for problem in results.problems)


def test_results_above_the_limit_are_cut_and_told(docker_endpoint: str, installation: str, tmp_path: Path) -> None:
    """No flood of files gets through."""
    world = World(docker_endpoint, installation, tmp_path, {"max_results": 65536})
    told = world.run("head -c 200000 /dev/zero > $CRONIUM_OUTPUT_DIR/big; echo done")
    assert told.outcome.status == "completed"
    assert told.outcome.results.files == ()
    assert any("more than 65536" in problem for problem in told.outcome.results.problems)


def test_a_failed_create_leaves_nothing(docker_endpoint: str, installation: str, tmp_path: Path) -> None:
    """A network that is not there."""
    world = World(docker_endpoint, installation, tmp_path, {"network": {"allowed": ["none", "no-such-network"]}})
    attempt = world.attempt(world.job("true", network="no-such-network"))
    with pytest.raises(ExecutionError) as raised:
        world.follow(attempt)
    assert "docker network create" in raised.value.message
    world.executor.cleanup(attempt.place)
    assert not world.files_of(attempt).exists()


def test_without_network_there_is_none(world: World) -> None:
    """Only the loopback interface."""
    told = world.run("ls /sys/class/net; (exec 3<>/dev/tcp/10.0.0.1/80) 2>/dev/null || echo unreachable")
    assert told.stdout == b"lo\nunreachable\n"


def test_jobs_on_the_bridge_do_not_reach_each_other(
    docker_endpoint: str, installation: str, docker_client: docker.DockerClient, tmp_path: Path
) -> None:
    """Inter-container communication is off, and DNS servers are those of the configuration."""
    world = World(docker_endpoint, installation, tmp_path, {"network": {"dns_servers": ["192.0.2.53"]}})
    script = (
        "hostname -i 2>/dev/null || awk '/32 host LOCAL/ {print f} {f=$2}' /proc/net/fib_trie | grep -v 127 | head -1; sleep 20"
    )
    first = world.attempt(world.job(script, network="bridge"))
    updates = world.updates(first, LoopControl())
    said = next(update for update in updates if isinstance(update, Log))
    address = said.data.decode().split()[0]
    second = world.run(
        f"(timeout 2 bash -c 'exec 3<>/dev/tcp/{address}/80') 2>&1 | grep -q refused && echo reached; echo end",
        network="bridge",
    )
    updates.close()
    assert docker_client.api.inspect_container(first.place)["HostConfig"]["Dns"] == ["192.0.2.53"]
    assert b"reached" not in second.stdout
    assert second.stdout.endswith(b"end\n")
    world.close()
