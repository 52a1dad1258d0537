"""Submits jobs all the time, as many as keep the supervisor busy and its queue not empty."""

from __future__ import annotations

import random
import threading

from chaos.jobs import TIMEOUT_S, Planned, plan
from chaos.pulse import Pulse
from chaos.stage import SERVERS, Stage
from cronium.supervisor.standalone.client import StandaloneClient, StandaloneError

_LOOK_S = 0.1
_ATTEMPTS = 1  # a job must run once: what is retried would hide that it did not


class Load(threading.Thread):
    """A thread. `submitted`: what the queue has taken, in order."""

    def __init__(self, stage: Stage, pulse: Pulse, choose: random.Random, outstanding: int) -> None:
        super().__init__(daemon=True, name="load")
        self._stage, self._pulse, self._choose, self._outstanding = stage, pulse, choose, outstanding
        self._over = threading.Event()
        self.submitted: list[Planned] = []
        self.failed: BaseException | None = None

    def stop(self) -> None:
        """No more jobs; returns when the last one is with the queue."""
        self._over.set()
        self.join(60)

    def run(self) -> None:
        try:
            with self._stage.queue.client() as client:
                while not self._over.wait(_LOOK_S):
                    while len(self.submitted) - self._pulse.ended < self._outstanding and not self._over.is_set():
                        self._submit(client)
        except BaseException as error:  # told by the driver, which ends the run
            self.failed = error
            raise

    def _submit(self, client: StandaloneClient) -> None:
        job = plan(len(self.submitted) + 1, self._choose, SERVERS, str(self._stage.ran_on_servers))
        body = self._body(job)
        while True:
            try:
                client.submit(body, key=job.id)
                break
            except StandaloneError as error:
                if error.status not in {0, 429, 500, 503}:
                    raise
                if self._over.wait(0.5):
                    return  # perhaps it has taken it: see check.py
        self.submitted.append(job)

    def _body(self, job: Planned) -> dict[str, object]:
        execution: dict[str, object] = {
            "network": "none",
            "timeout": TIMEOUT_S,
            "script": {"type": job.type, "content": job.script},
            "retryPolicy": {"maxAttempts": _ATTEMPTS},
        }
        if job.server is not None:
            execution["target"] = self._stage.servers.target(job.server)
        return {"id": job.id, "priority": self._choose.randint(0, 9), "execution": execution}
