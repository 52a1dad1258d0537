"""A real dockerd of a test's own, which may be killed, stopped and started again without anybody else noticing.

It has its own data root, exec root, containerd, socket and network namespace: a second dockerd with `--bridge=none` deletes
`docker0`, and one that uses iptables flushes the first one's chains. So its containers have no network but `none`. Needs root.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Self

import docker
import psutil
import requests
from docker import DockerClient
from docker.errors import DockerException, NotFound

START_S = 60.0
STOP_S = 30.0
CALL_S = 120
_LOOK_S = 0.02
_MOST_LOG_SHOWN = 8000


class OwnEngine:
    """One dockerd. Use as a context manager: started, and at its end nothing of it is left.

    `images` are copied from the engine at `source` (`docker save` to `docker load`, some seconds for each 100 MB); more with
    `copy_image`. With `live_restore` its containers survive stop and restart of dockerd (after SIGKILL they run on in any case,
    and a dockerd without it ends them when it starts). `arguments` are dockerd's own.
    """

    def __init__(
        self, source: str, images: Iterable[str] = (), *, live_restore: bool = True, arguments: Iterable[str] = ()
    ) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="cre-", dir="/tmp"))
        self.socket = self.folder / "docker.sock"
        self.endpoint = f"unix://{self.socket}"
        self.live_restore = live_restore
        self.log = self.folder / "dockerd.log"
        self._source = source
        self._images = tuple(images)
        self._arguments = tuple(arguments)
        self._exec_root = self.folder / "exec"
        self._process: psutil.Popen | None = None

    def __enter__(self) -> Self:
        try:
            self.start()
            for image in self._images:
                self.copy_image(image)
        except BaseException as error:
            self.__exit__(type(error), error, error.__traceback__)
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if kind is not None and self.log.exists():
            print(self.log.read_text(errors="replace")[-_MOST_LOG_SHOWN:])
        try:
            with suppress(AssertionError, requests.RequestException, DockerException):  # what is left then is ended below
                self._remove_containers()
            self.stop()
        finally:
            self._end_rest()
            self._unmount_rest()
            shutil.rmtree(self.folder)

    # --- the daemon ----------------------------------------------------------------------------------------------------

    @property
    def running(self) -> bool:
        """Whether dockerd's process is there."""
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int:
        """Of dockerd."""
        assert self._process is not None
        return int(self._process.pid)

    def start(self, *, live_restore: bool | None = None) -> None:
        """Start it, and wait until it answers. `live_restore` is kept for later starts."""
        assert not self.running
        if live_restore is not None:
            self.live_restore = live_restore
        # dockerd refuses to start while its pidfile names any process that lives, and waits 15 s for a containerd that has ended
        # and was not collected yet.
        for pidfile in (self.folder / "docker.pid", self._exec_root / "containerd" / "containerd.pid"):
            pidfile.unlink(missing_ok=True)
        command = [
            *("unshare", "--net"),
            "dockerd",
            f"--data-root={self.folder / 'data'}",
            f"--exec-root={self._exec_root}",
            f"--pidfile={self.folder / 'docker.pid'}",
            f"--host={self.endpoint}",
            *("--bridge=none", "--iptables=false", "--ip6tables=false", "--ip-masq=false"),
            *(("--live-restore",) if self.live_restore else ()),
            *self._arguments,
        ]
        with self.log.open("ab") as log:
            self._process = psutil.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True, cwd="/"
            )
        self.wait_until_ready()

    def wait_until_ready(self, timeout_s: float = START_S) -> None:
        """Until it answers."""
        deadline_s = time.monotonic() + timeout_s
        while not self.answers():
            assert self.running, f"dockerd has ended:\n{self.log.read_text(errors='replace')[-_MOST_LOG_SHOWN:]}"
            assert time.monotonic() < deadline_s, f"dockerd does not answer after {timeout_s:g} s"
            time.sleep(_LOOK_S)

    def answers(self) -> bool:
        """Whether it takes requests now."""
        try:
            with self.client(timeout_s=5) as client:
                return bool(client.ping())
        except (requests.RequestException, DockerException):
            return False

    def kill(self) -> None:
        """SIGKILL dockerd, as a crash would. Its containerd has asked the kernel to die with it; containers run on."""
        assert self._process is not None
        self._process.kill()
        self._process.wait(STOP_S)

    def kill_containerd(self) -> None:
        """SIGKILL containerd alone; dockerd starts it again after a while."""
        for process in self._containerds():
            process.kill()

    def stop(self) -> None:
        """SIGTERM, and wait; SIGKILL when it does not go. Without live-restore it ends its containers first."""
        if not self.running:
            return
        assert self._process is not None
        self._process.terminate()
        try:
            self._process.wait(STOP_S)
        except psutil.TimeoutExpired:
            self.kill()

    def restart(self, *, live_restore: bool | None = None) -> None:
        """Stop and start."""
        self.stop()
        self.start(live_restore=live_restore)

    # --- what is in it -------------------------------------------------------------------------------------------------

    @contextmanager
    def client(self, timeout_s: int = CALL_S) -> Iterator[DockerClient]:
        """A client, closed afterwards."""
        client = docker.DockerClient(base_url=self.endpoint, timeout=timeout_s)
        try:
            yield client
        finally:
            client.close()

    def copy_image(self, name: str) -> None:
        """Have this image here too, under its name."""
        save = subprocess.Popen(["docker", "--host", self._source, "save", name], stdout=subprocess.PIPE)
        try:
            subprocess.run(["docker", "--host", self.endpoint, "load", "--quiet"], stdin=save.stdout, check=True, timeout=CALL_S)
        finally:
            assert save.stdout is not None
            save.stdout.close()
            assert save.wait(CALL_S) == 0, f"no image {name} at {self._source}"

    def _remove_containers(self) -> None:
        if not self.answers():
            if self.running:
                self.kill()
            self.start()
        with self.client() as client:
            for one in client.api.containers(all=True):
                with suppress(NotFound):
                    client.api.remove_container(one["Id"], force=True, v=True)

    # --- what is left of it --------------------------------------------------------------------------------------------

    def _containerds(self) -> list[psutil.Process]:
        return [one for one in self._mine() if one.name() == "containerd" and one.status() != psutil.STATUS_ZOMBIE]

    def _mine(self) -> list[psutil.Process]:
        """Processes whose command line names our folder: containerd, its shims, and nothing of anybody else."""
        found = []
        for process in psutil.process_iter():
            with suppress(psutil.Error):
                if any(str(self._exec_root) in word for word in process.cmdline()):
                    found.append(process)
        return found

    def _end_rest(self) -> None:
        """A shim takes its container with it only when asked: what runs in there is ended first."""
        mine = self._mine()
        for process in mine:
            with suppress(psutil.Error):
                for inside in process.children(recursive=True):
                    with suppress(psutil.Error):
                        inside.kill()
        for process in mine:
            with suppress(psutil.Error):
                process.send_signal(signal.SIGKILL)
        psutil.wait_procs(mine, STOP_S)

    def _unmount_rest(self) -> None:
        points = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
        inside = [point for point in points if point.startswith(f"{self.folder}/")]
        for point in sorted(inside, key=len, reverse=True):
            subprocess.run(["umount", "--lazy", os.fsdecode(point)], check=True, timeout=STOP_S)
