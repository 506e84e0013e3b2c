"""The one error type a user is meant to read, and what helps to word it."""

from collections.abc import Sequence

LONGEST = 400  # characters of another library's message: room for two long paths and a reason


class AnchorError(Exception):
    """Bad input, told in one line: what was wrong, where, what was expected, what to do.

    The command line prints the message and exits with 2; library users may catch it.
    """


def shorten(items: Sequence[str], limit: int = 4, separator: str = ", ") -> str:
    """The first few items and how many more there are."""
    more = len(items) - limit
    return separator.join(items[:limit]) + (f" and {more} more" if more > 0 else "")


def first_line(error: BaseException) -> str:
    """Another library's error on one line: its type and the beginning of its message."""
    text = " ".join(str(error).split())
    if isinstance(error, AnchorError):
        return text
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return f"{type(error).__name__}: {text if len(text) <= LONGEST else text[:LONGEST] + '...'}"
