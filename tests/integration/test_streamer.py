"""The real streamer process between a worker's real sender and a real WebSocket peer. Promise 3: every line once, in order."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import os
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import zmq

from cronium.common.addresses import POSITIONS, SUPERVISOR, WELCOME, endpoint
from cronium.common.messages import Announce, CancelHeard, Forget, Notice, StopStreamer, StreamerBeat, StreamerReady
from cronium.supervisor.streamer.settings import StreamerSettings
from peers.faulty_proxy import Fault, FaultyProxy
from peers.line_worker import LineWorker, line_of
from peers.log_peer import TOKEN, LogPeer
from peers.standalone_queue import running_queue
from peers.streamer_host import StreamerHost

MIB = 1024 * 1024


class World:
    """One streamer, one peer, some workers; everything ends with the test."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.peer = LogPeer()
        self.host: StreamerHost | None = None
        self.workers: list[LineWorker] = []
        for name in ("run", "state"):
            (folder / name).mkdir(mode=0o700)

    def start(self, *, listening: bool = True, **changes: Any) -> StreamerHost:
        self.peer.start()
        if not listening:
            self.peer.stop()
        values: dict[str, Any] = {"reconnect_s": 0.1, "reconnect_max_s": 0.3, "http_url": "", "heartbeat_s": 0.1} | changes
        settings = StreamerSettings(
            0, str(self.folder / "run"), str(self.folder / "state"), str(self.folder / "spool"),
            values.pop("websocket_url", self.peer.url),
            values.pop("http_url"), values.pop("token", TOKEN), "orchestrator-1", "0.1.0", **values,
        )  # fmt: skip
        self.host = StreamerHost(settings).start()
        return self.host

    def worker(self, job_id: str, total: int, name: str = "w1", **changes: Any) -> LineWorker:
        assert self.host is not None
        made = LineWorker(self.folder / "run", name, job_id, total, self.host.announce, **changes)
        self.workers.append(made)
        return made

    def start_again(self) -> None:
        """A new streamer, that can be asked."""
        assert self.host is not None
        count = sum(isinstance(message, StreamerReady) for message in self.host.heard)
        self.host.start()
        heard = self.host.heard
        self.host.wait_for(lambda: sum(isinstance(message, StreamerReady) for message in heard) > count)

    def arrived(self, job_id: str) -> int:
        return len(self.peer.lines.get(job_id, {}))

    def assert_all(self, worker: LineWorker, timeout_s: float = 60.0) -> None:
        """Every line of the job is at the backend, once, in order, as it was."""
        self.peer.wait_for(lambda: self.arrived(worker.job_id) >= worker.total, timeout_s)
        lines = self.peer.lines[worker.job_id]
        assert list(lines) == list(range(1, worker.total + 1))
        assert all(entry["line"] == line_of(number) for number, entry in lines.items())

    def spool_bytes(self) -> int:
        return sum(path.stat().st_blocks * 512 for path in (self.folder / "spool").glob("*.spool"))

    def close(self) -> None:
        for worker in self.workers:
            worker.close()
        if self.host is not None:
            self.host.close()
        self.peer.stop()
        self.peer.stop_http()


@pytest.fixture
def world(tmp_runtime_dir: Path) -> Iterator[World]:
    made = World(tmp_runtime_dir)
    try:
        yield made
    finally:
        made.close()


def eventually(holds: Callable[[], bool], timeout_s: float = 30.0) -> None:
    until = time.monotonic() + timeout_s
    while not holds():
        assert time.monotonic() < until, "what the test waits for did not come"
        time.sleep(0.01)


def test_lines_arrive_acknowledged_and_the_summary_says_so(world: World) -> None:
    host = world.start()
    worker = world.worker("job-1", 20_000, fresh=True)
    worker.run()
    world.assert_all(worker)
    summary = host.summary("job-1")
    expected = "".join(line_of(n) + "\n" for n in range(1, 20_001)).encode()
    assert summary.position.stdout.lines == 20_000
    assert summary.position.stdout.bytes == len(expected)
    assert summary.stdout == expected[-MIB:]
    assert summary.truncated
    assert world.peer.binary_frames > 0, "compressed by the worker, taken as one gzip file by the peer"
    assert world.peer.handshakes[0]["authorization"] == f"Bearer {TOKEN}"
    payload = world.peer.authenticated[0]["payload"]
    assert payload == {"token": TOKEN, "orchestratorId": "orchestrator-1", "version": "0.1.0", "encodings": ["gzip"]}
    host.wait_for(lambda: (beat := host.last_beat()) and beat.connected and beat.frames_acknowledged == beat.frames_sent > 0)
    host.tell(Announce("silent", "w9", 1, 1, 7))
    silent = host.summary("silent")
    assert (silent.position.next_sequence, silent.first_sequence, silent.stdout) == (7, 7, b"")
    host.tell(Forget("job-1", 1))
    eventually(lambda: host.summary("job-1").stdout == b"")


def test_a_new_subscriber_is_welcomed(world: World) -> None:
    """DESIGN.md: subscribing and asking at once would lose the answer half of the time."""
    host = world.start()
    host.wait_for(lambda: host.heard)
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    subscriber = context.socket(zmq.SUB)
    subscriber.setsockopt(zmq.SUBSCRIBE, WELCOME)
    subscriber.connect(endpoint(world.folder / "run", POSITIONS))
    try:
        assert subscriber.poll(5000)
        assert subscriber.recv() == WELCOME
        world.host.kill()  # type: ignore[union-attr]
        host.start()
        assert subscriber.poll(10_000), "also by a new streamer"
    finally:
        context.destroy(linger=0)


def test_a_streamer_killed_in_a_flood_loses_and_repeats_nothing(world: World) -> None:
    """Promise 5. It finds its socket files in the way each time, and ids go on rising."""
    host = world.start()
    worker = world.worker("job-1", 150_000, fresh=True, lines_a_batch=200)
    for kill in range(1, 5):
        worker.run(until=lambda: world.arrived("job-1") > worker.total * kill // 6)  # noqa: B023 - called at once
        host.kill()
        host.start()
        world.peer.wait_for(lambda: world.peer.connections == kill + 1)  # noqa: B023 - called at once
    worker.run()
    world.assert_all(worker)
    assert world.peer.connections == 5
    assert world.peer.ids == sorted(set(world.peer.ids))
    assert host.summary("job-1").position.stdout.lines == worker.total


def test_many_jobs_over_a_connection_that_breaks_all_the_time(world: World) -> None:
    world.peer.drop_every, world.peer.repeat_acks, world.peer.ack_backwards = 40, True, 7
    host = world.start(ack_timeout_s=1.0)
    workers = [world.worker(f"job-{n}", 6000, f"w{n}", fresh=True, lines_a_batch=50) for n in range(3)]
    threads = [threading.Thread(target=worker.run) for worker in workers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for worker in workers:
        world.assert_all(worker)
    assert world.peer.connections > 3
    host.wait_for(lambda: (beat := host.last_beat()) and beat.reconnects >= 3)


def test_a_backend_that_never_answers_holds_jobs_back_at_their_backlog(world: World) -> None:
    """Promise 7: bounded memory and disk, and replays instead of a standstill."""
    world.peer.acknowledge = False
    host = world.start(max_backlog_bytes=MIB, ack_timeout_s=1.5, max_unacked=8, max_spool_bytes=16 * MIB)
    worker = world.worker("job-1", 200_000, fresh=True, compress_threshold=10**9)
    host.wait_for(lambda: (beat := host.last_beat()) and beat.connected)
    worker.run(until=lambda: bool(worker.said) and worker.said[-1].window_bytes < 100_000)
    assert world.peer.connections == 1
    assert worker.said[-1].written.stdout.bytes < 1.2 * MIB
    worker.run(until=lambda: world.peer.connections >= 3)
    assert world.spool_bytes() <= 16 * MIB
    assert host.memory_bytes() < 100 * MIB
    world.peer.acknowledge = True
    worker.run()
    world.assert_all(worker)
    assert world.peer.repeats > 0


def test_a_peer_that_stops_reading_stops_nobody_else(world: World) -> None:
    """The loop says positions, answers the supervisor and beats while a write to the WebSocket is stuck."""
    host = world.start(ack_timeout_s=30.0, max_backlog_bytes=64 * MIB, max_unacked=1000)
    world.peer.read.clear()
    worker = world.worker("job-1", 400_000, fresh=True, compress_threshold=10**9)

    def written() -> int:
        position = worker.sender.written if worker.sender else None
        return position.next_sequence if position else 0

    worker.run(until=lambda: written() > 100_000)
    count = len(host.heard)
    host.wait_for(lambda: len(host.heard) > count + 3)
    assert host.summary("job-1").position.next_sequence > 100_000
    world.peer.read.set()
    worker.run()
    world.assert_all(worker)


def test_a_backend_away_lets_a_job_go_on_up_to_its_share_and_gets_all_later(world: World) -> None:
    """A loud job is held at its share of the spool, another one still finds room; nothing is lost."""
    host = world.start(listening=False, max_spool_bytes=16 * MIB, segment_bytes=MIB, max_backlog_bytes=MIB)
    loud = world.worker("loud", 200_000, fresh=True, compress_threshold=10**9)
    loud.run(until=lambda: bool(loud.said) and loud.said[-1].window_bytes < 64 * 1024 and loud.sender.idle())  # type: ignore[union-attr]
    held = loud.said[-1].written.stdout.bytes
    assert MIB < held < 12 * MIB
    host.wait_for(lambda: (beat := host.last_beat()) and beat.spool_full and beat.spool_max_bytes == 16 * MIB)
    assert "raise logging.spool.maxSize" in host.log()
    assert world.spool_bytes() <= 16 * MIB
    other = world.worker("other", 5000, "w2", fresh=True)
    other.run()
    host.kill()
    host.start()
    world.peer.start()
    loud.run()
    for worker in (loud, other):
        world.assert_all(worker)
    eventually(lambda: world.spool_bytes() <= 3 * MIB)


def test_lines_refused_for_good_are_set_aside_and_block_nobody(world: World) -> None:
    world.peer.refuse = lambda frame: "no such job" if frame["payload"][0]["jobId"] == "bad" else None
    host = world.start()
    bad, good = world.worker("bad", 3000, "w1", fresh=True), world.worker("good", 3000, "w2", fresh=True)
    bad.run()
    good.run()
    world.assert_all(good)
    host.wait_for(lambda: (beat := host.last_beat()) and beat.lines_refused == 3000)
    told = [line for line in host.log().splitlines() if "for good" in line]
    assert len(told) == 1
    assert "no such job" in told[0]
    assert world.arrived("bad") == 0


def test_lines_go_by_http_while_the_socket_stays_away_and_over_it_when_it_is_back(world: World) -> None:
    world.peer.start_http()
    host = world.start(listening=False, fallback_after_s=0.3, http_url=world.peer.http_url)
    worker = world.worker("job/1", 20_000, fresh=True)
    worker.run(until=lambda: world.arrived("job/1") > 5000)
    path, body, headers = world.peer.posts[0]
    assert path == "/api/internal/jobs/job%2F1/logs"
    assert headers["Authorization"] == f"Bearer {TOKEN}"
    assert body["metadata"]["sequenceStart"] == body["entries"][0]["sequence"] == 1
    assert body["metadata"]["sequenceEnd"] == body["entries"][-1]["sequence"]
    assert body["epoch"] == 1
    world.peer.start()
    host.wait_for(lambda: (beat := host.last_beat()) and beat.connected)
    worker.run()
    world.assert_all(worker)
    posts = len(world.peer.posts)
    more = world.worker("job-2", 1000, "w2", fresh=True)
    more.run()
    world.assert_all(more)
    assert len(world.peer.posts) == posts
    assert world.peer.ids, "what came later came over the socket"


def test_a_streamer_beats_while_it_reads_its_spool(world: World) -> None:
    """One that reads a long spool was taken for one that does not come up, and ended, again and again."""
    host = world.start(listening=False, heartbeat_s=0.001)
    world.worker("job-1", 20_000, fresh=True, lines_a_batch=10).run()
    host.kill()
    time.sleep(0.2)  # what the old one has said is heard
    count = len(host.heard)
    world.start_again()
    again = host.heard[count:]
    ready = next(index for index, message in enumerate(again) if isinstance(message, StreamerReady))
    beats = [message.progress for message in again[:ready] if isinstance(message, StreamerBeat)]
    assert len(beats) > 3
    assert beats == sorted(beats)


def test_http_waits_when_told_to_and_sets_aside_what_is_refused(world: World) -> None:
    world.peer.start_http()
    world.peer.http_status, world.peer.http_headers = 429, {"Retry-After": "1"}
    host = world.start(listening=False, fallback_after_s=0.1, http_url=world.peer.http_url)
    worker = world.worker("job-1", 1000, fresh=True, lines_a_batch=50)
    worker.run()
    host.wait_for(lambda: len(world.peer.posted_at_s) >= 2)
    assert world.peer.posted_at_s[1] - world.peer.posted_at_s[0] >= 1.0
    world.peer.http_refuse = lambda body: any(entry["sequence"] == 120 for entry in body["entries"])
    world.peer.http_status = 200
    host.wait_for(lambda: (beat := host.last_beat()) and beat.lines_refused > 0)
    world.peer.wait_for(lambda: world.arrived("job-1") == 950)
    assert not set(range(101, 151)) & set(world.peer.lines["job-1"]), "only the batch with the bad line"


@pytest.mark.parametrize("fault", [Fault.REDIRECT, Fault.HTML_200, Fault.NO_SUCCESS], ids=lambda one: one.name)
def test_what_answers_in_the_backends_place_has_taken_no_line(world: World, fault: Fault) -> None:
    """Promise 4: the spool forgets only what the backend itself has taken, not what a portal or a proxy says."""
    world.peer.start_http()
    faults = [fault, fault]
    proxy = FaultyProxy(lambda method, path: faults.pop() if faults else None).start(world.peer.http_url)
    try:
        world.start(listening=False, fallback_after_s=0.1, http_url=proxy.url)
        worker = world.worker("job-1", 1000, fresh=True)
        worker.run()
        world.assert_all(worker)
    finally:
        proxy.stop()
    assert proxy.count(fault) == 2


def test_a_rate_limit_holds_one_job_and_not_the_other(world: World) -> None:
    world.start(lines_per_second=500)
    worker = world.worker("job-1", 2500, fresh=True, lines_a_batch=20)
    began_s = time.monotonic()
    worker.run()
    world.assert_all(worker)
    assert time.monotonic() - began_s >= (2500 - 500 - 500) / 500, "a second's worth at once, and what the first window allows"


def test_a_full_disk_holds_jobs_back_and_corrupts_nothing(world: World) -> None:
    """A spool on a disk of 9 MiB, with a bound that is larger than the disk."""
    spool = world.folder / "spool"
    spool.mkdir()
    mounted = f'mount -t tmpfs -o size=9m none {spool} && exec "$0" "$@"'
    unshare = ["unshare", "-m"] if os.geteuid() == 0 else ["unshare", "-Urm"]
    StreamerHost.prefix = [*unshare, "sh", "-c", mounted]
    try:
        host = world.start(listening=False, segment_bytes=MIB)
    finally:
        StreamerHost.prefix = []
    worker = world.worker("job-1", 150_000, fresh=True, compress_threshold=10**9)
    worker.run(until=lambda: "free some space" in host.log())
    worker.run(until=lambda: worker.said[-1].window_bytes == 0)
    other = world.worker("job-2", 10, "w2", fresh=True)
    held = host.summary("job-1").position
    assert host.summary("job-1").position == held
    assert held.stdout.bytes > 3 * MIB
    world.peer.start()
    worker.run()
    other.run()
    world.assert_all(worker)
    world.assert_all(other)
    assert "has room again" in host.log()


@pytest.fixture
def small_disk(world: World) -> Iterator[Path]:
    """A file system of 9 MiB for the spool; what is yielded is a file that fills it."""
    spool = world.folder / "spool"
    spool.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=9m", "none", spool], check=True)
    try:
        yield spool / "filler"
    finally:
        if world.host is not None:
            world.host.close()
        subprocess.run(["umount", "--lazy", spool], check=True)


def fill(path: Path) -> None:
    """Take all the space that is left."""
    with path.open("ab", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(b"x" * 4096)


def test_it_starts_on_a_full_disk_and_a_kill_there_costs_nothing(world: World, small_disk: Path) -> None:
    """Promises 5 and 7: jobs wait, supervisor and workers are answered, and all goes on when there is space."""
    fill(small_disk)
    host = world.start(listening=False, segment_bytes=MIB)
    worker = world.worker("job-1", 60_000, fresh=True, compress_threshold=10**9)
    worker.run(until=lambda: bool(worker.said) and worker.said[-1].window_bytes == 0)
    assert host.process is not None
    assert host.process.poll() is None
    assert host.log().count("free some space on this disk") == 1
    host.wait_for(lambda: (beat := host.last_beat()) and beat.spool_full)
    host.kill()
    world.start_again()
    assert host.log().count("free some space on this disk") == 2
    assert host.summary("job-1").position.next_sequence == 1
    small_disk.unlink()
    worker.run(until=lambda: worker.said[-1].written.next_sequence > 10_000)
    fill(small_disk)
    worker.run(until=lambda: worker.said[-1].window_bytes == 0)
    held = host.summary("job-1").position
    for _ in range(2):
        host.kill()
        world.start_again()
        assert host.summary("job-1").position == held
    small_disk.unlink()
    world.peer.start()
    worker.run()
    world.assert_all(worker)
    host.wait_for(lambda: (beat := host.last_beat()) and not beat.spool_full)


SHADOWED = """
import os, pathlib, runpy, sys, time
spool, shadow = map(pathlib.Path, sys.argv[1:3])
sync = os.fdatasync
def shadowed(descriptor):
    file = pathlib.Path(os.readlink(f"/proc/self/fd/{descriptor}"))
    data = file.read_bytes() if file.parent == spool else b""
    sync(descriptor)
    time.sleep(0.03)  # a slow disk
    if data:
        (shadow / "new").write_bytes(data)
        (shadow / "new").rename(shadow / file.name)
os.fdatasync = shadowed
runpy.run_module("cronium.supervisor.streamer", run_name="__main__")
"""


def test_a_power_cut_in_a_flood_loses_no_line_and_uses_no_number_twice(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Promise 5. A shadow folder has what was synced and nothing else: after the cut that is what the disk holds."""
    shadow, spool = world.folder / "shadow", world.folder / "spool"
    shadow.mkdir()
    StreamerHost.prefix = [sys.executable, "-c", SHADOWED, str(spool), str(shadow)]
    try:
        host = world.start(segment_bytes=MIB, max_backlog_bytes=MIB // 4)  # so that the peer keeps up
        worker = world.worker("job-1", 20_000, fresh=True, lines_a_batch=100)
        for cut in range(1, 5):
            worker.run(until=lambda: world.arrived("job-1") > worker.total * cut // 6)  # noqa: B023 - called at once
            host.kill()
            names = {path.name for path in spool.glob("*.spool")}
            for path in spool.glob("*.spool"):
                path.unlink()
            for path in shadow.glob("*.spool"):
                if path.name in names:
                    (spool / path.name).write_bytes(path.read_bytes())
                path.unlink()
            # Read anew after the cut, lines have another text: one under a number that the backend has is noticed.
            monkeypatch.setattr("peers.line_worker.line_of", lambda number, cut=cut: f"{cut} {line_of(number)}")
            generation = worker.generation + 1
            worker.close()
            worker = world.worker("job-1", worker.total, generation=generation, lines_a_batch=100)
            world.start_again()
            assert host.summary("job-1").position.next_sequence > world.arrived("job-1")
    finally:
        StreamerHost.prefix = []
    worker.run()
    world.peer.wait_for(lambda: world.arrived("job-1") >= worker.total)
    lines = world.peer.lines["job-1"]
    assert sorted(lines) == list(range(1, worker.total + 1))
    assert all(entry["line"].endswith(line_of(number)) for number, entry in lines.items())


def test_damage_under_a_job_that_runs_costs_the_damaged_lines_and_the_job_goes_on(world: World) -> None:
    """Promise 3: neither do its batches on their way pass for confirmed, nor does it wait for ever."""
    host = world.start(listening=False)
    worker = world.worker("job-1", 100_000, fresh=True)
    worker.run(until=lambda: worker.said[-1:] != [] and worker.said[-1].synced.next_sequence > 20_000)
    count = len(host.heard)
    worker.run(until=lambda: len(host.heard) > count + 1)  # a beat, so a mark that says what is synced
    host.kill()
    with (world.folder / "spool" / f"{0:020d}.spool").open("r+b") as file:
        file.seek(5000)
        file.write(b"damage")
    world.start_again()
    world.peer.start()
    worker.run()

    def told() -> list[dict[str, Any]]:
        return [entry for entry in list(world.peer.lines.get("job-1", {}).values()) if entry["stream"] == "system"]

    world.peer.wait_for(lambda: bool(told()) and worker.total in world.peer.lines["job-1"])
    (said,), lines = told(), world.peer.lines["job-1"]
    first, last = map(int, re.findall(r"lines (\d+) to (\d+) of this job are lost", said["line"])[0])
    assert 0 < last - first < 2000
    end = max(worker.total, said["sequence"])
    assert sorted(lines) == [number for number in range(1, end + 1) if not first <= number <= last]


FAILS_ONCE = """
import os, pathlib, runpy, sys
failed, sync = pathlib.Path(sys.argv[1]), os.fdatasync
def fails_once(descriptor):
    if "spool" in os.readlink(f"/proc/self/fd/{descriptor}") and failed.exists() and failed.read_text() == "now":
        failed.write_text("done")
        raise OSError(5, "Input/output error")
    sync(descriptor)
os.fdatasync = fails_once
runpy.run_module("cronium.supervisor.streamer", run_name="__main__")
"""


def test_a_sync_that_fails_is_never_taken_back_and_a_new_streamer_goes_on(world: World) -> None:
    """Promise 5: the next sync would succeed without the pages of this one."""
    failed = world.folder / "failed"
    StreamerHost.prefix = [sys.executable, "-c", FAILS_ONCE, str(failed)]
    try:
        host = world.start()
        worker = world.worker("job-1", 30_000, fresh=True)
        worker.run(until=lambda: world.arrived("job-1") > 5000)
        failed.write_text("now")
        worker.run(until=lambda: host.process is not None and host.process.poll() is not None)
        assert host.process is not None
        assert host.process.wait(10) == 1
        assert "see to this disk" in host.log()
        world.start_again()
        worker.run()
        world.assert_all(worker)
    finally:
        StreamerHost.prefix = []


@pytest.mark.parametrize("by_http", [False, True])
def test_what_the_backend_does_not_take_for_too_long_is_given_up_and_told(world: World, by_http: bool) -> None:
    """Promise 7, also for what was handed to the fallback already."""
    if by_http:
        world.peer.start_http()
        world.peer.http_status = 503
    host = world.start(
        listening=False, max_spool_age_s=1.0, fallback_after_s=0.1, http_url=world.peer.http_url if by_http else ""
    )
    old = world.worker("old", 3000, fresh=True)
    old.run()
    host.wait_for(lambda: (beat := host.last_beat()) and beat.given_up_lines == 3000)
    told = [line for line in host.log().splitlines() if "given up" in line]
    assert len(told) == 1
    assert "raise maxAge" in told[0]
    host.tell(Forget("old", 1))
    eventually(lambda: host.summary("old").stdout == b"")
    new = world.worker("new", 1000, "w2", fresh=True)
    world.peer.start()
    new.run()
    world.assert_all(new)
    assert world.arrived("old") == 0


def test_notices_go_to_whoever_watches_and_a_cancel_is_heard(world: World) -> None:
    host = world.start()
    host.wait_for(lambda: (beat := host.last_beat()) and beat.connected)
    host.tell(Notice("status", json.dumps({"jobId": "job-1", "status": "running"}).encode()))
    world.peer.wait_for(lambda: bool(world.peer.frames))
    frame = world.peer.frames[0]
    assert (frame["type"], frame["payload"]["status"]) == ("status", "running")
    assert type(frame["id"]) is int
    next(iter(world.peer._open)).send(json.dumps({"type": "cancel", "payload": {"jobId": "job-7"}}))
    host.wait_for(lambda: CancelHeard("job-7") in host.heard)


@pytest.mark.parametrize("by_message", [True, False])
def test_it_leaves_quickly_when_told_to_and_keeps_what_could_not_be_sent(world: World, by_message: bool) -> None:
    world.peer.acknowledge = False
    host = world.start()
    worker = world.worker("job-1", 1000, fresh=True)
    worker.run()
    began_s = time.monotonic()
    if by_message:
        assert host.process is not None
        host.tell(StopStreamer())
        assert host.process.wait(5) == 0
    else:
        assert host.terminate() == 0
    assert time.monotonic() - began_s < 4
    world.peer.acknowledge = True
    world.peer.lines.clear()
    host.start()
    world.assert_all(worker)


def test_it_dies_with_its_parent_and_shows_no_token(world: World) -> None:
    """Promises 6 and 8."""
    settings = StreamerSettings(
        0,
        str(world.folder / "run"),
        str(world.folder / "state"),
        str(world.folder / "spool"),
        "ws://127.0.0.1:1/",
        "",
        TOKEN,
        "o",
        "1",
    )
    program = (
        "import os, subprocess, sys, time, dataclasses\n"
        "from cronium.supervisor.streamer.settings import StreamerSettings\n"
        "settings = dataclasses.replace(StreamerSettings.unpack(sys.stdin.buffer.read()), parent_pid=os.getpid())\n"
        "child = subprocess.Popen([sys.executable, '-m', 'cronium.supervisor.streamer'], stdin=subprocess.PIPE)\n"
        "child.stdin.write(settings.pack()); child.stdin.close(); print(child.pid, flush=True); time.sleep(60)\n"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    assert parent.stdin is not None
    assert parent.stdout is not None
    try:
        parent.stdin.write(settings.pack())
        parent.stdin.close()
        child = psutil.Process(int(parent.stdout.readline()))
        eventually((world.folder / "run" / POSITIONS).exists)
        eventually(lambda: child.cmdline()[0] == "cronium: streamer")
        seen = Path(f"/proc/{child.pid}/cmdline").read_bytes() + Path(f"/proc/{child.pid}/environ").read_bytes()
        assert TOKEN.encode() not in seen
    finally:
        parent.kill()
        parent.wait(10)
        parent.stdout.close()
    eventually(lambda: not child.is_running() or child.status() == psutil.STATUS_ZOMBIE)


def test_wrong_settings_and_a_foreign_spool_are_refused_with_a_reason(world: World) -> None:
    spool = world.folder / "spool"
    spool.mkdir()
    (spool / f"{0:020d}.spool").write_bytes(b"something of somebody else")
    host = world.start()
    assert host.process is not None
    assert host.process.wait(20) == 1
    assert "move it out" in host.log()
    assert not (world.folder / "run" / POSITIONS).exists()
    assert (world.folder / "run" / SUPERVISOR).exists()


def test_a_peer_that_has_silently_gone_is_noticed_by_its_missing_pong(world: World) -> None:
    """A backend behind a dead link: the handshake went through, then nothing at all comes any more."""
    accepted: list[socket.socket] = []
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            request = b""
            while b"\r\n\r\n" not in request:
                request += connection.recv(4096)
            key = next(line for line in request.decode().split("\r\n") if line.lower().startswith("sec-websocket-key")).split()[1]
            accept = base64.b64encode(hashlib.sha1(f"{key}258EAFA5-E914-47DA-95CA-C5AB0DC85B11".encode()).digest()).decode()
            head = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: "
            connection.sendall(f"{head}{accept}\r\n\r\n".encode())
            accepted.append(connection)

    threading.Thread(target=serve, daemon=True).start()
    try:
        host = world.start(ping_s=0.5, websocket_url=f"ws://127.0.0.1:{listener.getsockname()[1]}/")
        host.wait_for(lambda: len(accepted) >= 2)
        assert "nothing came for" in host.log()
    finally:
        listener.close()
        for connection in accepted:
            connection.close()


def test_an_idle_streamer_costs_next_to_nothing(world: World) -> None:
    host = world.start(heartbeat_s=1.0)
    for number in range(20):
        host.tell(Announce(f"job-{number}", f"w{number}", 1, 1, 1))
    worker = world.worker("job-x", 1000, fresh=True)
    worker.run()
    world.assert_all(worker)
    eventually(lambda: host.used_cpu_s() > 0)
    before_s, began_s = host.used_cpu_s(), time.monotonic()
    count = len(host.heard)
    host.wait_for(lambda: len(host.heard) >= count + 4)
    assert (host.used_cpu_s() - before_s) / (time.monotonic() - began_s) < 0.05


@pytest.mark.parametrize("by_http", [False, True])
def test_our_own_queue_takes_what_we_send(world: World, by_http: bool) -> None:
    """Our two halves of the protocol fit: every line is in the standalone queue, by the socket or by HTTP."""
    with running_queue(world.folder) as queue:
        orchestrator = queue.orchestrator("orchestrator-1")
        job_id = queue.submit()
        orchestrator.take(job_id)
        url = "ws://127.0.0.1:1/" if by_http else queue.ready["wsUrl"]
        world.start(token=queue.token, websocket_url=url, http_url=queue.ready["apiUrl"], fallback_after_s=0.1)
        worker = world.worker(job_id, 3000, fresh=True)
        worker.run()
        with queue.client() as client:
            eventually(lambda: len(list(client.logs(job_id))) == 3000)
            assert [entry.line for entry in client.logs(job_id)] == [line_of(n) for n in range(1, 3001)]
