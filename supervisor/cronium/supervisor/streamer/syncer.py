"""Group commit: one thread that calls `fdatasync` for the loop, so that a slow disk holds up nobody else."""

from __future__ import annotations

import os
import queue
import threading

import zmq

from cronium.supervisor.streamer.transport import Synced, Teller

_TELL_TIMEOUT_S = 30.0


class Syncer:
    """One sync at a time; the loop hears `Synced`."""

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]]) -> None:
        self._context = context
        self._orders: queue.SimpleQueue[tuple[int, int] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="sync", daemon=True)
        self._thread.start()

    def begin(self, descriptor: int, lsn: int) -> None:
        """Sync a file (the descriptor is closed afterwards), after which everything below `lsn` is safe."""
        self._orders.put((descriptor, lsn))

    def stop(self, timeout_s: float) -> bool:
        """End the thread; False when it could not be ended in time."""
        self._orders.put(None)
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def _run(self) -> None:
        teller = Teller(self._context, _TELL_TIMEOUT_S)
        try:
            while (order := self._orders.get()) is not None:
                descriptor, lsn = order
                error = ""
                try:
                    os.fdatasync(descriptor)
                except OSError as failure:
                    error = str(failure)
                finally:
                    os.close(descriptor)
                teller.tell(Synced(lsn, error))
        except zmq.ZMQError:
            pass  # the loop has gone
        finally:
            teller.close()
