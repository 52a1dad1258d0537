"""What a place has said of itself in its `state` file, put together.

Pure. It is the script's word as well as the launcher's: the launcher writes last, so of what may be said once the last counts.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from cronium.worker.launcher import Drained, Ended, Failed, OutputLost, Results, Started, StateEvent, StateReader, Usage

# The launcher got no job, or half of one: whoever held its stdin has died; or somebody has given it up. Nothing was started.
_NEVER_FED = frozenset({"no_input", "incomplete", "given_up"})
_MAX_LOST = 20


@dataclass(slots=True)
class Story:
    """So far."""

    started: Started | None = None
    ended: Ended | None = None
    usage: Usage | None = None
    results: Results | None = None
    drained: Drained | None = None
    failed: Failed | None = None
    lost: list[OutputLost] = field(default_factory=list)
    _reader: StateReader = field(default_factory=StateReader)

    @property
    def begun(self) -> bool:
        """Whether it is the story of a script, or of why there was none; not of a launcher that nobody fed."""
        if self.started or self.ended:
            return True
        return self.failed is not None and self.failed.reason not in _NEVER_FED

    @property
    def over(self) -> bool:
        """Whether nothing more can come of it without a start."""
        return self.begun or self.failed is not None

    def feed(self, data: bytes) -> list[StateEvent]:
        """Take more of the file; what was new in it."""
        events = self._reader.feed(data)
        for event in events:
            self._take(event)
        return events

    def _take(self, event: StateEvent) -> None:
        match event:
            case Started():
                self.started = self.started or event
            case Ended():
                self.ended = event
            case Usage():
                self.usage = event
            case Results():
                self.results = event
            case Drained():
                self.drained = event
            case Failed():
                self.failed = event
            case OutputLost():
                if len(self.lost) < _MAX_LOST:
                    self.lost.append(event)
