"""What a worker is told, made of the configuration: the fields of its WorkerSettings, which this side does not import."""

from __future__ import annotations

from cronium.common.config.model import Config


def worker_settings(config: Config, installation: str) -> dict[str, object]:
    """All fields but `name` and `number`. There is no service token among them."""
    return {
        "installation": installation,
        "runtime_dir": config.runtime_dir,
        "state_dir": config.state_dir,
        "container": config.container,
        "audit_dir": config.audit_dir,
        "ssh": config.ssh.model_copy(update={"known_hosts_file": config.ssh.known_hosts_path(config.state_dir)}),
        "jobs": config.jobs,
        "logging": config.logging,
        "heartbeat_s": config.workers.heartbeat_interval,
        "level": config.monitoring.logging.level,
        "log_format": config.monitoring.logging.format,
    }
