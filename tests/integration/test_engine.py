"""`bin/engine` with real dockerds: it finds one that answers, makes one of its own, and ends nothing but its own."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import docker
import pytest
from docker import DockerClient

ROOT = Path(__file__).resolve().parent.parent.parent
_TIMEOUT_S = 110


def engine(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    inherited = {name: value for name, value in os.environ.items() if name not in ("DOCKER_HOST", "CRONIUM_DOCKER_HOST")}
    return subprocess.run(
        [ROOT / "bin/engine", *arguments],
        env={**inherited, **environment},
        capture_output=True,
        text=True,
        timeout=_TIMEOUT_S,
        check=False,
    )


@pytest.fixture
def own_dir(tmp_runtime_dir: Path) -> Iterator[Path]:
    yield tmp_runtime_dir
    engine("stop", CRONIUM_ENGINE_DIR=str(tmp_runtime_dir))


def bridges_and_rules() -> str:
    """What a second dockerd could take away from the first."""
    rules = subprocess.run(["iptables-save"], capture_output=True, text=True, timeout=30, check=False).stdout
    names = [path.name for path in sorted(Path("/sys/class/net").iterdir()) if path.name == "docker0"]
    return "\n".join([*names, *sorted(line for line in rules.splitlines() if "docker0" in line)])


def test_the_engine_that_is_named_is_taken(docker_endpoint: str) -> None:
    for name in ("DOCKER_HOST", "CRONIUM_DOCKER_HOST"):
        assert engine(**{name: docker_endpoint}).stdout == f"{docker_endpoint}\n"


def test_a_named_engine_that_does_not_answer_is_told_and_not_replaced(tmp_path: Path) -> None:
    done = engine(DOCKER_HOST=f"unix://{tmp_path}/nothing.sock")
    assert (done.returncode, done.stdout) == (1, "")
    assert "Next: " in done.stderr


def test_an_engine_of_our_own_leaves_the_other_alone(docker_endpoint: str, docker_client: DockerClient, own_dir: Path) -> None:
    # Guards: two dockerds on one machine share neither bridge nor rules, and `stop` ends ours only, with all that is in it.
    before = bridges_and_rules()
    started = engine("--own", CRONIUM_ENGINE_DIR=str(own_dir))
    endpoint = started.stdout.strip()
    assert endpoint == f"unix://{own_dir}/run/docker.sock", started.stderr
    assert engine("--own", CRONIUM_ENGINE_DIR=str(own_dir)).stdout.strip() == endpoint  # a second time: the same one
    client = docker.DockerClient(base_url=endpoint, timeout=60)
    assert client.info()["LiveRestoreEnabled"]
    assert client.info()["DockerRootDir"] != docker_client.info()["DockerRootDir"]  # IDs are the same: /etc/docker/key.json
    network = client.networks.create("of-the-test")
    client.close()
    pid = int((own_dir / "run/docker.pid").read_text())

    assert engine("stop", CRONIUM_ENGINE_DIR=str(own_dir)).returncode == 0
    assert not (own_dir / "run/docker.sock").exists()
    assert not Path(f"/proc/{pid}/exe").exists()
    assert not Path(f"/sys/class/net/br-{str(network.id)[:12]}").exists()
    assert docker_client.ping()
    assert bridges_and_rules() == before
    assert "no engine" in engine("stop", CRONIUM_ENGINE_DIR=str(own_dir)).stderr


def test_a_pidfile_of_a_process_that_is_not_ours_ends_nobody(own_dir: Path) -> None:
    with subprocess.Popen(["sleep", "60"]) as somebody:
        for folder in ("data", "run"):
            (own_dir / folder).mkdir()
        (own_dir / "run/docker.pid").write_text(str(somebody.pid))
        engine("stop", CRONIUM_ENGINE_DIR=str(own_dir))
        alive = somebody.poll() is None
        somebody.kill()
    assert alive


def test_help_and_nonsense_start_nothing() -> None:
    assert engine("--help").returncode == 0
    assert engine("start-it").returncode == 2
