"""A supervisor with the standalone queue as a child of the command line: start it, wait until it works, stop it.

Runs in the command line's process. It knows the supervisor only by its command, its configuration and its queue.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from cronium.common.config.load import load_config
from cronium.common.errors import CroniumError
from cronium.supervisor.standalone.client import StandaloneClient, StandaloneError

TOKEN_FILE = Path("standalone/token")
"""Where the queue's token lies in the state directory."""
LOG_FILE = Path("supervisor.log")
_READY_TIMEOUT_S = 60.0
_STOP_TIMEOUT_S = 20.0
_POLL_S = 0.05
_SHOWN_LOG_LINES = 15


class SupervisorStartError(CroniumError):
    """The supervisor did not come up. The message has the end of its log and what to do next."""


@dataclass(frozen=True, slots=True)
class OwnSupervisor:
    """A supervisor that was started here. `url` and `token_file` are its queue's."""

    process: subprocess.Popen[bytes]
    url: str
    token_file: Path
    log: Path

    def client(self) -> StandaloneClient:
        """Talk to its queue."""
        return StandaloneClient(self.url, self.token_file.read_text().strip())

    def wait_until_ready(self) -> None:
        """Wait until the queue answers and has heard of the supervisor. Raises SupervisorStartError."""
        deadline = time.monotonic() + _READY_TIMEOUT_S
        while not self._is_ready():
            if self.process.poll() is not None:
                raise self._failed(f"The supervisor ended with exit code {self.process.returncode}")
            if time.monotonic() > deadline:
                raise self._failed(f"The supervisor was not ready after {_READY_TIMEOUT_S:.0f} s")
            time.sleep(_POLL_S)

    def _is_ready(self) -> bool:
        try:
            with self.client() as client:
                return bool(client.orchestrators())
        except (FileNotFoundError, StandaloneError):
            return False  # no token yet, or nobody listens yet

    def _failed(self, what: str) -> SupervisorStartError:
        lines = self.log.read_text(errors="replace").splitlines()[-_SHOWN_LOG_LINES:]
        said = "\n".join(f"  {line}" for line in lines) or "  (nothing)"
        return SupervisorStartError(
            f"{what}; it said:\n{said}\nNext: mend that; `cronium-supervisor validate` checks the settings."
        )

    def stop(self) -> int:
        """End it, gently at first; gives its exit code."""
        for number in (signal.SIGTERM, signal.SIGTERM, signal.SIGKILL):
            if self.process.poll() is None:
                self.process.send_signal(number)
            try:
                return self.process.wait(timeout=_STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                continue
        raise SupervisorStartError(f"Process {self.process.pid} cannot be ended. Next: see `ps -p {self.process.pid}`.")


def start_supervisor(overrides: Mapping[str, str]) -> OwnSupervisor:
    """Start `run --standalone` with these variables of the environment beside our own. Does not wait until it is ready."""
    environment = {**os.environ, **overrides}
    config = load_config(None, environment, standalone=True).config
    config.state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    log = config.state_dir / LOG_FILE
    with log.open("ab") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "cronium.supervisor", "run", "--standalone"],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env=environment,
            start_new_session=True,  # Ctrl-C is for us: we stop it in order; and `--keep` leaves it behind
        )
    url = f"http://{config.standalone.host}:{config.standalone.port}"
    return OwnSupervisor(process, url, config.state_dir / TOKEN_FILE, log)
