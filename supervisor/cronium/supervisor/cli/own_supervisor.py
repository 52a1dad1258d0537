"""A supervisor with the standalone queue as a child of the command line: start it, wait until it works, stop it.

Runs in the command line's process. It knows the supervisor only by its command, its configuration and its queue.
"""

import json
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

ADDRESS_FILE = Path("standalone/address.json")
"""Where the supervisor writes down, in its state directory, how its queue is reached: `clientUrl` and `tokenFile`."""
LOG_FILE = Path("supervisor.log")
_READY_TIMEOUT_S = 60.0
_STOP_TIMEOUT_S = 20.0
_POLL_S = 0.05
_SHOWN_LOG_LINES = 15


class SupervisorStartError(CroniumError):
    """The supervisor did not come up, or did not stay. The message has the end of its log and what to do next."""


@dataclass(frozen=True, slots=True)
class OwnSupervisor:
    """A supervisor that was started here. `address_before_ns` is when its address file was written by an earlier one."""

    process: subprocess.Popen[bytes]
    address: Path
    address_before_ns: int
    log: Path

    @property
    def url(self) -> str:
        """Where its queue is; OSError or ValueError before it has said so."""
        return str(json.loads(self.address.read_bytes())["clientUrl"])

    def client(self) -> StandaloneClient:
        """Talk to its queue; OSError or ValueError before it has said where it is."""
        told = json.loads(self.address.read_bytes())
        return StandaloneClient(told["clientUrl"], Path(told["tokenFile"]).read_text().strip())

    def wait_until_ready(self) -> None:
        """Wait until its queue answers. Raises SupervisorStartError."""
        deadline = time.monotonic() + _READY_TIMEOUT_S
        while not self._is_ready():
            self.raise_if_ended()
            if time.monotonic() > deadline:
                raise self._failed(f"The supervisor was not ready after {_READY_TIMEOUT_S:.0f} s")
            time.sleep(_POLL_S)

    def raise_if_ended(self) -> None:
        """Raise SupervisorStartError when it does not run any more."""
        if self.process.poll() is not None:
            raise self._failed(f"The supervisor ended with exit code {self.process.returncode}")

    def _is_ready(self) -> bool:
        if _written_ns(self.address) == self.address_before_ns:
            return False
        try:
            with self.client() as client:
                client.jobs(limit=1)
        except (OSError, ValueError, StandaloneError):
            return False  # half written, no token yet, or nobody listens yet
        return True

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
    address, log = config.state_dir / ADDRESS_FILE, config.state_dir / LOG_FILE
    before_ns = _written_ns(address)
    with log.open("ab") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "cronium.supervisor", "run", "--standalone"],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env=environment,
            start_new_session=True,  # Ctrl-C is for us: we stop it in order; and `--keep` leaves it behind
        )
    return OwnSupervisor(process, address, before_ns, log)


def _written_ns(file: Path) -> int:
    try:
        return file.stat().st_mtime_ns
    except FileNotFoundError:
        return 0
