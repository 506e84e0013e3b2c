"""Reading one config file: typed values, and what was wrong with them."""

from collections.abc import Sequence
from typing import Any


class Entries:
    """A config file being read: values asked for, and what was wrong with them."""

    def __init__(self, values: dict[str, Any], where: str):
        self.values, self.where = values, where
        self.seen: set[str] = set()
        self.problems: list[str] = []

    def problem(self, key: str, expected: str) -> None:
        self.problems.append(f"{key} is {self.values.get(key)!r:.60}, expected {expected}")

    def integer(self, key: str, default: int | None = None, most: int = 1 << 20) -> int:
        """A positive integer; without a default it must be there."""
        self.seen.add(key)
        value = self.values.get(key, default)
        if not isinstance(value, int) or isinstance(value, bool) or not 0 < value <= most:
            self.problem(key, f"an integer from 1 to {most}")
            return 1
        return value

    def number(self, key: str, default: float) -> float:
        self.seen.add(key)
        value = self.values.get(key, default)
        if not isinstance(value, int | float) or isinstance(value, bool) or not 0 < value < 10:
            self.problem(key, "a number between 0 and 10")
            return default
        return float(value)

    def integers(self, key: str) -> tuple[int, ...]:
        """A list of 1 to 8 positive integers."""
        self.seen.add(key)
        value = self.values.get(key)
        items = value if isinstance(value, list) else []
        if 0 < len(items) <= 8 and all(type(x) is int and 0 < x < 1 << 20 for x in items):
            return tuple(items)
        self.problem(key, "a list of 1 to 8 positive integers")
        return (1,)

    def fixed(self, key: str, *allowed: Any, required: bool = False) -> None:
        """An entry that must have one of the values, if it is there."""
        self.seen.add(key)
        value = self.values.get(key)
        same = any(isinstance(value, bool) == isinstance(x, bool) and value == x for x in allowed)
        if not same and (key in self.values or required):
            self.problem(key, " or ".join(map(repr, allowed)))

    def finish(self, free: Sequence[str] = ()) -> list[str]:
        """All problems, each with the file; entries nobody asked for are among them unless their
        value is off."""
        for key in sorted(set(self.values) - self.seen - set(free)):
            if not key.startswith("_") and self.values[key] not in (None, False):
                self.problems.append(f"{key} is {self.values[key]!r:.60}, which is not supported")
        return [f"{self.where}: {problem}" for problem in self.problems]
