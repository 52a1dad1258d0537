"""The command line as a whole: its commands, their help, and what it loads."""

import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cronium.supervisor.cli.app import COMMANDS, app, load

_SLOW = ("pydantic", "docker", "requests", "zmq", "yaml", "structlog", "starlette")


def invoke(*arguments: str) -> str:
    result = CliRunner().invoke(app, list(arguments), env={"COLUMNS": "120", "TERM": "dumb"})
    assert result.exit_code == 0, result.output
    return result.output


def python(code: str, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, **environment}, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_list_of_commands_has_all_of_them_with_a_line_each() -> None:
    help_text = invoke("--help")
    for name, entry in COMMANDS.items():
        assert f" {name} " in help_text
        assert entry.help in help_text


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help_with_an_example(name: str) -> None:
    # Guards: `--help` of every command shows how it is called; and the list says of it what it says of itself.
    assert f"Example: cronium-supervisor {name}" in " ".join(invoke(name, "--help").split())
    assert (load(name).help or "").split("\n")[0] == COMMANDS[name].help


def test_help_and_completion_load_nothing_that_takes_long() -> None:
    # Guards: they are quick; a time cannot be asserted on a busy machine, what takes the time can.
    code = (
        "import sys\nfrom cronium.supervisor.cli.app import app\n"
        "try: app(['--help'])\nexcept SystemExit: pass\n"
        f"print([name for name in {_SLOW} if name in sys.modules])"
    )
    assert python(code).endswith("\n[]\n")


@pytest.mark.parametrize(
    "name", ["run", "validate", "exec", "submit", "jobs", "logs", "cancel", "status", "drain", "ssh", "key", "audit"]
)
def test_so_does_the_help_of_a_command(name: str) -> None:
    slow = (*_SLOW[1:], "cronium.common.config.load", "cronium.common.job")  # newer versions of typer load pydantic themselves
    code = (
        "import sys\nfrom cronium.supervisor.cli.app import app\n"
        f"try: app(['{name}', '--help'])\nexcept SystemExit: pass\n"
        f"print([name for name in {slow} if name in sys.modules])"
    )
    assert python(code).endswith("\n[]\n")


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        ("cronium-supervisor ", set(COMMANDS)),
        ("cronium-supervisor ex", {"exec"}),
        ("cronium-supervisor images ", {"build", "list"}),
        ("cronium-supervisor exec --time", {"--timeout"}),
    ],
)
def test_the_shell_completes_commands_and_options(words: str, offered: set[str]) -> None:
    code = "from cronium.supervisor.cli.app import run; run()"
    parts = words.split(" ")
    environment = {
        "_CRONIUM_SUPERVISOR_COMPLETE": "complete_bash",
        "COMP_WORDS": words,
        "COMP_CWORD": str(len(parts) - 1),
    }
    assert set(python(code, **environment).split()) == offered


def test_the_version_is_that_of_the_package() -> None:
    assert invoke("--version").split() == ["cronium-supervisor", version("cronium-supervisor")]


@pytest.mark.parametrize("arguments", [[], ["--standalone"], ["-c", "x.yaml"], ["--config=x.yaml", "--standalone"]])
def test_without_a_command_it_is_run(arguments: list[str]) -> None:
    code = (
        "import sys; from cronium.supervisor.cli import app\n"
        f"sys.argv = ['cronium-supervisor', *{arguments}]\n"
        "app.app = lambda args, prog_name: print(args)\n"
        "app.run()"
    )
    assert python(code).strip() == str(["run", *arguments])


@pytest.mark.parametrize("wrong", ["exce", "cacnel"])
def test_an_unknown_command_is_refused_and_the_nearest_named(wrong: str) -> None:
    result = CliRunner().invoke(app, [wrong])
    assert result.exit_code == 2
    assert {"exce": "exec", "cacnel": "cancel"}[wrong] in result.output


@pytest.mark.parametrize("command", ["exec", "submit"])
@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["missing.sh"], "missing.sh cannot be read"),
        (["strange.txt"], "Name it .sh, .py or .js"),
        (["job.sh", "--timeout", "soon"], "is not a duration like"),
        (["job.sh", "--env", "NOT_THERE"], "'NOT_THERE' is not in the environment"),
        (["job.sh", "--env-file", "missing.env"], "missing.env cannot be read"),
        (["job.sh", "--no-such-option"], "No such option"),
        ([], "Missing argument"),
    ],
)
def test_a_command_line_that_is_not_valid_ends_with_2_and_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str, arguments: list[str], said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "job.sh").write_text("echo never")
    (tmp_path / "strange.txt").write_text("what is this")
    result = CliRunner().invoke(app, [command, *arguments], env={"COLUMNS": "200", "TERM": "dumb"})
    assert result.exit_code == 2
    assert said in " ".join(result.output.split())


@pytest.mark.parametrize(("option", "said"), [("--memory", "is not a size like"), ("--cpu", "--cpu")])
def test_so_does_a_limit_that_is_none(tmp_path: Path, option: str, said: str) -> None:
    path = tmp_path / "job.sh"
    path.write_text("echo never")
    result = CliRunner().invoke(app, ["exec", str(path), option, "much"], env={"COLUMNS": "200", "TERM": "dumb"})
    assert result.exit_code == 2
    assert said in " ".join(result.output.split())
