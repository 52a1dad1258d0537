"""What every process of the supervisor shares: configuration, jobs, messages, errors, logging. Knows nobody else."""

VERSION = "0.1.0"
