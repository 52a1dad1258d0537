"""The supervisor's processes: those that the forkserver forks (`forks`), the queue (`roles`), all by their names (`staff`)."""
