"""`anchor-jax generate` as a user runs it: what it makes, and how it refuses bad input."""

import gc
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
import weakref
from concurrent.futures import Future
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from anchor_jax import checkpoint, cli, processes
from anchor_jax.cli import entry
from anchor_jax.data import video
from anchor_jax.poses.framing import Framing, Place
from anchor_jax.processes import Pool

ROOT = Path(__file__).resolve().parents[2]


def one_error(capsys) -> str:
    """The message of the one error line that was printed; fails on a traceback."""
    err = capsys.readouterr().err
    assert "Traceback" not in err
    (line,) = [line for line in err.splitlines() if line.startswith("anchor-jax: error: ")]
    assert err.rstrip().endswith(line)
    return line.removeprefix("anchor-jax: error: ")


def probe(path: Path) -> tuple[int, tuple[int, int], Fraction | None, str]:
    """Frames, size, rate and pixel format of a video, as a player sees them."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        count = sum(1 for _ in container.decode(stream))
        codec = stream.codec_context
        assert codec.name == "h264"
        return count, (codec.width, codec.height), stream.average_rate, str(codec.pix_fmt)


def coarse(frames: np.ndarray) -> np.ndarray:
    """The means of 16x16 blocks, which compression keeps even of noise."""
    n, h, w, c = frames.shape
    return frames.reshape(n, h // 16, 16, w // 16, 16, c).mean((2, 4))


def test_a_folder_of_poses_becomes_a_video_and_frames(generate, tmp_path, capsys):
    """Catches a video of another length, size or rate than the poses, frames that are not the
    video's (R and B swapped, say), and leftovers."""
    assert generate(frames_dir=tmp_path / "frames") == 0
    assert probe(tmp_path / "out.mp4") == (5, (64, 64), 30, "yuv420p")
    assert sorted(os.listdir(tmp_path)) == ["frames", "out.mp4"]
    frames, _ = video.read_frames(tmp_path / "frames")
    shown, _ = video.read_frames(tmp_path / "out.mp4")
    assert np.abs(coarse(frames) - coarse(shown)).max() < 12  # the same pictures, compressed
    assert "out.mp4: 5 frames, 64x64, 30 fps" in capsys.readouterr().out


def test_a_video_of_poses_keeps_its_rate(generate, poses, tmp_path):
    """Catches a pose video's own rate ignored, or --fps ignored."""
    frames, _ = video.read_frames(poses)
    video.write_video(tmp_path / "poses.mp4", frames, Fraction(30000, 1001))
    assert generate(poses=tmp_path / "poses.mp4") == 0
    assert probe(tmp_path / "out.mp4") == (5, (64, 64), Fraction(30000, 1001), "yuv420p")
    assert generate(poses=tmp_path / "poses.mp4", fps="12.5") == 0
    assert probe(tmp_path / "out.mp4")[2] == Fraction(25, 2)


@pytest.fixture
def made(anchor, tmp_path, monkeypatch):
    """Run `generate` with an anchor that knows its person, without the networks; gives the picture
    that it takes."""
    known = checkpoint.load(anchor, checkpoint.load(anchor, networks=()).networks(), None)
    place = Place(crown=0.25, neck=0.5, column=0.0, head=0.25, background=0.0)
    own = replace(
        known,
        framing=Framing((64, 64), place, place, place),
        appearance=np.full((8, 8, 3), 77, np.uint8),
    )
    checkpoint.save(tmp_path / "own", own)
    pictures = []

    def fake(job, *_):
        pictures.append(job.picture)
        return job.source.count

    monkeypatch.setattr("anchor_jax.cli.writing.Job.write", fake)

    def run(poses: np.ndarray, *words: str) -> np.ndarray:
        video.write_frames(tmp_path / "own-poses", poses)
        places = ["--poses", tmp_path / "own-poses", "--out", tmp_path / "own.mp4"]
        assert cli.main(["generate", *map(str, [tmp_path / "own", *places]), *words]) == 0
        return pictures.pop()

    return run


def standing(top: int, side: int) -> np.ndarray:
    """Poses of a person with a head of this width and height, 64x64."""
    frame = np.zeros((64, 64, 3), np.uint8)
    frame[top : top + side, 32 - side // 2 : 32 + side // 2] = 120
    frame[top + side : top + side + 2, 32 - side // 4 : 32 + side // 4] = 120
    frame[top + side + 2 :, 32 - side : 32 + side] = 120
    return np.stack([frame] * 3)


def test_an_anchors_own_picture_is_the_default(made, person):
    """Catches a picture that is asked for though the anchor has one, and one that is preferred to
    the user's."""
    assert (made(standing(16, 16)) == 77).all()
    np.testing.assert_array_equal(
        made(standing(16, 16), "--appearance", str(person)), video.read_image(person)
    )


def test_poses_unlike_trainings_are_told(made, capsys):
    """Catches a false alarm for poses as in training, and a video of a person in a corner of whom
    nothing is said."""
    made(standing(16, 16))
    assert "note" not in capsys.readouterr().err
    made(standing(36, 8))
    error = capsys.readouterr().err
    assert error.count("note") == 1 and "--framing" in error
    assert (
        "the person is 0.50 times as large, the head is 0.31 of the image's height lower" in error
    )


def test_a_picture_is_needed_from_the_user_or_the_anchor(anchor, poses, tmp_path, capsys):
    """Catches a traceback after the long loading for an anchor without a picture."""
    words = ["generate", anchor, "--poses", poses, "--out", tmp_path / "out.mp4"]
    assert cli.main(list(map(str, words))) == 2
    assert "has no picture of its person: give one with --appearance" in one_error(capsys)


@pytest.mark.parametrize(
    ("size", "expected"), [("72x64", (72, 64)), ("64", (64, 64)), ("71x66", (64, 64))]
)
def test_size_is_width_by_height_in_multiples_of_8(generate, tmp_path, capsys, size, expected):
    """Catches width and height swapped, and a rounding that is not told."""
    assert generate(size=size, steps=1) == 0
    assert probe(tmp_path / "out.mp4")[1] == expected
    assert ("rounded down to 64x64" in capsys.readouterr().err) == (size == "71x66")


def test_poses_of_an_odd_size_are_rounded_and_it_is_said(generate, poses, tmp_path, capsys):
    """Catches a crop, or an error, where the published system resizes down to multiples of 8."""
    odd = tmp_path / "odd"
    odd.mkdir()
    for path in poses.iterdir():
        Image.open(path).resize((71, 66)).save(odd / path.name)
    assert generate(poses=odd, steps=1) == 0
    assert probe(tmp_path / "out.mp4")[1] == (64, 64)
    assert "71x66 is rounded down to 64x64" in capsys.readouterr().err


def test_the_noise_decides_the_video(generate, tmp_path):
    """Catches --noise or --seed without effect, and one frame's noise not used for all."""
    rng = np.random.default_rng(0)
    single = rng.standard_normal((8, 8, 4), np.float32)
    np.save(tmp_path / "one.npy", single)
    np.save(tmp_path / "all.npy", np.broadcast_to(single, (5, 8, 8, 4)))
    np.save(tmp_path / "other.npy", rng.standard_normal((5, 8, 8, 4), np.float32))
    made = {}
    for name in ("one", "all", "other"):
        assert generate(noise=tmp_path / f"{name}.npy", out=tmp_path / f"{name}.mp4") == 0
        made[name] = (tmp_path / f"{name}.mp4").read_bytes()
    assert made["one"] == made["all"] != made["other"]
    for seed in (1, 2):
        assert generate(seed=seed, out=tmp_path / f"{seed}.mp4") == 0
        made[seed] = (tmp_path / f"{seed}.mp4").read_bytes()
    assert made[1] != made[2]


def test_windows_are_cross_faded_on_demand(generate, tmp_path):
    """Catches an option that does not reach the sampling."""
    options = {"overlap": 2}
    assert generate(**options, frames_dir=tmp_path / "equal") == 0
    assert generate("--crossfade", **options, frames_dir=tmp_path / "faded") == 0
    equal, faded = (video.read_frames(tmp_path / name)[0] for name in ("equal", "faded"))
    assert (equal != faded).any()


def test_the_appearance_may_have_alpha_or_16_bits(generate, tmp_path):
    """Catches a traceback for pictures that are not 8-bit RGB."""
    Image.new("RGBA", (50, 70), (200, 100, 50, 128)).save(tmp_path / "alpha.png")
    deep = np.linspace(0, 65535, 50 * 70).reshape(70, 50).astype(np.uint16)
    Image.fromarray(deep).save(tmp_path / "deep.png")
    for name in ("alpha", "deep"):
        assert generate(appearance=tmp_path / f"{name}.png", steps=1) == 0


def mixed(folder: Path) -> Path:
    folder.mkdir()
    Image.new("RGB", (64, 64)).save(folder / "1.png")
    Image.new("RGB", (64, 72)).save(folder / "2.png")
    return folder


def array(path: Path, values: object) -> Path:
    np.save(path, np.asarray(values), allow_pickle=True)
    return path


def text(path: Path) -> Path:
    path.write_text("neither a picture nor a video")
    return path


def no_frames(path: Path) -> Path:
    with av.open(str(path), "w") as container:
        container.add_stream("libx264", rate=30).pix_fmt = "yuv420p"
        container.start_encoding()
    return path


def folder(path: Path) -> Path:
    path.mkdir()
    return path


def with_notes(path: Path) -> Path:
    text(folder(path) / "notes.txt")
    return path


BAD_INPUT = {
    "no anchor": ({"anchor": lambda p: p / "missing"}, "missing"),
    "not an anchor": ({"anchor": lambda p: folder(p / "empty")}, "empty"),
    "no poses": ({"poses": lambda p: p / "missing"}, "missing does not exist"),
    "empty poses": ({"poses": lambda p: folder(p / "empty")}, "empty holds no images"),
    "mixed poses": ({"poses": lambda p: mixed(p / "mixed")}, "1.png is 64x64 and 2.png is 64x72"),
    "poses of text": ({"poses": lambda p: text(p / "poses.mp4")}, "as a video"),
    "video without frames": ({"poses": lambda p: no_frames(p / "none.mkv")}, "none.mkv"),
    "no appearance": ({"appearance": lambda p: p / "missing.png"}, "missing.png"),
    "appearance of text": ({"appearance": lambda p: text(p / "a.png")}, "as a picture"),
    "a file in the way": ({"out": lambda p: text(p / "a") / "out.mp4"}, "a is not a folder"),
    "zero steps, a new folder": ({"out": lambda p: p / "new" / "out.mp4", "steps": 0}, "steps"),
    "not an mp4": ({"out": lambda p: p / "out.avi"}, ".mp4"),
    "video over a folder": ({"out": lambda p: folder(p / "a.mp4")}, "it is a folder"),
    "frames among others": ({"frames_dir": lambda p: with_notes(p / "f")}, "notes.txt"),
    "zero steps": ({"steps": 0}, "steps"),
    "too many steps": ({"steps": 1001}, "steps"),
    "zero window": ({"window": 0}, "window"),
    "overlap of the window": ({"overlap": 3}, "overlap"),
    "negative overlap": ({"overlap": -1}, "overlap"),
    "size of words": ({"size": "big"}, "--size big"),
    "size of three": ({"size": "64x64x3"}, "--size 64x64x3"),
    "tiny size": ({"size": "7"}, "7x7 is too small"),
    "zero fps": ({"fps": "0"}, "--fps 0"),
    "fps of words": ({"fps": "film"}, "--fps film"),
    "nan fps": ({"fps": "nan"}, "--fps nan"),
    "huge seed": ({"seed": 1 << 70}, "seed"),
    "no noise": ({"noise": lambda p: p / "missing.npy"}, "missing.npy"),
    "noise of text": ({"noise": lambda p: text(p / "n.npy")}, "n.npy"),
    "noise of objects": ({"noise": lambda p: array(p / "n.npy", [{}])}, "n.npy"),
    "noise of integers": ({"noise": lambda p: array(p / "n.npy", [1, 2])}, "float32"),
    "noise of nan": ({"noise": lambda p: array(p / "n.npy", [np.nan])}, "not finite"),
    "noise of another size": (
        {"noise": lambda p: array(p / "n.npy", np.zeros((5, 8, 9, 4), np.float32))},
        "(5, 8, 9, 4)",
    ),
}


@pytest.mark.parametrize("case", BAD_INPUT)
def test_bad_input_is_one_error_and_nothing_is_written(generate, tmp_path, capsys, case):
    """Catches a traceback, a wrong exit code, an error that does not name what is wrong, and
    outputs or partial files left behind."""
    options, message = BAD_INPUT[case]
    options = {k: v(tmp_path) if callable(v) else v for k, v in options.items()}
    before = sorted(tmp_path.rglob("*"))
    assert generate(**options) == 2
    assert message in one_error(capsys)
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("name", ["anchor.json", "params"])
def test_a_damaged_anchor_is_one_error(generate, anchor, tmp_path, capsys, name):
    """Catches a traceback from the parser or the reader of parameters."""
    damaged = shutil.copytree(anchor, tmp_path / "anchor")
    files = [path for path in (damaged / name).rglob("*") if path.is_file()] or [damaged / name]
    for path in files:
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    assert generate(anchor=damaged) == 2
    assert str(damaged) in one_error(capsys)
    assert sorted(os.listdir(tmp_path)) == ["anchor"]


def test_a_full_disk_leaves_the_old_video_alone(generate, tmp_path, capsys):
    """Catches a truncated video in place of a whole one, or frames without their video."""
    assert generate() == 0  # everything is compiled: from here on only results are written
    whole = (tmp_path / "out.mp4").read_bytes()
    capsys.readouterr()
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(whole) // 2, before[1]))
    try:
        assert generate() == 2
        assert generate(frames_dir=tmp_path / "frames") == 2
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    err = capsys.readouterr().err
    told = f"anchor-jax: error: cannot write {tmp_path / 'out.mp4'}: File too large"
    assert err.count(told) == 2
    assert os.listdir(tmp_path) == ["out.mp4"]
    assert (tmp_path / "out.mp4").read_bytes() == whole


def test_ctrl_c_ends_with_130_and_leaves_nothing(anchor, poses, person, tmp_path):
    """Catches a traceback, a wrong exit code, or a partial video after Ctrl-C."""
    words = ["generate", anchor, "--poses", poses, "--appearance", person, "--steps", "1000"]
    words += ["--out", tmp_path / "out.mp4", "--frames-dir", tmp_path / "frames"]
    log = tmp_path / "log"
    with log.open("w") as err:
        process = subprocess.Popen(
            [sys.executable, "-m", "anchor_jax.cli", *map(str, words)], stderr=err, cwd=ROOT
        )
    deadline = time.monotonic() + 120
    while "generating" not in log.read_text() and time.monotonic() < deadline:
        assert process.poll() is None, log.read_text()
        time.sleep(0.1)
    time.sleep(1)
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 130, log.read_text()
    assert "Traceback" not in log.read_text()
    assert log.read_text().endswith("anchor-jax: error: interrupted; nothing was written\n")
    assert os.listdir(tmp_path) == ["log"]


class _Finalized:
    """Raises SIGINT at its end."""

    def __del__(self):
        signal.raise_signal(signal.SIGINT)


class _Plain:
    pass


@pytest.mark.parametrize("where", ["callback", "finalizer", "weak reference"])
def test_ctrl_c_inside_the_garbage_collector_counts(where):
    """Catches an interrupt that Python drops: jax calls back from the collector, and its caches
    hold weak references."""

    signals = [signal.SIGINT]

    def interrupt_once(*_):
        if signals:
            signal.raise_signal(signals.pop())

    def collect_and_wait():
        with entry._interruptible():
            if where == "callback":
                gc.callbacks.append(interrupt_once)
                gc.collect()
            elif where == "finalizer":
                _Finalized()
            else:
                plain = _Plain()
                reference = weakref.ref(plain, interrupt_once)
                del plain
                assert reference() is None
            time.sleep(5)

    hook = sys.unraisablehook
    try:
        with pytest.raises(KeyboardInterrupt):
            collect_and_wait()
    finally:
        if interrupt_once in gc.callbacks:
            gc.callbacks.remove(interrupt_once)
    assert sys.unraisablehook is hook


def test_an_interrupt_waits_until_a_worker_has_started(monkeypatch):
    """Catches a worker of which its pool does not know: the command would wait for it for ever."""
    started = []

    def submit(*_):
        signal.raise_signal(signal.SIGTERM)
        started.append("worker")
        return Future()

    monkeypatch.setattr(processes.ProcessPoolExecutor, "submit", submit)

    def work():
        with entry._interruptible(), Pool(1) as pool:
            pool.submit(print)
            time.sleep(5)

    with pytest.raises(KeyboardInterrupt):
        work()
    assert started


def test_a_second_sigterm_does_not_end_the_removal_of_partial_files():
    """Catches a partial file that stays because `timeout` sends SIGTERM twice, and a handler that
    outlives the command."""
    before, removed = signal.getsignal(signal.SIGTERM), []

    def work():
        with entry._interruptible():
            try:
                signal.raise_signal(signal.SIGTERM)
            finally:
                signal.raise_signal(signal.SIGTERM)
                removed.append("partial file")

    with pytest.raises(KeyboardInterrupt):
        work()
    assert removed and signal.getsignal(signal.SIGTERM) == before


def test_the_network_compiles_once(generate, poses, tmp_path):
    """Catches a second compilation at the second step, or for a video of another length."""
    from anchor_jax.diffusion.sample import predict_windows

    def programs() -> int:
        return predict_windows.cache_size()  # pyright: ignore

    assert generate() == 0
    before = programs()
    more = shutil.copytree(poses, tmp_path / "more")
    for path in poses.iterdir():
        shutil.copy(path, more / f"1{path.name}")
    assert generate(poses=more, steps=10) == 0  # groups of two, as for 2 steps
    assert programs() == before
    assert generate(window=2) == 0
    assert programs() == before + 1


def test_bfloat16_is_close_to_float32(generate, tmp_path):
    """Catches --dtype without effect, and a bfloat16 path that makes another video."""
    frames = {}
    for dtype in ("float32", "bfloat16"):
        folder = tmp_path / dtype
        assert generate(dtype=dtype, frames_dir=folder, out=tmp_path / f"{dtype}.mp4") == 0
        frames[dtype] = video.read_frames(folder)[0].astype(int)
    difference = np.abs(frames["float32"] - frames["bfloat16"]).mean()
    assert 0 < difference < 12


@pytest.mark.slow
def test_real_renders_become_a_video(published, data_dir, generate, tmp_path):
    """Catches what only real poses show: a tail window, 119 frames, a resize from 512."""
    options = {"anchor": published, "size": 64, "steps": 1, "window": 16, "overlap": 4}
    assert generate("--no-face", **options, poses=data_dir / "poses") == 0
    assert probe(tmp_path / "out.mp4") == (119, (64, 64), 30, "yuv420p")


def test_a_video_of_real_renders_becomes_a_video(published, data_dir, generate, tmp_path):
    """Catches a pose video that loses frames, rate or colour against the folder it shows."""
    frames, _ = video.read_frames(data_dir / "poses")
    video.write_video(tmp_path / "poses.mp4", frames[:20], Fraction(30))
    options = {"anchor": published, "size": 64, "steps": 1, "window": 16, "overlap": 4}
    assert (
        generate("--no-face", **options, poses=tmp_path / "poses.mp4", frames_dir=tmp_path / "f")
        == 0
    )
    assert probe(tmp_path / "out.mp4") == (20, (64, 64), 30, "yuv420p")


@pytest.mark.slow
@pytest.mark.parametrize("source", ["folder", "video"])
def test_the_whole_real_sequence_at_128(published, data_dir, generate, tmp_path, source):
    """Catches what a short run hides: all 119 frames, all 20 steps."""
    poses = data_dir / "poses"
    if source == "video":
        frames, _ = video.read_frames(poses)
        poses = tmp_path / "poses.mp4"
        video.write_video(poses, frames, Fraction(30))
    options = {"size": 128, "steps": 20, "window": 16, "overlap": 4}
    assert generate("--no-face", anchor=published, poses=poses, **options) == 0
    assert probe(tmp_path / "out.mp4") == (119, (128, 128), 30, "yuv420p")


@pytest.mark.slow
def test_sixteen_real_renders_at_512(published, data_dir, generate, tmp_path):
    """Catches memory or compile trouble at the published size."""
    poses = tmp_path / "poses"
    poses.mkdir()
    for path in sorted((data_dir / "poses").iterdir())[:16]:
        shutil.copy(path, poses)
    assert generate("--no-face", anchor=published, poses=poses, window=16, overlap=4) == 0
    assert probe(tmp_path / "out.mp4") == (16, (512, 512), 30, "yuv420p")
