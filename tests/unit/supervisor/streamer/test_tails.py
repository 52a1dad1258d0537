"""The last text of each stream: exact, bounded, also when one stream is silent and the other floods."""

from __future__ import annotations

import zlib
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cronium.common.messages import Batch, Position
from cronium.supervisor.streamer import tails
from cronium.supervisor.streamer.tails import Tail, is_truncated
from peers.streamer_parts import batch


@pytest.fixture(autouse=True)
def small_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tails, "LIMIT_BYTES", 1000)
    monkeypatch.setattr(tails, "_MOST_KEPT", 16)
    monkeypatch.setattr(tails, "_MOST_KEPT_BYTES", 4000)


def expected(text: str) -> bytes:
    data = text.encode()[-1000:]
    return data.decode("utf-8", "ignore").encode()


pieces = st.tuples(
    st.sampled_from(["stdout", "stderr", "system"]),
    st.lists(st.text("abcé\u20ac😀", max_size=120), min_size=1, max_size=6),
    st.booleans(),
)


@settings(max_examples=200)
@given(st.lists(pieces, max_size=80), st.integers(0, 80))
def test_the_tail_is_the_end_of_the_text(parts: list[tuple[str, list[str], bool]], restart_at: int) -> None:
    tail, place = Tail(), Position()
    texts = {"stdout": "", "stderr": ""}
    for index, (stream, lines, compressed) in enumerate(parts):
        if index == restart_at:  # a snapshot, and everything behind it
            tail = Tail(*tail.texts())
        before = place
        if stream == "system":
            one = batch(before, tuple(lines))
            one = replace(
                one,
                payload=one.payload.replace(b'"stdout"', b'"system"'),
                after=replace(before, next_sequence=one.after.next_sequence),
            )
        else:
            one = batch(before, tuple(lines), stream=stream)
            texts[stream] += "".join(line + "\n" for line in lines)
        if compressed:
            one = replace(one, payload=zlib.compress(one.payload, 1, 31), compressed=True)
        tail.push(one, before)
        place = one.after
        assert len(tail._kept) <= 17
        assert tail._stdout.length <= 1000 + 800
    stdout, stderr = tail.texts()
    assert (stdout, stderr) == (expected(texts["stdout"]), expected(texts["stderr"]))
    assert is_truncated(place, stdout, stderr) == any(len(text.encode()) > len(expected(text)) for text in texts.values())


def test_a_line_in_pieces_has_one_newline() -> None:
    one = batch(texts=("ab", "cd"))
    payload = one.payload.replace(b'"sequence":1', b'"sequence":1,"continued":true')
    tail = Tail()
    tail.push(replace(one, payload=payload), Position())
    assert tail.texts()[0] == b"abcd\n"


def test_a_silent_stream_keeps_its_text_while_the_other_floods(monkeypatch: pytest.MonkeyPatch) -> None:
    """And the flood itself is never decoded."""
    decoded: list[Batch] = []
    original = tails._decoded

    def counted(one: Batch) -> tuple[bytes, bytes]:
        decoded.append(one)
        return original(one)

    monkeypatch.setattr(tails, "_decoded", counted)
    tail, place = Tail(), Position()
    for number in range(300):
        one = batch(place, ("only once",) if number == 3 else ("x" * 100,) * 2, stream="stderr" if number == 3 else "stdout")
        tail.push(one, place)
        place = one.after
    assert len(decoded) == 1, "at usual line lengths, even with nothing compressed"
    stdout, stderr = tail.texts()
    assert stderr == b"only once\n"
    assert len(stdout) == 1000
