"""The configuration file: YAML to values by key, and everything in it that is not as it should be.

Reads one file. The document is walked as a tree of nodes along the known keys, never turned into Python objects: so each
value keeps its line and its spelling, and doubled keys are seen. Problems are collected, not raised.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Final

import yaml

from cronium.common.config.keys import ROOT, Key, all_keys, all_sections, nearest
from cronium.common.config.problems import ConfigProblem
from cronium.common.config.values import Found, Given, Value

_MAX_FILE_BYTES: Final = 1024 * 1024
_NULL: Final = ("", "~", "null", "Null", "NULL")


def read_file(path: Path) -> Found:
    """The values of YAML file `path`; `${VAR}` is left as it is."""
    try:
        with path.open("rb") as file:
            content = file.read(_MAX_FILE_BYTES + 1)
        if len(content) > _MAX_FILE_BYTES:
            return Found({}, (ConfigProblem("", "is larger than 1 MiB: this is no configuration", source=str(path)),))
        document = yaml.compose(content.decode(), Loader=yaml.BaseLoader)
    except OSError as wrong:
        return Found({}, (ConfigProblem("", f"cannot be read: {wrong.strerror}", source=str(path)),))
    except UnicodeDecodeError as wrong:
        return Found({}, (ConfigProblem("", f"is not UTF-8 (byte {wrong.start})", source=str(path)),))
    except yaml.MarkedYAMLError as wrong:
        where = f":{wrong.problem_mark.line + 1}:{wrong.problem_mark.column + 1}" if wrong.problem_mark else ""
        context = f" {wrong.context}" if wrong.context else ""
        return Found({}, (ConfigProblem("", f"is not YAML: {wrong.problem}{context}", source=f"{path}{where}"),))
    except (yaml.YAMLError, RecursionError) as wrong:
        return Found({}, (ConfigProblem("", f"is not YAML: {' '.join(str(wrong).split())}", source=str(path)),))
    return _Reader(path).read(document)


class _Reader:
    """Walks one document along the known keys, and notes what does not belong there."""

    def __init__(self, path: Path) -> None:
        self._file = path
        self._values: dict[str, Value] = {}
        self._problems: list[ConfigProblem] = []

    def read(self, document: yaml.Node | None) -> Found:
        for name, key_node, node in self._entries("", document):
            if name == ROOT:
                self._section("", node)
            else:
                belongs = nearest(name) if name in all_sections() | set(all_keys()) else None
                hint = f"{ROOT}.{belongs}" if belongs else ROOT
                message = f"is unknown: all keys stand below `{ROOT}:`"
                self._problems.append(ConfigProblem(name, message, nearest=hint, source=self._line(key_node)))
        return Found(self._values, tuple(self._problems))

    def _section(self, prefix: str, node: yaml.Node) -> None:
        for name, key_node, child in self._entries(prefix.removesuffix("."), node):
            path = prefix + name
            if path in all_sections():
                self._section(path + ".", child)
            elif key := all_keys().get(path):
                self._value(key, child)
            else:
                near = nearest(path) or ""
                self._problems.append(ConfigProblem(path, "is unknown", nearest=near, source=self._line(key_node)))

    def _entries(self, path: str, node: yaml.Node | None) -> Iterator[tuple[str, yaml.Node, yaml.Node]]:
        if node is None or _is_null(node):
            return
        if not isinstance(node, yaml.MappingNode):
            message = "must be a section: indented keys with a value each"
            self._problems.append(ConfigProblem(path, message, source=self._line(node)))
            return
        seen: dict[str, yaml.Node] = {}
        for key_node, child in node.value:
            name = key_node.value if isinstance(key_node, yaml.ScalarNode) else "?"
            if name in seen:
                full = f"{path}.{name}" if path else name
                message = f"stands here twice, first on line {seen[name].start_mark.line + 1}: keep one"
                self._problems.append(ConfigProblem(full, message, source=self._line(key_node)))
                continue
            seen[name] = key_node
            yield name, key_node, child

    def _value(self, key: Key, node: yaml.Node) -> None:
        if _is_null(node):
            return
        given = _given(node)
        if given is None:
            message = "must be one value, or a list of values, or names with a value each"
            self._problems.append(ConfigProblem(key.path, message, allowed=key.allowed, source=self._line(node)))
        else:
            self._values[key.path] = Value(given, self._line(node))

    def _line(self, node: yaml.Node) -> str:
        return f"{self._file}:{node.start_mark.line + 1}"


def _is_null(node: yaml.Node) -> bool:
    return isinstance(node, yaml.ScalarNode) and (node.value == "" or (node.style is None and node.value in _NULL))


def _given(node: yaml.Node) -> Given | None:
    match node:
        case yaml.ScalarNode():
            return str(node.value)
        case yaml.SequenceNode() if all(isinstance(item, yaml.ScalarNode) for item in node.value):
            return tuple(item.value for item in node.value)
        case yaml.MappingNode() if all(isinstance(part, yaml.ScalarNode) for pair in node.value for part in pair):
            return {name.value: text.value for name, text in node.value}
    return None
