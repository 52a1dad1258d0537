"""The environment: CRONIUM_<PATH>, the short names of some keys, and files of secrets.

Reads the files that `*_FILE` variables name, nothing else; the environment itself is handed in. Problems are collected,
not raised.
"""

import difflib
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from cronium.common.config.keys import ENV_PREFIX, FILE_SUFFIX, all_keys
from cronium.common.config.problems import ConfigProblem
from cronium.common.config.values import Found, Value

_MAX_SECRET_BYTES: Final = 64 * 1024


def read_environment(environ: Mapping[str, str]) -> Found:
    """The values of the environment that win over a file."""
    values: dict[str, Value] = {}
    problems: list[ConfigProblem] = []
    for key in all_keys().values():
        found = [name for name in key.env if environ.get(name)]
        files = [name + FILE_SUFFIX for name in key.env if key.secret and environ.get(name + FILE_SUFFIX)]
        if found and files:
            message = f"is given twice, by {found[0]} and by {files[0]}: unset one"
            problems.append(ConfigProblem(key.path, message, source="environment"))
        elif found:
            values[key.path] = Value(environ[found[0]], f"environment {found[0]}")
        elif files:
            source = f"environment {files[0]}"
            match _read_secret(Path(environ[files[0]])):
                case str(secret):
                    values[key.path] = Value(secret, source)
                case OSError() | ValueError() as wrong:
                    problems.append(ConfigProblem(key.path, f"cannot be read: {wrong}", source=source))
    return Found(values, tuple(problems))


def read_last_resorts(environ: Mapping[str, str]) -> Found:
    """The values of variables that belong to other programs (DOCKER_HOST), for keys that nobody else sets."""
    return Found(
        {
            key.path: Value(environ[name], f"environment {name}")
            for key in all_keys().values()
            for name in key.env_last
            if environ.get(name)
        }
    )


def suspicious_names(environ: Mapping[str, str]) -> tuple[ConfigProblem, ...]:
    """Variables that are almost, but not quite, the name of one of ours. No errors: they may be somebody else's."""
    ours = {name for key in all_keys().values() for name in key.env}
    ours |= {name + FILE_SUFFIX for key in all_keys().values() if key.secret for name in key.env}
    strange = sorted(name for name in environ if name.startswith(ENV_PREFIX) and name not in ours)
    return tuple(
        ConfigProblem(name, "is no variable of ours, and is ignored", nearest=near[0], source="environment")
        for name in strange
        if (near := difflib.get_close_matches(name, ours, n=1, cutoff=0.9))
    )


def _read_secret(path: Path) -> str | OSError | ValueError:
    try:
        with path.open("rb") as file:
            text = file.read(_MAX_SECRET_BYTES).decode().strip()
    except OSError as wrong:
        return OSError(f"{path}: {wrong.strerror}")
    except UnicodeDecodeError:
        return ValueError(f"{path} is not text")
    return text or ValueError(f"{path} is empty")
