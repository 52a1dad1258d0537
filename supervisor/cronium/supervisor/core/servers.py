"""Which worker has connections to which servers, and how many more there may be. Pure; part of the core.

A worker has at most one connection to a server (`Server.key`). It holds what it has said last (`Connected`), what the order that
it works on may connect to, and what it was told to warm up. What it says may have been on its way when an order was given, so an
order's servers count until the worker has come back from it, and those of a warm-up until they are said, or until a dial
would have ended. Everything that a worker said before it came back is here before that, so then its own word counts again.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from cronium.common.messages import Slot
from cronium.common.servers import host_of
from cronium.supervisor.core.events import Now
from cronium.supervisor.core.rules import Rules

_ASK_AGAIN_S = 10.0  # a worker to let go of a connection
_DIAL_SLACK_S = 5.0  # a worker takes its orders a little later than they are given
_MOST_REMEMBERED = 1000  # servers that had a job lately


@dataclass(slots=True)
class _Links:
    """One worker's. `dialing`: connections that its order has it make, and until when (monotonic) it may be at it. `spent`: slots
    that were given away and may still be said. `asked`: when to let go of which.
    """

    said: frozenset[str] = frozenset()
    used: frozenset[str] = frozenset()
    dialing: dict[str, float] = field(default_factory=dict)
    warming: dict[str, float] = field(default_factory=dict)
    slots: dict[str, str] = field(default_factory=dict)
    spent: set[str] = field(default_factory=set)
    asked: dict[str, float] = field(default_factory=dict)

    def held(self) -> frozenset[str]:
        return self.said | self.used | self.warming.keys()


_NONE = _Links()  # never changed


class Servers:
    """The connections of all workers."""

    def __init__(self, rules: Rules) -> None:
        self._rules = rules
        self._links: dict[str, _Links] = {}
        self._held: Counter[str] = Counter()
        self._used: Counter[str] = Counter()
        self._last_s: dict[str, float] = {}

    # --- what workers do ---------------------------------------------------------------------------------------------

    def connected(self, worker: str, servers: Iterable[str], slots: Iterable[Slot]) -> None:
        """A worker's word."""
        links = self._out(worker)
        links.said = frozenset(servers)
        mentioned = {slot.place for slot in slots}
        links.spent &= mentioned
        links.slots = {slot.server: slot.place for slot in slots if slot.place not in links.spent}
        links.warming = {key: until_s for key, until_s in links.warming.items() if key not in links.said}
        links.dialing = {key: until_s for key, until_s in links.dialing.items() if key not in links.said}
        links.asked = {key: at_s for key, at_s in links.asked.items() if key in links.said}
        self._in(worker, links)

    def seen(self, worker: str, server: str) -> None:
        """It has tried to get there: it is not on its way any more."""
        if worker in self._links:
            self._links[worker].dialing.pop(server, None)

    def begins(self, worker: str, servers: tuple[str, ...], now: Now) -> None:
        """It has an order that may need connections to these."""
        if servers:
            links = self._out(worker)
            links.used = frozenset(servers)
            until_s = now.mono_s + self._rules.connect_s + _DIAL_SLACK_S
            links.dialing = dict.fromkeys(links.used - links.said, until_s)
            self._in(worker, links)

    def ends(self, worker: str) -> None:
        """It has come back from its order."""
        if worker in self._links and self._links[worker].used:
            links = self._out(worker)
            links.used, links.dialing = frozenset(), {}
            self._in(worker, links)

    def warms(self, worker: str, server: str, now: Now) -> None:
        """It was told to connect there."""
        links = self._out(worker)
        links.warming[server] = now.mono_s + self._rules.connect_s + _DIAL_SLACK_S
        self._in(worker, links)

    def gone(self, worker: str) -> None:
        """It is dead, and with it all that it had."""
        if worker in self._links:
            self._out(worker)
            del self._links[worker]

    def tick(self, now: Now) -> None:
        """A warm-up of which nothing was heard has failed."""
        if not self._held:
            return
        late = [name for name, links in self._links.items() if any(at_s <= now.mono_s for at_s in links.warming.values())]
        for worker in late:
            links = self._out(worker)
            links.warming = {key: until_s for key, until_s in links.warming.items() if until_s > now.mono_s}
            self._in(worker, links)

    # --- what is asked -----------------------------------------------------------------------------------------------

    def held(self, worker: str) -> frozenset[str]:
        """The servers that it may have a connection to."""
        return self._links.get(worker, _NONE).held()

    def has(self, worker: str, server: str) -> bool:
        """Whether it has said that it is connected there."""
        return server in self._links.get(worker, _NONE).said

    def is_known_to_work(self, host: str) -> bool:
        """Whether any worker is connected there, whoever logs in."""
        return any(host_of(key) == host for links in self._links.values() for key in links.said)

    def dialing(self, host: str, now: Now) -> int:
        """How many workers are held by an order until they have connected there."""
        every = (links.dialing.items() for links in self._links.values() if links.dialing)
        return sum(any(until_s > now.mono_s and host_of(key) == host for key, until_s in those) for those in every)

    def is_room(self, server: str) -> bool:
        """Whether there may be one connection more."""
        return self._held[server] < self._rules.connections_per_server

    def is_capacity(self, server: str, reserved: int) -> bool:
        """Whether one more job can use the server, when so many connections are kept for others. Unused ones do not count:
        they can be closed.
        """
        return self._used[server] + reserved < self._rules.connections_per_server

    def slot(self, worker: str, server: str) -> str | None:
        """The place of a launcher that waits there."""
        return self._links.get(worker, _NONE).slots.get(server)

    def take_slot(self, worker: str, servers: tuple[str, ...]) -> str | None:
        """The place of the launcher that waits for a job on one server, used from now on; None when there is none."""
        links = self._links.get(worker)
        if links is None or len(servers) != 1 or (place := links.slots.pop(servers[0], None)) is None:
            return None
        links.spent.add(place)
        return place

    def slots(self) -> frozenset[str]:
        """The places of all launchers that wait."""
        return frozenset(place for links in self._links.values() for place in links.slots.values())

    def in_the_way(self, server: str, but: str, now: Now) -> str | None:
        """Another worker that has an unused connection there and was not asked lately to close it; it counts as asked now.

        None also when one that was asked has not answered yet.
        """
        found = None
        for worker, links in self._links.items():
            if worker == but or server not in links.said or server in links.used:
                continue
            if now.mono_s < links.asked.get(server, 0.0):
                return None
            found = found or worker
        if found is not None:
            self._links[found].asked[server] = now.mono_s + _ASK_AGAIN_S
        return found

    def used_again(self, server: str, now: Now) -> bool:
        """A job goes there; whether another did within the time for which an unused connection is kept."""
        before_s = self._last_s.pop(server, None)
        self._last_s[server] = now.mono_s  # in order of use
        if len(self._last_s) > _MOST_REMEMBERED:
            del self._last_s[next(iter(self._last_s))]
        return before_s is not None and now.mono_s - before_s <= self._rules.connections_idle_s

    def counts(self) -> Mapping[str, int]:
        """Connections by server, as far as they are known or to be expected."""
        return {key: count for key, count in self._held.items() if count}

    def _out(self, worker: str) -> _Links:
        """Take a worker's out of the sums, before they change."""
        links = self._links.get(worker)
        if links is None:
            return _Links()
        self._held.subtract(links.held())
        self._used.subtract(links.used)
        return links

    def _in(self, worker: str, links: _Links) -> None:
        self._links[worker] = links
        self._held.update(links.held())
        self._used.update(links.used)
        for sums in (self._held, self._used):
            for key in [key for key, count in sums.items() if not count]:
                del sums[key]
