"""The standalone queue keeps every line once, in order, and knows whether it has all of them."""

from __future__ import annotations

import random
import threading
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest
import websocket

from peers.standalone_queue import LogSocket, Orchestrator, Queue, eventually, lines, running_queue, sums


@pytest.fixture(scope="module")
def queue(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Queue]:
    with running_queue(tmp_path_factory.mktemp("queue")) as queue:
        yield queue


def taken(queue: Queue) -> tuple[Orchestrator, str]:
    """An orchestrator that has a job."""
    orchestrator, job_id = queue.orchestrator(), queue.submit()
    orchestrator.take(job_id)
    return orchestrator, job_id


def read(queue: Queue, job_id: str, first: int = 1) -> list[tuple[int, str, str]]:
    """What a person sees of a job's lines."""
    with queue.client() as client:
        return [(line.sequence, line.stream, line.line) for line in client.logs(job_id, first=first)]


def as_read(entries: list[dict[str, Any]]) -> list[tuple[int, str, str]]:
    return [(entry["sequence"], entry["stream"], entry["line"]) for entry in entries]


def some_lines(job_id: str, count: int) -> list[dict[str, Any]]:
    """Lines of both streams and of the system, of all kinds."""
    texts = ["", "plain", "äöü 漢字 🎉", 'quotes " and \\ and \t', "\x00\x1b[0m\r", "x" * 3000]
    chosen = random.Random(7)
    entries = lines(job_id, 1, [chosen.choice(texts) for _ in range(count)])
    for entry in entries:
        entry["stream"] = chosen.choice(["stdout", "stdout", "stderr", "system"])
        if chosen.random() < 0.1:
            entry["continued"] = True
    return entries


@pytest.mark.parametrize("members", [0, 1, 3])
def test_lines_arrive_as_they_were_and_are_checked(queue: Queue, members: int) -> None:
    """Plain, gzip, and gzip of several members: each line once, and complete's sums are those of what is here."""
    orchestrator, job_id = taken(queue)
    entries = some_lines(job_id, 500)
    with orchestrator.socket() as socket:
        for start in range(0, 500, 100):
            assert socket.acknowledged(socket.send_lines(entries[start : start + 100], members=members))["success"]
    assert orchestrator.complete(job_id, key="end", epoch=1, logs=sums(entries)).status_code == 200
    job = queue.job(job_id)
    assert (job["logsComplete"], job["logsCheck"]) == (True, {"state": True, "missing": [], "problems": []})
    assert read(queue, job_id) == as_read(entries)
    assert read(queue, job_id, 321) == as_read(entries)[320:]


def test_lines_that_come_twice_late_and_in_any_order_are_there_once(queue: Queue) -> None:
    """A streamer may send again whatever it is not sure of, framed anew."""
    orchestrator, job_id = taken(queue)
    entries = some_lines(job_id, 400)
    chosen = random.Random(3)
    frames = [(start, start + chosen.randint(1, 60)) for start in chosen.sample(range(400), 120)]
    frames += [(start, start + 40) for start in range(0, 400, 40)]
    chosen.shuffle(frames)
    orchestrator.complete(job_id, key="end", epoch=1, logs=sums(entries))
    assert queue.job(job_id)["logsComplete"] == "pending"
    with orchestrator.socket() as socket:
        for start, end in frames:
            assert socket.acknowledged(socket.send_lines(entries[start:end], members=chosen.randint(0, 2)))["success"]
    job = queue.job(job_id)
    assert job["logsCheck"] == {"state": True, "missing": [], "problems": []}
    assert read(queue, job_id) == as_read(entries)


def test_what_is_missing_is_said_and_late_lines_are_taken(queue: Queue) -> None:
    """`complete` may come before the last lines: the check waits for them."""
    orchestrator, job_id = taken(queue)
    entries = lines(job_id, 1, [f"line {n}" for n in range(10)])
    orchestrator.upload(job_id, entries[:3], epoch=1)
    orchestrator.upload(job_id, entries[6:8], epoch=1)
    orchestrator.complete(job_id, key="end", epoch=1, logs=sums(entries))
    job = queue.job(job_id)
    assert job["logsComplete"] == "pending"
    assert job["logsCheck"]["missing"] == [[4, 6], [9, 10]]
    assert read(queue, job_id) == as_read(entries)[:3]
    with queue.client() as client:
        followed: list[int] = []
        follower = threading.Thread(target=lambda: followed.extend(line.sequence for line in client.logs(job_id, follow=True)))
        follower.start()
        eventually(lambda: len(followed) == 3, "the follower has what is there")
        orchestrator.upload(job_id, entries, epoch=1)
        follower.join(20)
        assert followed == list(range(1, 11))
    assert queue.job(job_id)["logsComplete"] is True


def test_lines_that_differ_from_what_was_said_are_found_out(queue: Queue) -> None:
    """A line that was spoilt on its way, or one too many, does not pass for complete."""
    orchestrator, job_id = taken(queue)
    entries = lines(job_id, 1, ["a", "b"])
    said = sums(entries)
    orchestrator.upload(job_id, lines(job_id, 1, ["a", "c"]), epoch=1)
    orchestrator.complete(job_id, key="end", epoch=1, logs=said)
    job = queue.job(job_id)
    assert job["logsComplete"] is False
    assert "stdout" in job["logsCheck"]["problems"][0]

    orchestrator, job_id = taken(queue)
    orchestrator.complete(job_id, key="end", epoch=1, logs=said)
    orchestrator.upload(job_id, lines(job_id, 1, ["a", "b"]), epoch=1)
    assert queue.job(job_id)["logsComplete"] is True
    orchestrator.upload(job_id, lines(job_id, 3, ["one too many"]), epoch=1)
    assert queue.job(job_id)["logsComplete"] is False


@pytest.mark.parametrize("first", [None, 1])
def test_a_job_without_output_is_complete(queue: Queue, first: int | None) -> None:
    """No line is all lines."""
    orchestrator, job_id = taken(queue)
    orchestrator.complete(job_id, key="end", epoch=1, logs={"firstSequence": first, "lastSequence": 0})
    assert queue.job(job_id)["logsComplete"] is True


def test_frames_that_are_wrong_are_refused_and_harm_nothing(queue: Queue) -> None:
    """Each refusal is acknowledged as such with a reason; the connection goes on."""
    orchestrator, job_id = taken(queue)
    good = lines(job_id, 1, ["a", "b"])
    wrong: list[Any] = [
        [],
        None,
        "text",
        ["a"],
        [{"jobId": job_id}],
        [{**good[0], "sequence": 0}],
        [{**good[0], "sequence": 1.0}],
        [{**good[0], "sequence": True}],
        [{**good[0], "sequence": 2**60}],
        [good[0], {**good[1], "sequence": 3}],
        [good[0], {**good[1], "jobId": "another"}],
        [{**good[0], "jobId": []}],
        [{**good[0], "stream": "stdin"}],
        [{**good[0], "stream": {}}],
        [{**good[0], "line": 1}],
        [{**good[0], "timestamp": "now"}],
        lines("no-such-job", 1, ["x"]),
    ]
    with orchestrator.socket() as socket:
        for payload in wrong:
            answer = socket.acknowledged(socket.send_lines(payload))
            assert answer["success"] is False, payload
            assert ":" in answer["error"]
        socket.send({"type": "dance", "id": 100, "payload": {}})
        assert socket.acknowledged(100)["success"] is False
        socket.send({"type": "status", "id": 101, "payload": {"jobId": job_id, "status": "running"}})
        assert socket.acknowledged(101)["success"] is True
        for frame in ("no json", "[]", '{"type":"log","payload":[]}', '{"type":"log","id":"1","payload":[]}'):
            socket.connection.send(frame)
            assert socket.receive()["type"] == "error"
        assert socket.acknowledged(socket.send_lines(good))["success"]
    assert read(queue, job_id) == as_read(good)


def test_a_gzip_bomb_and_damaged_gzip_are_refused(queue: Queue) -> None:
    """A frame never takes more memory than its bound, whatever it claims to be."""
    orchestrator, job_id = taken(queue)
    bomb = zlib.compress(b'{"type":"log","id":1,"payload":[' + b" " * (64 * 1024 * 1024) + b"]}", 9, wbits=31)
    member = zlib.compress(b"", wbits=31)
    whole = zlib.compress(orjson.dumps({"type": "log", "id": 1, "payload": lines(job_id, 1, ["x"])}), wbits=31)
    with orchestrator.socket() as socket:
        for frame in (bomb, member * 5000, whole[:-3], whole + b"garbage", b"", b"\x00" * 100, b"{}"):
            socket.connection.send_binary(frame)
            assert socket.receive()["type"] == "error"
        assert socket.acknowledged(socket.send_lines(lines(job_id, 1, ["x"]), members=2))["success"]
    with orchestrator.socket() as socket, pytest.raises((websocket.WebSocketException, OSError)):
        socket.acknowledged(socket.send_lines(lines(job_id, 1, ["x" * (17 * 1024 * 1024)])))


def test_a_peer_that_sends_only_garbage_is_let_go(queue: Queue) -> None:
    """Garbage is answered a few times, then the connection ends."""
    orchestrator, _ = taken(queue)
    answers: list[str] = []

    def chatter(socket: LogSocket) -> None:
        while len(answers) < 100:
            socket.connection.send("garbage")
            answers.append(socket.receive()["type"])

    with orchestrator.socket() as socket, pytest.raises((websocket.WebSocketException, OSError)):
        chatter(socket)
    assert set(answers) == {"error"}


def test_the_socket_wants_the_token(queue: Queue) -> None:
    """In the handshake, and in the first frame; the first frame alone is enough, a wrong header is not."""
    with pytest.raises(websocket.WebSocketBadStatusException):
        websocket.create_connection(queue.ready["wsUrl"], timeout=10, header=["Authorization: Bearer wrong"])
    for payload in ({"token": "wrong", "orchestratorId": "o"}, {"token": queue.token}, None):
        connection = websocket.create_connection(queue.ready["wsUrl"], timeout=10)
        connection.send(orjson.dumps({"type": "authenticate", "payload": payload}).decode())
        assert orjson.loads(connection.recv())["type"] == "error"
        assert connection.recv() == ""  # so websocket-client tells a close frame
        connection.close()
    connection = websocket.create_connection(queue.ready["wsUrl"], timeout=10)
    connection.send(orjson.dumps({"type": "authenticate", "payload": {"token": queue.token, "orchestratorId": "o"}}).decode())
    connection.send('{"type":"ping","payload":{}}')
    assert orjson.loads(connection.recv())["type"] == "pong"
    connection.close()


def test_lines_before_the_epoch_are_refused(tmp_path: Path) -> None:
    """A host that does not go on at nextSequence would spoil what the host before it sent."""
    with running_queue(tmp_path, lease_s=0.2, offer_s=5) as queue:
        old, job_id = taken(queue)
        old.upload(job_id, lines(job_id, 1, ["a", "b"]), epoch=1)
        new = queue.orchestrator()
        eventually(lambda: new.poll(wait=1)["jobs"], "the lease runs out")
        assert new.upload(job_id, lines(job_id, 2, ["b", "c"]), epoch=2).status_code == 400
        entries = lines(job_id, 3, ["c", "d"])
        assert new.upload(job_id, entries, epoch=2).status_code == 200
        new.complete(job_id, key="end", epoch=2, logs=sums(entries))
        assert queue.job(job_id)["logsComplete"] is True
        assert [text for _, _, text in read(queue, job_id)] == ["a", "b", "c", "d"]


def test_a_job_may_not_fill_the_disk_with_its_log(tmp_path: Path) -> None:
    """Beyond its bound a job's lines are refused for good, and the job says so."""
    with running_queue(tmp_path, max_job_log_bytes=20_000) as queue:
        orchestrator, job_id = taken(queue)
        noise = random.Random(1)
        entries = lines(job_id, 1, [noise.randbytes(500).hex() for _ in range(100)])
        answers = []
        with orchestrator.socket() as socket:
            for start in range(0, 100, 10):
                answers.append(socket.acknowledged(socket.send_lines(entries[start : start + 10])))
            assert socket.acknowledged(socket.send_lines(entries[:10]))["success"]
        kept = sum(10 for answer in answers if answer["success"])
        assert 0 < kept < 100
        assert "20000" in answers[-1]["error"]
        orchestrator.complete(job_id, key="end", epoch=1, logs=sums(entries))
        job = queue.job(job_id)
        assert job["logsComplete"] is False
        assert job["logBytes"] <= 20_000
        assert read(queue, job_id) == as_read(entries[:kept])


def test_no_acknowledged_line_is_lost_when_the_queue_is_killed(tmp_path: Path) -> None:
    """An acknowledgement is a promise: kill -9 in a flood, and everything acknowledged is there, once."""
    with running_queue(tmp_path) as queue:
        orchestrator, job_id = taken(queue)
        sent, acknowledged = 0, 0
        for round_number in range(3):
            with orchestrator.socket() as socket:
                killer = threading.Timer(0.2 + 0.1 * round_number, queue.process.kill)
                killer.start()
                sent = acknowledged
                numbers: dict[int, int] = {}
                try:
                    while True:
                        for _ in range(20):
                            entries = lines(job_id, sent + 1, [f"line {sent + n}" for n in range(50)])
                            numbers[socket.send_lines(entries, members=1)] = sent + 50
                            sent += 50
                        for _ in range(20):
                            frame = socket.receive()["payload"]
                            assert frame["success"], frame
                            acknowledged = numbers[frame["messageId"]]
                except (websocket.WebSocketException, OSError):
                    killer.join()
            queue.end(9)
            queue.start()
        assert acknowledged > 0
        texts = [text for _, _, text in read(queue, job_id)]
        assert len(texts) >= acknowledged
        assert texts == [f"line {n}" for n in range(len(texts))]


def test_a_flood_is_taken_whole(queue: Queue) -> None:
    """300,000 lines in frames as a streamer sends them, acknowledged in order while more are coming, and right in the end."""
    orchestrator, job_id = taken(queue)
    crc32, size, frames = 0, 0, []
    for start in range(1, 300_001, 320):
        texts = [f"{n:010d} {'x' * 88}" for n in range(start, min(start + 320, 300_001))]
        text = "".join(line + "\n" for line in texts).encode()
        crc32, size = zlib.crc32(text, crc32), size + len(text)
        frame = {"type": "log", "id": len(frames) + 1, "epoch": 1, "payload": lines(job_id, start, texts)}
        frames.append(zlib.compress(orjson.dumps(frame), 1, wbits=31))
    with orchestrator.socket() as socket:
        sender = threading.Thread(target=lambda: [socket.connection.send_binary(frame) for frame in frames])
        sender.start()
        assert all(socket.acknowledged(number + 1)["success"] for number in range(len(frames)))
        sender.join()
    totals = {"lines": 300_000, "bytes": size, "crc32": f"{crc32:08x}"}
    orchestrator.complete(job_id, key="end", epoch=1, logs={"firstSequence": 1, "lastSequence": 300_000, "stdout": totals})
    assert queue.job(job_id)["logsComplete"] is True
    with queue.client() as client:
        assert sum(1 for line in client.logs(job_id) if line.line.startswith(f"{line.sequence:010d} ")) == 300_000
