"""The error type for users, and helpers that word its messages."""

import math
import sys
from collections.abc import Sequence

LARGEST_SCALE = 100.0  # of guidance and control: far beyond it latents are no longer finite
LARGEST_SEED = (1 << 32) - 1

EXIT_INTERRUPTED = 130  # as shells report Ctrl-C

LONGEST = 400  # characters of another library's message: room for two long paths and a reason


class AnchorError(Exception):
    """Bad input. The message is one line: what is wrong, where, what is expected, what to do.

    The command line prints the message and exits with code 2.
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
        raise AnchorError(shorten(problems, 8, "; "))


def shorten(items: Sequence[str], limit: int = 4, separator: str = ", ") -> str:
    """Join the first `limit` items, and say how many more there are.

    >>> shorten(["a", "b", "c"], limit=2)
    'a, b and 1 more'
    """
    more = len(items) - limit
    return separator.join(items[:limit]) + (f" and {more} more" if more > 0 else "")


def first_line(error: BaseException) -> str:
    """Format the error of another library as one line: its type and the start of its message."""
    text = " ".join(str(error).split())
    if isinstance(error, AnchorError):
        return text
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return f"{type(error).__name__}: {text if len(text) <= LONGEST else text[:LONGEST] + '...'}"


def scale_condition(name: str, value: float) -> tuple[bool, str]:
    """Return whether a scale of guidance or control is 0 to 100, and the message for `require`."""
    valid = math.isfinite(value) and 0 <= value <= LARGEST_SCALE
    return valid, f"{name} is {value}: expected 0 to {LARGEST_SCALE:g}"


def note(message: str) -> None:
    """Print a note for the user, which is no error, on standard error."""
    print(f"anchor-jax: note: {message}", file=sys.stderr)
