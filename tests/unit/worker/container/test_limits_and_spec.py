"""A job within its limits, and as the body of a container: pure, so every corner is looked at here."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from cronium.common.config.model import Container
from cronium.common.job import InvalidJobError, Job, parse_job
from cronium.worker.container.limits import plan, problems_of
from cronium.worker.container.settings import Settings
from cronium.worker.container.spec import Machine, Place, container

MIB = 1024 * 1024


def settings(**section: Any) -> Settings:
    return Settings(Container.model_validate(section), "inst", Path("/state"), 60, 600, 10, 64 * MIB)


def job(**execution: Any) -> Job:
    return parse_job({"id": "j", "execution": {"script": {"type": "bash", "content": "echo secret-in-script"}, **execution}})


def body(execution: dict[str, Any], machine: Machine | None = None, seccomp: str | None = None, **section: Any) -> dict[str, Any]:
    given = settings(**section)
    place = Place("place-1", "j", 2, "host", [{"Type": "bind", "Source": "/a", "Target": "/b"}])
    planned = plan(job(**execution), given)
    return container(planned, place, "sha256:1", "LAUNCHER", 1000, machine or Machine("engine", False), given, seccomp)


def test_a_job_that_names_nothing_gets_the_defaults() -> None:
    """Each from one place, the configuration."""
    planned = plan(job(), settings())
    assert (planned.limits.cpu, planned.limits.memory_bytes, planned.limits.pids) == (0.5, 512 * MIB, 100)
    assert (planned.limits.timeout_s, planned.image, planned.network) == (60, "cronium/runner:bash-alpine", "bridge")


def test_defaults_never_exceed_the_maxima() -> None:
    """A maximum below the default holds for jobs that name nothing too."""
    planned = plan(job(), settings(resources={"max_cpu": 0.1, "max_memory": 32 * MIB, "max_pids": 5, "max_disk": MIB}))
    assert (planned.limits.cpu, planned.limits.memory_bytes, planned.limits.pids, planned.limits.disk_bytes) == (
        0.1,
        32 * MIB,
        5,
        MIB,
    )


def test_asking_for_more_than_allowed_is_refused_with_every_reason_at_once() -> None:
    """With what was asked, what is allowed, and the key that says so."""
    greedy = job(
        resources={"cpuLimit": 9, "memoryLimit": 64 * 1024 * MIB, "diskLimit": 1 << 50, "pidsLimit": 10**6},
        timeout=10**6,
        image="evil",
        network="host",
    )
    problems = {problem.path: problem.message for problem in problems_of(greedy, settings())}
    assert set(problems) == {
        "execution.resources.cpuLimit",
        "execution.resources.memoryLimit",
        "execution.resources.diskLimit",
        "execution.resources.pidsLimit",
        "execution.timeout",
        "execution.image",
        "execution.network",
    }
    assert "at most 2g" in problems["execution.resources.memoryLimit"].lower()
    assert "container.resources.maxMemory" in problems["execution.resources.memoryLimit"]
    with pytest.raises(InvalidJobError):
        plan(greedy, settings())


def test_asking_for_less_than_can_run_is_refused() -> None:
    """A container of 1 MiB would only fail later, and less clearly."""
    assert [problem.path for problem in problems_of(job(resources={"memoryLimit": MIB}), settings())] == [
        "execution.resources.memoryLimit"
    ]


@pytest.mark.parametrize(
    ("image", "allowed"), [("team/a:1", True), ("team/b:1", False), ("cronium/runner:bash-alpine", True), ("TEAM/a:1", False)]
)
def test_images_come_from_the_list_or_the_configuration(image: str, allowed: bool) -> None:
    """Patterns as in file names, letters as written."""
    assert (problems_of(job(image=image), settings(images={"allowed": ["team/a:*"]})) == ()) is allowed


def test_the_host_network_is_never_allowed() -> None:
    """Nor another container's."""
    for network in ("host", "container:abc", "default"):
        assert problems_of(job(network=network), settings())


def test_the_body_locks_the_job_down() -> None:
    """Everything at once, as the engine is told."""
    host = body({"resources": {"memoryLimit": 64 * MIB, "cpuLimit": 0.25, "pidsLimit": 7}})["HostConfig"]
    assert (host["Memory"], host["MemorySwap"]) == (64 * MIB, 64 * MIB)
    assert host["CpuQuota"] * 4 == host["CpuPeriod"]
    assert host["PidsLimit"] == 17
    assert host["CapDrop"] == ["ALL"]
    assert host["Privileged"] is False
    assert host["SecurityOpt"] == ["no-new-privileges:true"]
    assert host["Init"] is True
    assert host["NetworkMode"] == "cronium-inst"
    assert "Binds" not in host
    assert "CapAdd" not in host
    assert {limit["Name"] for limit in host["Ulimits"]} == {"fsize", "nofile", "core"}
    assert "mode=0700,uid=1000,gid=1000" in host["Tmpfs"]["/run/cronium"]


def test_nothing_of_the_job_itself_is_in_the_body() -> None:
    """Promise 6: it is there for everybody who may call `docker inspect`."""
    text = json.dumps(
        body({"environment": {"TOKEN": "secret-in-env"}, "inputData": {"x": "secret-in-input"}, "variables": {"v": "secret-v"}})
    )
    assert "secret" not in text


def test_our_labels_win_over_configured_ones() -> None:
    """By them leftovers are found."""
    labels = body({}, labels={"team": "a"})["Labels"]
    assert labels["team"] == "a"
    assert (labels["cronium.installation"], labels["cronium.place"], labels["cronium.attempt"]) == ("inst", "place-1", "2")


def test_a_read_only_root_has_a_volume_and_a_tmpfs_to_write_to() -> None:
    """The tmpfs counts against the job's memory, so it is smaller."""
    host = body({"resources": {"memoryLimit": 64 * MIB}}, security={"read_only_root_fs": True})["HostConfig"]
    assert host["ReadonlyRootfs"] is True
    assert {"Type": "volume", "Target": "/workspace"} in host["Mounts"]
    assert "size=32m" in host["Tmpfs"]["/tmp"]


def test_quotas_profiles_and_another_init_are_used_where_there_are_any() -> None:
    """What an engine offers differs."""
    made = body({"resources": {"diskLimit": 5 * MIB}}, Machine("tini", True), '{"x":1}')
    assert made["HostConfig"]["StorageOpt"] == {"size": str(5 * MIB)}
    assert 'seccomp={"x":1}' in made["HostConfig"]["SecurityOpt"]
    assert "Init" not in made["HostConfig"]
    assert made["Entrypoint"][:3] == ["tini", "--", "sh"]


def test_without_network_no_name_server_is_set() -> None:
    """It could not be reached."""
    host = body({"network": "none"}, network={"dns_servers": ["192.0.2.1"]})["HostConfig"]
    assert (host["NetworkMode"], host["Dns"]) == ("none", [])
    assert body({}, network={"dns_servers": ["192.0.2.1"]})["HostConfig"]["Dns"] == ["192.0.2.1"]
