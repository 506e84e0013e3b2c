"""`anchor-jax generate` goes on after any stop, from any source of pose images."""

import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from anchor_jax.data import video, video_parts
from anchor_jax.face import detect
from anchor_jax.generation import unfinished
from anchor_jax.generation.unfinished import Unfinished

from .test_generate import ROOT, one_error, probe
from .test_generate_face import SAME, SMALL, landmarks

COUNT = 23


@pytest.fixture
def many(poses, tmp_path) -> Path:
    """A folder of 23 pose images, the five drawn ones again and again."""
    drawn = sorted(poses.iterdir())
    folder = tmp_path / "many"
    folder.mkdir()
    for number in range(COUNT):
        shutil.copy(drawn[number % len(drawn)], folder / f"{number:03d}.png")
    return folder


@pytest.fixture
def small_parts(monkeypatch):
    """Parts of five frames, and a state after each group of windows."""
    monkeypatch.setattr(video_parts, "PART_FRAMES", 5)
    monkeypatch.setattr(unfinished, "_FIRST", 0.0)
    monkeypatch.setattr(unfinished, "_SHARE", 1e9)


def stop_after(monkeypatch, saves: int) -> None:
    """Let the process stop at this save, before or after it."""
    real, left = Unfinished.save, [saves]

    def save(self, state, count):
        left[0] -= 1
        if left[0] == 0 and saves % 2:
            raise KeyboardInterrupt
        result = real(self, state, count)
        if left[0] == 0:
            raise KeyboardInterrupt
        return result

    monkeypatch.setattr(Unfinished, "save", save)


def test_a_stopped_run_goes_on_to_the_same_bytes(
    published, generate, many, tmp_path, monkeypatch, capsys, small_parts
):
    """Catches a part of the state of body, faces or video that is lost: frames that are made twice,
    left out or other ones, and a part of the video that is encoded from other frames."""
    points = [SMALL if number not in {3, *range(8, 15)} else None for number in range(COUNT)]
    options = SAME | {"anchor": published, "poses": many, "steps": 2, "face_blend": "face"}
    options |= {"face_landmarks": landmarks(tmp_path / "points.json", points)}
    assert generate(**options, frames_dir=tmp_path / "whole") == 0
    whole = (tmp_path / "out.mp4").read_bytes()
    assert probe(tmp_path / "out.mp4")[0] == COUNT
    (tmp_path / "out.mp4").unlink()
    stops = 0
    for saves in range(2, 60, 3):
        with monkeypatch.context() as patch:
            stop_after(patch, saves)
            code = generate(**options, frames_dir=tmp_path / "frames")
        if not code:
            break
        assert code == 130
        assert "the same command goes on after" in capsys.readouterr().err
        assert sorted(os.listdir(tmp_path)) == [
            ".out.mp4.unfinished",
            "many",
            "points.json",
            "whole",
        ]
        stops += 1
    assert stops >= 3
    assert (tmp_path / "out.mp4").read_bytes() == whole
    frames, expected = (video.read_frames(tmp_path / x)[0] for x in ("frames", "whole"))
    np.testing.assert_array_equal(frames, expected)
    assert not unfinished.folder_of(tmp_path / "out.mp4").exists()


def test_other_settings_do_not_go_on(generate, many, tmp_path, monkeypatch, capsys, small_parts):
    """Catches a video whose first half was made with other settings, and one that cannot be begun
    anew."""
    with monkeypatch.context() as patch:
        stop_after(patch, 4)
        assert generate(poses=many) == 130
    capsys.readouterr()
    assert generate(poses=many, guidance=2.0, fps=25) == 2
    message = one_error(capsys)
    assert "out.mp4 is unfinished" in message and "(fps, settings)" in message
    assert "--restart" in message
    assert generate("--restart", poses=many, guidance=2.0) == 0
    again = (tmp_path / "out.mp4").read_bytes()
    assert generate(poses=many, guidance=2.0) == 0
    assert (tmp_path / "out.mp4").read_bytes() == again


def test_a_folder_that_is_being_filled(generate, many, tmp_path, capsys):
    """Catches a run that ends with the images that are there, one that reads half an image, and one
    that does not notice the end."""
    assert generate(poses=many) == 0
    whole = (tmp_path / "out.mp4").read_bytes()
    growing = tmp_path / "growing"
    growing.mkdir()

    def fill():
        for path in sorted(many.iterdir()):
            data = path.read_bytes()
            (growing / path.name).write_bytes(data[: len(data) // 2])
            time.sleep(0.05)
            (growing / path.name).write_bytes(data)
        (growing / "END").touch()

    thread = threading.Thread(target=fill)
    thread.start()
    assert generate(poses=growing, follow=60) == 0
    thread.join()
    assert (tmp_path / "out.mp4").read_bytes() == whole
    (growing / "END").unlink()
    (growing / "007.png").unlink()
    assert generate(poses=growing, follow=0.3) == 2
    assert "has no image number 7" in one_error(capsys)
    assert generate(poses=many / "000.png", follow=1) == 2
    assert "--follow" in one_error(capsys)


def test_faces_of_poses_that_still_come_are_detected(
    published, generate, many, tmp_path, capsys, monkeypatch
):
    """Catches a file of landmarks that ends in a traceback, or is taken for frames that it does not
    have, a detector that is not asked, and faces that are not repainted."""
    (many / "END").touch()
    options = SAME | {"anchor": published, "poses": many, "follow": 5}
    file = landmarks(tmp_path / "points.json", [SMALL] * COUNT)
    assert generate(**options, face_landmarks=file) == 2
    assert "--face-landmarks" in (told := one_error(capsys)) and "are detected as they come" in told
    assert generate(**options) == 2
    assert "--no-face" in one_error(capsys)
    assert generate("--no-face", **options, frames_dir=tmp_path / "plain") == 0

    class Detector:
        def __init__(self, folder: Path):
            self.find = lambda image: SMALL

    monkeypatch.setattr(detect, "find_models", lambda folder: tmp_path)
    monkeypatch.setattr(detect, "Detector", Detector)
    assert generate(**options, frames_dir=tmp_path / "detected") == 0
    (many / "END").unlink()
    known = options | {"face_landmarks": file}
    del known["follow"]
    assert generate(**known, frames_dir=tmp_path / "known") == 0
    made = {x: video.read_frames(tmp_path / x)[0] for x in ("plain", "detected", "known")}
    assert (made["detected"] == made["known"]).all()
    assert (made["detected"] != made["plain"]).any()


def test_poses_from_standard_input(generate, anchor, many, person, tmp_path):
    """Catches a pipe that is sought in, a rate that is lost, and text in the place of a video."""
    frames, _ = video.read_frames(many)
    video.write_video(tmp_path / "poses.mp4", frames, Fraction(25))
    assert generate(poses=tmp_path / "poses.mp4", out=tmp_path / "a.mp4") == 0
    to_pipe(tmp_path / "poses.mp4", tmp_path / "poses.mkv")
    words = ["generate", anchor, "--poses", "-", "--appearance", person, "--steps", "2"]
    words += ["--window", "3", "--overlap", "1", "--out", tmp_path / "b.mp4"]
    command = [sys.executable, "-m", "anchor_jax.cli", *map(str, words)]
    with subprocess.Popen(["cat", tmp_path / "poses.mkv"], stdout=subprocess.PIPE) as cat:
        subprocess.run(command, stdin=cat.stdout, cwd=ROOT, check=True)
    assert probe(tmp_path / "b.mp4") == probe(tmp_path / "a.mp4")
    assert (tmp_path / "b.mp4").read_bytes() == (tmp_path / "a.mp4").read_bytes()
    result = subprocess.run(command, input=b"no video", cwd=ROOT, capture_output=True)
    assert result.returncode == 2 and b"cannot read standard input as a video" in result.stderr


def to_pipe(source: Path, target: Path) -> None:
    """Copy a video into a container that needs no seeking."""
    import av

    with av.open(str(source)) as reader, av.open(str(target), "w") as writer:
        own = reader.streams.video[0]
        stream = writer.add_stream_from_template(own)
        for packet in reader.demux(own):
            if packet.dts is not None:
                packet.stream = stream
                writer.mux(packet)


@pytest.mark.slow
def test_twenty_kills_change_nothing(generate, anchor, poses, person, tmp_path):
    """Catches a state that is half written, and frames that only exist in a buffer."""
    many = tmp_path / "many"
    many.mkdir()
    drawn = sorted(poses.iterdir())
    for number in range(300):
        Image.open(drawn[number % 5]).save(many / f"{number:03d}.png")
    assert generate(poses=many, steps=20, out=tmp_path / "whole.mp4") == 0
    words = ["generate", anchor, "--poses", many, "--appearance", person, "--steps", "20"]
    words += ["--window", "3", "--overlap", "1", "--out", tmp_path / "out.mp4"]
    script = (
        "import sys; from anchor_jax.generation import unfinished; unfinished._FIRST = 0.0;"
        " from anchor_jax.cli.entry import main; sys.exit(main(sys.argv[1:]))"
    )
    command = [sys.executable, "-c", script, *map(str, words)]
    waits = random.Random(0)
    for _ in range(20):
        process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL)
        time.sleep(waits.uniform(3, 12))
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert subprocess.run(command, cwd=ROOT).returncode == 0
    assert (tmp_path / "out.mp4").read_bytes() == (tmp_path / "whole.mp4").read_bytes()
