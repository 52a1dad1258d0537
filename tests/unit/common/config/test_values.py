"""`${VAR}` in the file."""

import pytest

from cronium.common.config.values import Given, Value, expand


@pytest.mark.parametrize(
    ("text", "filled"),
    [
        ("${A}", "1"),
        ("x${A}y${B}z", "x1y2z"),
        ("${A:-9}", "1"),
        ("${NONE:-9}", "9"),
        ("${EMPTY:-9}", "9"),
        ("${NONE:-unix:///var/run/docker.sock}", "unix:///var/run/docker.sock"),
        ("$${A}", "${A}"),
        ("$A $1 $ $$", "$A $1 $ $$"),
        ("plain", "plain"),
        (("${A}", "b"), ("1", "b")),
        ({"a": "${B}"}, {"a": "2"}),
    ],
)
def test_variables_are_filled_in(text: Given, filled: Given) -> None:
    result = expand(Value(text, "f:1"), {"A": "1", "B": "2", "EMPTY": ""})
    assert isinstance(result, Value)
    assert result.given == filled


def test_what_a_variable_holds_is_not_expanded_again() -> None:
    """A token may contain anything."""
    result = expand(Value("${A}", "f:1"), {"A": "${B}", "B": "2"})
    assert isinstance(result, Value)
    assert (result.given, result.source) == ("${B}", "f:1 ${A}")


@pytest.mark.parametrize("text", ["${NONE:-}", "${EMPTY}", "${EMPTY:-}"])
def test_nothing_left_means_not_set(text: str) -> None:
    assert expand(Value(text, "f:1"), {"EMPTY": ""}) is None


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("${NONE}", "NONE, which is not set"),
        ("${", "neither"),
        ("${A-1}", "neither"),
        ("${}", "neither"),
        ("a ${1} b", "neither"),
    ],
)
def test_what_cannot_be_filled_in_is_told(text: str, says: str) -> None:
    result = expand(Value(text, "f:1"), {"A": "1"})
    assert isinstance(result, ValueError)
    assert says in str(result)
