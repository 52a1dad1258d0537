"""The worker: one forked process, one executor, one job at a time. Knows `cronium.common` and nothing of the supervisor."""
