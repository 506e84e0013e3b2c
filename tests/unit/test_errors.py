"""What a user reads when another library fails."""

import pytest

from anchor_jax.errors import LONGEST, AnchorError, first_line


@pytest.mark.parametrize("shift", range(4))
def test_a_cut_message_has_no_loose_end(shift):
    """Catches a message cut at a space: its line then ends in white space, or not, by the length of
    the paths in it."""
    text = "x" * (LONGEST - 10 + shift) + "; at byte 5000; and more"
    told = first_line(RuntimeError(text))
    assert told == told.strip()
    assert told.endswith("...")
    assert len(told) == len("RuntimeError: ") + LONGEST + len("...")


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (RuntimeError("write() failed:\n  at byte 5"), "RuntimeError: write() failed: at byte 5"),
        (OSError(28, "No space left on device", "somewhere"), "No space left on device"),
        (AnchorError("said " + "well " * 100), ("said " + "well " * 100).strip()),
    ],
)
def test_every_error_becomes_one_line(error, told):
    """Catches line breaks kept, and our own words cut or given a type."""
    assert first_line(error) == told
