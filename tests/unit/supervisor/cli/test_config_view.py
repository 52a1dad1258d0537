"""What `validate` shows, and the documents made of the model."""

import io
import itertools
import json
from pathlib import Path

import pytest
import yaml
from rich.console import Console, RenderableType

from cronium.common.config.keys import all_keys
from cronium.common.config.load import load_config
from cronium.common.config.problems import ConfigError, ConfigProblem
from cronium.supervisor.cli.config_view import (
    config_table_markdown,
    config_yaml,
    effective_dict,
    problems_dict,
    render_effective,
    render_problems,
)

SHIPPED = Path(__file__).parents[4] / "etc" / "cronium-orchestrator.yaml"


def shown(what: RenderableType) -> str:
    console = Console(file=io.StringIO(), width=200)
    console.print(what)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_the_shipped_file_is_the_model_written_out() -> None:
    assert SHIPPED.read_text() == config_yaml(), "write config_yaml() to etc/cronium-orchestrator.yaml again"


def test_the_shipped_file_changes_nothing() -> None:
    """Whoever starts from it has the defaults, with a backend as without, and DOCKER_HOST still counts."""
    for environ in (
        {},
        {"DOCKER_HOST": "unix:///run/other.sock"},
        {"CRONIUM_API_URL": "http://x", "CRONIUM_WS_URL": "ws://x", "CRONIUM_SERVICE_TOKEN": "t"},
    ):
        standalone = "CRONIUM_API_URL" not in environ
        assert (
            load_config(SHIPPED, environ, standalone=standalone).config
            == load_config(None, environ, standalone=standalone).config
        )


def test_no_key_is_missing_in_the_shipped_file_and_each_has_a_comment() -> None:
    lines = SHIPPED.read_text().splitlines()
    document = yaml.safe_load(SHIPPED.read_text())["orchestrator"]
    for key in all_keys().values():
        *sections, leaf = key.path.split(".")
        here = document
        for section in sections:
            here = here[section]
        assert leaf in here
        assert any(
            line.strip().startswith(f"{leaf}:") and above.strip() == f"# {key.description} [{key.allowed}]"
            for above, line in itertools.pairwise(lines)
        )


def test_the_effective_config_shows_every_value_with_its_source_and_no_secret() -> None:
    environ = {"CRONIUM_SERVICE_TOKEN": "hunter2hunter2", "CRONIUM_MAX_CONCURRENT": "9", "CRONIUM_LOG_LEVL": "debug"}
    loaded = load_config(None, environ, standalone=True)
    text = shown(render_effective(loaded))
    rows = [line.split() for line in text.splitlines()]
    assert ["maxConcurrent", "9", "environment", "CRONIUM_MAX_CONCURRENT"] in rows
    assert ["token", "********", "environment", "CRONIUM_SERVICE_TOKEN"] in rows
    assert ["maxMemory", "2GB", "default"] in rows
    assert all(any(row and row[0] == path.rpartition(".")[2] for row in rows) for path in all_keys())
    assert "did you mean CRONIUM_LOG_LEVEL?" in text
    assert "hunter2" not in text + json.dumps(effective_dict(loaded))


def test_the_effective_config_is_there_for_programs() -> None:
    loaded = load_config(None, {}, standalone=True)
    document = json.loads(json.dumps(effective_dict(loaded)))
    assert document["config"]["orchestrator"]["container"]["resources"]["maxMemory"] == 2 * 1024**3
    assert document["config"]["orchestrator"]["jobs"]["pollWait"] == 20.0
    assert document["sources"]["jobs.pollWait"] == "default"


def test_problems_are_shown_with_place_value_and_remedy() -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(None, {"CRONIUM_JOBS_POLL_BATCH_SIZE": "500", "CRONIUM_JOBS_ON_STOP": "[red]stop"}, standalone=True)
    text = shown(render_problems(caught.value.problems))
    for part in (
        "jobs.pollBatchSize  environment CRONIUM_JOBS_POLL_BATCH_SIZE",
        "500 is too large",
        "from 1 to 50",
        "2 problems",
    ):
        assert part in text
    assert "[red]stop is not allowed" in text
    assert problems_dict(caught.value.problems)["problems"][0]["path"] == "jobs.pollBatchSize"


def test_a_value_does_not_move_the_readers_cursor() -> None:
    text = shown(render_problems([ConfigProblem("a\x1b[2J", "is unknown", value="x\x07\ny")]))
    assert "\x1b" not in text
    assert "\\x1b[2J" in text
    assert "x\\x07\\ny is unknown" in text


def test_the_table_has_a_row_for_each_key() -> None:
    rows = config_table_markdown().splitlines()[2:]
    assert [row.split("`")[1] for row in rows] == list(all_keys())
    assert all(row.replace("\\|", "").count("|") == 6 for row in rows)
