"""The README's table of keys is made from the model: what a reader sees is what holds."""

from pathlib import Path

from cronium.supervisor.cli.config_view import config_table_markdown

README = Path(__file__).parents[4] / "README.md"
BEGIN = "<!-- config table: begin (made by config_table_markdown; a test compares) -->"
END = "<!-- config table: end -->"


def test_the_readme_shows_every_key_as_it_is() -> None:
    table = README.read_text(encoding="utf-8").partition(BEGIN)[2].partition(END)[0]
    assert table.strip() == config_table_markdown().strip()
