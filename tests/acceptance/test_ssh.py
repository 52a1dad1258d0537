"""Jobs on servers through the whole program: real sshds, a network that goes away, processes that are killed."""

from __future__ import annotations

import statistics
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator

import pytest

from peers.netns import Namespace
from peers.ssh_world import USER, Servers
from peers.sshd import Sshd, new_key
from peers.world import Done, World, numbered

LINES = 1000
SLOWLY = f"for i in $(seq 1 {LINES}); do echo line $i; sleep 0.01; done; exit 7"
AWAY_S = 30
UNTIL_TOLD = """
i=0; until [ -e {folder}/stop ]; do i=$((i + 1)); echo line $i; echo $i >{folder}/printed; sleep 0.01; done; exit 7
"""


@pytest.fixture(scope="module")
def servers() -> Iterator[Servers]:
    with Servers(2) as servers:
        yield servers


@pytest.fixture(scope="module")
def world(docker_endpoint: str, servers: Servers) -> Iterator[World]:
    with World(docker_endpoint, environ=servers.environ(), wait_for_images=False) as world:
        yield world
        servers.wait_until_tidy()


def whole(done: Done, lines: int = LINES) -> None:
    """Every line once and in order (promise 3), the exit code right."""
    assert done.stdout == numbered(lines)
    assert done.report["exitCode"] == 7
    assert done.reason == "script_exit"


def printed(servers: Servers) -> int:
    """How many lines the script of `UNTIL_TOLD` has printed."""
    while not (text := (servers.folder / "printed").read_text()):
        pass  # it is being written
    return int(text)


def test_a_job_runs_on_a_server(world: World, servers: Servers) -> None:
    done = world.run("echo hello; echo oh >&2; exit 3", target=servers.target())
    assert (done.stdout, done.stderr, done.report["exitCode"]) == (["hello"], ["oh"], 3)


def test_the_second_job_uses_the_first_ones_connection(world: World, servers: Servers) -> None:
    before = servers.all[1].handshakes()
    for _ in range(5):
        assert world.run("true", target=servers.target(1)).report["status"] == "completed"
    assert servers.all[1].handshakes() - before <= 3  # of the next worker while one cleans up, and one in advance


def test_a_job_on_several_servers_says_which_did_not(world: World, servers: Servers) -> None:
    job = {"metadata": servers.several(0, 1)}
    script = f'echo "on $SSH_CONNECTION"; case "$SSH_CONNECTION" in *" {servers.all[1].port}") exit 5 ;; esac'
    done = world.done(world.submit(script, job=job, target=servers.target()))
    assert done.report["exitCode"] == 5
    outcomes = {one["name"]: one["exitCode"] for one in done.report["details"]["servers"]}
    assert outcomes == {"web-0": 0, "web-1": 5}
    assert "web-1" in done.report["error"]["message"]
    assert {line.server for line in done.lines if line.stream == "stdout"} == {"web-0", "web-1"}


def test_a_retry_runs_only_where_the_job_has_failed(world: World, servers: Servers) -> None:
    once = servers.folder / "once"
    job = {"metadata": servers.several(0, 1)}
    script = f'echo run; case "$SSH_CONNECTION" in *" {servers.all[1].port}") [ -e {once} ] || {{ : >{once}; exit 5; }} ;; esac'
    policy = {"maxAttempts": 2, "backoffType": "fixed", "backoffDelay": 0}
    done = world.done(world.submit(script, job=job, target=servers.target(), retryPolicy=policy))
    assert done.report["status"] == "completed", done.report
    said = [line.server for line in done.lines if line.stream == "stdout"]
    assert sorted(said) == ["web-0", "web-1", "web-1"]
    assert {one["name"]: one["status"] for one in done.report["details"]["servers"]} == dict.fromkeys(
        ("web-0", "web-1"), "completed"
    )


@pytest.mark.timeout(150)
def test_a_job_whose_server_is_away_holds_no_worker(docker_endpoint: str, servers: Servers) -> None:
    environ = servers.environ(CRONIUM_JOBS_MAX_CONCURRENT="1", CRONIUM_WORKERS_SPARE="0")
    with World(docker_endpoint, environ=environ, wait_for_images=False) as world:
        job = world.submit(SLOWLY, target=servers.target())
        world.until_said(job, "line 100")
        servers.all[0].stop()
        deadline_s = time.monotonic() + 60
        while '"job is parked"' not in world.log.read_text():
            assert time.monotonic() < deadline_s, "the job was not parked"
            time.sleep(0.1)
        assert world.run("echo beside", target=servers.target(1)).stdout == ["beside"]
        servers.all[0].start()
        whole(world.done(job))
        servers.wait_until_tidy()


def on_four(world: World, servers: Servers, script: str, timeout_s: int) -> str:
    """A job: `web-0` completes, `web-1` fails, `web-2` runs this and is gone, a fourth lets nobody in. It is parked then."""
    ports = [server.port for server in servers.all]
    whole = f"""
        echo run >>{servers.folder}/runs
        case "$SSH_CONNECTION" in
            *" {ports[0]}") printf 'no newline'; echo kept >$CRONIUM_OUTPUT_DIR/file ;;
            *" {ports[1]}") exit 5 ;;
            *) echo waiting; {script} ;;
        esac"""
    metadata = servers.several(0, 1, 2)
    metadata["servers"].append(servers.all[0].server_details(name="locked", privateKey=new_key()))
    job = world.submit(whole, job={"metadata": metadata}, target=servers.target(), timeout=timeout_s)
    world.until_said(job, "waiting")
    servers.all[2].stop()
    deadline_s = time.monotonic() + 60
    while '"job is parked"' not in world.log.read_text():
        assert time.monotonic() < deadline_s, "the job was not parked"
        time.sleep(0.1)
    return job


def ends(done: Done) -> dict[str, tuple[int | None, str | None]]:
    """Exit code and reason on each server."""
    servers = done.report["details"]["servers"]
    return {one["name"]: (one["exitCode"], one.get("error", {}).get("reason")) for one in servers}


@pytest.mark.timeout(150)
def test_a_server_that_never_comes_back_takes_nothing_of_the_others_with_it(docker_endpoint: str) -> None:
    """Each server's own end is reported, and what it gave back."""
    with (
        Servers(3) as servers,
        World(docker_endpoint, environ=servers.environ(CRONIUM_SSH_UNREACHABLE_AFTER="1s"), wait_for_images=False) as world,
    ):
        done = world.done(on_four(world, servers, "sleep 60", timeout_s=6))
        assert ends(done) == {
            "web-0": (0, None),
            "web-1": (5, "script_exit"),
            "web-2": (None, "unreachable"),
            "locked": (None, "auth_failed"),
        }
        assert (done.report["status"], done.report["exitCode"]) == ("failed", 5)
        assert all(f"{name}: " in done.report["error"]["message"] for name in ("web-1", "web-2", "locked"))
        assert [file["path"] for file in done.report["artifacts"]["files"]] == ["web-0/file"]
        assert done.stdout.count("no newline") == 1
        servers.all[2].start()
        for number in range(3):  # what is left is removed on contact
            world.run("true", target=servers.target(number))
        servers.wait_until_tidy()


@pytest.mark.timeout(150)
def test_a_job_goes_on_only_where_it_is_not_over(docker_endpoint: str) -> None:
    """Parked, started again with the whole program: what is over is not gone to again, and reported in the end."""
    with (
        Servers(3) as servers,
        World(docker_endpoint, environ=servers.environ(), wait_for_images=False) as world,
    ):
        job = on_four(world, servers, f"while [ ! -e {servers.folder}/go ]; do sleep 0.1; done", timeout_s=100)
        world.kill()
        refused = sum("locked" in line or "Failed publickey" in line for line in servers.all[0].log_lines())
        servers.all[2].start()
        (servers.folder / "go").touch()
        world.start()
        done = world.done(job)
        assert ends(done) == {
            "web-0": (0, None),
            "web-1": (5, "script_exit"),
            "web-2": (0, None),
            "locked": (None, "auth_failed"),
        }
        assert [file["path"] for file in done.report["artifacts"]["files"]] == ["web-0/file"]
        assert done.stdout.count("no newline") == 1
        assert (servers.folder / "runs").read_text() == "run\n" * 3
        assert sum("locked" in line or "Failed publickey" in line for line in servers.all[0].log_lines()) == refused
        servers.wait_until_tidy()


@pytest.mark.timeout(180)
def test_a_job_on_a_server_that_stays_away_ends_after_its_deadline(docker_endpoint: str) -> None:
    """At the deadline plus `ssh.unreachableAfter`; what is left there is cleaned when the server is back."""
    environ = {"CRONIUM_SSH_UNREACHABLE_AFTER": "4s", "CRONIUM_SSH_CIRCUIT_BREAKER_RECOVERY_TIMEOUT": "2s"}
    with (
        Servers(1) as servers,
        World(docker_endpoint, environ=servers.environ(**environ), wait_for_images=False) as world,
    ):
        job = world.submit("echo on; sleep 100", target=servers.target(), timeout=6)
        world.until_said(job, "on")
        servers.all[0].stop()
        done = world.done(job, timeout_s=60)
        assert (done.report["error"]["type"], done.reason, done.job["attempts"]) == ("ssh", "unreachable", 1), done.report
        assert 6 + 4 - 1 < done.took_s < 3 * (6 + 4)
        assert servers.places(), "nobody could get there"
        servers.all[0].start()
        servers.wait_until_tidy()


def test_a_job_whose_server_was_never_there_ends_after_unreachable_after(docker_endpoint: str) -> None:
    """Tried several times meanwhile, between which its server is left alone."""
    environ = {
        "CRONIUM_SSH_UNREACHABLE_AFTER": "10s",
        "CRONIUM_SSH_CIRCUIT_BREAKER_FAILURE_THRESHOLD": "2",
        "CRONIUM_SSH_CIRCUIT_BREAKER_RECOVERY_TIMEOUT": "1s",
    }
    with Servers(1) as servers, World(docker_endpoint, environ=servers.environ(**environ), wait_for_images=False) as world:
        servers.all[0].stop()
        began_s = time.monotonic()
        done = world.done(world.submit("true", target=servers.target()), timeout_s=60)
        assert (done.report["error"]["type"], done.reason) == ("ssh", "unreachable"), done.report
        assert 9 < time.monotonic() - began_s < 18, "put off by its tries"
        servers.all[0].start()


@pytest.mark.timeout(180)
def test_a_network_that_is_gone_for_half_a_minute_costs_nothing(docker_endpoint: str) -> None:
    """Promise 5. The script goes on there; a worker is not held for it. What it prints later is read on as it comes."""
    with (
        Namespace() as network,
        Servers(given=[Sshd(address=network.address, prefix=network.prefix)]) as servers,
        World(docker_endpoint, environ=servers.environ(), wait_for_images=False) as world,
    ):
        job = world.submit(UNTIL_TOLD.format(folder=servers.folder), target=servers.target(), timeout=150)
        world.until_said(job, "line 100")
        network.down()
        before = printed(servers)
        time.sleep(AWAY_S)
        meanwhile = printed(servers)
        assert meanwhile > 5 * before, "the script goes on"
        network.up()
        world.until_said(job, f"line {meanwhile + 100}")
        (servers.folder / "stop").touch()  # not before: the job has not ended, it was read on live
        whole(world.done(job, timeout_s=100), printed(servers))
        servers.wait_until_tidy()


def test_killed_sessions_cost_nothing(world: World, servers: Servers) -> None:
    job = world.submit(SLOWLY, target=servers.target())
    for number in (100, 300, 500):
        world.until_said(job, f"line {number}")
        assert servers.all[0].kill_sessions()
    whole(world.done(job))


def test_killed_workers_cost_nothing(world: World, servers: Servers) -> None:
    job = world.submit(SLOWLY, target=servers.target())
    for number in (100, 300):
        world.until_said(job, f"line {number}")
        working = [worker for worker in world.roles("worker") if "ssh" in worker.cmdline()[0]]
        assert working, "its worker says by its title that it has a job on a server"
        for worker in working:
            worker.kill()
    done = world.done(job)
    whole(done)
    assert done.job["attempts"] == 1


def test_everything_killed_and_started_again_costs_nothing(world: World, servers: Servers) -> None:
    job = world.submit(SLOWLY, target=servers.target())
    world.until_said(job, "line 100")
    world.kill()
    time.sleep(1)
    world.start()
    whole(world.done(job))


@pytest.mark.timeout(200)
def test_fifty_jobs_to_ten_servers_keep_the_limit_of_connections(docker_endpoint: str) -> None:
    """Counted where it matters: at each sshd."""
    environ = {"CRONIUM_SSH_CONNECTION_POOL_MAX_PER_SERVER": "3", "CRONIUM_JOBS_MAX_CONCURRENT": "20"}
    with (
        Servers(10) as servers,
        World(docker_endpoint, environ=servers.environ(**environ), wait_for_images=False) as world,
    ):
        watch = _Watch(servers)
        jobs = [world.submit(f"echo {n}; sleep 0.5; echo end", target=servers.target(n % 10)) for n in range(50)]
        for number, job in enumerate(jobs):
            done = world.done(job)
            assert done.stdout == [str(number), "end"]
        most = watch.end()
        shaken = [server.handshakes() for server in servers.all]
        print(f"most connections at once: {max(most.values())}; handshakes: {sum(shaken)} for 50 jobs, {shaken}")
        assert max(most.values()) <= 3
        assert sum(shaken) < len(jobs)  # 30 would be three each; unused ones are closed where others stand in the way
        servers.wait_until_tidy()


@pytest.mark.timeout(200)
def test_one_dead_server_of_five_does_not_slow_the_others(docker_endpoint: str) -> None:
    """Its breaker opens, its jobs wait, and run when it is back."""
    environ = {"CRONIUM_SSH_CIRCUIT_BREAKER_FAILURE_THRESHOLD": "3", "CRONIUM_SSH_CIRCUIT_BREAKER_RECOVERY_TIMEOUT": "5s"}
    with (
        Servers(5) as servers,
        World(docker_endpoint, environ=servers.environ(**environ), wait_for_images=False) as world,
    ):
        well = _median_s(world, servers, (0, 1, 2, 3))
        servers.all[4].stop()
        waiting = [world.submit("echo back", target=servers.target(4)) for _ in range(4)]
        deadline_s = time.monotonic() + 30
        while '"server is left alone"' not in world.log.read_text():
            assert time.monotonic() < deadline_s, "the breaker did not open"
            time.sleep(0.1)
        beside = _median_s(world, servers, (0, 1, 2, 3))
        print(f"median of the four: {well * 1000:.0f} ms, {beside * 1000:.0f} ms beside a dead one")
        assert beside < 3 * well + 0.2
        servers.all[4].start()
        for job in waiting:
            assert world.done(job).stdout == ["back"]
        servers.wait_until_tidy()


@pytest.mark.timeout(200)
def test_one_of_five_that_swallows_what_is_sent_to_it_does_not_slow_the_others(docker_endpoint: str) -> None:
    """Each login there hangs for connectTimeout; until its breaker opens, it does not get every worker."""
    environ = {
        "CRONIUM_SSH_CIRCUIT_BREAKER_FAILURE_THRESHOLD": "3",
        "CRONIUM_SSH_CIRCUIT_BREAKER_RECOVERY_TIMEOUT": "3s",
        "CRONIUM_SSH_CONNECTION_POOL_CONNECT_TIMEOUT": "6s",
    }
    with (
        Namespace() as network,
        Servers(given=[*(Sshd(user=USER) for _ in range(4)), Sshd(address=network.address, prefix=network.prefix)]) as servers,
        World(docker_endpoint, environ=servers.environ(**environ), wait_for_images=False) as world,
    ):
        _median_at_once_s(world, servers, (0, 1, 2, 3))
        well = _median_at_once_s(world, servers, (0, 1, 2, 3))
        network.swallow()
        waiting = [world.submit("echo back", target=servers.target(4)) for _ in range(8)]
        _until(lambda: any(network.address in line for line in _audited(world)), "a worker is on its way to it")
        beside = _median_at_once_s(world, servers, (0, 1, 2, 3))
        print(f"median of the four: {well * 1000:.0f} ms, {beside * 1000:.0f} ms beside one that swallows")
        assert beside < 3 * well + 0.2
        assert '"server is left alone"' not in world.log.read_text(), "measured too late"
        _until(lambda: '"server is left alone"' in world.log.read_text(), "its breaker opens")
        network.up()
        for job in waiting:
            assert world.done(job, timeout_s=60).stdout == ["back"]
        servers.wait_until_tidy()


class _Watch(threading.Thread):
    """Counts each server's connections whenever its sshd has logged something: so whenever one has come."""

    def __init__(self, servers: Servers) -> None:
        super().__init__(daemon=True)
        self._servers = servers
        self._over = threading.Event()
        self._most: Counter[int] = Counter()
        self.start()

    def run(self) -> None:
        logged: dict[int, int] = {}
        while not self._over.wait(0.002):
            for number, server in enumerate(self._servers.all):
                size = server.log.stat().st_size
                if size != logged.get(number):
                    logged[number] = size
                    self._most[number] = max(self._most[number], server.connections())

    def end(self) -> Counter[int]:
        self._over.set()
        self.join(10)
        return self._most


def _median_s(world: World, servers: Servers, numbers: tuple[int, ...]) -> float:
    times = []
    for _ in range(3):
        for number in numbers:
            started_s = time.monotonic()
            world.backend.wait(world.submit("echo hi", target=servers.target(number)), 60)
            times.append(time.monotonic() - started_s)
    return statistics.median(times)


def _median_at_once_s(world: World, servers: Servers, numbers: tuple[int, ...]) -> float:
    """Of jobs that all come at the same time."""
    started_s = time.monotonic()
    jobs = [world.submit("echo hi", target=servers.target(number)) for number in numbers]
    times = []
    for job in jobs:
        world.backend.wait(job, 60)
        times.append(time.monotonic() - started_s)
    return statistics.median(times)


def _audited(world: World) -> list[str]:
    return [line for path in (world.state / "audit").glob("*.jsonl") for line in path.read_text().splitlines()]


def _until(so: Callable[[], bool], what: str) -> None:
    deadline_s = time.monotonic() + 60
    while not so():
        assert time.monotonic() < deadline_s, f"not in time: {what}"
        time.sleep(0.05)
