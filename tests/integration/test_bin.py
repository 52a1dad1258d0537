"""The programs in `bin/`: what they say on a machine where something is missing, and that a ready one costs nothing."""

import io
import subprocess
import tarfile
import time
from pathlib import Path

import pytest
from docker import DockerClient

from cronium.common.job import ScriptType

ROOT = Path(__file__).resolve().parent.parent.parent
_TIMEOUT_S = 60

Images = dict[ScriptType, str]


def run(*command: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command, capture_output=True, text=True, timeout=_TIMEOUT_S, check=False, env={"PATH": "/usr/bin:/bin", **environment}
    )


def on_a_bare_machine(client: DockerClient, image: str, program: str) -> tuple[int, str]:
    """Run a program of `bin/` from a checkout in a container, as somebody who is not root; exit code and what it said."""
    checkout = io.BytesIO()
    with tarfile.open(fileobj=checkout, mode="w") as tar:
        tar.add(ROOT / "bin", "clone/bin")
        tar.add(ROOT / "pyproject.toml", "clone/pyproject.toml")
    container = client.containers.create(image, [f"/workspace/clone/bin/{program}"], network_mode="none", init=True)
    try:
        container.put_archive("/workspace", checkout.getvalue())
        container.start()
        code = int(container.wait(timeout=_TIMEOUT_S)["StatusCode"])
        return code, container.logs().decode()
    finally:
        container.remove(force=True)


@pytest.mark.parametrize("program", ["cronium-supervisor", "quickstart", "test", "venv"])
def test_without_python_every_program_says_what_to_install(
    docker_client: DockerClient, runner_images: Images, program: str
) -> None:
    code, said = on_a_bare_machine(docker_client, runner_images[ScriptType.BASH], program)
    assert code == 1
    assert "Next: install one (sudo apt-get install python3 python3-venv)" in said


def test_a_python_that_cannot_make_environments_is_told_with_its_package(
    docker_client: DockerClient, runner_images: Images
) -> None:
    code, said = on_a_bare_machine(docker_client, runner_images[ScriptType.PYTHON], "venv")
    assert code == 1
    assert "Next: sudo apt-get install python3." in said
    assert "-venv" in said


def test_without_an_engine_and_without_root_the_next_step_is_told(docker_client: DockerClient, runner_images: Images) -> None:
    code, said = on_a_bare_machine(docker_client, runner_images[ScriptType.PYTHON], "engine")
    assert code == 1
    assert "Next: `sudo bin/engine`" in said


def made_environment(folder: Path) -> dict[str, str]:
    """Stand in for an environment that `bin/venv` has made from this checkout: its marks are all that it looks at."""
    (folder / "bin").mkdir(parents=True)
    (folder / "bin/python").symlink_to("/bin/echo")
    checksum = subprocess.run(["cksum"], stdin=(ROOT / "pyproject.toml").open(), capture_output=True, text=True, check=True)
    (folder / ".installed").write_text(f"{checksum.stdout.strip()} {ROOT}\ndev,test\n")
    return {"CRONIUM_VENV": str(folder)}


def test_a_ready_environment_is_taken_at_once(tmp_path: Path) -> None:
    # Guards: a second run takes seconds. One start of Python alone would take longer than all of this.
    environment = made_environment(tmp_path / "venv")
    begun = time.monotonic()
    for extras in ([], ["test"], ["dev", "test"]):
        assert run(ROOT / "bin/venv", *extras, **environment).stdout == f"{tmp_path}/venv/bin/python\n"
    assert time.monotonic() - begun < 5


def test_the_supervisor_gets_all_arguments_as_they_are(tmp_path: Path) -> None:
    said = run(ROOT / "bin/cronium-supervisor", "exec", "a b.sh", "--env", "K=*", **made_environment(tmp_path / "venv"))
    assert said.stdout == "-m cronium.supervisor exec a b.sh --env K=*\n"


def test_benchmarks_are_listed_and_unknown_ones_refused() -> None:
    listed = run(ROOT / "bin/bench")
    assert listed.returncode == 0
    for benchmark in (ROOT / "tests/benchmarks").glob("[a-z]*.py"):
        assert f"  {benchmark.stem} " in listed.stdout
    unknown = run(ROOT / "bin/bench", "nothing")
    assert unknown.returncode == 2
    assert "no benchmark nothing" in unknown.stderr


def test_quickstart_explains_itself_without_doing_anything() -> None:
    told = run(ROOT / "bin/quickstart", "--help")
    assert told.returncode == 0
    assert "--keep" in told.stdout
