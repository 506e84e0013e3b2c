"""Clips of a video: which frames by time, which square, how long, aligned with mattes and sound."""

import os
import tracemalloc
import wave
from fractions import Fraction
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import av
import numpy as np
import pytest
from PIL import Image

from anchor_jax.data import clips, video
from anchor_jax.data.audio import write_audio
from anchor_jax.data.clips import Box, read_clips, resample
from anchor_jax.errors import AnchorError

MS = Fraction(1, 1000)


def constant(rate: Fraction | int, count: int, begin: Fraction = Fraction(0), step=None):
    """Times of a constant rate, with the frame's number; rounded to `step` where one is given."""
    for number in range(count):
        seconds = begin + number / Fraction(rate)
        yield (seconds if step is None else round(seconds / step) * step), number


def grey_video(path: Path, levels: list[int], times=None, rate=30, size=(64, 48)) -> Path:
    """A lossless video of grey frames, shown at `times` (seconds) or at a constant rate."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("ffv1", rate=rate)
        stream.width, stream.height = size
        stream.pix_fmt = "bgr0"
        stream.codec_context.time_base = Fraction(1, 1000 if times else rate)
        container.start_encoding()
        for number, level in enumerate(levels):
            pixels = np.full((size[1], size[0], 3), level, np.uint8)
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame.pts = round(times[number] * 1000) if times else number
            frame.time_base = stream.codec_context.time_base
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def one_clip(path: Path, **options) -> clips.VideoClip:
    (clip,) = read_clips(path, **{"size": 16, **options})
    return clip


@pytest.mark.parametrize(
    ("rate", "minutes", "step"),
    [
        (Fraction(30000, 1001), 60, None),
        *((rate, 2, step) for rate in (24, 25, 30, 50, 60, 15) for step in (None, MS)),
        *((Fraction(rate, 1001), 2, MS) for rate in (24_000, 30_000, 60_000)),
    ],
)
def test_times_are_resampled_without_drift(rate, minutes, step):
    """Catches times that are added up in floats, a rate taken for 30, and a doubled length."""
    num_frames = int(60 * minutes * Fraction(rate))
    chosen = np.array(list(resample(constant(rate, num_frames, step=step), Fraction(30))))
    assert abs(len(chosen) - num_frames / rate * 30) <= 1
    times = np.arange(len(chosen)) / 30
    assert np.abs(chosen / float(rate) - times).max() <= 0.5 / min(rate, 30) + 0.002
    assert np.diff(chosen).min() >= 0


def test_rates_that_fit_keep_every_frame_or_every_second():
    """Catches frames dropped or doubled where the rates fit, with times rounded to milliseconds."""
    for step in (None, MS):
        same = list(resample(constant(30, 100, Fraction(1, 30), step), Fraction(30)))
        assert same == list(range(100))
        half = list(resample(constant(60, 100, step=step), Fraction(30)))
        assert half == list(range(0, 100, 2))
        twice = list(resample(constant(15, 50, step=step), Fraction(30)))
        assert twice == [number // 2 for number in range(99)]
        pal = list(resample(constant(25, 25, step=step), Fraction(30)))
        assert len(pal) == 30
        assert sorted(set(pal)) == list(range(25))


@pytest.mark.parametrize(("count", "expected"), [(0, []), (1, [0])])
def test_no_frame_and_one_frame_are_resampled(count, expected):
    """Catches an endless loop or an index error at the ends."""
    assert list(resample(constant(30, count), Fraction(30))) == expected


def test_variable_rates_are_resampled_by_time(tmp_path):
    """Catches frames that are counted instead of timed."""
    times = [0, 0.1, 0.5, 0.52, 0.54, 1.0]
    path = grey_video(tmp_path / "v.mkv", [10, 20, 30, 40, 50, 60], times)
    clip = one_clip(path)
    expected = [10] * 2 + [20] * 7 + [30] * 6 + [40, 50] + [50] * 7 + [60] * 8
    assert len(clip.frames) == 31
    nearest = [
        min(range(6), key=lambda i: (round(abs(times[i] - k / 30), 2), i)) for k in range(31)
    ]
    levels = clip.frames[:, 8, 8, 0]
    assert np.count_nonzero(levels != 10 * (np.array(nearest) + 1)) <= 2  # near ties
    assert levels[0] == expected[0] and levels[-1] == expected[-1]


def test_a_hole_in_time_is_refused():
    """Catches a damaged time stamp that is filled with a million copies of a frame."""
    frames = [(Fraction(0), 0), (Fraction(1 << 32), 1)]
    with pytest.raises(AnchorError, match="no frame from"):
        list(islice(resample(frames, Fraction(30)), 1000))


def test_times_that_go_back_are_refused(tmp_path):
    """Catches frames in a wrong order taken as they come."""
    path = grey_video(tmp_path / "v.nut", [1, 2, 3], [0, 0.1, 0.2])

    def backwards(frame, otherwise):
        return -frame.pts * frame.time_base

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(video, "_seconds", backwards)
        with pytest.raises(AnchorError, match="go back"):
            list(video.iter_video(path))


def test_clips_follow_each_other_and_a_short_rest_is_left_out(tmp_path):
    """Catches a frame lost or doubled between clips, and clips too short to train on."""
    levels = [number % 250 for number in range(95)]
    path = grey_video(tmp_path / "talk.mkv", levels)
    found = list(read_clips(path, length=40, size=16))
    assert [(c.name, c.index, len(c.frames)) for c in found] == [("talk", 0, 40), ("talk", 1, 40)]
    assert [c.start for c in found] == [0, Fraction(4, 3)]
    shown = np.concatenate([c.frames for c in found])[:, 8, 8, 0]
    np.testing.assert_array_equal(shown, levels[:80])
    assert found[0].mattes is None
    rest = list(read_clips(path, length=79, size=16))
    assert [len(c.frames) for c in rest] == [79, 16]


def test_memory_holds_one_clip(tmp_path):
    """Catches a whole video, or the last clip beside the next one, kept in memory."""
    path = grey_video(tmp_path / "v.mkv", [7] * 128)
    tracemalloc.start()
    try:
        count = 0
        for clip in read_clips(path, length=32, size=128):
            count, size = count + 1, clip.frames.nbytes
            del clip
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert count == 4
    assert size < peak < 1.7 * size


def test_the_crop_is_the_middle_or_the_given_box(tmp_path):
    """Catches x and y swapped, a squashed picture, and pixels from outside of the box."""
    pixels = np.zeros((33, 65, 3), np.uint8)  # odd sizes
    pixels[:, 16:49] = 100
    pixels[3:11, 20:28] = (200, 50, 25)
    path = tmp_path / "v.mkv"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("ffv1", rate=30)
        stream.width, stream.height, stream.pix_fmt = 65, 33, "bgr0"
        for _ in range(16):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode(None))
    middle = one_clip(path, size=33)
    assert middle.crop == (16, 0, 33)
    np.testing.assert_array_equal(middle.frames[0], pixels[:, 16:49])
    box = one_clip(path, size=8, crop=(20, 3, 8))
    assert (box.frames == np.array([200, 50, 25])).all()
    larger = one_clip(path, size=16, crop=(20, 3, 8))
    assert (larger.frames == np.array([200, 50, 25])).all()


@pytest.mark.parametrize("crop", [(-1, 0, 8), (0, 0, 49), (60, 0, 8), (0, 0, 0), (0, 44, 8)])
def test_a_crop_outside_the_frame_is_refused(tmp_path, crop: Box):
    """Catches a negative index that wraps around, and a silent cut."""
    path = grey_video(tmp_path / "v.mkv", [0] * 16)
    with pytest.raises(AnchorError, match=r"not inside the frames of .*64x48"):
        one_clip(path, crop=crop)


def figure(height: int, width: int, *boxes: tuple[int, int, int, int]) -> np.ndarray:
    matte = np.zeros((height, width), np.uint8)
    for left, top, right, bottom in boxes:
        matte[top:bottom, left:right] = 255
    return matte


def test_the_crop_holds_the_person_of_all_frames_and_no_specks():
    """Catches a crop from one frame, one that a single wrong pixel widens, and one that jumps."""
    body, arm, speck = (40, 30, 60, 90), (60, 40, 80, 46), (150, 5, 151, 6)
    mattes = [figure(100, 160, body, speck)] * 300 + [figure(100, 160, body, arm)] * 5
    mattes.append(figure(100, 160, body, (140, 60, 150, 70)))  # a flash in one frame
    left, top, side = clips.person_crop(mattes)
    assert left <= 40 and left + side >= 80
    assert top <= 30 and top + side >= 90
    assert side == round(60 * 1.16)
    assert left + side < 140


def test_a_tall_person_keeps_their_head():
    """Catches a square in the middle of a portrait that cuts the head off."""
    left, top, side = clips.person_crop([figure(200, 80, (30, 20, 50, 200))])
    assert side == 80 and left == 0
    assert 0 <= top <= 20


def test_a_person_at_the_border_stays_inside_the_frame():
    """Catches a square that leaves the frame."""
    assert clips.person_crop([figure(60, 100, (0, 0, 20, 60))]) == (0, 0, 60)
    assert clips.person_crop([figure(60, 100, (80, 30, 100, 60))]) == (65, 25, 35)


@pytest.mark.parametrize("mattes", [[], [figure(20, 20)]])
def test_nobody_to_crop_to_is_one_error(mattes):
    """Catches a crop of nothing."""
    with pytest.raises(AnchorError, match="mattes"):
        clips.person_crop(mattes)


def matte_folder(folder: Path, count: int, size: tuple[int, int] = (64, 48)) -> Path:
    folder.mkdir()
    for number in range(count):
        matte = figure(size[1], size[0], (20, 10, 40, 40))
        matte[20, 30] = number
        Image.fromarray(matte).save(folder / f"{number}.png")
    return folder


def test_mattes_go_with_their_frames(tmp_path):
    """Catches mattes that are resampled or cropped other than their frames."""
    path = grey_video(tmp_path / "v.mkv", list(range(60)), rate=60)
    mattes = matte_folder(tmp_path / "mattes", 60)
    clip = one_clip(path, crop=(14, 4, 44), size=44, mattes=mattes)
    assert clip.mattes is not None
    assert clip.mattes.shape == (30, 44, 44)
    np.testing.assert_array_equal(clip.frames[:, 0, 0, 0], clip.mattes[:, 16, 16])
    assert one_clip(path, mattes=mattes).crop == (12, 8, 35)


@pytest.mark.parametrize(
    ("count", "size", "message"),
    [
        (19, (64, 48), "holds 19 mattes and .* more frames"),
        (21, (64, 48), "holds more mattes than .* frames, 20"),
        (20, (48, 64), "are 48x64, the frames of .* 64x48"),
    ],
)
def test_mattes_that_do_not_belong_to_the_video_are_refused(tmp_path, count, size, message):
    """Catches mattes that are one frame off or stretched, without a word."""
    path = grey_video(tmp_path / "v.mkv", [0] * 20)
    with pytest.raises(AnchorError, match=message) as caught:
        one_clip(path, crop=(0, 0, 8), mattes=matte_folder(tmp_path / "m", count, size))
    assert "\n" not in str(caught.value)


def cut(path: Path, share: float) -> Path:
    data = path.read_bytes()
    path.write_bytes(data[: int(share * len(data))])
    return path


def noise_video(
    path: Path, count: int = 90, codec: Literal["libx264", "libvpx"] = "libx264"
) -> Path:
    rng = np.random.default_rng(0)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=30)
        stream.width = stream.height = 64
        stream.pix_fmt = "yuv420p"
        for _ in range(count):
            pixels = rng.integers(0, 256, (64, 64, 3), np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode(None))
    return path


def read_all(path: Path, **options) -> tuple[str, list[int]]:
    """The error, empty if there is none, and the lengths of the clips before it."""
    found = []
    try:
        for clip in read_clips(path, size=16, **options):
            found.append(len(clip.frames))
    except AnchorError as error:
        return str(error), found
    return "", found


@pytest.mark.parametrize("suffix", ["mkv", "avi", "webm", "mov"])
def test_a_broken_tail_is_told_after_the_clips_before_it(tmp_path, suffix):
    """Catches half a video taken for the whole: Matroska ends without a word."""
    codec = "libvpx" if suffix == "webm" else "libx264"
    path = cut(noise_video(tmp_path / f"v.{suffix}", codec=codec), 0.6)
    error, found = read_all(path, length=32)
    assert "damaged or cut short" in error or "cannot read" in error
    assert len(error.splitlines()) == 1
    assert found == ([] if suffix == "mov" else [32])


def test_damaged_videos_are_read_or_refused_in_one_line(tmp_path):
    """Catches any other exception of the decoders, a hang, and damage inside that is not told."""
    rng, refused = np.random.default_rng(0), 0
    for suffix in ("mp4", "mkv", "avi", "ts"):
        whole = noise_video(tmp_path / f"whole.{suffix}", 30).read_bytes()
        for _ in range(12):
            data = bytearray(whole)
            for at in rng.integers(0, len(data), rng.integers(1, 30)):
                data[at] = rng.integers(0, 256)
            path = tmp_path / f"v.{suffix}"
            path.write_bytes(data[: rng.integers(len(data) // 2, len(data) + 1)])
            error, found = read_all(path)
            assert len(error.splitlines()) == (not found or bool(error))
            refused += bool(error)
    assert refused > 24


@pytest.mark.parametrize("count", [0, 1, 15])
def test_a_video_too_short_for_a_clip_is_refused(tmp_path, count):
    """Catches an empty data set, and a clip of one frame that has no other to refer to."""
    path = grey_video(tmp_path / "v.mkv", [0] * count)
    with pytest.raises(AnchorError, match=rf"no frames|cannot read|are {count} frames"):
        one_clip(path)


@pytest.mark.parametrize("wrong", [{"fps": 0}, {"length": 15}, {"size": 4}])
def test_impossible_clips_are_refused(tmp_path, wrong):
    """Catches a division by zero or an endless loop far from the argument."""
    path = grey_video(tmp_path / "v.mkv", [0] * 16)
    with pytest.raises(AnchorError, match=r"expected (at least|more)"):
        one_clip(path, **wrong)


def test_the_real_clips_are_cut_whole(data_dir):
    """Catches a real camera's container, whose times begin late and leave frames out."""
    lengths = {}
    for path in sorted((data_dir / "video").glob("*.mkv")):
        (clip,) = read_clips(path, size=64)
        assert clip.crop == (80, 0, 480)
        assert clip.frames.std() > 20
        lengths[clip.name] = len(clip.frames)
    expected = {"again": 77, "brother": 66, "help": 58, "no": 66, "student": 52, "yes": 65}
    assert lengths == expected


def clicks(path: Path, at: list[float], delay: float = 0.0, channels: int = 1) -> Path:
    """A second of black video with clicks in its sound, which begins `delay` seconds late."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("ffv1", rate=30)
        stream.width = stream.height = 16
        stream.pix_fmt = "bgr0"
        sound = container.add_stream("pcm_s16le", rate=8000)
        sound.layout = "mono" if channels == 1 else "5.1"
        for _ in range(30):
            pixels = np.zeros((16, 16, 3), np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode(None))
        samples = np.zeros((1, 8000 * channels), np.int16)
        for seconds in at:
            start = round((seconds - delay) * 8000) * channels
            samples[:, start : start + channels] = 10_000
        frame = av.AudioFrame.from_ndarray(samples, layout=sound.layout.name)
        frame.sample_rate, frame.pts = 8000, round(delay * 8000)
        frame.time_base = Fraction(1, 8000)
        container.mux(sound.encode(frame))
        container.mux(sound.encode(None))
    return path


@pytest.mark.parametrize(("delay", "channels"), [(0.0, 1), (0.25, 1), (0.0, 6)])
def test_sound_is_in_time_with_the_first_frame(tmp_path, delay, channels):
    """Catches sound that is shifted where its track begins late, and channels read as time."""
    path = clicks(tmp_path / "v.mkv", [0.5, 0.75], delay, channels)
    assert write_audio(path, tmp_path / "v.wav")
    with wave.open(str(tmp_path / "v.wav")) as file:
        assert (file.getframerate(), file.getsampwidth()) == (8000, 2)
        assert file.getnchannels() == min(channels, 2)
        data = np.frombuffer(file.readframes(1 << 20), np.int16)
    loud = np.flatnonzero(data.reshape(-1, min(channels, 2))[:, 0] > 3000)
    np.testing.assert_allclose(loud / 8000, [0.5, 0.75], atol=0.001)


@pytest.mark.parametrize("name", ["12:30:00", "-x", "file:x", "%03d", "concat:a|b"])
def test_sound_is_read_from_a_path_and_no_url(tmp_path, monkeypatch, name):
    """Catches a name with a colon, given relatively, that is opened as a URL."""
    monkeypatch.chdir(tmp_path)
    clicks(tmp_path / f"{name}.mkv", [0.5])
    assert write_audio(Path(f"{name}.mkv"), Path(f"{name}.wav"))
    assert sorted(os.listdir()) == sorted([f"{name}.mkv", f"{name}.wav"])


def test_a_silent_video_writes_no_sound(tmp_path):
    """Catches an empty file that looks like sound."""
    path = grey_video(tmp_path / "v.mkv", [0] * 3)
    assert not write_audio(path, tmp_path / "v.wav")
    assert os.listdir(tmp_path) == ["v.mkv"]


@pytest.mark.parametrize("name", ["v.mkv/v.wav", "v.mp3"])
def test_places_where_sound_cannot_be_written(tmp_path, name):
    """Catches a traceback, and mp3 that is wave inside."""
    path = clicks(tmp_path / "v.mkv", [0.5])
    with pytest.raises(AnchorError, match="cannot write"):
        write_audio(path, tmp_path / name)
    assert os.listdir(tmp_path) == ["v.mkv"]


def tone(path: Path, codec: str = "aac", rate: int = 44100, late: float = 0.0) -> Path:
    """A second of video, 32x32, with a tone from 0.4 to 0.45 s; its sound begins `late` seconds."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libvpx" if path.suffix == ".webm" else "libx264", rate=30)
        stream.width = stream.height = 32
        stream.pix_fmt = "yuv420p"
        sound: Any = container.add_stream(codec, rate=rate)
        sound.layout = "stereo"
        for number in range(30):
            pixels = np.full((32, 32, 3), 8 * number, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode(None))
        times = np.arange(round((1 - late) * rate)) / rate + late
        level = np.where((times >= 0.4) & (times < 0.45), np.sin(2764.6 * times), 0) * 16_000
        samples = np.repeat(level.astype(np.int16), 2)[None]
        convert = av.AudioResampler(sound.format, "stereo", rate, sound.frame_size or 1024)
        frame = av.AudioFrame.from_ndarray(samples, format="s16", layout="stereo")
        frame.sample_rate, frame.pts, frame.time_base = rate, round(late * rate), Fraction(1, rate)
        for part in (*convert.resample(frame), *convert.resample(None)):
            container.mux(sound.encode(part))
        container.mux(sound.encode(None))
    return path


@pytest.mark.parametrize(
    ("suffix", "codec", "rate", "late"),
    [
        ("mp4", "aac", 44100, 0.0),
        ("mp4", "aac", 48000, 0.2),
        ("mov", "pcm_s16le", 22050, 0.0),
        ("mkv", "libmp3lame", 44100, 0.0),
        ("webm", "libopus", 48000, 0.0),
        ("mkv", "flac", 44100, 0.0),
    ],
)
def test_sound_of_every_codec_is_in_time(tmp_path, suffix, codec, rate, late):
    """Catches the lead-in of a codec (1024 samples of AAC and more) that shifts the sound, a
    track that begins late, and noise from samples of another format."""
    path = tone(tmp_path / f"v.{suffix}", codec, rate, late)
    assert write_audio(path, tmp_path / "v.wav")
    with wave.open(str(tmp_path / "v.wav")) as file:
        assert (file.getframerate(), file.getnchannels()) == (rate, 2)
        data = np.frombuffer(file.readframes(1 << 20), "<i2").reshape(-1, 2).astype(int)
    assert abs(len(data) / rate - 1) < 0.06
    loud = np.flatnonzero(np.abs(data[:, 0]) > 6000) / rate
    np.testing.assert_allclose([loud[0], loud[-1]], [0.4, 0.45], atol=0.005)
