"""What is not as it should be, and what to do about it: one short sentence each. Pure.

Nothing here is a reason to start the supervisor anew (that would help none of it), so with any of these it is degraded, not
unhealthy. A report that was refused for good is none: it is counted and shown, and nobody can make it undone.
"""

from __future__ import annotations

from cronium.common.config.units import MIB
from cronium.supervisor.status.report import Backend, Output, Servers

_NAMED = 3


def reasons(backend: Backend, output: Output, servers: Servers, *, journal_waits_for_disk: bool) -> tuple[str, ...]:
    """The most pressing first."""
    found = []
    if journal_waits_for_disk:
        found.append("the journal cannot be written, so everything waits: free some space where stateDir is (the log says more)")
    if backend.works is None:
        found.append("the backend has not answered yet: wait a moment, or see api.endpoint and its network")
    elif not backend.works:
        why = f" ({backend.error})" if backend.error else ""
        found.append(f"the backend does not answer as it should{why}: see api.endpoint, its token and its network")
    if output.spool_full:
        share = f"{output.spool_bytes / MIB:.0f} of {output.spool_max_bytes / MIB:.0f} MB"
        found.append(
            f"the spool is full ({share}), jobs that print wait: see why the backend takes no lines, "
            "free some space on its disk, or raise logging.spool.maxSize"
        )
    if not output.heard:
        found.append(
            "nothing is heard from the streamer, output waits: it is started or started anew; if this lasts, see the log"
        )
    elif not output.connected:
        found.append(
            "the WebSocket is not connected, output waits in the spool: see logging.websocket.endpoint, token and network"
        )
    if servers.open_breakers:
        more = servers.open_breaker_count - _NAMED
        names = ", ".join(servers.open_breakers[:_NAMED]) + (f" and {more} more" if more > 0 else "")
        found.append(f"no answer from {names}: jobs for them wait; see whether they run, `ssh` there, or wait for the next try")
    return tuple(found)
