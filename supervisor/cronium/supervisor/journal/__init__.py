"""The journal: what must survive us, in one SQLite file. Only the supervisor's loop thread uses it."""

from cronium.supervisor.journal.errors import JournalError, advice
from cronium.supervisor.journal.journal import Journal, Memory

__all__ = ["Journal", "JournalError", "Memory", "advice"]
