"""How an attempt's end gets from the worker to the supervisor: real sockets, an executor that does nothing but end."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import orjson
import pytest
import zmq

from cronium.common import wire
from cronium.common.addresses import SUPERVISOR, endpoint
from cronium.common.config.model import Config
from cronium.common.messages import AttemptEnded, Dispatch, Outcome, ResultFile, Results, Settled
from cronium.common.wire import pack, unpack
from cronium.supervisor.pool.settings import worker_settings
from cronium.worker import run as run_module
from cronium.worker.executor import Complete
from cronium.worker.registry import Executors
from cronium.worker.run import AttemptRun
from cronium.worker.settings import WorkerSettings
from cronium.worker.sockets import Sockets

JOB = orjson.dumps({"id": "a", "execution": {"target": {"type": "local"}, "script": {"type": "bash", "content": "true"}}})
MIB = 1024 * 1024


class Ends:
    """An executor whose job has ended with this outcome, and all executors there are."""

    name = "container"

    def __init__(self, outcome: Outcome) -> None:
        self._outcome = outcome

    def for_job(self, _job: object) -> Ends:
        return self

    def validate(self, _job: object) -> tuple[()]:
        return ()

    def execute(self, *_args: object) -> Iterator[Complete]:
        yield Complete(self._outcome)

    def cleanup(self, *_args: object) -> None:
        pass

    def tend(self, now_s: float) -> float:
        return now_s + 60


class Ear:
    """A supervisor that only listens: when it heard which end, settled after so many seconds."""

    def __init__(self, runtime_dir: Path, settle_after_s: float) -> None:
        self.heard: list[tuple[float, AttemptEnded]] = []
        self._context = zmq.Context()
        self._router = self._context.socket(zmq.ROUTER)
        self._router.bind(endpoint(runtime_dir, SUPERVISOR))
        self._until_s = time.monotonic() + settle_after_s
        self._thread = threading.Thread(target=self._listen)
        self._thread.start()

    def _listen(self) -> None:
        while self._router.poll(5000):
            identity, frame = self._router.recv_multipart()
            message = unpack(frame)
            if isinstance(message, AttemptEnded):
                self.heard.append((time.monotonic(), message))
            if self.heard and time.monotonic() >= self._until_s:
                self._router.send_multipart([identity, pack(Settled("a", 1))])
                return

    def close(self) -> None:
        self._thread.join()
        self._context.destroy(linger=200)


def ends_with(folder: Path, results: Results, *, settle_after_s: float = 0.0) -> list[tuple[float, AttemptEnded]]:
    """What the supervisor hears of an attempt that gave this back."""
    config = Config.model_validate({"state_dir": folder / "state", "runtime_dir": folder})
    settings = WorkerSettings(**cast("dict[str, Any]", worker_settings(config, "t")), name="worker-1", number=1)
    sockets = Sockets(settings)
    ear = Ear(folder, settle_after_s)
    try:
        ended = Ends(Outcome("completed", 0, None, 1, 2, results))
        AttemptRun(settings, sockets, cast("Executors", ended), Dispatch("a", JOB, 1, 1, 1, "place", True, False)).run()
    finally:
        ear.close()
        sockets.close()
    return ear.heard


def test_an_end_that_no_message_can_carry_is_told_without_what_the_job_gave_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Promise 2: nobody takes a frame above the bound, so its job would never end."""
    monkeypatch.setattr(wire, "MAX_FRAME_BYTES", MIB)
    results = Results(b'"said"', True, None, (ResultFile("x", "text/plain", bytes(MIB)),), ("told before",))
    ((_, heard),) = ends_with(tmp_path, results)
    assert heard.outcome.status == "completed"
    assert heard.outcome.results.files == ()
    assert heard.outcome.results.script_output == b'"said"'
    before, told = heard.outcome.results.problems
    assert before == "told before"
    assert "left out" in told


def test_what_a_script_said_is_left_out_where_it_alone_is_too_much(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wire, "MAX_FRAME_BYTES", MIB)
    ((_, heard),) = ends_with(tmp_path, Results(b'"' + b"x" * MIB + b'"', True))
    assert heard.outcome.results.script_output is None
    assert len(heard.outcome.results.problems) == 1


def test_a_large_end_is_repeated_ever_more_seldom(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Promise 7: a supervisor whose disk is full keeps each of them in memory."""
    monkeypatch.setattr(run_module, "_LARGE_REPEAT_S", 0.5)
    results = Results(files=(ResultFile("x", "text/plain", bytes(2 * MIB)),))
    heard = ends_with(tmp_path, results, settle_after_s=5.0)
    gaps = [later - earlier for (earlier, _), (later, _) in itertools.pairwise(heard)]
    assert len(gaps) >= 3
    assert all(later > 1.4 * earlier for earlier, later in itertools.pairwise(gaps)), gaps
