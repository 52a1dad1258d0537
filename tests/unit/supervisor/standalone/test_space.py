"""Promise 7: what the queue has forgotten does not stay in its file."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

from cronium.common.crypto import Seal
from cronium.supervisor.standalone.rules import Job
from cronium.supervisor.standalone.schema import connect
from cronium.supervisor.standalone.store import Store


def test_pages_are_given_back_as_many_as_asked_for(tmp_path: Path) -> None:
    with closing(connect(tmp_path / "queue.db", durable=False, max_bytes=1 << 30)) as sql:
        store = Store(sql, Seal(b"k" * 32))
        sql.execute("BEGIN")
        job = store.add(Job(0, "job-1", "script", "local", 5, 1))
        store.put_blob(job, "report", "x" * 1_000_000)
        store.remove(job.number)
        free = sql.execute("PRAGMA freelist_count").fetchone()[0]
        assert free > 200
        store.give_space_back(150)
        assert sql.execute("PRAGMA freelist_count").fetchone()[0] == free - 150
        store.give_space_back(1_000_000)
        assert sql.execute("PRAGMA freelist_count").fetchone()[0] == 0
        sql.execute("COMMIT")
