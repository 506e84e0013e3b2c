"""`anchor-jax generate` with faces: one run from poses to the final video, and how it refuses."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from anchor_jax.data import video

from .test_generate import one_error, probe

# Left eye, right eye, nose, left and right mouth corner, read off two of the real pose images.
FIRST = np.array([[171, 127], [205, 120], [186, 146], [180, 171], [209, 166]], float)
SEVENTIETH = np.array([[172, 127], [209, 124], [190, 150], [180, 175], [211, 174]], float)
COUNT = 119
# A face in the five drawn poses of 64x64, whose crop is a square of 32 pixels.
SMALL = np.array([[28, 25], [36, 25], [32, 29.5], [28.6, 33], [35.5, 33]])
# The same for every run, and windows of no more than two frames: so that one compilation of body
# and face serves videos of any length from two frames on.
SAME = {"steps": 1, "window": 2, "overlap": 1, "face_size": 16}


def landmarks(path: Path, frames, **more: object) -> Path:
    """A file of landmarks; a frame may be None."""
    listed = [frame if frame is None else np.asarray(frame).tolist() for frame in frames]
    path.write_text(json.dumps({"landmarks": listed, **more}))
    return path


@pytest.fixture
def real_landmarks(tmp_path) -> Path:
    share = np.arange(COUNT)[:, None, None] / 69
    return landmarks(tmp_path / "landmarks.json", FIRST + share * (SEVENTIETH - FIRST))


@pytest.fixture
def faces(generate, published, tmp_path):
    """Generate the five drawn poses with faces; frames go to `tmp_path/frames`."""

    def run(*flags: str, points=None, **options: object) -> int:
        points = [SMALL] * 5 if points is None else points
        path = landmarks(tmp_path / "points.json", points)
        options = SAME | {"frames_dir": tmp_path / "frames"} | options
        return generate(*flags, anchor=published, face_landmarks=path, **options)

    return run


def test_real_renders_with_landmarks_become_a_video(
    published, data_dir, generate, real_landmarks, tmp_path, capfd
):
    """Catches a face stage that the command does not reach, faces pasted elsewhere, and a display
    that ends with the body."""
    options = SAME | {"anchor": published, "poses": data_dir / "poses", "size": 64}
    options |= {"face_landmarks": real_landmarks}
    assert generate(**options, frames_dir=tmp_path / "with") == 0
    assert probe(tmp_path / "out.mp4") == (COUNT, (64, 64), 30, "yuv420p")
    windows = COUNT + -(-COUNT // 2)  # of the body, which overlap, and of the faces, which do not
    assert f"generating: 100%|██████████| {windows}/{windows}" in capfd.readouterr().err
    del options["face_landmarks"]
    assert generate("--no-face", **options, frames_dir=tmp_path / "without") == 0
    assert f"{COUNT}/{COUNT}" in capfd.readouterr().err
    changed = np.abs(
        video.read_frames(tmp_path / "with")[0].astype(int)
        - video.read_frames(tmp_path / "without")[0]
    ).max((0, 3))
    x, y = SEVENTIETH.mean(0) / 8
    assert changed[round(y), round(x)] > 20
    rows, columns = np.nonzero(changed)
    assert rows.max() < 30 and columns.min() > 8 and columns.max() < 40  # the head alone


def test_what_render_wrote_is_found_beside_the_poses(generate, published, poses, tmp_path, capsys):
    """Catches conditions that must be named, masks that are not read, pixels counted otherwise."""
    shutil.copytree(poses, tmp_path / "poses")
    beside = tmp_path / "poses-conditions"
    (beside / "face").mkdir(parents=True)
    for index in range(5):
        region = np.zeros((64, 64), np.uint8)
        region[20:40, 24:40] = 255 * (index != 2)  # a hand is before the face
        Image.fromarray(region).save(beside / "face" / f"{index + 1:06d}.png")
    visible = np.ones((5, 5), bool)
    np.savez(beside / "conditions.npz", landmarks=[SMALL] * 5, visible=visible, size=(64, 64))
    options = SAME | {"anchor": published, "poses": tmp_path / "poses"}
    assert generate(**options) == 0
    assert "interpolated in 1 of 5 frames: 3 (hidden)" in capsys.readouterr().err
    masks = shutil.move(beside / "face", tmp_path / "masks")
    assert generate(**options, face_masks=masks) == 0
    assert "3 (hidden)" in capsys.readouterr().err
    (Path(masks) / "000005.png").unlink()
    assert generate(**options, face_masks=masks) == 2
    assert "holds 4 face masks; expected 5" in one_error(capsys)


def moved(x: float = 0, y: float = 0) -> np.ndarray:
    return SMALL + np.array([x, y])


BAD_FACES = {
    "leaving the image": (moved(x=-40), "outside"),
    "turned away": (SMALL[[1, 0, 2, 4, 3]], "turned away"),
    "upside down": (64 - SMALL, "upside down"),
    "small": (32 + (SMALL - 32) / 8, "too small"),
    "missing": (None, "missing"),
}


@pytest.mark.parametrize("case", BAD_FACES)
def test_frames_without_a_usable_face_are_told(faces, capsys, tmp_path, case):
    """Catches a fault that nobody hears of, one that is repainted, one that stops the run."""
    bad, fault = BAD_FACES[case]
    assert faces(points=[SMALL, SMALL, SMALL, bad, bad]) == 0
    note = f"note: the face is left as it is in 2 of 5 frames: 4-5 ({fault})"
    assert note in capsys.readouterr().err
    with_faces, _ = video.read_frames(tmp_path / "frames")
    assert faces("--no-face") == 2  # landmarks are named, but not wanted
    assert "--no-face repaints no face" in one_error(capsys)
    assert faces(points=[SMALL, bad, SMALL, SMALL, SMALL]) == 0
    assert f"interpolated in 1 of 5 frames: 2 ({fault})" in capsys.readouterr().err
    again, _ = video.read_frames(tmp_path / "frames")
    assert (with_faces[[0, 2]] == again[[0, 2]]).all()
    assert (with_faces[3] != again[3]).any()


@pytest.mark.parametrize("case", BAD_FACES)
def test_no_usable_face_is_refused(faces, capsys, tmp_path, case):
    """Catches minutes of work for a video whose faces all stay as they were."""
    bad, fault = BAD_FACES[case]
    assert faces(points=[bad] * 5) == 2
    message = one_error(capsys)
    assert f"no usable face in 5 of 5 frames: 1-5 ({fault})" in message
    assert "--no-face" in message
    assert os.listdir(tmp_path) == ["points.json"]


@pytest.mark.slow
def test_two_frames(faces, poses, tmp_path, capsys):
    """Catches a window, a gap or a batch that needs more."""
    folder = tmp_path / "two"
    folder.mkdir()
    for path in sorted(poses.iterdir())[:2]:
        shutil.copy(path, folder)
    assert faces(poses=folder, points=[SMALL] * 2) == 0
    assert probe(tmp_path / "out.mp4")[0] == 2
    assert "note" not in capsys.readouterr().err
    assert faces(poses=folder, points=[SMALL, None]) == 0
    assert probe(tmp_path / "out.mp4")[0] == 2
    assert "left as it is in 1 of 2 frames: 2 (missing)" in capsys.readouterr().err
    assert faces(poses=folder, points=[None] * 2) == 2
    assert "no usable face in 2 of 2 frames: 1-2 (missing)" in one_error(capsys)


@pytest.mark.slow
def test_options_change_faces_and_nothing_else(faces, tmp_path):
    """Catches an option without effect, or with one on the body."""
    made = {}
    options: dict[str, dict] = {
        "plain": {},
        "guidance": {"face_guidance": 9},
        "control scale": {"face_control_scale": 3},
        "appearance": {"face_appearance": tmp_path / "face.png"},
        "blend": {"face_blend": "face"},
        "windows": {},
    }
    Image.new("RGB", (40, 40), (220, 180, 160)).save(tmp_path / "face.png")
    for name, words in options.items():
        flags = ["--face-windows"] if name == "windows" else []
        assert faces(*flags, **words, steps=2) == 0
        made[name] = video.read_frames(tmp_path / "frames")[0]
    for name in list(options)[1:]:
        changed = (made[name] != made["plain"]).any((0, 3))
        assert changed.any(), name
        assert not changed[:8].any() and not changed[:, :8].any(), name


def test_the_face_compiles_once(faces, poses, tmp_path):
    """Catches a second compilation at the second step, or for a video of another length."""
    from anchor_jax.diffusion.sample import predict_windows
    from anchor_jax.generation.autoencoder import decode_pixels, encode_images

    compiled = predict_windows, encode_images, decode_pixels
    programs = [f.cache_size for f in compiled]  # pyright: ignore
    assert faces() == 0
    before = [count() for count in programs]
    folder = tmp_path / "four"
    folder.mkdir()
    for path in sorted(poses.iterdir())[:4]:
        shutil.copy(path, folder)
    assert faces(poses=folder, points=[SMALL] * 4, steps=5) == 0  # groups of one, as for 1 step
    assert [count() for count in programs] == before


def broken(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def table(path: Path, **arrays) -> Path:
    np.savez(path, allow_pickle=True, **arrays)
    return path


BAD_FILES = {
    "none": (lambda p: p / "none.npz", "does not exist"),
    "text": (lambda p: broken(p / "a.json", "{"), "not a readable JSON"),
    "no list": (lambda p: broken(p / "a.json", "{}"), "no list of frames"),
    "words": (lambda p: broken(p / "a.json", '[["a"]]'), "values that are not numbers"),
    "three points": (lambda p: broken(p / "a.json", "[[[1, 2], [3, 4], [5, 6]]]"), "frame 1"),
    "other file": (lambda p: broken(p / "a.txt", ""), ".npz or .json"),
    "not a zip": (lambda p: broken(p / "a.npz", "x"), "a.npz"),
    "no landmarks": (lambda p: table(p / "a.npz", other=[1]), "landmarks is missing"),
    "objects": (lambda p: table(p / "a.npz", landmarks=np.array([{}])), "objects"),
    "six points": (lambda p: table(p / "a.npz", landmarks=np.zeros((5, 6, 2))), "(5, 6, 2)"),
    "four frames": (lambda p: landmarks(p / "a.json", [SMALL] * 4), "4 frames"),
    "no size": (lambda p: landmarks(p / "a.json", [SMALL] * 5, size=[0, 64]), "width and height"),
}


@pytest.mark.parametrize("case", BAD_FILES)
def test_bad_landmark_files_are_one_error(generate, published, tmp_path, capsys, case):
    """Catches a traceback, and a file that is taken for another."""
    make, message = BAD_FILES[case]
    path = make(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    assert generate(anchor=published, face_landmarks=path) == 2
    assert message in one_error(capsys)
    assert sorted(tmp_path.rglob("*")) == before


BAD_OPTIONS = {
    "guidance": ({"face_guidance": "nan"}, "the face's guidance is nan"),
    "size": ({"face_size": 20}, "the face's size is 20"),
    "smoothing": ({"face_smoothing": -1}, "smoothing is -1"),
    "appearance": ({"face_appearance": "none.png"}, "none.png"),
    "masks": ({"face_masks": "none"}, "none does not exist"),
}


@pytest.mark.parametrize("case", BAD_OPTIONS)
def test_bad_options_are_one_error(faces, tmp_path, capsys, case):
    """Catches an option that only fails, or worse works, after minutes."""
    options, message = BAD_OPTIONS[case]
    assert faces(**options) == 2
    assert message in one_error(capsys)
    assert os.listdir(tmp_path) == ["points.json"]


def test_landmarks_are_needed_unless_faces_are_not_wanted(
    generate, published, anchor, capsys, tmp_path, monkeypatch
):
    """Catches faces silently left alone, and a message that does not tell the ways out."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))  # no detector there
    assert generate(anchor=published, steps=1) == 2
    message = one_error(capsys)
    ways = "conditions.npz", "--face-landmarks", "--no-face", "anchor-jax[face]", "mediapipe=="
    for word in ways:
        assert word in message
    assert generate("--no-face", **SAME, anchor=published) == 0
    assert generate(anchor=anchor, steps=1) == 0  # without a face part nothing is asked for


def test_landmarks_for_an_anchor_without_a_face_are_refused(generate, anchor, tmp_path, capsys):
    """Catches landmarks that are given in vain."""
    path = landmarks(tmp_path / "points.json", [SMALL] * 5)
    assert generate(anchor=anchor, face_landmarks=path) == 2
    assert "no face part" in one_error(capsys)
