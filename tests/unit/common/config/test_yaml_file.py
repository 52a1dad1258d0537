"""The file: what it says is taken literally, and what does not belong there is told with its line."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cronium.common.config.yaml_file import read_file


def write(folder: Path, content: bytes | str) -> Path:
    path = folder / "config.yaml"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def test_values_keep_their_spelling_and_their_line(tmp_path: Path) -> None:
    """YAML's own guesses would make 1.4 of 1.40, and 4230 of a user 70:30."""
    text = "orchestrator:\n  container:\n    docker: {version: 1.40}\n    security:\n      user: 70:30\n"
    found = read_file(write(tmp_path, text))
    assert found.problems == ()
    assert {path: value.given for path, value in found.values.items()} == {
        "container.docker.version": "1.40",
        "container.security.user": "70:30",
    }
    assert found.values["container.security.user"].source.endswith("config.yaml:5")


@pytest.mark.parametrize(
    "text", ["", "# nothing\n", "orchestrator:\n", "orchestrator: null\n", "orchestrator:\n  jobs:\n  api: ~\n"]
)
def test_empty_files_and_sections_are_fine(text: str, tmp_path: Path) -> None:
    found = read_file(write(tmp_path, text))
    assert (dict(found.values), found.problems) == ({}, ())


@pytest.mark.parametrize("text", ["", "null", "~", '""'])
def test_an_empty_value_is_not_set(text: str, tmp_path: Path) -> None:
    assert not read_file(write(tmp_path, f"orchestrator:\n  jobs:\n    maxConcurrent: {text}\n")).values


def test_lists_and_names_are_taken(tmp_path: Path) -> None:
    text = "orchestrator:\n  container:\n    labels: {a: 1, b: yes}\n    network: {allowed: [none, bridge]}\n"
    found = read_file(write(tmp_path, text))
    assert found.values["container.labels"].given == {"a": "1", "b": "yes"}
    assert found.values["container.network.allowed"].given == ("none", "bridge")


def test_anchors_are_followed(tmp_path: Path) -> None:
    text = "orchestrator:\n  jobs: {pollInterval: &pause 2s, statusInterval: *pause}\n"
    assert read_file(write(tmp_path, text)).values["jobs.statusInterval"].given == "2s"


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("orchestrator:\n  jobs:\n\tmaxConcurrent: 3\n", ":3:1"),
        ("orchestrator:\n  jobs: {maxConcurrent: 3\n  api:\n", ":3:6"),
        ("orchestrator: 'x\n", ":2:1"),
        ("orchestrator:\n  api: @x\n", ":2:8"),
        ("a: 1\n---\nb: 2\n", ":2:1"),
        ("orchestrator: *nobody\n", ":1:15"),
    ],
)
def test_broken_yaml_is_told_with_line_and_column(text: str, place: str, tmp_path: Path) -> None:
    (problem,) = read_file(path := write(tmp_path, text)).problems
    assert problem.source == f"{path}{place}"
    assert problem.message.startswith("is not YAML: ")
    assert problem.path == ""


@pytest.mark.parametrize("text", ["[a, b]", "just text", "orchestrator: [1]", "orchestrator:\n  jobs: 5"])
def test_what_should_be_a_section_and_is_none_is_told(text: str, tmp_path: Path) -> None:
    (problem,) = read_file(write(tmp_path, text)).problems
    assert "must be a section" in problem.message


def test_a_file_that_cannot_be_read_is_told(tmp_path: Path) -> None:
    for path, reason in [
        (tmp_path / "missing.yaml", "No such file"),
        (tmp_path, "Is a directory"),
        (write(tmp_path, b"orchestrator: \xff\n"), "not UTF-8"),
    ]:
        (problem,) = read_file(path).problems
        assert reason in problem.message
        assert problem.source == str(path)


def test_a_hostile_file_takes_neither_memory_nor_time(tmp_path: Path) -> None:
    for content in (
        "a: " + "x" * 2_000_000,
        "[" * 20_000,
        "orchestrator: &loop\n  jobs: *loop\n",
        "a: &a [x,x,x,x]\n"
        + "".join(f"{chr(98 + n)}: &{chr(98 + n)} [{','.join([f'*{chr(97 + n)}'] * 9)}]\n" for n in range(20)),
        "orchestrator: !!python/object/apply:os.system ['true']\n",
        "? [a, b]\n: c\n",
    ):
        assert read_file(write(tmp_path, content)).problems


@given(st.binary(max_size=200))
def test_no_file_makes_the_reader_fail(content: bytes) -> None:
    import tempfile

    with tempfile.NamedTemporaryFile() as file:
        file.write(content)
        file.flush()
        read_file(Path(file.name))
