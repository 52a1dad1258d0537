"""Every key of the configuration: its default, its range, what it means. The one place where a default stands.

The whole program sees the configuration as one frozen `Config`, made by `load.load_config`. Attributes are the YAML's
names in snake case; durations are seconds (float), sizes are bytes (int). What holds between several keys is in
`rules`; where a value comes from is `load`'s business. Nothing is read from the machine here.
"""

from pathlib import Path
from typing import Annotated, Final, Literal

from pydantic import AliasGenerator, BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel

from cronium.common.config.fields import (
    AbsolutePath,
    Addresses,
    ApiVersion,
    AsItems,
    AsLower,
    Bytes,
    Capabilities,
    ContainerUser,
    EngineUrl,
    Env,
    Host,
    HttpUrl,
    ImagePatterns,
    ImageReference,
    InstallationId,
    JumpHost,
    Kind,
    Labels,
    NetworkName,
    NetworkNames,
    Passphrase,
    Seconds,
    Token,
    UnixPath,
    UrlPath,
    WebSocketUrl,
    show_items,
)
from cronium.common.config.units import GIB, HOUR_S, KIB, MIB, MINUTE_S, TIB

# SEED's own spellings, where camel case would give another one.
_SPELLINGS: Final = {
    "default_cpu": "defaultCPU",
    "max_cpu": "maxCPU",
    "read_only_root_fs": "readOnlyRootFS",
}

_PID_MAX: Final = 4_194_304
"""The most processes a Linux kernel can have: PID_MAX_LIMIT of include/linux/threads.h."""

# What a job gives back is one message between our processes (`wire.MAX_FRAME_BYTES`), and one request to the backend.
_MOST_RESULTS: Final = 100 * MIB
_MOST_EVENTS: Final = 16 * MIB

JobType = Literal["script", "container", "ssh", "http"]


class Section(BaseModel):
    """A mapping of the YAML; unknown keys are refused."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        alias_generator=AliasGenerator(alias=lambda name: _SPELLINGS.get(name, to_camel(name))),
        validate_by_name=True,
        validate_by_alias=True,
        allow_inf_nan=False,
        hide_input_in_errors=True,
    )


class ApiRetry(Section):
    """How a request to the backend is tried again."""

    max_attempts: int = Field(
        default=3, ge=1, le=100, description="Times a request is tried in a row before it waits for the next round"
    )
    backoff: Literal["exponential", "fixed"] = Field(default="exponential", description="How the pause between two tries grows")
    initial_delay: Seconds = Field(default=0.5, ge=0.01, le=MINUTE_S, description="Pause before the second try")
    max_delay: Seconds = Field(default=30.0, ge=0.01, le=10 * MINUTE_S, description="Longest pause between two tries")


class Api(Section):
    """The backend's HTTP side."""

    endpoint: Annotated[HttpUrl | None, Env(("CRONIUM_API_URL",))] = Field(
        default=None, description="Base URL of the backend's API, like http://localhost:5001/api/internal"
    )
    token: Annotated[Token | None, Env(("CRONIUM_SERVICE_TOKEN",))] = Field(
        default=None, description="Service token; better given by CRONIUM_SERVICE_TOKEN_FILE than written here"
    )
    timeout: Seconds = Field(
        default=30.0, ge=0.1, le=10 * MINUTE_S, description="Longest wait for an answer (a long poll adds jobs.pollWait)"
    )
    dialect: Literal["auto", "contract"] = Field(
        default="auto", description="What the backend speaks; auto finds out by its first answer"
    )
    retry: ApiRetry = ApiRetry()


class Jobs(Section):
    """Getting jobs and running them."""

    poll_interval: Seconds = Field(default=1.0, ge=0.05, le=HOUR_S, description="Pause between two polls while there are jobs")
    poll_max_interval: Seconds = Field(
        default=30.0, ge=0.05, le=HOUR_S, description="Longest pause between two polls while there are none"
    )
    poll_batch_size: int = Field(default=10, ge=1, le=50, description="Most jobs asked for in one poll")
    poll_wait: Seconds = Field(
        default=20.0,
        ge=0,
        le=5 * MINUTE_S,
        description="How long the backend may hold a poll until a job comes (long poll); 0 = not at all",
    )
    max_concurrent: Annotated[int, Env(("CRONIUM_MAX_CONCURRENT",))] = Field(
        default=5, ge=1, le=1000, description="Jobs that run at the same time, a worker process each"
    )
    default_timeout: Seconds = Field(default=HOUR_S, ge=1, le=720 * HOUR_S, description="Deadline of a job that names none")
    max_timeout: Seconds = Field(default=24 * HOUR_S, ge=1, le=720 * HOUR_S, description="Longest deadline a job may ask for")
    cancel_grace: Seconds = Field(
        default=10.0,
        ge=0,
        le=10 * MINUTE_S,
        description="Time between SIGTERM and SIGKILL for a job that is cancelled or past its deadline",
    )
    status_interval: Seconds = Field(
        default=2.0, ge=0.1, le=10 * MINUTE_S, description="Least time between two progress reports of a job"
    )
    max_worker_deaths: int = Field(default=10, ge=1, le=1000, description="Workers that may die of one job before it is given up")
    on_stop: Literal["detach", "drain", "cancel"] = Field(
        default="detach",
        description="On SIGTERM, running jobs go on without us (detach), are waited for (drain), or end (cancel)",
    )
    keep_done: Seconds = Field(
        default=24 * HOUR_S,
        ge=MINUTE_S,
        le=720 * HOUR_S,
        description="How long a finished job is remembered: one that is delivered again meanwhile is reported again, not run",
    )
    keep_done_jobs: int = Field(
        default=10_000, ge=1, le=1_000_000, description="Most finished jobs remembered; the oldest go first"
    )
    keep_done_size: Bytes = Field(
        default=64 * MIB, ge=MIB, le=16 * GIB, description="Most room on disk for finished jobs; the oldest go first"
    )
    types: Annotated[tuple[JobType, ...], AsItems, Kind("a list of script, container, ssh, http", show_items)] = Field(
        default=(), description="Kinds of job to ask for; empty = all"
    )


class Workers(Section):
    """The pool of worker processes."""

    recycle_after_jobs: int = Field(default=200, ge=1, le=1_000_000, description="Jobs after which a worker is replaced")
    recycle_above_memory: Bytes = Field(
        default=200 * MIB, ge=32 * MIB, le=16 * GIB, description="Memory (RSS) above which a worker is replaced after its job"
    )
    spare: int = Field(default=1, ge=0, le=64, description="Idle workers kept ready to take over from one that dies")
    start_timeout: Seconds = Field(
        default=30.0, ge=1, le=10 * MINUTE_S, description="Longest wait until a new worker says that it is ready"
    )
    heartbeat_interval: Seconds = Field(default=2.0, ge=0.1, le=MINUTE_S, description="How often a worker says that it is alive")
    hung_after: Seconds = Field(
        default=15.0, ge=1, le=HOUR_S, description="Time without progress after which a process of ours is ended and replaced"
    )
    restart_intensity: int = Field(
        default=20, ge=1, le=1_000_000, description="Most deaths of one kind of process in restartPeriod; above it: exit code 70"
    )
    restart_period: Seconds = Field(default=MINUTE_S, ge=1, le=24 * HOUR_S, description="Time in which those deaths are counted")


class Docker(Section):
    """The container engine."""

    endpoint: Annotated[EngineUrl, Env(("CRONIUM_DOCKER_HOST",), last=("DOCKER_HOST",))] = Field(
        default="unix:///var/run/docker.sock", description="Where the engine listens"
    )
    version: ApiVersion = Field(default="auto", description='Version of the engine\'s API, like "1.41"; auto = what both know')
    timeout: Seconds = Field(default=60.0, ge=1, le=10 * MINUTE_S, description="Longest wait for an answer of the engine")


class Images(Section):
    """The images that jobs run in."""

    bash: ImageReference = Field(default="cronium/runner:bash-alpine", description="Image for bash scripts")
    python: ImageReference = Field(default="cronium/runner:python-alpine", description="Image for Python scripts")
    node: ImageReference = Field(default="cronium/runner:node-alpine", description="Image for Node scripts")
    allowed: ImagePatterns = Field(default=(), description="Further images a job may ask for, by name or pattern; empty = none")
    fallback: bool = Field(default=True, description="Take …-debian where …-alpine is missing, and the other way round")
    pull_policy: Literal["missing", "always", "never"] = Field(default="missing", description="When an image is pulled")
    pull_timeout: Seconds = Field(
        default=10 * MINUTE_S,
        ge=1,
        le=6 * HOUR_S,
        description="Longest wait for a pull; does not count against the job's deadline",
    )
    pre_pull: bool = Field(default=True, description="Pull the three images at start")


class Resources(Section):
    """What a container gets, and the most that a job may ask for."""

    default_cpu: float = Field(default=0.5, ge=0.01, le=1024, description="CPU cores of a job that names none")
    default_memory: Bytes = Field(
        default=512 * MIB, ge=16 * MIB, le=64 * TIB, description="Memory of a job that names none; there is no swap on top"
    )
    max_cpu: float = Field(default=2.0, ge=0.01, le=1024, description="Most CPU cores a job may ask for")
    max_memory: Bytes = Field(default=2 * GIB, ge=16 * MIB, le=64 * TIB, description="Most memory a job may ask for")
    default_disk: Bytes = Field(default=1 * GIB, ge=1 * MIB, le=64 * TIB, description="Writable space of a job that names none")
    max_disk: Bytes = Field(default=10 * GIB, ge=1 * MIB, le=64 * TIB, description="Most writable space a job may ask for")
    default_pids: int = Field(default=100, ge=1, le=_PID_MAX, description="Processes of a job that names no number")
    max_pids: int = Field(default=1000, ge=1, le=_PID_MAX, description="Most processes a job may ask for")
    max_file_size: Bytes = Field(
        default=64 * GIB,
        ge=64 * MIB,
        le=64 * TIB,
        description="Largest file in a container (fsize limit); also ends a job that has printed that much on one stream",
    )


class Security(Section):
    """How a container is locked down; no-new-privileges and the loss of capabilities hold for every job."""

    user: ContainerUser = Field(default="1000:1000", description="User and group of every job, in numbers")
    read_only_root_fs: bool = Field(
        default=False, description="Make the image's own files read-only; /workspace and /tmp stay writable"
    )
    drop_capabilities: Capabilities = Field(default=("ALL",), description="Linux capabilities taken away")
    no_new_privileges: bool = Field(default=True, description="No program of a job gains rights by setuid")
    seccomp_profile: AbsolutePath | None = Field(
        default=None, description="A seccomp profile (JSON file) instead of the engine's default one"
    )


class Network(Section):
    """The networks of containers."""

    default: NetworkName = Field(default="bridge", description="Network of a job that names none")
    allowed: NetworkNames = Field(default=("none", "bridge"), min_length=1, description="Networks a job may ask for")
    dns_servers: Addresses = Field(default=(), description="Name servers of containers; empty = the engine's")


class Container(Section):
    """Jobs in containers."""

    docker: Docker = Docker()
    images: Images = Images()
    resources: Resources = Resources()
    security: Security = Security()
    network: Network = Network()
    files: Literal["auto", "host", "exec"] = Field(
        default="auto", description="How output files are read: on this host, by exec, or whichever works"
    )
    max_results: Bytes = Field(
        default=64 * MIB, ge=64 * KIB, le=_MOST_RESULTS, description="Most that a job's output files may hold together"
    )
    max_events: Bytes = Field(
        default=8 * MIB, ge=64 * KIB, le=_MOST_EVENTS, description="Most that a job may say by output(), variables and progress"
    )
    labels: Labels = Field(default={}, description="Labels put on every container, beside our own")


class SshConnectionPool(Section):
    """Connections that are kept open."""

    max_per_server: int = Field(default=5, ge=1, le=100, description="Most connections to one server")
    idle_timeout: Seconds = Field(
        default=5 * MINUTE_S, ge=1, le=24 * HOUR_S, description="Time after which an unused connection is closed"
    )
    health_check_interval: Seconds = Field(default=30.0, ge=1, le=HOUR_S, description="How often an unused connection is checked")
    keepalive_interval: Seconds = Field(
        default=5.0, ge=0.5, le=HOUR_S, description="How often a used connection is checked; after three silent ones it is dead"
    )
    connect_timeout: Seconds = Field(
        default=15.0, ge=1, le=10 * MINUTE_S, description="Longest time from a connection's start to its login"
    )
    max_dials: int = Field(
        default=3, ge=1, le=100, description="Most logins to one server at the same moment (below sshd's MaxStartups)"
    )
    warm: bool = Field(default=True, description="Keep a launcher waiting on each unused connection, for a quicker start")


class SshExecution(Section):
    """How a script runs on a server."""

    default_shell: UnixPath = Field(default="/bin/bash", description="Shell for bash scripts")
    temp_dir: UnixPath = Field(default="/tmp/cronium", description="Where jobs have their directories; -UID is added")  # noqa: S108 - a path on the server; SEED's
    remote_ttl: Seconds = Field(
        default=24 * HOUR_S,
        ge=MINUTE_S,
        le=90 * 24 * HOUR_S,
        description="Time after its end for which a job's directory waits on a server for somebody to come back",
    )


class SshCircuitBreaker(Section):
    """When a server is left alone for a while."""

    failure_threshold: int = Field(
        default=5, ge=1, le=1000, description="Failed connections in a row after which a server is left alone"
    )
    recovery_timeout: Seconds = Field(default=MINUTE_S, ge=1, le=24 * HOUR_S, description="Time after which it is tried again")
    when_open: Literal["wait", "fail"] = Field(
        default="wait", description="A job for a server that is left alone waits for it, or fails at once"
    )


class Ssh(Section):
    """Jobs on servers."""

    connection_pool: SshConnectionPool = SshConnectionPool()
    execution: SshExecution = SshExecution()
    circuit_breaker: SshCircuitBreaker = SshCircuitBreaker()
    known_hosts: Literal["strict", "accept-new"] = Field(
        default="strict", description="A server whose key is not known is refused, or its first key is taken down"
    )
    known_hosts_file: AbsolutePath | None = Field(
        default=None, description="The servers' keys, as OpenSSH's known_hosts; empty = known_hosts in stateDir"
    )
    key_path: AbsolutePath | None = Field(
        default=None, description="Private key for servers that bring none; beside it KEY-cert.pub, if there is one"
    )
    key_passphrase: Passphrase | None = Field(default=None, description="Passphrase of the key at keyPath")
    allow_password: bool = Field(default=False, description="Log in with a password where a server has one and no key")
    proxy_jump: JumpHost | None = Field(default=None, description="Server through which all others are reached: USER@HOST[:PORT]")
    unreachable_after: Seconds = Field(
        default=15 * MINUTE_S,
        ge=1,
        le=30 * 24 * HOUR_S,
        description="Time beyond a job's deadline for which an unreachable server is waited for",
    )

    def known_hosts_path(self, state_dir: Path) -> Path:
        """The file of the servers' keys."""
        return self.known_hosts_file or state_dir / "known_hosts"


class WebSocket(Section):
    """The WebSocket that takes the jobs' output."""

    endpoint: Annotated[WebSocketUrl | None, Env(("CRONIUM_WS_URL",))] = Field(
        default=None, description="The backend's WebSocket, like ws://localhost:5001/api/socket"
    )
    reconnect_interval: Seconds = Field(
        default=5.0, ge=0.05, le=HOUR_S, description="Pause before the first new connection; grows from there"
    )
    reconnect_max_interval: Seconds = Field(
        default=MINUTE_S, ge=0.05, le=HOUR_S, description="Longest pause between two connections"
    )
    ping_interval: Seconds = Field(default=30.0, ge=0.5, le=HOUR_S, description="How often the connection is checked by a ping")
    ack_timeout: Seconds = Field(
        default=30.0, ge=0.5, le=HOUR_S, description="Longest wait for an acknowledgement before the connection is made anew"
    )
    max_unacked: int = Field(default=64, ge=1, le=10_000, description="Most frames on their way without an acknowledgement")
    fallback_after: Seconds = Field(
        default=15.0, ge=0, le=HOUR_S, description="Time without a connection after which output goes by HTTP"
    )


class LogBuffer(Section):
    """How lines are put together."""

    size: int = Field(default=1000, ge=1, le=1_000_000, description="Frames kept ready in memory")
    flush_interval: Seconds = Field(
        default=0.1, ge=0.001, le=MINUTE_S, description="Longest wait of a line for others to go with it"
    )
    batch_size: int = Field(default=50, ge=1, le=100_000, description="Lines that make a batch due at once")


class RateLimit(Section):
    """How fast output may come."""

    lines_per_second: int = Field(default=0, ge=0, le=100_000_000, description="Most lines a second of one job; 0 = no limit")
    global_lines_per_second: int = Field(
        default=0, ge=0, le=100_000_000, description="Most lines a second of all jobs together; 0 = no limit"
    )
    overflow: Literal["block", "drop"] = Field(
        default="block", description="Above a limit a script waits (block), or lines are left out and a line says how many (drop)"
    )


class Spool(Section):
    """Output on disk that the backend has not acknowledged."""

    max_size: Bytes = Field(default=2 * GIB, ge=16 * MIB, le=64 * TIB, description="Most disk space; at the limit scripts wait")
    max_age: Seconds = Field(
        default=720 * HOUR_S,
        ge=60,
        le=87_600 * HOUR_S,
        description="What the backend has not taken for so long while we ran is given up, and told",
    )
    segment_size: Bytes = Field(default=32 * MIB, ge=1 * MIB, le=1 * GIB, description="Size of one file")
    max_backlog: Bytes = Field(
        default=4 * MIB, ge=64 * KIB, le=16 * GIB, description="Most that one job may be ahead of a backend that answers"
    )
    fsync: bool = Field(default=True, description="Keep output safe from a power cut too, not only from our own end")


class Logging(Section):
    """The jobs' output on its way to the backend."""

    websocket: WebSocket = WebSocket()
    buffer: LogBuffer = LogBuffer()
    compress_threshold: Bytes = Field(
        default=1 * KIB, ge=0, le=16 * MIB, description="Frames of this size and more are compressed (gzip)"
    )
    max_unread: Bytes = Field(
        default=64 * MIB,
        ge=1 * MIB,
        le=16 * GIB,
        description="Output of one stream that waits in its place; at the limit the script waits",
    )
    partial_line_after: Seconds = Field(
        default=1.0, ge=0.05, le=HOUR_S, description="Time after which an unfinished line is shown"
    )
    rate_limit: RateLimit = RateLimit()
    spool: Spool = Spool()


class Metrics(Section):
    """Figures for Prometheus."""

    enabled: bool = Field(default=True, description="Serve metrics")
    port: int = Field(default=9090, ge=0, le=65535, description="Port; 0 = any free one")
    path: UrlPath = Field(default="/metrics", description="Path of the metrics")


class Health(Section):
    """Whether all is well."""

    port: int = Field(default=8080, ge=0, le=65535, description="Port; 0 = any free one")
    path: UrlPath = Field(default="/health", description="Path of the health check")


class OwnLogging(Section):
    """Our own messages, not the jobs' output."""

    level: Annotated[Literal["debug", "info", "warning", "error"], AsLower, Env(("CRONIUM_LOG_LEVEL",))] = Field(
        default="info", description="Least important messages that are written"
    )
    format: Literal["json", "console"] = Field(default="json", description="One JSON object a line, or text for people")


class Monitoring(Section):
    """How others see that we work."""

    host: Host = Field(
        default="127.0.0.1", description="Address that health and metrics are served on; who gets there may read them"
    )
    metrics: Metrics = Metrics()
    health: Health = Health()
    logging: OwnLogging = OwnLogging()


class Standalone(Section):
    """The embedded queue of `--standalone`."""

    host: Host = Field(default="127.0.0.1", description="Address it listens on")
    port: int = Field(default=5001, ge=0, le=65535, description="Port it listens on; 0 = any free one")
    lease: Seconds = Field(
        default=MINUTE_S, ge=1, le=HOUR_S, description="Time after which a job that nobody renews goes back to the queue"
    )


class Config(Section):
    """The whole configuration: what stands below `orchestrator:`.

    The two directories have no default here, as theirs depends on who runs the program: see `dirs`.
    """

    id: InstallationId | None = Field(
        default=None, description="Name of this installation; otherwise one is made once and kept in stateDir"
    )
    state_dir: AbsolutePath = Field(
        description="Journal, spool and token; /var/lib/cronium-supervisor as root, else $XDG_STATE_HOME/cronium-supervisor"
    )
    runtime_dir: AbsolutePath = Field(
        description="Sockets; /run/cronium-supervisor as root, else $XDG_RUNTIME_DIR/cronium-supervisor, else run/ in stateDir"
    )
    api: Api = Api()
    jobs: Jobs = Jobs()
    workers: Workers = Workers()
    container: Container = Container()
    ssh: Ssh = Ssh()
    logging: Logging = Logging()
    monitoring: Monitoring = Monitoring()
    standalone: Standalone = Standalone()

    @property
    def audit_dir(self) -> Path:
        """The folder of the audit log."""
        return self.state_dir / "audit"

    def without_secrets(self) -> "Config":
        """The same without the service token: what a worker is given."""
        return self.model_copy(update={"api": self.api.model_copy(update={"token": None})})
