"""Parts of a video or a motion: from seconds to frames, by one rule for all."""

from fractions import Fraction

from anchor_jax.errors import AnchorError


def frames_between(start: float, end: float | None, fps: Fraction, count: int) -> range:
    """The numbers of the frames from `start` up to, but not including, `end`.

    Args:
        start: seconds, rounded to the nearest frame.
        end: seconds, rounded likewise; None is the end of the last frame.
        fps: frames per second.
        count: number of frames of the whole.

    Raises:
        AnchorError: a time is outside the whole, or no frame lies between the two.

    >>> frames_between(0.5, 1.5, Fraction(30), 60)
    range(15, 45)
    """
    seconds = float(count / fps)
    end = seconds if end is None else end
    for name, second in (("start", start), ("end", end)):
        if not 0 <= second <= seconds + 0.5 / fps:
            raise AnchorError(f"{name} is {second:g} s: expected 0 to {seconds:g} s")
    first, last = (min(count, round(second * fps)) for second in (start, end))
    if first >= last:
        raise AnchorError(f"no frame lies between {start:g} s and {end:g} s; choose a longer range")
    return range(first, last)
