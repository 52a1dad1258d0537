"""Small rules: how batches are put into requests, what comes in on stdin."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cronium.common.config.model import Logging
from cronium.common.messages import Position
from cronium.supervisor.streamer.fallback import _grouped, _Waiting
from cronium.supervisor.streamer.settings import SettingsError, StreamerSettings
from peers.streamer_parts import batch

SETTINGS = StreamerSettings(1, "/run/x", "/var/x", "/var/x/spool", "ws://h/", "http://h", "secret-token", "id", "1")


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(1, 900_000)), max_size=40))
def test_requests_have_one_job_without_holes_and_a_bounded_size(kinds: list[tuple[str, int]]) -> None:
    places: dict[str, Position] = {}
    waiting = []
    for number, (job, size) in enumerate(kinds):
        one = batch(places.get(job, Position()), job=job)
        places[job] = one.after
        waiting.append(_Waiting(number, replace(one, size=size)))
    groups = _grouped(waiting)
    assert sorted(item.frame_id for group in groups for item in group) == list(range(len(kinds)))
    for group in groups:
        assert len({item.batch.job_id for item in group}) == 1
        assert len(group) == 1 or sum(item.batch.size for item in group) <= 1024 * 1024
        sequences = [item.batch.first_sequence for item in group]
        assert sequences == list(range(sequences[0], sequences[0] + len(group)))


def test_settings_survive_the_way_through_stdin() -> None:
    assert StreamerSettings.unpack(SETTINGS.pack()) == SETTINGS


def test_settings_take_everything_of_the_configuration() -> None:
    made = SETTINGS.with_logging(
        Logging.model_validate({"websocket": {"endpoint": "ws://b/x", "ping_interval": 7}, "spool": {"fsync": False}})
    )
    assert (made.websocket_url, made.ping_s, made.fsync) == ("ws://b/x", 7.0, False)
    assert StreamerSettings.unpack(made.pack()) == made


def test_settings_never_show_the_token() -> None:
    assert "secret-token" not in repr(SETTINGS)


@pytest.mark.parametrize("change", [{"ping_s": "fast"}, {"unknown": 1}, {"parent_pid": True}])
def test_wrong_settings_are_refused(change: dict[str, Any]) -> None:
    values = msgpack.unpackb(SETTINGS.pack()) | change
    with pytest.raises(SettingsError):
        StreamerSettings.unpack(msgpack.packb(values))
    with pytest.raises(SettingsError):
        StreamerSettings.unpack(b"\xc1garbage")
