"""Names of runner images, and which stands in for which: what the configuration says must run wherever either is there."""

import pytest

from cronium.common.job import ScriptType
from cronium.supervisor.images.catalog import Family, parse, reference, resolve

ALPINE, DEBIAN = "cronium/runner:python-alpine", "cronium/runner:python-debian"


def test_a_present_image_is_taken_as_it_is() -> None:
    assert resolve(ALPINE, {ALPINE, DEBIAN}) == ALPINE


@pytest.mark.parametrize(("wanted", "there"), [(ALPINE, DEBIAN), (DEBIAN, ALPINE)])
def test_a_missing_image_is_replaced_by_its_twin_in_both_directions(wanted: str, there: str) -> None:
    assert resolve(wanted, {there, "cronium/runner:bash-debian"}) == there


def test_with_neither_twin_the_name_stays_so_that_errors_speak_of_what_was_written() -> None:
    assert resolve(ALPINE, {"cronium/runner:bash-debian"}) == ALPINE


def test_images_of_others_are_never_replaced() -> None:
    for name in ("python:3.12", "example.org/cronium/runner:python-alpine", "cronium/runner:python", "cronium/runner"):
        assert resolve(name, {ALPINE, DEBIAN}) == name


@pytest.mark.parametrize("script", list(ScriptType))
@pytest.mark.parametrize("family", list(Family))
def test_every_name_is_read_back(script: ScriptType, family: Family) -> None:
    assert parse(reference(script, family)) == (script, family)
