"""Lines of a job on their way to our standard streams."""

import json

import pytest

from cronium.supervisor.cli.lines import show_lines
from cronium.supervisor.standalone.client import LogLine


def line(sequence: int, stream: str, text: str, *, continued: bool = False) -> LogLine:
    return LogLine(sequence, stream, 1_700_000_000_000 + sequence, text, continued, None)


LINES = [
    line(1, "stdout", "one"),
    line(2, "stderr", "oops"),
    line(3, "stdout", "a piece, ", continued=True),
    line(4, "stderr", ""),
    line(5, "stdout", "its end\r\x1b[1mbold"),
    line(6, "system", "something was lost"),
]


def test_each_stream_comes_out_as_it_was(capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    # Guards: pieces of a line are put together again, nothing is added or changed; what we say ourselves is on stderr.
    show_lines(LINES, as_json=False)
    out, err = capfdbinary.readouterr()
    assert out == b"one\na piece, its end\r\x1b[1mbold\n"
    assert err == b"oops\n\nsomething was lost\n"


def test_programs_get_an_object_a_line(capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    show_lines(LINES, as_json=True)
    out, err = capfdbinary.readouterr()
    found = [json.loads(text) for text in out.splitlines()]
    assert found[2] == {
        "sequence": 3,
        "stream": "stdout",
        "timestamp": 1_700_000_000_003,
        "line": "a piece, ",
        "continued": True,
    }
    assert [one["sequence"] for one in found] == [1, 2, 3, 4, 5, 6]
    assert err == b""
