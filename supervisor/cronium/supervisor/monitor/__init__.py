"""The monitor: a small process that watches the supervisor, which watches everybody else."""
