"""The face detector: needs ai-edge-litert and the two model files in the cache folder."""

import numpy as np
import pytest

from anchor_jax.data import video
from anchor_jax.errors import AnchorError
from anchor_jax.face import detect, litert


@pytest.fixture(scope="module")
def detector() -> detect.Detector:
    pytest.importorskip("ai_edge_litert", reason="needs ai-edge-litert: pip install '.[face]'")
    models = detect.find_models()
    if models is None:
        pytest.skip(f"needs the detector's models: {detect.how_to_get()}")
    return detect.Detector(models)


def test_real_renders(detector, data_dir):
    """Catches eyes exchanged, another colour order or range of the models' input, and points that
    are off by the crop's place, turn or size."""
    read = {  # off the pictures, by eye
        1: [[171, 127], [205, 120], [186, 146], [180, 171], [209, 166]],
        70: [[172, 127], [209, 124], [190, 150], [180, 175], [211, 174]],
    }
    for number, expected in read.items():
        picture = video.read_image(data_dir / "poses" / f"{number:06d}.png")
        assert np.abs(detector.find(picture) - expected).max() < 8
        wide = np.pad(picture, ((0, 0), (0, 40), (0, 0)))
        assert np.abs(detector.find(wide) - expected).max() < 8
        assert np.isnan(detector.find(np.ascontiguousarray(picture[256:]))).all()


def test_an_empty_picture_has_no_face(detector):
    """Catches landmarks of nothing."""
    assert np.isnan(detector.find(np.zeros((64, 64, 3), np.uint8))).all()


def test_missing_models_are_reported(tmp_path, monkeypatch):
    """Catches a traceback, and a message that does not say how to get them."""
    with pytest.raises(AnchorError, match=r"mediapipe==0.10.21.*unzip"):
        detect.find_models(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert detect.find_models() is None


def test_a_file_that_is_no_model_is_one_error(tmp_path):
    """Catches the interpreter's own exceptions."""
    pytest.importorskip("ai_edge_litert", reason="needs ai-edge-litert: pip install '.[face]'")
    for name in (detect._DETECTOR_FILE, detect._MESH_FILE):
        (tmp_path / name).write_bytes(b"no model")
    with pytest.raises(AnchorError, match="not a readable model"):
        detect.Detector(tmp_path)


def test_a_missing_package_is_reported(tmp_path, monkeypatch):
    """Catches an ImportError where only the models are there."""
    monkeypatch.setattr(litert, "find_spec", lambda name: None)
    with pytest.raises(AnchorError, match=r"pip install 'anchor-jax\[face\]'"):
        detect.Detector(tmp_path)
