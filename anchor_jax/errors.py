"""The error type whose messages users read, and helpers for its messages."""

from collections.abc import Sequence

LONGEST = 400  # characters of another library's message: room for two long paths and a reason


class AnchorError(Exception):
    """Bad input, described in one line: what is wrong, where, what was expected and what to do.

    The command line prints the message and exits with 2; library users may catch it.
    """


def require(*conditions: tuple[object, str]) -> None:
    """Check settings: pairs of a condition and the message for when it does not hold.

    >>> require((2 > 1, "2 is too small"), (0 > 1, "0 is too small"), (1 > 1, "1 is too small"))
    Traceback (most recent call last):
    anchor_jax.errors.AnchorError: 0 is too small; 1 is too small

    Raises:
        AnchorError: with all messages whose condition does not hold, in one line.
    """
    if problems := [message for condition, message in conditions if not condition]:
        raise AnchorError(shorten(problems, separator="; "))


def shorten(items: Sequence[str], limit: int = 4, separator: str = ", ") -> str:
    """Join the first few items, and say how many more there are."""
    more = len(items) - limit
    return separator.join(items[:limit]) + (f" and {more} more" if more > 0 else "")


def first_line(error: BaseException) -> str:
    """Put another library's error on one line: its type and the beginning of its message."""
    text = " ".join(str(error).split())
    if isinstance(error, AnchorError):
        return text
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return f"{type(error).__name__}: {text if len(text) <= LONGEST else text[:LONGEST] + '...'}"
