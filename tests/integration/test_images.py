"""The runner images, what is said about other images, and the commands that build and list them, with a real engine.

A whole build from packages runs only where images are missing (bin/test does that first); its parts are tested in
`unit/supervisor/images`.
"""

import json
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from docker import DockerClient
from typer.testing import CliRunner

from cronium.common.job import ScriptType
from cronium.supervisor.cli.images import app
from cronium.supervisor.images import alpine
from cronium.supervisor.images.build import build_missing
from cronium.supervisor.images.catalog import Family
from cronium.supervisor.images.events import Built, ImageBuildError, Skipped, Step

Images = dict[ScriptType, str]

_LAUNCHER_NEEDS = "sh tar dd mkfifo stat setsid sleep cat printf mkdir rm chmod id tini bash"
_INTERPRETERS = {ScriptType.BASH: "bash", ScriptType.PYTHON: "python3", ScriptType.NODE: "node"}
_PRINT_7 = {
    ScriptType.BASH: "bash -c 'echo $((3 + 4))'",
    ScriptType.PYTHON: "python3 -c 'import json, sqlite3, ssl; print(3 + 4)'",
    ScriptType.NODE: "node -e 'console.log(3 + 4)'",
}


@pytest.fixture
def scratch_tag(docker_client: DockerClient) -> Iterator[str]:
    """A name for an image that the test makes; the image is gone afterwards."""
    name = f"cronium-test:{uuid.uuid4().hex[:12]}"
    yield name
    if docker_client.api.images(name):
        docker_client.api.remove_image(name, force=True)


def run_locked_down(client: DockerClient, image: str, script: str) -> str:
    """Run a line of shell as jobs are run: no network, no capabilities, no write to the root."""
    said: bytes = client.containers.run(
        image,
        ["sh", "-c", script],
        remove=True,
        init=True,
        read_only=True,
        network_mode="none",
        cap_drop=["ALL"],
        security_opt=["no-new-privileges"],
    )
    return said.decode()


@pytest.mark.parametrize("script", list(ScriptType))
def test_a_runner_image_has_its_user_its_workspace_and_its_tools(
    docker_client: DockerClient, runner_images: Images, script: ScriptType
) -> None:
    # Guards: a job runs as nobody special, in a folder of its own, and the launcher finds all it calls.
    said = run_locked_down(
        docker_client,
        runner_images[script],
        f"id -u; id -g; id -un; pwd; stat -c %u:%g /workspace; echo $HOME; stat -c %u $HOME; "
        f"for name in {_LAUNCHER_NEEDS} {_INTERPRETERS[script]}; do command -v $name >/dev/null || echo missing $name; done; "
        f"test -s /etc/ssl/certs/ca-certificates.crt || echo no certificates; {_PRINT_7[script]}",
    )
    assert said.split("\n")[:-1] == ["1000", "1000", "cronium", "/workspace", "1000:1000", "/home/cronium", "1000", "7"]


def test_images_carry_no_caches_and_no_documentation(docker_client: DockerClient, runner_images: Images) -> None:
    for image in runner_images.values():
        assert (
            run_locked_down(
                docker_client,
                image,
                "find /var/cache /var/lib/apt /var/log /usr/share/man /usr/share/locale -type f 2>/dev/null; "
                "find /usr/share/doc -type f ! -name copyright 2>/dev/null || true",
            )
            == ""
        )


def test_python_and_node_share_the_layers_of_bash(docker_client: DockerClient, runner_images: Images) -> None:
    layers = {script: docker_client.images.get(name).attrs["RootFS"]["Layers"] for script, name in runner_images.items()}
    base = layers[ScriptType.BASH]
    assert layers[ScriptType.PYTHON][: len(base)] == base
    assert layers[ScriptType.NODE][: len(base)] == base


def test_what_is_there_is_skipped_and_nothing_is_looked_for(docker_endpoint: str, runner_images: Images) -> None:
    events = list(build_missing(docker_endpoint, list(ScriptType), family=Family.DEBIAN))
    assert events == [Skipped(name) for name in runner_images.values()]


def test_a_dockerfile_is_built_with_its_steps_told(
    docker_client: DockerClient, runner_images: Images, scratch_tag: str, tmp_path: Path
) -> None:
    (tmp_path / "Dockerfile").write_text(f"FROM {runner_images[ScriptType.BASH]}\nENV A=1\nWORKDIR /workspace\n")
    events = list(alpine.build_folder(docker_client, scratch_tag, tmp_path))
    assert [event.number for event in events if isinstance(event, Step)] == [1, 2, 3]
    built = events[-1]
    assert isinstance(built, Built)
    assert docker_client.images.get(scratch_tag).id == built.image_id


def test_a_dockerfile_that_fails_says_why_and_what_to_do(
    docker_client: DockerClient, runner_images: Images, scratch_tag: str, tmp_path: Path
) -> None:
    (tmp_path / "Dockerfile").write_text(f"FROM {runner_images[ScriptType.BASH]}\nCOPY nothing /\n")
    with pytest.raises(ImageBuildError, match=r"(?s)nothing.*Next: "):
        list(alpine.build_folder(docker_client, scratch_tag, tmp_path))


def test_every_script_type_has_a_dockerfile_on_the_same_base() -> None:
    assert alpine.registry_image().startswith("alpine:")
    for script in (ScriptType.PYTHON, ScriptType.NODE):
        assert "FROM cronium/runner:bash-alpine\n" in (alpine.dockerfiles() / f"{script}-alpine/Dockerfile").read_text()


def test_images_list_is_for_people_and_for_programs(docker_endpoint: str, runner_images: Images) -> None:
    listed = CliRunner().invoke(app, ["list", "--endpoint", docker_endpoint, "--json"])
    by_name = {row["reference"]: row for row in json.loads(listed.stdout)}
    assert len(by_name) == 6
    for name in runner_images.values():
        assert by_name[name]["imageId"].startswith("sha256:")
        assert by_name[name]["sizeBytes"] > 0
    table = CliRunner().invoke(app, ["list", "--endpoint", docker_endpoint])
    assert table.exit_code == 0
    assert runner_images[ScriptType.BASH] in table.stdout


def test_images_build_tells_programs_each_event_as_a_line(docker_endpoint: str, runner_images: Images) -> None:
    done = CliRunner().invoke(app, ["build", "bash", "--from", "debian", "--endpoint", docker_endpoint, "--json"])
    assert done.exit_code == 0
    assert [json.loads(line) for line in done.stdout.splitlines()] == [
        {"event": "skipped", "reference": runner_images[ScriptType.BASH]}
    ]


def test_without_an_engine_the_commands_say_what_to_do(tmp_path: Path) -> None:
    for command in ("build", "list"):
        done = CliRunner().invoke(app, [command, "--endpoint", f"unix://{tmp_path}/nothing.sock"])
        assert done.exit_code == 1
        assert "Next: " in done.stderr


@pytest.mark.parametrize("command", [[], ["build"], ["list"]])
def test_every_command_has_help_with_an_example(command: list[str]) -> None:
    done = CliRunner().invoke(app, [*command, "--help"])
    assert done.exit_code == 0
    assert "cronium-supervisor images" in done.stdout
