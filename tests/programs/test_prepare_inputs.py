"""What `anchor-jax prepare` takes besides a video and a folder of poses: mattes of every kind, pose
videos, sound, and what `anchor-jax render` wrote beside the poses."""

import os
import re
import shlex
import sys
import time
import wave
from contextlib import suppress
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import psutil
import pytest
from PIL import Image

from anchor_jax import cli
from anchor_jax.body import edit
from anchor_jax.body.motion import Motion
from anchor_jax.body.parallel import PoseImage
from anchor_jax.body.view import View
from anchor_jax.data import dataset as datasets
from anchor_jax.data import preview, video
from anchor_jax.data.clips import person_crop, read_clips, resample
from anchor_jax.data.dataset import Dataset
from anchor_jax.data.green_screen import green_screen
from anchor_jax.data.mattes import Matting, to_bytes
from anchor_jax.data.still_camera import still_camera
from anchor_jax.face.align import _TEMPLATE
from anchor_jax.poses import pose_images
from tests.programs.test_generate import one_error
from tests.unit.test_clips import grey_video, tone
from tests.unit.test_mattes import HEIGHT, WIDTH, composite, person, room, screen

COUNT = 20  # frames
ROOT = Path(__file__).resolve().parents[2]


def noise(count: int, side: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, side, side, 3), np.uint8)


@pytest.fixture
def prepare(tmp_path):
    """Run `anchor-jax prepare` of `tmp_path/v.mp4` into `tmp_path/data`; options replace or add,
    None leaves out."""

    def run(*flags: str, **options: object) -> int:
        words: dict[str, object] = {"poses": tmp_path / "poses", "out": tmp_path / "data"}
        words |= {"size": 64, "processes": 1} | options
        given = (f"--{name.replace('_', '-')}={value}" for name, value in words.items() if value)
        return cli.main(["prepare", str(tmp_path / "v.mp4"), *given, *flags])

    return run


def stored(data: Dataset, name: str) -> np.ndarray:
    """All pictures of a kind, (n, h, w) or (n, h, w, 3)."""
    source = data.source()
    return np.stack([datasets.decode(name, source[i][name]) for i in range(len(data))])


def write_scene(folder: Path, background: np.ndarray, frames: np.ndarray) -> None:
    """A video, its plate and poses for it."""
    video.write_video(folder / "v.mp4", frames, Fraction(30))
    Image.fromarray(to_bytes(background)).save(folder / "plate.png")
    video.write_frames(folder / "poses", noise(len(frames), 32))


def check_mattes(folder: Path, mattes: Path | Matting) -> None:
    """The stored frames and mattes are those of `read_clips`, and they show the person."""
    data = datasets.load(folder / "data")
    (clip,) = read_clips(folder / "v.mp4", size=64, mattes=mattes)
    assert clip.mattes is not None
    np.testing.assert_array_equal(stored(data, "matte"), clip.mattes)
    np.testing.assert_array_equal(stored(data, "target"), clip.frames)
    truth = np.stack([person(number - COUNT // 2)[1] for number in range(COUNT)])
    left, top, side = clip.crop
    square = to_bytes(truth * 255)[:, top : top + side, left : left + side]
    small = [np.asarray(Image.fromarray(one).resize((64, 64))) for one in square]
    assert np.abs(np.stack(small).astype(int) - clip.mattes).mean() < 4
    assert (clip.mattes == 255).mean() > 0.15
    assert (clip.mattes[:, :3, :3] == 0).all()


def test_a_green_screen_is_keyed(prepare, tmp_path):
    """Catches --green-screen without effect, and mattes cut elsewhere than their frames."""
    frames, _ = composite(screen(), COUNT)
    write_scene(tmp_path, screen(), frames)
    assert prepare("--green-screen") == 0
    check_mattes(tmp_path, green_screen(tmp_path / "v.mp4"))


def test_a_still_background_is_taken_away_with_a_plate(prepare, tmp_path, capsys):
    """Catches --plate without effect, and an error that advises what the command cannot do."""
    frames, _ = composite(room(), COUNT)
    write_scene(tmp_path, room(), frames)
    assert prepare("--still-background") == 2
    told = one_error(capsys)
    assert "shows the person" in told and "--plate" in told and "--mattes" in told
    assert prepare(plate=tmp_path / "plate.png") == 0
    check_mattes(tmp_path, still_camera(tmp_path / "v.mp4", tmp_path / "plate.png"))


def test_mattes_made_elsewhere_are_kept_and_decide_the_crop(prepare, tmp_path):
    """Catches mattes of other frames, and a crop that leaves the person out."""
    frames, truth = composite(room(), COUNT)
    write_scene(tmp_path, room(), frames)
    video.write_frames(tmp_path / "mattes", to_bytes(truth * 255)[..., None].repeat(3, -1))
    assert prepare(mattes=tmp_path / "mattes") == 0
    check_mattes(tmp_path, tmp_path / "mattes")
    (clip,) = read_clips(tmp_path / "v.mp4", size=64, mattes=tmp_path / "mattes")
    assert clip.crop == person_crop(to_bytes(truth * 255))
    assert clip.crop[2] < HEIGHT < WIDTH


def test_the_foreground_that_render_wrote_serves_as_mattes(prepare, tmp_path):
    """Catches foreground masks that --mattes does not take as they are, or takes out of order."""
    write_poses(tmp_path)
    frames = np.stack([dots(number) for number in range(COUNT)])
    video.write_video(tmp_path / "v.mp4", frames, Fraction(30))
    masks = tmp_path / "poses-conditions" / "foreground"
    assert prepare("--no-face", mattes=masks) == 0
    (clip,) = read_clips(tmp_path / "v.mp4", size=64, mattes=masks)
    assert clip.mattes is not None and clip.crop[2] < 240  # around the disk, 80 pixels wide
    np.testing.assert_array_equal(stored(datasets.load(tmp_path / "data"), "matte"), clip.mattes)
    centre = (clip.mattes * np.arange(64.0)).sum((1, 2)) / clip.mattes.sum((1, 2))
    assert (np.diff(centre) > 0).all()  # it moves to the right


@pytest.mark.parametrize(
    ("flags", "options", "told"),
    [
        (["--green-screen"], {"plate": "plate.png"}, "exclude each other"),
        (["--green-screen", "--still-background"], {}, "exclude each other"),
        ([], {"plate": "gone.png"}, "gone.png"),
        ([], {"plate": "v.txt"}, "v.txt"),
        ([], {"mattes": "poses"}, "32x32"),
        ([], {"face_size": "100"}, "--face-size 100"),
    ],
)
def test_what_contradicts_is_told(prepare, tmp_path, monkeypatch, capsys, flags, options, told):
    """Catches options that are dropped in silence, tracebacks, and leftovers."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "v.txt").write_text("no picture")
    frames, _ = composite(room(), COUNT)
    write_scene(tmp_path, room(), frames)
    before = sorted(os.listdir(tmp_path))
    assert prepare(*flags, **options) == 2
    assert told in one_error(capsys)
    assert sorted(os.listdir(tmp_path)) == before


def test_a_video_in_place_of_poses_is_told(prepare, tmp_path, capsys):
    """Catches video and poses that are swapped without a word, and a note on true poses."""
    video.write_video(tmp_path / "v.mp4", noise(COUNT, 64), Fraction(30))
    poses = np.zeros((COUNT, 64, 64, 3), np.uint8)
    poses[:, 20:, 20:40] = 120
    video.write_frames(tmp_path / "poses", poses)
    for given, told in (("poses", 0), ("v.mp4", 1)):
        assert prepare(poses=tmp_path / given, out=tmp_path / f"data{told}") == 0
        assert capsys.readouterr().err.count(f"{given} is not black: are these pose") == told


@pytest.mark.parametrize(("rate", "told"), [(3, "stored 10 times; --fps 3"), (24, "")])
def test_frames_that_are_stored_many_times_are_told(prepare, tmp_path, capsys, rate, told):
    """Catches a slow video that becomes a data set of copies, which trains no better and takes ten
    times as long, without a word; and a note on a film of 24 frames per second."""
    video.write_video(tmp_path / "v.mp4", noise(COUNT, 64), Fraction(rate))
    video.write_video(tmp_path / "poses.mp4", noise(COUNT, 64, 1), Fraction(rate))
    assert prepare("--loop-poses", poses=tmp_path / "poses.mp4") == 0
    notes = [line for line in capsys.readouterr().err.splitlines() if "frames per second" in line]
    assert told in " ".join(notes) and bool(notes) == bool(told)


@pytest.mark.parametrize("rate", [30, 60, 15])
def test_poses_may_be_a_video_of_any_rate(prepare, tmp_path, rate):
    """Catches a pose video that is counted in frames instead of time, or read off by one."""
    levels = np.linspace(0, 250, COUNT * rate // 30).astype(np.uint8)
    poses = np.broadcast_to(levels[:, None, None, None], (len(levels), 64, 64, 3))
    video.write_video(tmp_path / "poses.mp4", poses, Fraction(rate))
    video.write_video(tmp_path / "v.mp4", noise(COUNT, 64), Fraction(30))
    extra = ("--loop-poses",) if rate == 15 else ()  # nothing tells how long its last frame lasts
    assert prepare(*extra, poses=tmp_path / "poses.mp4") == 0
    shown = list(resample(video.iter_video(tmp_path / "poses.mp4"), Fraction(30)))
    found = stored(datasets.load(tmp_path / "data"), "pose")
    count = min(len(shown), COUNT)
    np.testing.assert_array_equal(found[:count], np.stack(shown)[:count])
    if rate == 60:
        assert np.abs(found[:, 0, 0, 0].astype(int) - levels[::2]).max() <= 2


def test_the_sound_is_kept_beside(prepare, tmp_path):
    """Catches sound that is lost or shifted (AAC has a lead-in of its own), and --no-audio or a
    silent video that gives an empty folder."""
    tone(tmp_path / "v.mp4")
    video.write_frames(tmp_path / "poses", noise(30, 32))
    assert prepare() == 0
    with wave.open(str(tmp_path / "data" / "audio" / "v.wav")) as file:
        assert (file.getframerate(), file.getnchannels(), file.getsampwidth()) == (44100, 2, 2)
        data = np.frombuffer(file.readframes(1 << 20), "<i2").reshape(-1, 2)
    loud = np.flatnonzero(np.abs(data[:, 0].astype(int)) > 6000) / 44100
    np.testing.assert_allclose([loud[0], loud[-1]], [0.4, 0.45], atol=0.005)
    assert prepare("--no-audio", out=tmp_path / "quiet") == 0
    assert not (tmp_path / "quiet" / "audio").exists()
    video.write_video(tmp_path / "v.mp4", noise(30, 32), Fraction(30))
    assert prepare(out=tmp_path / "silent") == 0
    assert not (tmp_path / "silent" / "audio").exists()


@pytest.mark.parametrize("fps", [Fraction(30), Fraction(24000, 1001)])
def test_a_part_has_the_frames_of_the_whole_and_of_a_motion(prepare, tmp_path, fps):
    """Catches a part that is cut in the video's own frames, which have no constant rate here, or is
    off by one from what `render --start --end` draws; poses cut too; and clips that begin in the
    middle of the part."""
    steps = np.random.default_rng(0).choice([0.02, 0.033, 0.05, 0.11], 400)
    times = np.cumsum(steps).round(3).tolist()
    grey_video(tmp_path / "v.mkv", [number % 250 for number in range(400)], times)
    (tmp_path / "v.mkv").rename(tmp_path / "v.mp4")  # FFmpeg looks at the content
    start, end = 3.21, 17.77
    zeros = np.zeros((600, 165), np.float32)
    motion = Motion(
        *(zeros.reshape(-1, 55, 3), zeros[:, :3], zeros[0, :10], zeros[:, :10]),
        *(Fraction(30), "y_up", True),
    )
    drawn = len(edit.crop(edit.resample(motion, fps), start, end).poses)
    video.write_frames(tmp_path / "poses", noise(drawn, 16))
    rate, first = f"{fps}", round(start * fps)
    assert prepare("--loop-poses", fps=rate, size=16, out=tmp_path / "whole") == 0
    assert prepare(fps=rate, size=16, start=start, end=end) == 0
    whole, part = (datasets.load(tmp_path / name) for name in ("whole", "data"))
    assert len(part) == drawn and part.clips[0].frames == 300
    np.testing.assert_array_equal(
        stored(part, "target"), stored(whole, "target")[first : first + drawn]
    )
    np.testing.assert_array_equal(stored(part, "pose"), noise(drawn, 16))


def test_the_sound_and_the_crop_are_of_the_part(prepare, tmp_path):
    """Catches sound that still starts with the video or goes on after the part, and a crop around
    where the person is only before the part."""
    tone(tmp_path / "v.mp4")
    video.write_frames(tmp_path / "poses", noise(18, 32))
    mattes = np.zeros((30, 32, 32, 3), np.uint8)
    mattes[:6, :8, :8] = mattes[6:, 20:30, 20:30] = 255
    video.write_frames(tmp_path / "mattes", mattes)
    assert prepare(start=0.2, end=0.8, mattes=tmp_path / "mattes") == 0
    with wave.open(str(tmp_path / "data" / "audio" / "v.wav")) as file:
        assert file.getnframes() == round(0.6 * 44100)
        data = np.frombuffer(file.readframes(1 << 20), "<i2").reshape(-1, 2)
    loud = np.flatnonzero(np.abs(data[:, 0].astype(int)) > 6000) / 44100
    np.testing.assert_allclose([loud[0], loud[-1]], [0.2, 0.25], atol=0.005)
    assert (stored(datasets.load(tmp_path / "data"), "matte") > 127).mean() > 0.5


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"start": 0.5, "end": 0.2}, "--end 0.2: expected more seconds than --start, 0.5"),
        ({"start": -1}, "--start -1: expected 0 or more"),
        ({"start": 9}, "v.mp4: start is 9 s: expected 0 to 0.666667 s"),
        ({"end": 9}, "v.mp4: end is 9 s: expected 0 to 0.666667 s"),
        ({"end": "nan"}, "--end nan"),
        ({"start": 0.1, "end": 0.3}, "v.mp4 has 6 frames from 0.1 s up to 0.3 s at 30 fps"),
        ({"end": 0.6}, "has 20 pose images and"),
        ({"end": 0.6}, "give the same --fps, --start and --end to render and prepare"),
    ],
)
def test_a_part_that_is_none_is_refused(prepare, tmp_path, capsys, options, told):
    """Catches an empty data set, a time beyond the end that is taken for the end, and poses of the
    whole video paired with a part of it."""
    video.write_video(tmp_path / "v.mp4", noise(COUNT, 64), Fraction(30))
    video.write_frames(tmp_path / "poses", noise(COUNT, 32))
    assert prepare(**options) == 2
    assert told in one_error(capsys)
    assert sorted(os.listdir(tmp_path)) == ["poses", "v.mp4"]


def face_at(number: int) -> np.ndarray:
    """Continuous pixels (5, 2) of the landmarks in a picture of 320x240: turned, small, moving."""
    angle = 0.1 + 0.01 * number
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    return (_TEMPLATE - 256) * 0.28 @ turn.T + (150 + number, 100)


def dots(number: int) -> np.ndarray:
    """A picture of 320x240, uint8, with a soft white disk at each landmark."""
    y, x = np.mgrid[:240, :320] + 0.5  # continuous: the middles of the pixels
    far = [np.hypot(x - at_x, y - at_y) for at_x, at_y in face_at(number)]
    disks = np.clip(4.5 - np.min(far, axis=0), 0, 1)
    return to_bytes(disks * 255)[..., None].repeat(3, -1)


def write_poses(folder: Path, count: int = COUNT, crop: tuple[int, int, int] | None = None) -> Path:
    """What `anchor-jax render` writes, here of a drawn face; cut to a square or not."""
    left, top, side = crop or (0, 0, 0)
    y, x = np.mgrid[:240, :320] + 0.5
    images = []
    for number in range(count):
        face = np.hypot(x - 150 - number, y - 110) < 40
        pixels, points = dots(number), face_at(number)
        if crop is not None:
            part = np.s_[top : top + side, left : left + side]
            pixels, face, points = pixels[part], face[part], points - (left, top)
        pixels, face = np.ascontiguousarray(pixels), np.ascontiguousarray(face)
        visible = np.ones(5, bool)
        images.append(PoseImage(pixels, face, face, points.astype(np.float32), visible))
    size = pixels.shape[1::-1]
    view = View(np.eye(3), np.zeros(3), np.zeros(3), 5000.0, (160.0, 120.0), size)
    place = folder / "poses"
    pose_images.write_pose_images(
        images, view, Fraction(30), place, pose_images.conditions_beside(place)
    )
    return place


def centres(picture: np.ndarray) -> np.ndarray:
    """Where the disks are in a crop: x, y counted from the middle of the first pixel, (5, 2)."""
    places = (_TEMPLATE + 0.5) * len(picture) / 512 - 0.5  # the published 512 crop, resized
    y, x = np.mgrid[: len(picture), : len(picture)]
    found = []
    for at_x, at_y in places:
        near = np.hypot(x - at_x, y - at_y) < len(picture) / 16
        weight = near * np.clip(picture.mean(-1) - 40, 0, None)
        found.append([(x * weight).sum() / weight.sum(), (y * weight).sum() / weight.sum()])
    return np.array(found)


@pytest.mark.parametrize("crop", [None, (40, 0, 240)])
def test_faces_are_cut_out_where_the_renderer_says(prepare, tmp_path, crop):
    """Catches a crop that is half a pixel or the video's crop box off, a pose image that is cut
    elsewhere than its frame, frames that get their neighbour's landmarks, and a mask whose face is
    not 0. `crop`: pose images that show only the square, or as much as the video."""
    write_poses(tmp_path, crop=crop)
    frames = np.stack([dots(number) for number in range(COUNT)])
    video.write_video(tmp_path / "v.mp4", frames, Fraction(30))
    assert prepare("--preview", size=512, crop="40,0,240") == 0
    data = datasets.load(tmp_path / "data")
    assert data.pictures["face"] == data.pictures["face_mask"] == (256, 256)
    expected = (_TEMPLATE + 0.5) / 2 - 0.5  # the published 512 crop, halved
    for number in range(COUNT):
        example = data.source()[number]
        for name, tolerance in (("face", 0.6), ("face_pose", 0.3)):
            picture = datasets.decode(name, example[name])
            assert np.abs(centres(picture) - expected).max() < tolerance
        mask = datasets.decode("face_mask", example["face_mask"])
        assert set(np.unique(mask)) == {0, 255}
        assert (mask[expected[:, 1].astype(int), expected[:, 0].astype(int)] == 0).all()
        assert (mask[:8] == 255).all() and (mask[:, :8] == 255).all()
        radius = np.sqrt((mask == 0).sum() / np.pi)
        assert abs(radius - 40 / 0.28 / 2) < 1.5
    (sheet,) = (tmp_path / "data" / "preview").glob("*.png")
    rows = 7  # of frame, pose, overlay, face, face pose, overlay and mask
    with Image.open(sheet) as image:
        height = image.height
    assert height == 2 * preview.HEADER + rows * (preview.SIDE + preview.GAP)


def test_faces_follow_a_pose_video_in_time(prepare, tmp_path):
    """Catches landmarks taken by the number of the frame when the pose video has another rate."""
    place = write_poses(tmp_path, 2 * COUNT)
    poses, _ = video.read_frames(place)
    video.write_video(tmp_path / "poses.mp4", poses, Fraction(60))
    frames = np.stack([dots(2 * number) for number in range(COUNT)])
    video.write_video(tmp_path / "v.mp4", frames, Fraction(30))
    assert prepare(poses=tmp_path / "poses.mp4", size=512, crop="40,0,240", face_size=512) == 0
    data = datasets.load(tmp_path / "data")
    for number in range(COUNT):
        picture = datasets.decode("face", data.source()[number]["face"])
        assert np.abs(centres(picture) - _TEMPLATE).max() < 1.2


def test_faces_can_be_left_out(prepare, tmp_path):
    """Catches --no-face without effect."""
    write_poses(tmp_path)
    frames = np.stack([dots(number) for number in range(COUNT)])
    video.write_video(tmp_path / "v.mp4", frames, Fraction(30))
    assert prepare("--no-face") == 0
    assert set(datasets.load(tmp_path / "data").pictures) == {"target", "pose"}


def damage_table(folder: Path, **arrays: np.ndarray) -> None:
    path = folder / "poses-conditions" / "conditions.npz"
    with np.load(path) as whole:
        table: Any = dict(whole) | arrays
    np.savez(path, **table)


DAMAGE = {
    "other count": (
        lambda p: damage_table(
            p, landmarks=np.zeros((3, 5, 2), "f4"), visible=np.ones((3, 5), bool)
        ),
        "3 pose images",
    ),
    "nan": (lambda p: damage_table(p, landmarks=np.full((COUNT, 5, 2), np.nan, "f4")), "finite"),
    "one point": (lambda p: damage_table(p, landmarks=np.ones((COUNT, 5, 2), "f4")), "smaller"),
    "flat": (lambda p: damage_table(p, landmarks=np.zeros((COUNT, 10), "f4")), "(n, 5, 2)"),
    "other size": (lambda p: damage_table(p, size=np.array([9, 9])), "9x9"),
    "size of words": (lambda p: damage_table(p, size=np.array("big")), "size is"),
    "objects": (lambda p: damage_table(p, landmarks=np.array([{}], object)), "objects"),
    "no table": (lambda p: os.remove(p / "poses-conditions/conditions.npz"), "conditions.npz"),
    "cut short": (lambda p: os.truncate(p / "poses-conditions/conditions.npz", 200), ".npz"),
    "no mask": (lambda p: os.remove(p / "poses-conditions/face/000007.png"), "000007.png"),
    "other mask": (
        lambda p: Image.new("L", (8, 8)).save(p / "poses-conditions/face/000007.png"),
        "000007.png is 8x8",
    ),
}


@pytest.mark.parametrize("case", DAMAGE)
def test_landmarks_that_do_not_fit_are_one_line(prepare, tmp_path, capsys, case):
    """Catches a traceback, crops of nothing, and a pickle that is run."""
    write_poses(tmp_path)
    frames = np.stack([dots(number) for number in range(COUNT)])
    video.write_video(tmp_path / "v.mp4", frames, Fraction(30))
    damage, told = DAMAGE[case]
    damage(tmp_path)
    before = sorted(os.listdir(tmp_path))
    assert prepare() == 2
    assert told in one_error(capsys)
    assert sorted(os.listdir(tmp_path)) == before


def test_landmarks_beside_some_poses_only_are_told(tmp_path, capsys):
    """Catches faces dropped in silence, or an error about differing pictures."""
    write_poses(tmp_path)
    video.write_frames(tmp_path / "other", noise(COUNT, 64))
    video.write_video(tmp_path / "v.mp4", noise(COUNT, 64), Fraction(30))
    words = ["prepare", str(tmp_path / "v.mp4"), str(tmp_path / "v.mp4")]
    words += ["--poses", str(tmp_path / "poses"), str(tmp_path / "other")]
    assert cli.main([*words, "--out", str(tmp_path / "data")]) == 2
    told = one_error(capsys)
    assert "other has no landmarks beside it" in told and "--no-face" in told


@pytest.mark.slow
def test_a_minute_of_1080p(tmp_path):
    """Catches memory that grows with the video's length, and frames or clips lost on the way."""
    y, x = np.mgrid[:1080, :1920].astype(np.float32)
    base = np.stack([x / 8 % 256, y / 5 % 256, (x + y) / 12 % 256], -1).astype(np.uint8)
    with av.open(str(tmp_path / "v.mp4"), "w") as container:
        # Fast, as the test is of reading; `write_video` would take most of its time.
        stream = container.add_stream("libx264", rate=30, options={"preset": "ultrafast"})
        stream.width, stream.height, stream.pix_fmt = 1920, 1080, "yuv420p"
        for number in range(1800):
            frame = av.VideoFrame.from_ndarray(np.roll(base, 7 * number, 1), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    video.write_frames(tmp_path / "poses", (noise(1, 64, number)[0] for number in range(1800)))
    words = ["prepare", str(tmp_path / "v.mp4"), "--poses", str(tmp_path / "poses")]
    words += ["--out", str(tmp_path / "data"), "--processes", "1", "--verify"]
    command, told = [sys.executable, "-m", "anchor_jax.cli", *words], tmp_path / "told"
    with told.open("wb") as errors:
        running = psutil.Popen(command, cwd=ROOT, stderr=errors)
    peak = 0
    while running.poll() is None:
        with suppress(psutil.NoSuchProcess):
            family = [running, *running.children(recursive=True)]
            peak = max(peak, *(process.memory_info().rss for process in family))
        time.sleep(0.05)
    assert running.returncode == 0, told.read_text()
    assert 0 < peak < 1500 << 20
    data = datasets.load(tmp_path / "data")
    assert [clip.frames for clip in data.clips] == [300] * 6
    last = datasets.decode("target", data.source()[1799]["target"]).astype(int)
    shown = np.roll(base, 7 * 1799, 1)[:, 420:1500]
    small = np.asarray(Image.fromarray(shown).resize((512, 512), Image.Resampling.LANCZOS))
    assert np.abs(last - small).mean() < 6


def test_the_page_on_data_sets_can_be_pasted(tmp_path, monkeypatch):
    """Catches commands and code on docs/dataset.md that have never been run, or no longer work."""
    page = (ROOT / "docs" / "dataset.md").read_text(encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    for folder in re.findall(r"^mkdir -p (.*)$", page, re.MULTILINE):
        (tmp_path / folder).mkdir()
    video.write_video(tmp_path / "seth.mp4", noise(COUNT, 64), Fraction(30))
    video.write_frames(tmp_path / "seth-poses", noise(COUNT, 64, 1))
    video.write_frames(tmp_path / "talk-poses", noise(7, 64, 2))
    commands = re.findall(r"^anchor-jax (prepare .*)$", page, re.MULTILINE)
    commands += re.findall(r"`anchor-jax (prepare --out .*?)`", page)
    assert len(commands) == 4
    beside = tmp_path / "seth-poses-conditions"
    beside.mkdir()
    points = np.broadcast_to(_TEMPLATE / 16 + 16, (COUNT, 5, 2))
    np.savez(beside / "conditions.npz", landmarks=points, size=(64, 64))
    person = np.zeros((COUNT, 64, 64, 3), np.uint8)
    person[:, 16:, 20:44] = 255
    for name in pose_images._MASKS:
        video.write_frames(beside / name, person)
    for command in commands:
        assert cli.main(shlex.split(command)) == 0
    assert len(list((tmp_path / "data" / "seth" / "preview").glob("*.png"))) == 1
    (code,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    names: dict = {}
    exec(compile(code, "docs/dataset.md", "exec"), names)
    assert names["batch"]["reference"].shape == (4, 512, 512, 3)
    assert names["state"]["next_batch"] == 1
