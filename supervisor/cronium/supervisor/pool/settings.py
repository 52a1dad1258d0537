"""What workers and the monitor are told, made of the configuration. Of a worker the fields of its WorkerSettings, which this side
does not import.
"""

from __future__ import annotations

import os
from dataclasses import fields

from cronium.common.config.model import Config
from cronium.supervisor.monitor.settings import MonitorSettings, Page


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
        "heartbeat_s": heartbeat_s(config),
        "level": config.monitoring.logging.level,
        "log_format": config.monitoring.logging.format,
    }


def monitor_settings(config: Config) -> dict[str, object]:
    """All fields. A supervisor that waits for others has twice their time."""
    monitoring = config.monitoring
    own, health, metrics = monitoring.logging, monitoring.health, monitoring.metrics
    pages = [Page("health", health.port, health.path, "monitoring.health.port")]
    if metrics.enabled:
        pages.append(Page("metrics", metrics.port, metrics.path, "monitoring.metrics.port"))
    settings = MonitorSettings(
        os.getpid(),
        config.runtime_dir,
        heartbeat_s(config),
        2 * config.workers.hung_after,
        own.level,
        own.format,
        monitoring.host,
        tuple(pages),
    )
    return {field.name: getattr(settings, field.name) for field in fields(settings)}


def heartbeat_s(config: Config) -> float:
    """How often each process beats: as configured, but often enough that one beat that comes late is no sign of a hang."""
    return min(config.workers.heartbeat_interval, config.workers.hung_after / 4)
