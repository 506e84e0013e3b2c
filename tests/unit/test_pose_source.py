"""Pose images, and their faces, that are read as they are needed."""

from dataclasses import replace
from fractions import Fraction
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from anchor_jax.data import video
from anchor_jax.data.pictures import read_size
from anchor_jax.errors import AnchorError
from anchor_jax.face import detect
from anchor_jax.face.landmarks import follow, reach
from anchor_jax.poses.face_inputs import FaceFiles, detect_as_read
from anchor_jax.poses.source import open_source

# A face in an image of 64x64, whose crop is a square of 32 pixels.
SMALL = np.array([[28, 25], [36, 25], [32, 29.5], [28.6, 33], [35.5, 33]])
FILES = FaceFiles(Path("poses"), None, None, Path("models"))


@pytest.fixture
def points(monkeypatch) -> np.ndarray:
    """Landmarks of 90 frames, found by a detector of which the first pixel tells the frame. The
    face is lost for 1 to 12 frames, also in the first and last ones."""
    rng = np.random.default_rng(0)
    points = SMALL + rng.normal(scale=0.4, size=(90, 1, 2))
    for start, length in ((0, 2), (10, 1), (20, 5), (40, 6), (55, 12), (88, 2)):
        points[start : start + length] = np.nan

    class Detector:
        def __init__(self, folder: Path):
            self.find = lambda image: points[image[0, 0, 0]]

    monkeypatch.setattr(detect, "Detector", Detector)
    return points


@pytest.mark.parametrize("smoothing", [0.0, 1.5])
@pytest.mark.parametrize("start", [0, 3, 25, 43, 60, 89])
def test_faces_that_are_found_as_frames_come(points, start, smoothing):
    """Catches a gap that is filled otherwise than in a whole video, a Gaussian that ends early,
    frames in another order, and a run that starts in the middle with other landmarks."""
    first = max(0, start - reach(smoothing))
    frames = [np.full((64, 64, 3), number, np.uint8) for number in range(len(points))]
    found = list(detect_as_read(FILES, iter(frames[first:]), start, smoothing))
    assert [int(image[0, 0, 0]) for image, _ in found] == list(range(start, len(points)))
    expected = follow(points, (64, 64), None, smoothing).transforms()[start:]
    np.testing.assert_allclose([transform for _, transform in found], expected, atol=1e-9)


def test_few_frames_are_read_ahead(points):
    """Catches a detector that reads the whole video before the first frame."""
    reads = []

    def frames():
        for number in range(len(points)):
            reads.append(number)
            yield np.full((64, 64, 3), number, np.uint8)

    ahead = [len(reads) - i for i, _ in enumerate(detect_as_read(FILES, frames()))]
    assert max(ahead) <= 2 * reach(0.0) + 2


@pytest.mark.parametrize("orientation", [1, 3, 6])
def test_the_size_of_a_turned_picture(tmp_path, orientation):
    """Catches width and height of a phone's portrait exchanged."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.new("RGB", (30, 20)).save(tmp_path / "1.jpg", exif=exif)
    assert read_size(tmp_path / "1.jpg") == ((20, 30) if orientation == 6 else (30, 20))


def test_a_folder_is_read_from_any_image_on(tmp_path):
    """Catches images in the order of their names, a start that counts otherwise, and an image that
    is resized although the others are not."""
    for number in (1, 2, 10, 11):
        Image.new("RGB", (20, 30), (number, 0, 0)).save(tmp_path / f"{number}.png")
    source = open_source(tmp_path)
    assert (source.count, source.own_size, source.size) == (4, (20, 30), (16, 24))
    read = [(image.shape, int(image[0, 0, 0])) for image in islice(source.read(1), 2)]
    assert read == [((24, 16, 3), 2), ((24, 16, 3), 10)]
    Image.new("RGB", (20, 31)).save(tmp_path / "12.png")
    with pytest.raises(AnchorError, match=r"1.png is 20x30 and 12.png is 20x31"):
        open_source(tmp_path)


def test_some_pose_images_are_read_without_the_others(tmp_path):
    """Catches other images than those asked for, and a folder that is read whole for a few."""
    frames = np.stack([np.full((16, 16, 3), 20 * number, np.uint8) for number in range(10)])
    video.write_frames(tmp_path / "folder", frames)
    video.write_video(tmp_path / "video.mp4", frames, Fraction(30))
    opened = []
    for path in (tmp_path / "folder", tmp_path / "video.mp4"):
        source = open_source(path)

        def noted(start: int, open=source.open):
            opened.append(start)
            return open(start)

        picked = list(replace(source, open=noted).pick([2, 3, 7]))
        assert [round(float(image.mean()) / 20) for image in picked] == [2, 3, 7]
    assert opened == [2, 3, 7, 0]
