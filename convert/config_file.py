"""Reads the entries of one config file, checks their types, and collects the problems."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any


class ConfigFile:
    """The entries of a config file. Every method that reads or checks an entry marks it as read.

    Attributes:
        values: the entries.
        problems: one line for each entry with a wrong value, which begins with the file's path.
    """

    def __init__(self, values: dict[str, Any], path: Path):
        self.values, self._path = values, path
        self._read: set[str] = set()
        self.problems: list[str] = []

    def mark_read(self, *keys: str) -> None:
        """Mark entries that the caller takes from `values` directly."""
        self._read.update(keys)

    def add_problem(self, key: str, expected: str) -> None:
        """Record that the value of `key` is not what was expected."""
        self._add(f"{key} is {self.values.get(key)!r:.60}, expected {expected}")

    def integer(self, key: str, default: int | None = None, most: int = 1 << 20) -> int:
        """Return an integer from 1 to `most`. An entry without a default is required.

        After a problem the result is 1.
        """
        self.mark_read(key)
        value = self.values.get(key, default)
        if not isinstance(value, int) or isinstance(value, bool) or not 0 < value <= most:
            self.add_problem(key, f"an integer from 1 to {most}")
            return 1
        return value

    def number(self, key: str, default: float, most: float = 10) -> float:
        """Return a number between 0 and `most`, both excluded. After a problem: the default."""
        self.mark_read(key)
        value = self.values.get(key, default)
        if not isinstance(value, int | float) or isinstance(value, bool) or not 0 < value < most:
            self.add_problem(key, f"a number between 0 and {most:g}")
            return default
        return float(value)

    def integers(self, key: str) -> tuple[int, ...]:
        """Return a required list of 1 to 8 positive integers. After a problem: (1,)."""
        self.mark_read(key)
        value = self.values.get(key)
        items = value if isinstance(value, list) else []
        if 0 < len(items) <= 8 and all(type(x) is int and 0 < x < 1 << 20 for x in items):
            return tuple(items)
        self.add_problem(key, "a list of 1 to 8 positive integers")
        return (1,)

    def check(self, key: str, *allowed: Any, required: bool = False) -> None:
        """Check that the entry, if it is present, has one of the allowed values.

        `True` and `1` are different values here, as are `False` and `0`.
        """
        self.mark_read(key)
        value = self.values.get(key)
        same = any(isinstance(value, bool) == isinstance(x, bool) and value == x for x in allowed)
        if not same and (key in self.values or required):
            self.add_problem(key, " or ".join(map(repr, allowed)))

    def check_unread(self, ignored: Sequence[str] = ()) -> None:
        """Record a problem for each entry that nothing has read, unless it is in `ignored`, is
        switched off (None or False) or has a name that begins with an underscore."""
        for key in sorted(set(self.values) - self._read - set(ignored)):
            if not key.startswith("_") and self.values[key] not in (None, False):
                self._add(f"{key} is {self.values[key]!r:.60}, which is not supported")

    def _add(self, problem: str) -> None:
        self.problems.append(f"{self._path}: {problem}")
