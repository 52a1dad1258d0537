"""What time does to the queue: leases run out, planned jobs become due, old ones are forgotten. Event loop only."""

from __future__ import annotations

import asyncio
import time
from functools import partial

from cronium.supervisor.standalone import operations
from cronium.supervisor.standalone.rules import TERMINAL
from cronium.supervisor.standalone.services import QUEUE, Services, now_ms
from cronium.supervisor.standalone.settings import StandaloneSettings
from cronium.supervisor.standalone.store import Store

_PRUNE_EVERY_S = 30.0
_PRUNE_FRAMES = 500  # in one commit, so that no request waits long for it
_PRUNE_ANSWERS = 1000
_VACUUM_PAGES = 1000
_NEARLY_FULL = 0.9


async def keep_time(services: Services) -> None:
    """Until cancelled: what is due now, every tick."""
    seen_ms = now_ms()
    next_prune_s = time.monotonic()
    while True:
        at_ms = now_ms()
        rings = await services.database.submit(partial(_due, since_ms=seen_ms, at_ms=at_ms))
        for name in rings:
            services.bells.ring(name)
        seen_ms = at_ms
        if time.monotonic() >= next_prune_s:
            while await services.database.submit(lambda store: prune(store, services.settings, now_ms())):
                await asyncio.sleep(0)
            next_prune_s = time.monotonic() + _PRUNE_EVERY_S
        await asyncio.sleep(services.settings.tick_s)


def prune(store: Store, settings: StandaloneSettings, at_ms: int) -> bool:
    """One step of forgetting: by age, by number, by size of logs, always the job that ended first. True: there is more."""
    store.forget_answers(at_ms - int(settings.keep_keys_s * 1000), _PRUNE_ANSWERS)
    too_old_ms = at_ms - int(settings.keep_finished_s * 1000)
    nearly_full = store.used_bytes() > settings.max_database_bytes * _NEARLY_FULL
    if nearly_full or store.count(*TERMINAL) > settings.max_finished_jobs:
        too_old_ms = at_ms - int(settings.keep_at_least_s * 1000)
    candidates = store.oldest_ended(too_old_ms, 1)
    if not candidates:
        store.give_space_back(_VACUUM_PAGES)
        return False
    if store.logs.remove(candidates[0], _PRUNE_FRAMES):
        store.remove(candidates[0])
    return True


def _due(store: Store, since_ms: int, at_ms: int) -> tuple[str, ...]:
    changed = operations.expire(store, at_ms)
    rings = [job.id for job in changed if job.ended]
    if changed or store.next_scheduled(since_ms, at_ms):
        rings.append(QUEUE)
    return tuple(rings)
