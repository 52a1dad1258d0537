"""Each kind of value: what is taken, what is refused before it can do harm elsewhere."""

import pytest

from cronium.common.config.keys import all_keys
from cronium.common.config.load import load_config
from cronium.common.config.problems import ConfigError


@pytest.mark.parametrize(
    ("path", "text", "why"),
    [
        ("api.endpoint", "localhost:5001", "such a URL"),
        ("api.endpoint", "ws://localhost", "such a URL"),
        ("api.endpoint", "http://", "such a URL"),
        ("api.endpoint", "http://host:99999/x", "not a URL"),
        ("api.endpoint", "http://[::1/x", "not a URL"),
        ("api.endpoint", "http://user:pass@host/", "user name or password"),
        ("api.endpoint", "http://host/?token=x", "no query"),
        ("api.endpoint", "http://ho st/", "such a URL"),
        ("api.token", "two\nlines", "line breaks"),
        ("api.token", "schlüssel", "not ASCII"),
        ("logging.websocket.endpoint", "http://host/socket", "such a URL"),
        ("container.docker.endpoint", "unix://relative.sock", "absolute path"),
        ("container.docker.endpoint", "/var/run/docker.sock", "such a URL"),
        ("container.docker.version", "v1", "not written as allowed"),
        ("container.images.bash", "--privileged", "not written as allowed"),
        ("container.images.allowed", "ok,not ok", "not written as allowed"),
        ("container.security.user", "root", "not written as allowed"),
        ("container.security.user", "0", "never run as root"),
        ("container.network.default", "container:other", "not written as allowed"),
        ("container.network.allowed", "bridge,host", "the host's own network"),
        ("container.labels", "cronium.job=x", "our own labels"),
        ("container.labels", "team", "name=value"),
        ("container.network.dnsServers", "1.1.1", "not an IP address"),
        ("ssh.execution.tempDir", "tmp", "not written as allowed"),
        ("stateDir", "~/state", "not an absolute path"),
        ("stateDir", "/a/../b", "not an absolute path"),
        ("monitoring.metrics.path", "metrics", "not written as allowed"),
        ("monitoring.metrics.port", "70000", "too large"),
        ("monitoring.metrics.enabled", "maybe", "not allowed"),
        ("jobs.types", "script,shell", "not allowed"),
        ("jobs.pollInterval", "1ms", "too small"),
        ("jobs.pollInterval", "fast", "not a duration"),
        ("container.resources.maxMemory", "1 MB", "too small"),
        ("container.resources.maxMemory", "lots", "not a size"),
        ("container.resources.maxCPU", "nan", "not allowed"),
        ("id", "a b", "not written as allowed"),
    ],
)
def test_what_is_not_allowed_is_refused_with_its_reason(path: str, text: str, why: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(None, {all_keys()[path].env[0]: text}, standalone=True)
    (problem,) = (problem for problem in caught.value.problems if problem.path == path)
    assert why in problem.message


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("api.endpoint", "http://[::1]:5001/api"),
        ("container.docker.endpoint", "ssh://me@host"),
        ("container.docker.endpoint", "https://host:2376"),
        ("container.images.bash", "registry.example:5000/team/bash:1.2@sha256:00ff"),
        ("container.security.user", "1000"),
        ("standalone.host", "0.0.0.0"),
        ("monitoring.metrics.enabled", "no"),
        ("monitoring.metrics.port", "0"),
        ("jobs.pollWait", "0"),
    ],
)
def test_what_is_allowed_is_taken(path: str, text: str) -> None:
    loaded = load_config(None, {all_keys()[path].env[0]: text}, standalone=True)
    assert loaded.sources[path].startswith("environment ")
