"""Our own log: one line an entry on stderr, as JSON (SEED.md's shape) or as text for people.

Every process sets it up once, at its start, by `configure_logging`. What libraries say through `logging` and `warnings`
comes out in the same shape. A job's output never passes here. An entry has `level`, `time`, `message`, `component`, and
where they apply `job_id`, `error`, `duration` (seconds); everything else stands below `metadata`.
"""

import logging
import sys
import traceback
from collections.abc import Iterable, Iterator, Mapping, MutableMapping
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any, Final, Literal, Protocol, cast

import structlog
from structlog.typing import EventDict, ExcInfo, WrappedLogger

from cronium.common.log_lines import NAMED, ConsoleLine, LineWriter, json_line
from cronium.common.redact import Plain, Redactor

LogFormat = Literal["json", "console"]

_LEVELS: Final = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}
_STDERR: Final = 2


class Logger(Protocol):
    """What `get_logger` gives: a message and named values; `exception` adds the one that is being handled."""

    def debug(self, event: str, **values: Any) -> Any:
        """For whoever looks for a mistake."""

    def info(self, event: str, **values: Any) -> Any:
        """What an operator may want to know."""

    def warning(self, event: str, **values: Any) -> Any:
        """What an operator should know; the work goes on."""

    def error(self, event: str, **values: Any) -> Any:
        """What somebody must look at."""

    def exception(self, event: str, **values: Any) -> Any:
        """As error, with the exception that is being handled."""

    def bind(self, **values: Any) -> "Logger":
        """A logger that adds `values` (as job_id) to each of its entries."""


def configure_logging(component: str, level: str, fmt: LogFormat, *, secrets: Iterable[str] = ()) -> None:
    """Set this process's log up: entries of `component` from `level` (debug, info, warning, error) upwards.

    `secrets` are masked wherever they stand. May be called again, as after a fork. Raises KeyError for another level.
    """
    shape = _Entry(component)
    render = json_line if fmt == "json" else ConsoleLine(colours=sys.stderr.isatty())

    def tell_lost(count: int) -> bytes:
        values = {"event": "log entries were left out, as nobody read them", "count": count}
        return render(None, "warning", shape(None, "warning", values))

    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            shape,
            Redaction(Redactor().with_secrets(secrets)),
            render,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(_LEVELS[level]),
        logger_factory=_Writers(LineWriter(_STDERR, tell_lost)),
        # Loggers look the set-up up at each entry, so that `hiding` reaches those that exist already.
        cache_logger_on_first_use=False,
    )
    logging.captureWarnings(capture=True)
    root = logging.getLogger()
    for handler in [handler for handler in root.handlers if isinstance(handler, _FromLibraries)]:
        root.removeHandler(handler)
    root.addHandler(_FromLibraries(level=logging.WARNING))


def get_logger(**values: Any) -> Logger:
    """A logger for a module; `values` are added to each of its entries."""
    return cast(Logger, structlog.get_logger(**values))


@contextmanager
def hiding(secrets: Iterable[str]) -> Iterator[None]:
    """Within it, `secrets` are masked in every entry of this process: what a worker puts around a job."""
    before = structlog.get_config()["processors"]
    with_more = [step.with_secrets(secrets) if isinstance(step, Redaction) else step for step in before]
    structlog.configure(processors=with_more)
    try:
        yield
    finally:
        structlog.configure(processors=before)


def masked(values: Mapping[str, Any]) -> dict[str, Plain]:
    """`values` plain, and masked as in an entry of the log: for what else we write down."""
    steps = (step for step in structlog.get_config()["processors"] if isinstance(step, Redaction))
    redactor = next((step.redactor for step in steps), Redactor())
    return {name: redactor.entry(name, value) for name, value in values.items()}


class Redaction:
    """The step that masks: every value by its name and by known texts."""

    def __init__(self, redactor: Redactor) -> None:
        self.redactor = redactor

    def __call__(self, _logger: WrappedLogger, _method: str, entry: EventDict) -> EventDict:
        """The entry with plain, masked values."""
        return {name: self.redactor.entry(name, value) for name, value in entry.items()}

    def with_secrets(self, values: Iterable[str]) -> "Redaction":
        """One that masks `values` too."""
        return Redaction(self.redactor.with_secrets(values))


class _Entry:
    """The step that gives an entry its shape."""

    def __init__(self, component: str) -> None:
        self._component = component

    def __call__(self, _logger: WrappedLogger, method: str, values: EventDict) -> EventDict:
        entry: dict[str, Any] = {
            "level": "error" if method == "exception" else method,
            "time": datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "message": values.pop("event", ""),
            "component": values.pop("component", self._component),
        }
        trace = _take_exception(values)
        entry |= {name: value for name in NAMED if (value := values.pop(name, None)) is not None}
        if metadata := {**values, **trace}:
            entry["metadata"] = metadata
        return entry


def _take_exception(values: MutableMapping[str, Any]) -> dict[str, str]:
    """Turns `exc_info` into a text in `error`, and gives the traceback, if there is one, for `metadata`."""
    wanted: bool | BaseException | ExcInfo | None = values.pop("exc_info", None)
    match wanted:
        case BaseException():
            exception: BaseException | None = wanted
        case tuple():
            exception = wanted[1]
        case _:
            exception = sys.exc_info()[1] if wanted else None
    if exception is None:
        return {}
    values.setdefault("error", exception)
    return {"traceback": "".join(traceback.format_exception(exception))}


class _Writers:
    """What structlog asks for the place to write to: always the same one."""

    def __init__(self, writer: LineWriter) -> None:
        self._writer = writer

    def __call__(self, *_args: Any) -> LineWriter:
        return self._writer


class _FromLibraries(logging.Handler):
    """Takes what libraries say through `logging`, from `warning` upwards: below it they talk to their developers."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write `record` as an entry of ours."""
        log = structlog.get_logger()
        say = log.warning if record.levelno < logging.ERROR else log.error
        try:
            message = record.getMessage()
        except (TypeError, ValueError):
            # Its arguments do not fit its text: a library's mistake, which must not end the work that is being logged.
            message = str(record.msg)
        say(message, logger=record.name, exc_info=record.exc_info)
