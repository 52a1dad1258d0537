"""One configuration out of file and environment, or everything that is wrong with them."""

import os
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import SecretStr

from cronium.common.config.keys import Key, all_keys
from cronium.common.config.load import LoadedConfig, load_config
from cronium.common.config.problems import ConfigError, ConfigProblem

SEED = Path(__file__).with_name("seed.yaml")
"""The YAML of the design document, word for word."""

BACKEND = {
    "CRONIUM_API_URL": "http://localhost:5001/api/internal",
    "CRONIUM_WS_URL": "ws://localhost:5001/api/socket",
    "CRONIUM_SERVICE_TOKEN": "a-token-of-length",
}

EVERY_KEY = [pytest.param(key, id=key.path) for key in all_keys().values()]


def write(folder: Path, text: str) -> Path:
    path = folder / "config.yaml"
    path.write_text(text)
    return path


def problems(path: Path | None, environ: dict[str, str] | None = None, *, standalone: bool = True) -> dict[str, ConfigProblem]:
    with pytest.raises(ConfigError) as caught:
        load_config(path, environ or {}, standalone=standalone)
    return {problem.path: problem for problem in caught.value.problems}


def value(loaded: LoadedConfig, path: str) -> Any:
    return all_keys()[path].value_in(loaded.config)


def leaves(tree: dict[str, Any], above: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, inner in tree.items():
        flat |= leaves(inner, f"{above}{name}.") if isinstance(inner, dict) else {above + name: inner}
    return flat


# --- the design document's own file and variables


def test_the_designs_file_is_accepted_as_it_stands() -> None:
    loaded = load_config(SEED, BACKEND)
    assert loaded.config.api.endpoint == BACKEND["CRONIUM_API_URL"]
    assert loaded.config.api.token == SecretStr(BACKEND["CRONIUM_SERVICE_TOKEN"])
    assert loaded.config.logging.websocket.endpoint == BACKEND["CRONIUM_WS_URL"]
    assert loaded.config.container.docker.version == "1.41"
    assert loaded.config.container.resources.default_memory == 512 * 1024 * 1024
    assert loaded.config.container.security.drop_capabilities == ("ALL",)
    assert loaded.warnings == ()


def test_each_value_of_the_designs_file_arrives_at_its_key() -> None:
    """Only its version of the engine's API differs from our defaults: 'auto' here, so that it works with any engine."""
    written = leaves(yaml.safe_load(SEED.read_text())["orchestrator"])
    loaded = load_config(SEED, BACKEND)
    assert {path for path, source in loaded.sources.items() if source.startswith(str(SEED))} == set(written) - {
        # Given by the environment, which wins.
        "api.endpoint",
        "api.token",
        "logging.websocket.endpoint",
    }
    assert {path for path in written if value(loaded, path) != value(load_config(None, BACKEND), path)} == {
        "container.docker.version"
    }


def test_the_designs_file_needs_no_variable_with_the_embedded_queue() -> None:
    assert load_config(SEED, {}, standalone=True).config.api.token is None


@pytest.mark.parametrize(
    ("name", "text", "path", "expected"),
    [
        ("CRONIUM_API_URL", "https://cronium.example/api/internal/", "api.endpoint", "https://cronium.example/api/internal"),
        ("CRONIUM_WS_URL", "wss://cronium.example/api/socket", "logging.websocket.endpoint", "wss://cronium.example/api/socket"),
        ("CRONIUM_SERVICE_TOKEN", "t0ken", "api.token", SecretStr("t0ken")),
        ("CRONIUM_MAX_CONCURRENT", "10", "jobs.maxConcurrent", 10),
        ("CRONIUM_LOG_LEVEL", "DEBUG", "monitoring.logging.level", "debug"),
        ("CRONIUM_LOG_LEVEL", "warn", "monitoring.logging.level", "warning"),
        ("CRONIUM_DOCKER_HOST", "unix:///run/other.sock", "container.docker.endpoint", "unix:///run/other.sock"),
        ("CRONIUM_DOCKER_HOST", "tcp://10.0.0.1:2375", "container.docker.endpoint", "tcp://10.0.0.1:2375"),
    ],
)
def test_the_designs_variables_win_over_the_file(name: str, text: str, path: str, expected: object) -> None:
    loaded = load_config(SEED, BACKEND | {name: text})
    assert value(loaded, path) == expected
    assert loaded.sources[path] == f"environment {name}"


def test_the_engines_own_variable_counts_only_where_the_file_is_silent(tmp_path: Path) -> None:
    other = {"DOCKER_HOST": "unix:///run/docker-of-the-user.sock"}
    assert load_config(None, other, standalone=True).config.container.docker.endpoint == other["DOCKER_HOST"]
    assert load_config(SEED, BACKEND | other).config.container.docker.endpoint == "unix:///var/run/docker.sock"
    both = other | {"CRONIUM_DOCKER_HOST": "unix:///run/ours.sock"}
    assert load_config(None, both, standalone=True).config.container.docker.endpoint == "unix:///run/ours.sock"


# --- environment


def another(key: Key) -> list[tuple[str, object]]:
    """Texts for `key` that differ from its default, with what they mean; the first that is allowed will do."""
    match key.default:
        case bool(default):
            return [(str(not default).lower(), not default)]
        case int() | float() as default:
            # Twice or half of it: one of them is within the range, and on the right side of a maximum.
            others = {default * 2, default // 2, 1} - {default}
            return [(key.show(type(default)(new)), new) for new in sorted(others, reverse=True)]
        case _:
            texts: dict[str, list[tuple[str, object]]] = {
                "id": [("node-1", "node-1")],
                "stateDir": [("/srv/state", Path("/srv/state"))],
                "runtimeDir": [("/srv/run", Path("/srv/run"))],
                "api.endpoint": [("http://other:1/api", "http://other:1/api")],
                "api.token": [("other", SecretStr("other"))],
                "api.dialect": [("contract", "contract")],
                "api.retry.backoff": [("fixed", "fixed")],
                "jobs.onStop": [("drain", "drain")],
                "jobs.types": [("script, ssh", ("script", "ssh"))],
                "container.docker.endpoint": [("tcp://other:2375", "tcp://other:2375")],
                "container.docker.version": [("1.44", "1.44")],
                "container.images.bash": [("other/bash:1", "other/bash:1")],
                "container.images.python": [("other/python:1", "other/python:1")],
                "container.images.node": [("other/node@sha256:ab", "other/node@sha256:ab")],
                "container.images.allowed": [("debian:*,alpine:3.2[01]", ("debian:*", "alpine:3.2[01]"))],
                "container.images.pullPolicy": [("never", "never")],
                "container.security.user": [("1001:1002", "1001:1002")],
                "container.security.dropCapabilities": [("NET_RAW,SYS_ADMIN", ("NET_RAW", "SYS_ADMIN"))],
                "container.security.seccompProfile": [],
                "container.network.default": [("none", "none")],
                "container.network.allowed": [("bridge,jobs", ("bridge", "jobs"))],
                "container.network.dnsServers": [("1.1.1.1,2606:4700::1111", ("1.1.1.1", "2606:4700::1111"))],
                "container.files": [("exec", "exec")],
                "container.labels": [("team=ops,zone=a", {"team": "ops", "zone": "a"})],
                "ssh.execution.defaultShell": [("/bin/sh", "/bin/sh")],
                "ssh.execution.tempDir": [("/var/tmp/cronium", "/var/tmp/cronium")],
                "ssh.circuitBreaker.whenOpen": [("fail", "fail")],
                "ssh.knownHosts": [("accept-new", "accept-new")],
                "ssh.knownHostsFile": [("/etc/ssh/ssh_known_hosts", Path("/etc/ssh/ssh_known_hosts"))],
                "ssh.keyPath": [("/etc/cronium/id_ed25519", Path("/etc/cronium/id_ed25519"))],
                "ssh.keyPassphrase": [("wörter mit raum", SecretStr("wörter mit raum"))],
                "ssh.proxyJump": [("ops@bastion.example:2222", "ops@bastion.example:2222")],
                "logging.websocket.endpoint": [("ws://other:1/socket", "ws://other:1/socket")],
                "logging.rateLimit.overflow": [("drop", "drop")],
                "monitoring.host": [("::1", "::1")],
                "monitoring.metrics.path": [("/other", "/other")],
                "monitoring.health.path": [("/other", "/other")],
                "monitoring.logging.level": [("error", "error")],
                "monitoring.logging.format": [("console", "console")],
                "standalone.host": [("::1", "::1")],
            }
            return texts[key.path]


@pytest.mark.parametrize("key", EVERY_KEY)
def test_every_key_can_be_overridden_by_its_own_variable(key: Key, tmp_path: Path) -> None:
    candidates = another(key)
    if key.path == "container.security.seccompProfile":
        profile = write(tmp_path, '{"defaultAction": "SCMP_ACT_ERRNO"}')
        candidates = [(str(profile), profile)]
    for text, expected in candidates:
        try:
            loaded = load_config(SEED, BACKEND | {key.env[0]: text})
        except ConfigError:
            continue
        assert value(loaded, key.path) == expected
        assert value(loaded, key.path) != key.default
        assert loaded.sources[key.path] == f"environment {key.env[0]}"
        return
    pytest.fail(f"none of {candidates} is taken")


def test_the_files_for_ssh_are_named_by_the_variables_that_are_promised() -> None:
    names = {"CRONIUM_SSH_KNOWN_HOSTS_FILE": "/etc/ssh/ssh_known_hosts", "CRONIUM_SSH_KEY_PATH": "/etc/cronium/key"}
    ssh = load_config(None, names, standalone=True).config.ssh
    assert (ssh.known_hosts_file, ssh.key_path) == (Path("/etc/ssh/ssh_known_hosts"), Path("/etc/cronium/key"))
    assert ssh.known_hosts == "strict"


@pytest.mark.parametrize("text", ["bastion", "a@b:0", "a@b:65536", "-a@b", "a@b c", "a@@b", "a/b@c", "a@[::1"])
def test_a_jump_host_that_nobody_could_reach_is_refused(text: str) -> None:
    """What is taken here is understood where it is used: a jump that is dropped in silence would go round a bastion."""
    assert problems(None, {"CRONIUM_SSH_PROXY_JUMP": text})["ssh.proxyJump"].allowed == "USER@HOST or USER@HOST:PORT"


@pytest.mark.parametrize("text", ["two\nlines", "a\x00", "tab\t"])
def test_a_passphrase_is_one_line_and_never_shown(text: str) -> None:
    problem = problems(None, {"CRONIUM_SSH_KEY_PASSPHRASE": text})["ssh.keyPassphrase"]
    assert text not in repr(problem)


@pytest.mark.parametrize("key", EVERY_KEY)
def test_every_key_refuses_nonsense_with_its_path_and_what_is_allowed(key: Key) -> None:
    found = problems(None, {key.env[0]: "\x07 nonsense"})
    # A label or a list of names can be nearly anything; but not this.
    assert found[key.path].allowed == key.allowed
    assert found[key.path].source == f"environment {key.env[0]}"
    assert ("nonsense" in found[key.path].value) is not key.secret


def test_an_empty_variable_is_not_set() -> None:
    """Compose files hand over variables that nobody has set as empty ones."""
    loaded = load_config(SEED, BACKEND | {"CRONIUM_LOG_LEVEL": "", "CRONIUM_JOBS_MAX_CONCURRENT": ""})
    assert (loaded.config.monitoring.logging.level, loaded.config.jobs.max_concurrent) == ("info", 5)


def test_a_list_can_be_emptied() -> None:
    loaded = load_config(None, {"CRONIUM_CONTAINER_SECURITY_DROP_CAPABILITIES": "[]"}, standalone=True)
    assert loaded.config.container.security.drop_capabilities == ()


def test_a_keys_own_variable_wins_over_its_short_one() -> None:
    both = {"CRONIUM_MAX_CONCURRENT": "7", "CRONIUM_JOBS_MAX_CONCURRENT": "8"}
    assert load_config(None, both, standalone=True).config.jobs.max_concurrent == 8


def test_a_variable_that_is_almost_ours_is_warned_of() -> None:
    names = {"CRONIUM_MAX_CONCURENT": "7", "CRONIUM_COLOUR": "x"}
    (warning,) = load_config(None, names, standalone=True).warnings
    assert (warning.path, warning.nearest) == ("CRONIUM_MAX_CONCURENT", "CRONIUM_MAX_CONCURRENT")


# --- secrets


@pytest.mark.parametrize("name", ["CRONIUM_SERVICE_TOKEN_FILE", "CRONIUM_API_TOKEN_FILE"])
def test_a_secret_comes_from_a_file_without_its_line_end(name: str, tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text("s3cret\n")
    environ = {key: text for key, text in BACKEND.items() if "TOKEN" not in key} | {name: str(file)}
    loaded = load_config(SEED, environ)
    assert loaded.config.api.token == SecretStr("s3cret")
    assert loaded.sources["api.token"] == f"environment {name}"


@pytest.mark.parametrize(("content", "reason"), [(None, "No such file"), (b"\n", "is empty"), (b"\xff\xfe", "is not text")])
def test_a_secrets_file_that_cannot_be_used_is_named(content: bytes | None, reason: str, tmp_path: Path) -> None:
    file = tmp_path / "token"
    if content is not None:
        file.write_bytes(content)
    problem = problems(None, {"CRONIUM_SERVICE_TOKEN_FILE": str(file)})["api.token"]
    assert reason in problem.message
    assert str(file) in problem.message


def test_a_secret_given_twice_is_refused(tmp_path: Path) -> None:
    file = write(tmp_path, "other")
    problem = problems(None, {"CRONIUM_SERVICE_TOKEN": "one", "CRONIUM_SERVICE_TOKEN_FILE": str(file)})["api.token"]
    assert "twice" in problem.message


def test_no_error_shows_a_secret(tmp_path: Path) -> None:
    """Promise 6: a token with a space in it is a mistake, and still a token."""
    path = write(tmp_path, "orchestrator:\n  api: {token: 'very secret'}\n  jobs: {pollBatchSize: 99}\n")
    with pytest.raises(ConfigError) as caught:
        load_config(path, {}, standalone=True)
    assert {problem.path for problem in caught.value.problems} == {"api.token", "jobs.pollBatchSize"}
    assert "very" not in str(caught.value)
    assert "very" not in repr(caught.value.problems)


def test_a_config_does_not_print_its_token_and_can_go_without() -> None:
    config = load_config(SEED, BACKEND).config
    assert BACKEND["CRONIUM_SERVICE_TOKEN"] not in repr(config) + str(config) + config.model_dump_json()
    assert config.without_secrets().api.token is None
    assert config.without_secrets().jobs == config.jobs


# --- what is wrong is told all at once


def test_everything_that_is_wrong_is_told_at_once(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        """\
orchestrator:
  stateDir: relative/path
  jobs:
    maxConcurent: 4
    pollInterval: 2m
    pollBatchSize: 500
    onStop: explode
    onStop: drain
  api: {token: "a b", endpoint: "${NOT_SET}", retry: 5}
  container:
    network: {default: host, dnsServers: [1.1.1.1, nonsense]}
    docker: {endpoint: "${"}
    labels: {team: [1]}
    security: {user: "0:0"}
    resources: {defaultMemory: 4GB, defaultCPU: nan}
jobs:
  maxConcurrent: 3
""",
    )
    found = problems(path, {"CRONIUM_MAX_CONCURRENT": "many"}, standalone=False)
    said = {name: (problem.message, problem.value, problem.source.removeprefix(f"{path}:")) for name, problem in found.items()}
    most = "lower this or raise that"
    assert said == {
        "stateDir": ("is not an absolute path", "relative/path", "2"),
        "jobs.maxConcurent": ("is unknown", "", "4"),
        "jobs.pollInterval": (f"is more than jobs.pollMaxInterval, which is 30s (default): {most}", "2m", "5"),
        "jobs.pollBatchSize": ("is too large", "500", "6"),
        "jobs.onStop": ("stands here twice, first on line 7: keep one", "", "8"),
        "jobs.maxConcurrent": ("is not allowed", "many", "environment CRONIUM_MAX_CONCURRENT"),
        "api.token": ("has spaces, line breaks or characters that are not ASCII in it", "********", "9"),
        "api.endpoint": ("refers to NOT_SET, which is not set: set it, or write ${NOT_SET:-default}", "${NOT_SET}", "9"),
        "api.retry": ("must be a section: indented keys with a value each", "", "9"),
        "container.network.default": (
            "is the host's own network: a job there could reach everything that listens on this machine",
            "host",
            "11",
        ),
        "container.network.dnsServers": ("is not an IP address", "nonsense", "11"),
        "container.docker.endpoint": (
            "has a `${` that is neither ${NAME} nor ${NAME:-default} (write $${ for `${` itself)",
            "${",
            "12",
        ),
        "container.labels": ("must be one value, or a list of values, or names with a value each", "", "13"),
        "container.security.user": ("is root: jobs never run as root", "0:0", "14"),
        "container.resources.defaultMemory": (
            f"is more than container.resources.maxMemory, which is 2GB (default): {most}",
            "4GB",
            "15",
        ),
        "container.resources.defaultCPU": ("is not allowed", "nan", "15"),
        "jobs": ("is unknown: all keys stand below `orchestrator:`", "", "16"),
        "logging.websocket.endpoint": (
            "is missing: set CRONIUM_WS_URL, or logging.websocket.endpoint in the file (with --standalone it is not needed)",
            "",
            "",
        ),
    }
    assert found["jobs.maxConcurent"].nearest == "jobs.maxConcurrent"
    assert found["jobs"].nearest == "orchestrator.jobs"
    assert found["jobs.pollBatchSize"].allowed == "a whole number from 1 to 50"
    assert found["container.resources.defaultMemory"].allowed == "at most container.resources.maxMemory"


def test_what_a_backend_needs_is_asked_for_and_the_embedded_queue_needs_nothing() -> None:
    found = problems(None, {}, standalone=False)
    assert set(found) == {"api.endpoint", "api.token", "logging.websocket.endpoint"}
    assert "CRONIUM_SERVICE_TOKEN or CRONIUM_SERVICE_TOKEN_FILE" in found["api.token"].message
    assert load_config(None, {}, standalone=True).config.api.endpoint is None


@pytest.mark.parametrize(
    ("low", "text", "high"),
    [
        ("api.retry.initialDelay", "31s", "api.retry.maxDelay"),
        ("jobs.pollInterval", "31s", "jobs.pollMaxInterval"),
        ("jobs.defaultTimeout", "25h", "jobs.maxTimeout"),
        ("container.resources.defaultCPU", "2.5", "container.resources.maxCPU"),
        ("container.resources.defaultMemory", "3GB", "container.resources.maxMemory"),
        ("container.resources.defaultDisk", "11GB", "container.resources.maxDisk"),
        ("container.resources.defaultPids", "1001", "container.resources.maxPids"),
        ("container.resources.maxDisk", "65GB", "container.resources.maxFileSize"),
        ("logging.websocket.reconnectInterval", "2m", "logging.websocket.reconnectMaxInterval"),
        ("logging.websocket.maxUnacked", "1001", "logging.buffer.size"),
        ("logging.spool.maxBacklog", "3GB", "logging.spool.maxSize"),
    ],
)
def test_a_default_does_not_pass_its_maximum(low: str, text: str, high: str) -> None:
    found = problems(None, {all_keys()[low].env[0]: text})
    assert list(found) == [low]
    assert high in found[low].message


def test_what_a_job_left_on_a_server_is_there_for_as_long_as_the_server_is_waited_for() -> None:
    """Else a script that ends while its server is out of reach would take its output and exit code with it."""
    least = {"CRONIUM_SSH_EXECUTION_REMOTE_TTL": "16m"}
    assert load_config(None, least, standalone=True).config.ssh.execution.remote_ttl == 960
    for text in ({"CRONIUM_SSH_EXECUTION_REMOTE_TTL": "15m"}, least | {"CRONIUM_SSH_UNREACHABLE_AFTER": "901s"}):
        problem = problems(None, text)["ssh.execution.remoteTtl"]
        assert "ssh.unreachableAfter is" in problem.message
        assert problem.allowed in ("at least 16m", "at least 961s")


def test_a_default_network_that_is_not_allowed_is_refused() -> None:
    found = problems(None, {"CRONIUM_CONTAINER_NETWORK_DEFAULT": "jobs"})
    assert found["container.network.default"].allowed == "one of none, bridge"


def test_a_spool_has_room_for_two_files() -> None:
    assert "logging.spool.segmentSize" in problems(None, {"CRONIUM_LOGGING_SPOOL_MAX_SIZE": "63MB"})


def test_health_and_metrics_share_a_port_but_not_a_path() -> None:
    one_port = {"CRONIUM_MONITORING_METRICS_PORT": "8080"}
    assert load_config(None, one_port, standalone=True).config.monitoring.metrics.port == 8080
    assert "monitoring.health.path" in problems(None, one_port | {"CRONIUM_MONITORING_HEALTH_PATH": "/metrics"})


@pytest.mark.parametrize(("content", "reason"), [(None, "No such file"), ("{", "is not JSON"), ("[]", "is no seccomp profile")])
def test_a_seccomp_profile_that_cannot_be_used_is_refused(content: str | None, reason: str, tmp_path: Path) -> None:
    profile = tmp_path / "profile.json" if content is None else write(tmp_path, content)
    found = problems(None, {"CRONIUM_CONTAINER_SECURITY_SECCOMP_PROFILE": str(profile)})
    assert reason in found["container.security.seccompProfile"].message


# --- directories


def test_sockets_must_fit_into_an_address() -> None:
    """sun_path has 108 bytes: a longer name would fail in a worker, far from its cause."""
    name = "pymp-12345678/listener-12345678"  # the forkserver's, the longest of all
    longest = "/" + "x" * (107 - len("/") - len("/" + name))
    loaded = load_config(None, {"CRONIUM_RUNTIME_DIR": longest}, standalone=True)
    assert len(os.fsencode(loaded.config.runtime_dir / name)) == 107
    found = problems(None, {"CRONIUM_RUNTIME_DIR": longest + "x"})
    assert f"{len(longest) + 1} bytes" in found["runtimeDir"].message
    # Bytes, not letters.
    assert "runtimeDir" in problems(None, {"CRONIUM_RUNTIME_DIR": "/" + "ä" * 50})


def test_two_installations_on_one_machine_do_not_meet() -> None:
    dirs = {
        load_config(None, {"CRONIUM_STATE_DIR": state, "HOME": "/home/u"}, standalone=True).config.runtime_dir
        for state in ("", "/srv/one", "/srv/two")
    }
    assert len(dirs) == 3


def test_a_home_that_is_nonsense_ends_in_an_error() -> None:
    found = problems(None, {"CRONIUM_STATE_DIR": "/a/../b", "HOME": "/a/../b", "XDG_STATE_HOME": "/x/../y"})
    assert "stateDir" in found


def test_a_problem_is_one_line_for_a_log() -> None:
    found = problems(None, {"CRONIUM_JOBS_POLL_BATCH_SIZE": "500"})
    assert str(found["jobs.pollBatchSize"]) == (
        "jobs.pollBatchSize: '500' is too large; allowed: a whole number from 1 to 50 (environment CRONIUM_JOBS_POLL_BATCH_SIZE)"
    )


# --- the source of each value


def test_each_value_says_where_it_came_from(tmp_path: Path) -> None:
    path = write(tmp_path, "orchestrator:\n  jobs:\n    pollInterval: ${PACE}\n    pollWait: 5\n")
    loaded = load_config(path, {"PACE": "2s", "CRONIUM_JOBS_MAX_CONCURRENT": "3"}, standalone=True)
    assert set(loaded.sources) == set(all_keys())
    assert loaded.sources["jobs.pollInterval"] == f"{path}:3 ${{PACE}}"
    assert loaded.sources["jobs.pollWait"] == f"{path}:4"
    assert loaded.sources["jobs.maxConcurrent"] == "environment CRONIUM_JOBS_MAX_CONCURRENT"
    assert loaded.sources["jobs.cancelGrace"] == "default"


def test_a_reference_to_an_unset_variable_does_no_harm_where_the_environment_wins(tmp_path: Path) -> None:
    path = write(tmp_path, "orchestrator: {jobs: {maxConcurrent: '${NOT_SET}'}}")
    assert load_config(path, {"CRONIUM_MAX_CONCURRENT": "9"}, standalone=True).config.jobs.max_concurrent == 9
