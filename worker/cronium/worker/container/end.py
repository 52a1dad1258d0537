"""Finding out that a container has ended, and how, whatever becomes of the engine meanwhile.

Runs in a worker, as a part of the follower's loop. The attached connection ends with the container, or with the engine: then the
engine is asked, again and again with growing pauses while it is away.
"""

from __future__ import annotations

import time

from cronium.worker.container.engine import ContainerState
from cronium.worker.container.execution import Execution
from cronium.worker.container.stream import Stream
from cronium.worker.errand import Errand

_FIRST_PAUSE_S = 0.02  # the connection ends a moment before the engine has noted it
_MAX_PAUSE_S = 5.0
_MAX_SAID = 4096
# The launcher leaves at once after its last word: an engine that has not told us by then will not, and is not needed.
_AFTER_DRAINED_S = 15.0
# Without engine and beyond the job's own deadline nothing is left to hope for.
_PATIENCE_S = 600.0
_LOOK_S = 0.2
_ANYWAY_S = 10.0


class End:
    """`known` once there is nothing more to wait for; `execution.fate` is then what the engine said, or None."""

    def __init__(self, execution: Execution) -> None:
        self._execution = execution
        self._inspect: Errand[ContainerState | None] = Errand()
        self._attach: Errand[Stream] = Errand()
        self._pause_s = _FIRST_PAUSE_S
        self._next_s = 0.0
        self._asked_s = time.monotonic()
        self._drained_s: float | None = None
        self._fresh = execution.adopted  # attached to a container that ran: did it still?
        self.known = execution.fate is not None
        self.known_s = time.monotonic()

    def descriptors(self) -> tuple[int, ...]:
        """Readable when something has changed."""
        stream = self._execution.stream
        attached = () if stream is None or stream.ended else (stream.descriptor,)
        return (*attached, self._inspect.descriptor, self._attach.descriptor)

    def look_after_s(self) -> float:
        """When to look again at the latest."""
        if self._stream_is_there() or self._inspect.out or self._attach.out:
            return _LOOK_S
        return max(0.001, min(_LOOK_S, self._next_s - time.monotonic()))

    def look(self) -> bool:
        """Go on; whether the end has become known just now."""
        if self.known:
            return False
        self._hear()
        self._take_stream()
        self._take_state()
        now_s = time.monotonic()
        if not self.known and self._hopeless(now_s):
            self.known = True
        if not (self.known or self._inspect.out or self._attach.out) and now_s >= self._due_s():
            engine, container = self._execution.engine, self._execution.container
            self._asked_s = now_s
            self._inspect.send(lambda: engine.state(container))
        self.known_s = now_s
        return self.known

    def _due_s(self) -> float:
        """When to ask the engine next. One that was attached to after its end never says so: that is why it is asked anyway."""
        if self._stream_is_there() and not self._fresh:
            return self._asked_s + _ANYWAY_S
        return self._next_s

    def close(self) -> None:
        """Forget what is on its way."""
        self._inspect.close()
        self._attach.close()

    def _stream_is_there(self) -> bool:
        stream = self._execution.stream
        return stream is not None and not stream.ended

    def _hear(self) -> None:
        stream = self._execution.stream
        while stream is not None and (piece := stream.take(_MAX_SAID)) is not None:
            if len(self._execution.said) < _MAX_SAID:
                self._execution.said += piece[1]

    def _take_state(self) -> None:
        back = self._inspect.take()
        if back is None:
            return
        state, error = back
        if error is not None:
            self._execution.engine_was_away = True
        elif state is None or not state.running:
            self._execution.fate = state
            self.known = True
            return
        elif self._stream_is_there():
            self._fresh = False
            return
        elif self._pause_s > _FIRST_PAUSE_S:  # it runs on: the engine was away, not the container
            engine, container = self._execution.engine, self._execution.container
            self._attach.send(lambda: engine.attach(container, stdin=False))
        self._next_s = time.monotonic() + self._pause_s
        self._pause_s = min(_MAX_PAUSE_S, self._pause_s * 2)

    def _take_stream(self) -> None:
        back = self._attach.take()
        if back is None:
            return
        stream, _ = back
        if stream is not None:
            if self._execution.stream is not None:
                self._execution.stream.close()
            self._execution.stream = stream
            self._pause_s, self._next_s, self._fresh = _FIRST_PAUSE_S, 0.0, True

    def _hopeless(self, now_s: float) -> bool:
        if not self._execution.engine_was_away:
            return False
        if self._execution.story.drained is not None:
            self._drained_s = self._drained_s or now_s
            return now_s > self._drained_s + _AFTER_DRAINED_S
        return now_s > self._execution.deadline_s() + _PATIENCE_S
