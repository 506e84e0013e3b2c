"""The recorded videos as the benchmark of GPUs compares them."""

import time

from benchmarks.gpu import golden
from benchmarks.gpu.report import Section


def test_distances_to_a_recording(golden_dir, anchor, monkeypatch):
    """Catches a comparison with another recording, another type or other settings: float32 is the
    recording to rounding, bfloat16 is near it."""
    monkeypatch.setattr(golden, "_FOLDER", golden_dir)
    monkeypatch.setattr(golden, "_tiny_anchor", lambda: anchor)
    section = Section(time.monotonic() + 600)
    golden.measure_golden(section, toy=True)
    exact, short = (section.results[f"N9_ws4_os2, {x}"] for x in ("float32", "bfloat16"))
    assert exact["latents"] < 2e-5
    assert exact["largest"] <= 1
    assert exact["equal"] > 0.99
    assert 1e-3 < short["latents"] < 3e-2
    assert short["mean"] < 2


def test_without_the_recordings_it_says_so(tmp_path, monkeypatch):
    """Catches a run that ends with an error on a machine that has only the repository."""
    monkeypatch.setattr(golden, "_FOLDER", tmp_path / "none")
    section = Section(time.monotonic() + 600)
    golden.measure_golden(section, toy=False)
    assert not section.results
    assert "not there" in section.notes[0]
