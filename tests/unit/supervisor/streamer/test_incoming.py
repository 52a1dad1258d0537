"""What the backend says: acknowledgements count, a refusal of ourselves is told apart, anything else does no harm."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cronium.supervisor.streamer.incoming import Turned, close_reason, heard_from
from cronium.supervisor.streamer.transport import Answered, Cancelled


@pytest.mark.parametrize(
    ("frame", "expected"),
    [
        ({"type": "ack", "payload": {"messageId": 41, "success": True}}, Answered(41, success=True, error="")),
        ({"type": "ack", "payload": {"messageId": 41, "success": False, "error": "no"}}, Answered(41, success=False, error="no")),
        ({"type": "ack", "payload": {"messageId": None, "success": True}}, None),
        ({"type": "ack", "payload": {"success": False, "error": "bad token"}}, Turned("bad token")),
        ({"type": "ack", "payload": {"messageId": True, "success": True}}, None),
        ({"type": "cancel", "payload": {"jobId": "job-1"}}, Cancelled("job-1")),
        ({"type": "pong", "payload": {}}, None),
        ({"type": "error", "payload": {"message": "odd"}}, None),
        ({"type": "something new"}, None),
        ({"type": "ack", "payload": 3}, None),
        ([], None),
    ],
)
def test_a_frame_means_what_the_protocol_says(frame: Any, expected: object) -> None:
    assert heard_from(json.dumps(frame).encode()) == expected


@given(st.binary(max_size=50))
def test_garbage_does_no_harm(data: bytes) -> None:
    assert heard_from(data) is None
    close_reason(data)
