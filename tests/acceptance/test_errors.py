"""How jobs end: each reason as the backend sees it, retries, and what a script gives back."""

from __future__ import annotations

import base64
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest

from peers.world import World

MIB = 1024 * 1024
ERROR_TYPES = {"validation", "docker", "ssh", "api", "timeout", "resource", "script"}
NO_IMAGE = "cronium-test/not-there:1"
BASH_IMAGE = "cronium/runner:bash-debian"
ENDLESS = "echo on; while :; do sleep 0.1; done"


@dataclass(frozen=True)
class Case:
    """A job that does not complete, and how it is told. `act`: what is done to it once it has said 'on'."""

    script: str
    reason: str
    kind: str = "bash"
    status: str = "failed"
    type: str = "script"
    code: int | None = None
    retryable: bool = True
    ran: bool = True
    hint: str = ""
    details: Mapping[str, object] = field(default_factory=dict)
    execution: Mapping[str, Any] = field(default_factory=dict)
    act: Callable[[World, str], None] | None = None


def cancel(world: World, job: str) -> None:
    world.backend.cancel(job)


def remove_container(world: World, job: str) -> None:
    (found,) = [one for one in world.containers() if one["Labels"]["cronium.job"] == job]
    world.docker.remove_container(found["Id"], force=True)


CASES = {
    "script_exit": Case("echo on; exit 7", "script_exit", code=7, hint="see its output", details={"exit_code": 7}),
    "command not found": Case("nonesuch_command", "script_exit", code=127, hint="not found"),
    "signal": Case("kill -SEGV $$", "signal", code=139, hint="SIGSEGV"),
    "oom": Case(
        "x=$(head -c 200000000 /dev/zero | tr '\\0' x); echo ${#x}",
        "oom",
        type="resource",
        hint="memoryLimit",
        details={"memory_limit_bytes": 32 * MIB},
        execution={"resources": {"memoryLimit": 32 * MIB}},
    ),
    "timeout": Case(
        "echo on; sleep 100",
        "timeout",
        status="timeout",
        type="timeout",
        code=143,
        hint="execution.timeout",
        execution={"timeout": 1},
    ),
    "cancelled": Case(
        "trap 'exit 9' TERM; " + ENDLESS, "cancelled", status="cancelled", code=9, retryable=False, act=cancel, hint="cancelled"
    ),
    "pids": Case(
        "exec sh -c 'for i in 1 2 3 4 5 6 7 8 9 10 11 12; do sleep 20 & done; wait'",
        "pids",
        type="resource",
        hint="pidsLimit",
        execution={"resources": {"pidsLimit": 10}},
    ),
    "disk_full": Case(
        "head -c 60M /dev/zero >big; echo on; sleep 60",
        "disk_full",
        type="resource",
        hint="diskLimit",
        execution={"resources": {"diskLimit": 16 * MIB}},
    ),
    "output_lost": Case(
        "for p in /proc/[0-9]*; do grep -qs cronium-pump $p/cmdline && kill -9 ${p#/proc/}; done; sleep 9",
        "output_lost",
        type="resource",
    ),
    "kills all it sees": Case(
        "echo on; kill -9 -1; sleep 9", "place_vanished", type="resource", code=137, hint="ends all processes"
    ),
    "place_vanished": Case(ENDLESS, "place_vanished", type="resource", act=remove_container, hint="look who"),
    "image_missing": Case(
        "echo on", "image_missing", type="docker", retryable=False, ran=False, hint="docker pull", execution={"image": NO_IMAGE}
    ),
    "interpreter_missing": Case(
        "print('on')",
        "interpreter_missing",
        "python",
        code=127,
        retryable=False,
        ran=False,
        hint="choose an image",
        execution={"image": BASH_IMAGE},
    ),
    "server": Case(
        "echo on",
        "invalid_job",
        type="validation",
        retryable=False,
        ran=False,
        hint="username",
        execution={
            "target": {"type": "server", "serverId": "7", "serverDetails": {"id": "7", "name": "web-1", "host": "10.0.0.7"}}
        },
    ),
    "above the maxima": Case(
        "echo on",
        "invalid_job",
        type="validation",
        retryable=False,
        ran=False,
        hint="maxMemory",
        execution={"resources": {"memoryLimit": 1 << 50, "cpuLimit": 99, "pidsLimit": 10**7}, "network": "host", "image": "evil"},
    ),
}


@pytest.fixture(scope="module")
def world(docker_endpoint: str, runner_images: object) -> Iterator[World]:
    environ = {
        "CRONIUM_CONTAINER_IMAGES_ALLOWED": f"{NO_IMAGE},{BASH_IMAGE}",
        "CRONIUM_CONTAINER_IMAGES_PULL_POLICY": "never",
        "CRONIUM_JOBS_CANCEL_GRACE": "1s",
    }
    with World(docker_endpoint, environ=environ) as world:
        yield world


@pytest.fixture(scope="module")
def jobs(world: World) -> Iterator[dict[str, str]]:
    """All submitted at once: they run side by side. Those whose own test did not run are cancelled in the end."""
    submitted = {name: world.submit(case.script, case.kind, **case.execution) for name, case in CASES.items()}
    yield submitted
    for job in submitted.values():
        if world.backend.job(job)["endedAt"] is None:
            world.backend.cancel(job)


@pytest.mark.parametrize("name", CASES)
def test_each_end_is_told_with_its_reason(world: World, jobs: dict[str, str], name: str) -> None:
    """One terminal report with type, message, next step, retryable, reason; resource usage wherever it ran."""
    case, job = CASES[name], jobs[name]
    if case.act is not None:
        world.until_said(job, "on")
        case.act(world, job)
    done = world.done(job)
    error = done.report["error"]
    assert (done.job["status"], done.reason, error["type"]) == (case.status, case.reason, case.type), error
    assert error["type"] in ERROR_TYPES
    assert error["retryable"] is case.retryable
    assert case.hint in error["message"]
    assert len(error["message"]) > 20
    if case.code is not None:
        assert done.job["exitCode"] == case.code
    for key, value in case.details.items():
        assert error["details"][key] == value
    assert done.report["metrics"]["duration"] >= 0
    if case.ran and case.reason not in {"place_vanished", "disk_full"}:  # killed from outside: its launcher could not say
        assert set(done.report["metrics"]["resourceUsage"]) == {"peakCpu", "peakMemory", "networkRx", "networkTx"}
        assert done.report["metrics"]["resourceUsage"]["peakMemory"] > 100_000


def test_every_reason_is_named_at_once(world: World, jobs: dict[str, str]) -> None:
    """A job above its maxima hears of all of them in one go."""
    problems = world.done(jobs["above the maxima"]).report["error"]["details"]["problems"]
    for part in ("memoryLimit", "cpuLimit", "pidsLimit", "execution.network", "execution.image"):
        assert any(part in problem for problem in problems), problems


def test_a_job_that_is_none_is_refused_with_every_reason(world: World) -> None:
    """Not well-formed: still one terminal report, and nobody waits for it."""
    job = world.backend.submit(
        {
            "execution": {
                "script": {"type": "cobol", "content": 3, "workingDirectory": "relative"},
                "environment": {"A-B": "1"},
                "timeout": -1,
                "retryPolicy": {"maxAttempts": 0},
            }
        },
        check=False,
    ).id
    done = world.done(job)
    error = done.report["error"]
    assert (done.job["status"], done.reason, error["type"], error["retryable"]) == ("failed", "invalid_job", "validation", False)
    for part in ("script.type", "script.content", "timeout", "maxAttempts"):
        assert any(part in problem for problem in error["details"]["problems"]), error


def test_the_backend_sees_the_statuses(world: World) -> None:
    """acknowledged, preparing, running: by HTTP, in order; the usage of one that completed."""
    seen = []
    job = world.submit("echo on; sleep 1; cronium_progress 40 'nearly half'; sleep 3")
    deadline = time.monotonic() + 60
    while (now := world.backend.job(job))["endedAt"] is None:
        assert time.monotonic() < deadline
        if now["status"] not in seen:
            seen.append(now["status"])
        if "progress" in now["details"]:
            assert now["details"]["progress"]["percentage"] == 40
            seen.append("progress")
        time.sleep(0.05)
    order = ["queued", "claimed", "acknowledged", "preparing", "running"]
    assert [status for status in seen if status in order] == [status for status in order if status in seen]
    assert {"running", "progress"} <= set(seen)
    done = world.done(job)
    assert done.report["metrics"]["duration"] > 3500
    assert done.report["metrics"]["resourceUsage"]["peakMemory"] > 100_000
    assert done.report.get("error") is None


def test_a_failed_attempt_is_followed_by_another_and_numbers_go_on(world: World) -> None:
    """The job's own policy; one terminal report, with the number of the attempt that it is about."""
    script = 'echo "attempt $(cronium_event attempt)"; [ "$(cronium_event attempt)" = {} ]'
    policy = {"maxAttempts": 2, "backoffType": "fixed", "backoffDelay": 0.2}
    mended = world.submit(script.format(2), retryPolicy=policy)
    hopeless = world.submit(script.format(9), retryPolicy=policy)
    final = world.submit("echo x", retryPolicy=policy, image=NO_IMAGE)
    for job, status, attempts in ((mended, "completed", 2), (hopeless, "failed", 2), (final, "failed", 1)):
        done = world.done(job)
        assert (done.job["status"], done.report["attempt"]) == (status, attempts)
        if attempts == 2:
            assert done.stdout == ["attempt 1", "attempt 2"]


RESULTS = {
    "bash": """
        cronium_progress 50 half
        cronium_output '{"seen": '"$(cronium_input n)"'}'
        cronium_set_variable count 2
        cronium_set_variable text "a \\"b\\" ä"
        cronium_set_condition true
        echo "$(cronium_get_variable given) $(cronium_get_variable count)"
        mkdir -p "$CRONIUM_OUTPUT_DIR/sub"; cd "$CRONIUM_OUTPUT_DIR"
        printf 'a\\0b' >sub/data.bin; ln -s /etc/passwd link
    """,
    "python": """
import cronium, os
cronium.progress(50, "half")
cronium.output({"seen": cronium.input()["n"]})
cronium.set_variable("count", 2)
cronium.setVariable("text", 'a "b" ä')
cronium.setCondition(True)
print(cronium.get_variable("given"), cronium.getVariable("count"))
folder = os.environ["CRONIUM_OUTPUT_DIR"]
os.mkdir(folder + "/sub")
open(folder + "/sub/data.bin", "wb").write(b"a\\0b")
os.symlink("/etc/passwd", folder + "/link")
""",
    "node": """
const cronium = require('cronium'), fs = require('fs');
cronium.progress(50, 'half');
cronium.output({ seen: cronium.input().n });
cronium.setVariable('count', 2);
cronium.setVariable('text', 'a "b" ä');
cronium.setCondition(true);
console.log(cronium.getVariable('given') + ' ' + cronium.getVariable('count'));
const folder = process.env.CRONIUM_OUTPUT_DIR;
fs.mkdirSync(folder + '/sub');
fs.writeFileSync(folder + '/sub/data.bin', Buffer.from('a\\0b'));
fs.symlinkSync('/etc/passwd', folder + '/link');
""",
}


@pytest.mark.parametrize("kind", RESULTS)
def test_results_come_back_from_each_language(world: World, kind: str) -> None:
    """output(), variables, condition, files, with no network at all; no symlink gets out."""
    done = world.run(RESULTS[kind], kind, inputData={"n": 7}, variables={"given": "g"})
    assert done.job["status"] == "completed", (done.report, done.stderr)
    report = done.report
    assert done.stdout == ["g 2"]
    assert report["scriptOutput"] == {"seen": 7}
    assert report["condition"] is True
    assert report["artifacts"]["variables"] == {"count": 2, "text": 'a "b" ä'}
    (file,) = report["artifacts"]["files"]
    assert (file["name"], file["path"], file["size"]) == ("data.bin", "sub/data.bin", 3)
    assert base64.b64decode(file["content"]) == b"a\0b"


def test_a_job_that_kills_its_workers_is_given_up(docker_endpoint: str, runner_images: object) -> None:
    """worker_lost after maxWorkerDeaths, with one terminal report; its container goes too."""
    with World(docker_endpoint, environ={"CRONIUM_JOBS_MAX_WORKER_DEATHS": "1", "CRONIUM_JOBS_MAX_CONCURRENT": "1"}) as world:
        job = world.submit(ENDLESS)
        world.until_said(job, "on")
        killed: set[int] = set()
        deadline = time.monotonic() + 60
        while len(killed) < 2:
            assert time.monotonic() < deadline
            for worker in world.roles("worker"):
                if worker.pid not in killed and "container" in worker.cmdline()[0]:
                    killed.add(worker.pid)
                    worker.kill()
            time.sleep(0.05)
        done = world.done(job)
        assert (done.job["status"], done.reason) == ("failed", "worker_lost")
        error = done.report["error"]
        assert (error["type"], error["details"]["deaths"]) == ("resource", 2)
        assert "jobs.maxWorkerDeaths" in error["message"]
        assert done.stdout == ["on"]
        assert world.run("echo next").stdout == ["next"]
