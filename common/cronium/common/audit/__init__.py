"""The audit log: what was done on servers, in lines that nobody can change unseen. Written by workers and by the command line.

In the folder `audit` of the state folder `audit-000001.jsonl`, `audit-000002.jsonl` … hold a JSON object a line, each with `seq`,
`time`, `event`, its own fields and, last, `hash`: SHA-256 over the previous entry's hash and the bytes of this line before it.
`head` says how many entries there are and the last one's hash, so that a tail that was cut off is missed. The chain shows every
change by somebody who does not compute the rest of it anew; against who does, note the count and the hash that
`cronium-supervisor audit verify` prints elsewhere from time to time.

Several processes append, each under a lock on `head`. An entry is a write, and no fsync: it survives the kill of all processes,
and a job does not wait for a disk; a power cut may take what the kernel had not written yet (some 30 s), which then shows as
missing. A file that is full is fsynced, and the next one begins with an `audit.file` entry that carries the chain on. What is
wrong when we append is never mended in silence: an entry that a crash has torn stays as it is, with an `audit.torn` entry after
it that says what it was; anything else gets an `audit.broken` entry, which the check will not pass over.
"""

from cronium.common.audit.check import Fault, Verified, verify
from cronium.common.audit.log import AuditLog

__all__ = ["AuditLog", "Fault", "Verified", "verify"]
