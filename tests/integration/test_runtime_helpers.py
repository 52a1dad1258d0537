"""The runtime helpers: the same names and the same JSON lines in every language, with nothing but a place's files."""

import json
import os
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from docker import DockerClient
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from cronium.common.job import ScriptType
from cronium.worker.launcher import LaunchSpec, launch_stream

from .launcher_place import EVERYTHING, PATIENCE_S, Shell, container_place, make_shells

INPUT = {"a": 1, "b c": {"x": [1, 2, '}"']}, "sé": 'li\nne 😀 "q" \\', "t": True, "n": None, 'k"\\': "k"}
EVENT = {"jobId": "job-1", "eventId": 7, "name": "Nightly", "attempt": 2}


@dataclass(frozen=True, slots=True)
class World:
    """A job's private folder as the launcher unpacks it, and the file for events."""

    folder: Path

    @property
    def environment(self) -> dict[str, str]:
        helpers = self.folder / "helpers"
        return {
            "CRONIUM_DIR": str(self.folder),
            "CRONIUM_EVENTS": str(self.folder / "events"),
            "PYTHONPATH": str(helpers),
            "PATH": f"{helpers}:{os.environ['PATH']}",
            "LANG": "C.UTF-8",
        }

    def events(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (self.folder / "events").read_bytes().splitlines()]

    def run(self, arguments: list[str | Path], environment: Mapping[str, str] | None = None) -> str:
        done = subprocess.run(
            arguments, env={**self.environment, **(environment or {})}, stdout=subprocess.PIPE, timeout=PATIENCE_S, check=True
        )
        return done.stdout.decode()


@pytest.fixture
def world() -> Iterator[World]:
    with tempfile.TemporaryDirectory(prefix="cr-") as name:
        folder = Path(name)
        spec = LaunchSpec(
            interpreter="bash",
            script=b"",
            input_json=json.dumps(INPUT).encode(),
            variables_json=b'{"v": "old", "n": 5}',
            event_json=json.dumps(EVENT).encode(),
        )
        with tarfile.open(fileobj=BytesIO(launch_stream(spec))) as archive:
            archive.extractall(folder, filter="data")
        (folder / "events").touch()
        yield World(folder)


@pytest.fixture(scope="module")
def shells() -> Iterator[dict[str, Shell]]:
    with tempfile.TemporaryDirectory(prefix="cr-") as folder:
        yield make_shells(Path(folder))


@pytest.fixture(params=["dash", "bash", "busybox"])
def run_shell(request: pytest.FixtureRequest, shells: dict[str, Shell], world: World) -> Callable[[str], str]:
    """Runs a script in one kind of shell, with the helpers' commands (which are sh scripts) in that kind too."""
    shell = shells[request.param]
    path = {"PATH": f"{world.folder / 'helpers'}:{shell.path}"}
    return lambda script: world.run([shell.program, "-c", script], path)


@pytest.fixture(params=["commands", "functions"])
def prelude(request: pytest.FixtureRequest) -> str:
    return "" if request.param == "commands" else ". cronium.sh\n"


def test_shell_reads_what_the_job_got(run_shell: Callable[[str], str], prelude: str) -> None:
    assert json.loads(run_shell(prelude + "cronium_input")) == INPUT
    assert run_shell(prelude + 'cronium_input a; cronium_input "b c"; cronium_input t; cronium_input n') == (
        '1\n{"x":[1,2,"}\\""]}\ntrue\nnull\n'
    )
    assert run_shell(prelude + "cronium_input sé") == INPUT["sé"] + "\n"  # type: ignore[operator]
    assert run_shell(prelude + "cronium_input 'k\"\\'") == "k\n"
    assert run_shell(prelude + "cronium_input nope || echo none") == "none\n"
    assert run_shell(prelude + "cronium_event name; cronium_event attempt") == "Nightly\n2\n"


def test_shell_says_what_the_job_means(run_shell: Callable[[str], str], prelude: str, world: World) -> None:
    run_shell(
        prelude
        + """
        cronium_output '{"a": [1, 2.5e3,
          null]}'
        cronium_output plain text
        printf 'from "stdin"' | cronium_output
        cronium_set_condition false
        cronium_progress 50 'half
way'
        cronium_progress 120
        cronium_set_variable list '[1, "x"]'
        """
    )
    assert world.events() == [
        {"type": "output", "data": {"a": [1, 2500.0, None]}},
        {"type": "output", "data": "plain text"},
        {"type": "output", "data": 'from "stdin"'},
        {"type": "condition", "value": False},
        {"type": "progress", "percentage": 50, "message": "half\nway"},
        {"type": "progress", "percentage": 100},
        {"type": "variable", "key": "list", "value": [1, "x"]},
    ]


def test_a_variable_set_is_a_variable_read(run_shell: Callable[[str], str], prelude: str) -> None:
    said = run_shell(
        prelude
        + """
        cronium_get_variable v; cronium_get_variable n; cronium_get_variable none || echo none
        cronium_set_variable v 'new "x"'; cronium_set_variable v2 other; cronium_get_variable v
        cronium_set_variable v 12; cronium_get_variable v
        """
    )
    assert said == 'old\n5\nnone\nnew "x"\n12\n'


def test_wrong_use_is_said_and_writes_nothing(run_shell: Callable[[str], str], prelude: str, world: World) -> None:
    for wrong in ("cronium_progress half", "cronium_set_condition maybe", "cronium_set_variable x", "cronium_get_variable"):
        assert run_shell(f"{prelude}{wrong} 2>/dev/null || echo $?") == "2\n"
    assert world.events() == []


@pytest.mark.parametrize("name", ["dash", "bash", "busybox"])
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@example(text="\r")
@example(text="\x0b\x0c\r\r\n\n\t\t ")
@given(text=st.one_of(
    st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=60),
    st.text('"\\\\{}[],:0123.eE-+ntrueflsu \n\t\r\x01\x1f\x7fé', max_size=25),
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text('ab"\\\\ \n\u0001é😀/', max_size=8),
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text('a"\\\\ ,:é', max_size=4), inner, max_size=4),
        max_leaves=12,
    ).map(json.dumps),
))  # fmt: skip
def test_shell_takes_json_as_json_and_any_other_text_as_text(
    world: World, shells: dict[str, Shell], name: str, text: str
) -> None:
    """In the same judgement as a real parser, character by character."""
    (world.folder / "events").write_bytes(b"")
    world.run(
        [shells[name].program, "-c", '. cronium.sh; cronium_output "$TEXT"'],
        {"TEXT": text, "PATH": f"{world.folder / 'helpers'}:{shells[name].path}"},
    )
    [line] = (world.folder / "events").read_bytes().splitlines()
    assert json.loads(line) == {"type": "output", "data": _meant(text)}


def _meant(text: str) -> object:
    def refuse(word: str) -> None:
        raise ValueError(word)

    try:
        return json.loads(text, parse_constant=refuse)
    except ValueError:
        return text


def test_a_long_text_is_one_line_and_takes_no_time(run_shell: Callable[[str], str], world: World) -> None:
    run_shell("x=$(head -c 100000 /dev/zero | tr '\\0' 'y' | fold -w 60); cronium_output \"$x\"")
    [event] = world.events()
    assert event["data"] == "\n".join("y" * 60 for _ in range(1666)) + "\n" + "y" * 40


def test_lines_of_many_writers_never_mix(run_shell: Callable[[str], str], world: World) -> None:
    """Short ones and long ones: each is one write."""
    run_shell(
        "x=$(head -c 20000 /dev/zero | tr '\\0' 'y');"
        'for i in 1 2 3 4 5 6 7 8; do cronium_output "$x$i" & cronium_output $i & done; wait'
    )
    assert sorted(len(str(event["data"])) for event in world.events()) == [1] * 8 + [20001] * 8


PYTHON = """
import cronium
assert cronium.input()["b c"] == {"x": [1, 2, '}"']}
assert cronium.event()["attempt"] == 2
assert (cronium.getVariable("v"), cronium.get_variable("none"), cronium.get_variable("none", 3)) == ("old", None, 3)
cronium.setVariable("v", {"é": [1]})
cronium.set_variable("w", "x")
assert cronium.getVariable("v") == {"é": [1]}
cronium.output({"text": 'a"b\\n😀'})
cronium.setCondition(True)
cronium.set_condition(0)
cronium.progress(150, "far")
cronium.progress(7.5)
for wrong in (float("nan"), object()):
    try:
        cronium.output(wrong)
    except (TypeError, ValueError):
        pass
    else:
        raise AssertionError(wrong)
"""
NODE = """
const cronium = require('cronium'), assert = require('assert');
assert.deepStrictEqual(cronium.input()['b c'], { x: [1, 2, '}"'] });
assert.strictEqual(cronium.event().attempt, 2);
assert.strictEqual(cronium.getVariable('v'), 'old');
assert.strictEqual(cronium.get_variable('none'), undefined);
cronium.setVariable('v', { 'é': [1] });
cronium.set_variable('w', 'x');
assert.deepStrictEqual(cronium.getVariable('v'), { 'é': [1] });
cronium.output({ text: 'a"b\\n😀' });
cronium.setCondition(true);
cronium.set_condition(0);
cronium.progress(150, 'far');
cronium.progress(7.5);
assert.throws(() => cronium.progress('half'));
"""
SAID = [
    {"type": "variable", "key": "v", "value": {"é": [1]}},
    {"type": "variable", "key": "w", "value": "x"},
    {"type": "output", "data": {"text": 'a"b\n😀'}},
    {"type": "condition", "value": True},
    {"type": "condition", "value": False},
    {"type": "progress", "percentage": 100, "message": "far"},
    {"type": "progress", "percentage": 7.5},
]


def test_python_has_the_same_names(world: World) -> None:
    world.run([sys.executable, "-c", PYTHON])
    assert world.events() == SAID


def test_languages_see_each_other_s_variables(world: World, run_shell: Callable[[str], str]) -> None:
    world.run([sys.executable, "-c", "import cronium; cronium.setVariable('k\\n\"é', {'a': 'b c'})"])
    assert run_shell("cronium_get_variable 'k\n\"é'") == '{"a":"b c"}\n'
    run_shell("cronium_set_variable 'k\n\"é' two")
    assert world.run([sys.executable, "-c", "import cronium; print(cronium.getVariable('k\\n\"é'))"]) == "two\n"


@pytest.mark.parametrize(
    ("kind", "interpreter", "script"),
    [
        (ScriptType.PYTHON, "python3", PYTHON),
        (ScriptType.NODE, "node", NODE),
        (
            ScriptType.BASH,
            "bash",
            "cronium_output \"$(cronium_input a)\"; sh -c 'cronium_progress 5'; . cronium.sh; cronium_set_variable a b",
        ),
    ],
    ids=["python", "node", "bash"],
)
def test_helpers_in_a_container_without_a_network(
    docker_client: DockerClient, runner_images: dict[ScriptType, str], kind: ScriptType, interpreter: str, script: str
) -> None:
    """As a job meets them: the events file can be written but not read, the root file system neither."""
    with container_place(docker_client, runner_images[kind]) as place:
        place.files.pay(EVERYTHING)
        place.start(
            script,
            interpreter=interpreter,
            input_json=json.dumps(INPUT).encode(),
            variables_json=b'{"v": "old"}',
            event_json=json.dumps(EVENT).encode(),
        )
        assert place.finish() == 0, place.files.read("stderr")
        events = [json.loads(line) for line in place.files.read("events").splitlines()]
        assert events == (SAID if kind is not ScriptType.BASH else [
            {"type": "output", "data": 1},
            {"type": "progress", "percentage": 5},
            {"type": "variable", "key": "a", "value": "b"},
        ])  # fmt: skip
