"""From a YAML file and the environment to one `Config`, or to everything that is wrong with them.

Environment wins over file, file over default. Runs once at the start of the program and again on reload; reads the
file, the files of secrets and a seccomp profile, and changes nothing.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from pydantic import ValidationError

from cronium.common.config import dirs, rules
from cronium.common.config.environment import read_environment, read_last_resorts, suspicious_names
from cronium.common.config.fields import HIDDEN
from cronium.common.config.keys import Key, all_keys
from cronium.common.config.model import Config
from cronium.common.config.problems import ConfigError, ConfigProblem
from cronium.common.config.values import Found, Given, Value, expand
from cronium.common.config.yaml_file import read_file

DEFAULT_SOURCE: Final = "default"
_PLACEHOLDER: Final = "/nonexistent"
"""Stands for a directory that is wrong while the rest is checked."""
_MAX_SHOWN_CHARS: Final = 120

_MESSAGES: Final = {
    "greater_than_equal": "is too small",
    "less_than_equal": "is too large",
    "too_short": "is empty",
}


@dataclass(frozen=True, slots=True)
class LoadedConfig:
    """A configuration that can be used, and where each of its values came from."""

    config: Config
    sources: Mapping[str, str]
    """By path, for every key: `default`, `FILE:LINE` or `environment NAME`."""
    warnings: tuple[ConfigProblem, ...] = ()
    """What looks like a mistake and is none for certain."""


def load_config(path: Path | None, environ: Mapping[str, str], *, standalone: bool = False) -> LoadedConfig:
    """The configuration of file `path` (None: no file) and `environ`; raises ConfigError with all that is wrong.

    With `standalone` the backend's addresses and token may be missing, also as `${VAR}` of an unset variable.
    """
    file = read_file(path) if path else Found({})
    environment = read_environment(environ)
    problems = [*file.problems, *environment.problems]
    if any(not problem.path for problem in file.problems):
        # Nothing is known of the file: that a key is missing in it cannot be said.
        raise ConfigError(tuple(problems))

    values = dict(read_last_resorts(environ).values)
    for name, value in file.values.items():
        if name in environment.values:
            continue
        match expand(value, environ):
            case Value() as expanded:
                values[name] = expanded
            case ValueError() as wrong if not (standalone and name in rules.REQUIRED):
                shown = _shown(all_keys()[name], value.given)
                problems.append(ConfigProblem(name, str(wrong), shown, source=value.source))
    values |= environment.values

    broken = {problem.path for problem in problems}
    config, wrong_values = _validate(values, environ, broken)
    problems += wrong_values
    broken |= {problem.path for problem in wrong_values}

    sources = {name: values[name].source if name in values else DEFAULT_SOURCE for name in all_keys()}
    if not standalone:
        problems += rules.missing(config, frozenset(broken))
    problems += rules.check(config, sources, frozenset(broken))
    if problems:
        raise ConfigError(tuple(problems))
    return LoadedConfig(config, sources, suspicious_names(environ))


def _validate(values: Mapping[str, Value], environ: Mapping[str, str], broken: set[str]) -> tuple[Config, list[ConfigProblem]]:
    """A Config of all values that are right, and a problem for each that is not."""
    problems: dict[str, ConfigProblem] = {}
    while True:
        good = {name: value for name, value in values.items() if name not in problems}
        given: dict[str, Given] = {name: value.given for name, value in good.items()}
        given |= _directories(given, environ, frozenset(problems))
        try:
            # Names are the YAML's only: `poll_interval` would escape the search for unknown keys.
            config = Config.model_validate(_tree(given), by_alias=True, by_name=False)
        except ValidationError as wrong:
            for error in wrong.errors(include_url=False):
                problem = _problem(error["loc"], error, values)
                problems.setdefault(problem.path, problem)
        else:
            return config, [problem for name, problem in problems.items() if name not in broken]


def _directories(given: Mapping[str, Given], environ: Mapping[str, str], wrong: frozenset[str]) -> dict[str, Given]:
    """Both directories: as given, or their defaults; a placeholder for one that is wrong."""
    uid = os.geteuid()
    state = given.get("stateDir") or (_PLACEHOLDER if "stateDir" in wrong else dirs.default_state_dir(environ, uid))
    runtime = given.get("runtimeDir") or (
        _PLACEHOLDER if "runtimeDir" in wrong else dirs.default_runtime_dir(environ, uid, Path(str(state)))
    )
    return {"stateDir": str(state), "runtimeDir": str(runtime)}


def _tree(given: Mapping[str, Given]) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for path, value in given.items():
        *sections, leaf = path.split(".")
        here = tree
        for section in sections:
            here = here.setdefault(section, {})
        here[leaf] = value
    return tree


def _problem(location: tuple[int | str, ...], error: Any, values: Mapping[str, Value]) -> ConfigProblem:
    names = [str(part) for part in location]
    key = next(all_keys()[path] for end in range(1, len(names) + 1) if (path := ".".join(names[:end])) in all_keys())
    value = values.get(key.path, Value("", DEFAULT_SOURCE))
    # Of a list only the item that is wrong is shown.
    inner = len(names) > key.path.count(".") + 1 and isinstance(error["input"], str)
    shown = _shown(key, error["input"] if inner else value.given)
    own_words = error.get("ctx", {}).get("error")
    message = str(own_words or _MESSAGES.get(error["type"], "is not allowed"))
    return ConfigProblem(key.path, message, shown, key.allowed, source=value.source)


def _shown(key: Key, given: Given) -> str:
    if key.secret:
        return HIDDEN
    match given:
        case str(text):
            shown = text
        case dict(pairs):
            shown = f"{{{', '.join(f'{name}: {text}' for name, text in pairs.items())}}}"
        case tuple(items):
            shown = f"[{', '.join(items)}]"
    return shown if len(shown) <= _MAX_SHOWN_CHARS else shown[:_MAX_SHOWN_CHARS] + "…"
