"""Progress bars."""

import pytest

from anchor_jax.progress import BYTES, bars, open_bar, open_clock, silent


def shown(capsys: pytest.CaptureFixture) -> str:
    out, err = capsys.readouterr()
    assert out == ""
    return err


def test_a_bar_shows_label_count_rate_and_time_left(capsys):
    """Catches a bar on standard output, without its label, or that does not advance."""
    with bars()("drawing", 10, "frame") as advance:
        advance(4)
    err = shown(capsys)
    assert err.startswith("\rdrawing:   0%|") and "4/10 [" in err and "frame/s]" in err


def test_bars_are_numbered(capsys):
    """Catches a number that does not count, or that counts the bars of another run."""
    for _ in range(2):
        progress = bars(count=2)
        for name in ("first", "second"):
            with progress(name, 1, "window"):
                pass
        err = shown(capsys)
        assert "1/2 first:" in err and "2/2 second:" in err


def test_nothing_is_shown(capsys):
    """Catches bars in a log, or in a program that did not ask for them."""
    for progress in (silent, bars(False), bars(None), bars(delay=100)):  # None: no terminal here
        with progress("drawing", 10, "frame") as advance:
            advance(10)
        assert shown(capsys) == ""


def test_bytes_have_prefixes(capsys):
    """Catches bytes shown as a number of nine digits."""
    with bars()("convert", 3_000_000, BYTES) as advance:
        advance(3_000_000)
    assert "3.00M/3.00M" in shown(capsys)


def test_work_that_was_done_before_does_not_count_for_the_rate(capsys):
    """Catches a time left that is far too short after a restart, and a note that is not shown."""
    with open_bar("train", 1000, "step", done=999) as bar:
        bar.note(loss="0.5")
        err = shown(capsys)
    assert "999/1000" in err and "?step/s" in err and "loss=0.5" in err


def test_a_clock_appears_late_and_goes_away(capsys):
    """Catches a line for work that is done at once, none for long work, and a log with a line for
    every look at the clock."""
    with open_clock("compiling") as tick:
        tick()
    with open_clock("compiling", show=False, delay=0.0) as tick:
        tick()
    assert shown(capsys) == ""
    with open_clock("compiling", delay=0.0) as tick:
        for _ in range(5):
            tick()
    err = shown(capsys)
    assert err.count("compiling: 00:00") == 2 and err.rstrip(" \r").endswith("00:00")
