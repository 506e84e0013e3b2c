"""`anchor-jax render` as a user runs it: what it makes, and how it refuses bad input."""

import json
import os
import pickle
import shutil
import signal
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from anchor_jax import cli
from anchor_jax.body.bodies import open_body
from anchor_jax.body.motion import Camera
from anchor_jax.data import video
from anchor_jax.poses.framing import summarise
from tests.programs.interrupts import interrupt
from tests.programs.test_generate import one_error, probe
from tests.unit.motions import moving, show_form, talkshow
from tests.unit.smplx_files import oracle, write_smplx
from tests.unit.test_view import expected_pixels

COUNT = 6


@pytest.fixture(scope="module")
def motion(tmp_path_factory) -> Path:
    """Six frames in TalkSHOW's form. Do not write here."""
    path = tmp_path_factory.mktemp("motion") / "talk.npy"
    np.save(path, talkshow(COUNT))
    return path


@pytest.fixture
def render(motion, tmp_path):
    """Run `anchor-jax render` into `tmp_path/out.mp4`, small; options replace or add."""

    def run(**options: object) -> int:
        words = {"out": tmp_path / "out.mp4", "size": 64, "processes": 1} | options
        source = str(words.pop("motion", motion))
        return cli.main(["render", source, *(f"--{k}={v}" for k, v in words.items())])

    return run


def test_a_motion_becomes_a_video_landmarks_and_masks(render, opengl, tmp_path, capsys):
    """Catches another length, size or rate than the motion's, conditions of other frames, a body
    that does not say what it is, and leftovers."""
    assert render() == 0
    assert probe(tmp_path / "out.mp4") == (COUNT, (64, 64), 30, "yuv420p")
    assert sorted(os.listdir(tmp_path)) == ["out-conditions", "out.mp4"]
    printed = capsys.readouterr()
    assert "out.mp4: 6 frames, 64x64, 30 fps" in printed.out
    assert printed.err.count("not SMPL-X") == 1
    folder = tmp_path / "out-conditions"
    assert sorted(os.listdir(folder)) == ["conditions.npz", "face", "foreground"]
    table = np.load(folder / "conditions.npz")
    assert table["landmarks"].shape == (COUNT, 5, 2) and table["landmarks"].dtype == np.float32
    assert table["visible"].shape == (COUNT, 5) and table["visible"].all()
    assert Fraction(*table["fps"].tolist()) == 30
    frames, _ = video.read_frames(tmp_path / "out.mp4")
    for mask in ("face", "foreground"):
        names = sorted(os.listdir(folder / mask))
        assert names == [f"{number:06d}.png" for number in range(1, COUNT + 1)]
    for number, frame in enumerate(frames, 1):
        foreground, face = (
            np.asarray(Image.open(folder / mask / f"{number:06d}.png"))
            for mask in ("foreground", "face")
        )
        assert set(np.unique(foreground)) == {0, 255}
        assert np.mean((frame.max(2) > 40) == (foreground > 0)) > 0.97
        for x, y in table["landmarks"][number - 1]:
            assert face[int(y), int(x)] == 255


def test_a_folder_gets_png_frames(render, opengl, tmp_path):
    """Catches a folder taken for a video, other names, conditions among the frames, and a folder
    that a second run will not replace."""
    for _ in range(2):
        assert render(out=tmp_path / "poses", conditions=tmp_path / "known") == 0
    assert sorted(os.listdir(tmp_path)) == ["known", "poses"]
    frames, fps = video.read_frames(tmp_path / "poses")
    assert frames.shape == (COUNT, 64, 64, 3) and fps is None
    assert (frames[:, 0, 0] == 0).all() and frames.max() > 150
    assert len(os.listdir(tmp_path / "poses")) == COUNT


def test_the_number_of_processes_changes_nothing(render, opengl, tmp_path):
    """Catches frames out of order, and state that one process hands from frame to frame."""
    for count in (1, 3):
        place = {"out": tmp_path / f"poses{count}", "conditions": tmp_path / f"known{count}"}
        assert render(processes=count, size="96x64", **place) == 0
    for name in ("poses", "known"):
        one, three = tmp_path / f"{name}1", tmp_path / f"{name}3"
        files = [path.relative_to(one) for path in one.rglob("*") if path.is_file()]
        assert len(files) >= COUNT
        for file in files:
            assert (one / file).read_bytes() == (three / file).read_bytes()


def test_a_part_looks_as_in_the_whole(render, opengl, tmp_path):
    """Catches --start and --end off by a frame, and a framing that depends on the part."""
    assert render(out=tmp_path / "all") == 0
    assert render(out=tmp_path / "part", start=1 / 30, end=4 / 30) == 0
    whole, _ = video.read_frames(tmp_path / "all")
    part, _ = video.read_frames(tmp_path / "part")
    np.testing.assert_array_equal(part, whole[1:4])


def test_fps_resamples_in_time(render, opengl, tmp_path):
    """Catches a video that plays faster or slower than the motion."""
    assert render(fps=15) == 0
    assert probe(tmp_path / "out.mp4") == (COUNT // 2, (64, 64), 15, "yuv420p")


def test_the_body_is_chosen_by_name(render, opengl, tmp_path, capsys):
    """Catches a name without effect, a name taken for a file, and a mannequin that does not say
    that it has no face."""
    pytest.importorskip("mannequin", reason="needs the render extra: mannequin-x")
    assert render(body="mannequin", out=tmp_path / "wood.mp4") == 0
    assert "has no face" in capsys.readouterr().err
    assert render() == 0
    assert "has no face" not in capsys.readouterr().err
    wood, person = (video.read_frames(tmp_path / name)[0] for name in ("wood.mp4", "out.mp4"))
    assert np.abs(wood.astype(int) - person).mean() > 1
    assert render(body="makehumann") == 2
    assert "makehumann" in one_error(capsys)


def test_a_motion_is_drawn_where_training_had_the_person(
    render, opengl, motion, anchor, tmp_path, monkeypatch, capsys
):
    """Catches a framing that is not used, another size than training's, a body of the motion's
    shape and not the person's, and an anchor without framing that is taken."""
    own = shutil.copytree(anchor, tmp_path / "own")
    assert render(framing=own) == 2
    assert "does not say where its training had the person" in one_error(capsys)
    places = {"crown": 0.3, "neck": 0.45, "column": 0.15, "head": 0.12, "background": 0}
    content = json.loads((own / "anchor.json").read_text())
    content["framing"] = {
        "size": [96, 128],
        "shape": {"height": 1.0},
        **dict.fromkeys(("low", "middle", "high"), places),
    }
    (own / "anchor.json").write_text(json.dumps(content))
    shapes = []

    def spy(choice: str, shape: dict[str, float]):
        shapes.append(shape)
        return open_body(choice, shape)

    monkeypatch.setattr("anchor_jax.cli.render.open_body", spy)
    words = ["render", motion, "--framing", own, "--out", tmp_path / "framed.mp4"]
    assert cli.main([*map(str, words), "--processes=1"]) == 0
    assert shapes == [{"height": 1.0}]
    frames, _ = video.read_frames(tmp_path / "framed.mp4")
    assert frames.shape[1:3] == (128, 96)
    found = summarise(frames)
    assert found is not None
    for name in ("crown", "column", "head"):
        assert getattr(found.middle, name) == pytest.approx(places[name], abs=0.02), name


def test_a_model_file_is_drawn_through_shows_camera(render, opengl, tmp_path, capsys):
    """Catches, from the files to the picture: another body than the model file's, hands or face
    that do not follow, landmarks or joints of other points, a camera lost or changed, and a word
    about the mannequin. The pixels are those of the authors' package, projected by hand."""
    model = write_smplx(tmp_path / "SMPLX_MADE_UP.npz")
    camera = Camera(1100.0, (60.0, 66.0), np.array([0.02, -0.92, 2.5], np.float32), (128, 128))
    motion = moving(3, betas=300, expression=100, pca=12, camera=camera)
    motion.poses[:] *= 0.2
    motion.poses[:, 0] = np.pi, 0, 0
    motion.translation[:] *= 0.1
    (tmp_path / "show.pkl").write_bytes(pickle.dumps(show_form(motion)))
    assert render(motion=tmp_path / "show.pkl", model=model, size=128) == 0
    printed = capsys.readouterr()
    assert "note" not in printed.err
    assert "out.mp4: 3 frames, 128x128, 30 fps" in printed.out
    table = np.load(tmp_path / "out-conditions" / "conditions.npz")
    joints = oracle(model, motion)[1]
    pixels = expected_pixels(camera, joints[:, :55])
    np.testing.assert_allclose(table["joints"], pixels, atol=0.05)
    points = joints[:, 76:]
    eyes = [points[:, 19:25].mean(1), points[:, 25:31].mean(1)]
    expected = expected_pixels(
        camera, np.stack([*eyes, *points[:, [13, 31, 37]].swapaxes(0, 1)], 1)
    )
    np.testing.assert_allclose(table["landmarks"], expected, atol=0.05)
    assert table["visible"][:, 2].all()  # the nose; a turned head hides others
    for number, (landmarks, visible) in enumerate(zip(expected, table["visible"], strict=True), 1):
        face, foreground = (
            np.asarray(Image.open(tmp_path / "out-conditions" / mask / f"{number:06d}.png"))
            for mask in ("face", "foreground")
        )
        assert all(face[int(y), int(x)] == 255 for x, y in landmarks[visible])
        assert (face <= foreground).all() and face.mean() < foreground.mean() < 255


def test_a_model_file_that_is_none_is_told(render, tmp_path, capsys):
    """Catches a traceback, and a place found missing only after the work."""
    before = os.listdir(tmp_path)
    assert render(model=tmp_path / "SMPLX_NEUTRAL.npz") == 2
    error = one_error(capsys)
    assert "SMPLX_NEUTRAL.npz" in error and "no such file" in error
    assert os.listdir(tmp_path) == before


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"size": 63}, "even sides"),
        ({"size": 0}, "even sides"),
        ({"size": "big"}, "--size big"),
        ({"fps": 0}, "--fps 0"),
        ({"start": 5}, "start is 5 s"),
        ({"start": -1}, "start is -1 s"),
        ({"start": 0.1, "end": 0.1}, "between 0.1 s and 0.1 s"),
        ({"processes": 0}, "--processes 0"),
        ({"out": "/dev/null/place.mp4"}, "/dev/null is not a folder"),
        ({"out": "no/such/place.mp4", "size": 63}, "even sides"),
        ({"out": "film.avi"}, ".mp4"),
        ({"motion": "nothing.npy"}, "nothing.npy"),
    ],
)
def test_bad_input_is_told_in_one_line(render, tmp_path, monkeypatch, capsys, options, expected):
    """Catches a traceback, another exit code, and a place that fails only after the work."""
    pytest.importorskip("pyrender", reason="needs the render extra: pyrender-maintained")
    monkeypatch.chdir(tmp_path)
    assert render(**options) == 2
    assert expected in one_error(capsys)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("value", [np.nan, 3e38])
def test_values_that_make_no_body_are_told(render, tmp_path, capsys, value):
    """Catches NaN drawn as an empty picture."""
    pytest.importorskip("pyrender", reason="needs the render extra: pyrender-maintained")
    data = talkshow(COUNT)
    data[3, 20] = value
    np.save(tmp_path / "bad.npy", data)
    assert render(motion=tmp_path / "bad.npy") == 2
    one_error(capsys)
    assert os.listdir(tmp_path) == ["bad.npy"]


def test_a_motion_without_frames_is_told(render, tmp_path, capsys):
    """Catches an empty video."""
    np.save(tmp_path / "empty.npy", np.zeros((0, 265), np.float32))
    assert render(motion=tmp_path / "empty.npy") == 2
    assert "frame" in one_error(capsys)
    assert os.listdir(tmp_path) == ["empty.npy"]


def test_other_files_are_not_replaced(render, tmp_path, capsys):
    """Catches a user's folder emptied, and two outputs in one place."""
    (tmp_path / "out-conditions").mkdir()
    (tmp_path / "out-conditions" / "thesis.txt").write_text("all of it")
    assert render() == 2
    assert "thesis.txt" in one_error(capsys)
    assert render(out=tmp_path / "new", conditions=tmp_path / "new") == 2
    assert "different paths" in one_error(capsys)
    assert (tmp_path / "out-conditions" / "thesis.txt").read_text() == "all of it"


def test_without_opengl_the_debian_packages_are_named(render, tmp_path, monkeypatch, capsys):
    """Catches a traceback of an OpenGL binding, and advice that does not help."""
    for module in ("trimesh", "pyrender"):
        pytest.importorskip(module, reason=f"needs the render extra: {module}")
    for name in ("__EGL_VENDOR_LIBRARY_FILENAMES", "EGL_DEVICE_ID"):  # no vendor, no such device
        monkeypatch.setenv(name, "99")
    monkeypatch.setenv("PYOPENGL_PLATFORM", "egl")
    assert render() == 2
    error = one_error(capsys)
    assert "libegl1 libgl1-mesa-dri" in error and "libosmesa6" in error
    assert os.listdir(tmp_path) == []
    monkeypatch.setenv("PYOPENGL_PLATFORM", "glx")
    assert render() == 2
    assert "PYOPENGL_PLATFORM is glx" in one_error(capsys)


def test_a_file_that_is_cut_short_is_to_be_copied_again(render, tmp_path, capsys):
    """Catches an empty or shortened motion file that is told to be of an unknown kind, without what
    to do; and such advice for a whole file of another layout."""
    np.save(tmp_path / "a.npy", talkshow(20))
    np.savez(tmp_path / "a.npz", poses=np.zeros((20, 165)), trans=np.zeros((20, 3)))
    for name in ("a.npy", "a.npz"):
        whole = (tmp_path / name).read_bytes()
        for length in (0, 7, 100, len(whole) - 9):
            (tmp_path / name).write_bytes(whole[:length])
            assert render(motion=tmp_path / name) == 2
            told = one_error(capsys)
            assert ("the file is empty" in told) == (length == 0)
            assert told.endswith(("copy or download it again", "copy or download the file again"))
    np.save(tmp_path / "a.npy", np.zeros((20, 3)))
    assert render(motion=tmp_path / "a.npy") == 2
    assert "again" not in one_error(capsys)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_leaves_nothing(opengl, tmp_path, number):
    """Catches half a video, tracebacks of the processes that draw, such processes left over, and a
    SIGTERM that ends the command before its partial files are removed."""
    np.save(tmp_path / "long.npy", talkshow(3000))
    words = ["render", str(tmp_path / "long.npy"), "--out", str(tmp_path / "out.mp4")]

    def drawing(process: int) -> bool:
        return any(tmp_path.glob(".out-conditions.partial-*/face/000004.png"))

    err = interrupt([*words, "--size", "64", "--processes", "2"], drawing, number)
    assert err.rstrip().endswith("anchor-jax: error: interrupted; nothing was written")
    assert os.listdir(tmp_path) == ["long.npy"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "count"), [("talkshow_oliver.npy", 300), ("talkshow_french.npy", 288)]
)
def test_real_motion_becomes_a_video(opengl, data_dir, tmp_path, name, count):
    """Catches a real file that is not read as it should be."""
    out = tmp_path / "out.mp4"
    assert cli.main(["render", str(data_dir / "motion" / name), "--out", str(out)]) == 0
    assert probe(out) == (count, (512, 512), 30, "yuv420p")
