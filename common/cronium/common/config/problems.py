"""What is wrong with a configuration, as values: all of it at once, each with what to do.

Pure. How it is shown on a terminal is the command line's business; `str()` of a problem is for logs.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ConfigProblem:
    """One thing that is wrong; an empty text where a part does not apply."""

    path: str
    """The key, like `jobs.maxConcurrent`; empty when it is the file as a whole."""
    message: str
    value: str = ""
    """The value as it was given, after expansion; hidden for a secret."""
    allowed: str = ""
    nearest: str = ""
    """For an unknown key: the known one that was most likely meant."""
    source: str = ""
    """Where the value came from: `FILE:LINE` or `environment NAME`."""

    def __str__(self) -> str:
        """One line: path, value, message, what is allowed, nearest key, source."""
        parts = [f"{self.path}: " if self.path else "", f"{self.value!r} " if self.value else "", self.message]
        if self.nearest:
            parts.append(f"; did you mean {self.nearest}?")
        if self.allowed:
            parts.append(f"; allowed: {self.allowed}")
        if self.source:
            parts.append(f" ({self.source})")
        return "".join(parts)


class ConfigError(Exception):
    """The configuration cannot be used; `problems` has every reason found."""

    def __init__(self, problems: tuple[ConfigProblem, ...]) -> None:
        self.problems = problems
        super().__init__("\n".join(str(problem) for problem in problems))
