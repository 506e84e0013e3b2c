"""Frames in and out: order, colour, size, rate, and that a failed write leaves nothing."""

import io
import os
import re
import resource
import shutil
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from anchor_jax.data import video, video_writer
from anchor_jax.data.pictures import round_size
from anchor_jax.errors import AnchorError
from tests.unit.test_mattes import composite, room

COLOURS = np.array(
    [[255, 255, 255], [255, 0, 0], [0, 255, 0], [0, 0, 255], [0, 0, 0], [190, 110, 60]], np.uint8
)


def bars(num_frames: int = 3, height: int = 64, width: int = 192) -> np.ndarray:
    """Frames of upright colour bars."""
    columns = np.repeat(COLOURS, width // len(COLOURS), axis=0)
    return np.broadcast_to(columns, (num_frames, height, width, 3))


def noise(num_frames: int = 30, side: int = 128) -> np.ndarray:
    """Frames that do not compress."""
    return np.random.default_rng(0).integers(0, 256, (num_frames, side, side, 3), np.uint8)


def save(path: Path, pixels: np.ndarray, mode: str | None = None) -> None:
    image = Image.fromarray(pixels)
    (image if mode is None else image.convert(mode)).save(path)


def grey(folder: Path, name: str, value: int, size: tuple[int, int] = (16, 8)) -> None:
    Image.new("RGB", size, (value,) * 3).save(folder / name)


def test_images_come_in_the_order_of_their_numbers(tmp_path):
    """Catches alphabetical order (10 before 2) and hidden or foreign files read as frames."""
    for name, value in {"p10.png": 30, "p2.PNG": 20, "p1.jpg": 10}.items():
        grey(tmp_path, name, value)
    grey(tmp_path, ".p0.png", 99)
    (tmp_path / "notes.txt").write_text("3")
    frames, fps = video.read_frames(tmp_path)
    assert frames.dtype == np.uint8
    assert frames.shape == (3, 8, 16, 3)
    assert fps is None
    np.testing.assert_allclose(frames[:, 0, 0, 0], [10, 20, 30], atol=1)


def test_frames_are_resized_to_width_by_height(tmp_path):
    """Catches width and height swapped, and another filter than Lanczos."""
    picture = noise(1, 64)[0, :32]
    save(tmp_path / "1.png", picture)
    frames, _ = video.read_frames(tmp_path, (24, 8))
    expected = Image.fromarray(picture).resize((24, 8), Image.Resampling.LANCZOS)
    np.testing.assert_array_equal(frames[0], np.asarray(expected))


@pytest.mark.parametrize(
    ("mode", "pixel", "expected"),
    [
        ("RGBA", (200, 100, 50, 255), (200, 100, 50)),
        ("RGBA", (200, 100, 50, 0), (0, 0, 0)),
        ("LA", (200, 0), (0, 0, 0)),
        ("L", 77, (77, 77, 77)),
        ("1", 1, (255, 255, 255)),
    ],
)
def test_pose_images_of_any_mode_lie_on_black(tmp_path, mode, pixel, expected):
    """Catches transparent pixels whose hidden colour shows up in the pose."""
    Image.new(mode, (8, 8), pixel).save(tmp_path / "1.png")
    frames, _ = video.read_frames(tmp_path)
    assert tuple(frames[0, 0, 0]) == expected


def test_palette_with_transparency_lies_on_black(tmp_path):
    """Catches the transparency of a palette lost on the way (and its warning)."""
    image = Image.new("P", (8, 8), 1)
    image.putpalette([0, 0, 0, 250, 200, 150])
    image.save(tmp_path / "1.png", transparency=bytes([255, 0]))
    assert not video.read_frames(tmp_path)[0].any()


def test_appearance_drops_alpha_and_scales_16_bits(tmp_path):
    """Catches 16 bits clipped to white, and alpha blended where the published system drops it."""
    Image.new("RGBA", (8, 8), (200, 100, 50, 0)).save(tmp_path / "alpha.png")
    assert tuple(video.read_image(tmp_path / "alpha.png")[0, 0]) == (200, 100, 50)
    save(tmp_path / "deep.png", np.full((8, 8), 0x8040, np.uint16))
    picture = video.read_image(tmp_path / "deep.png")
    assert picture.shape == (8, 8, 3)
    assert picture.dtype == np.uint8
    assert (picture == 0x80).all()


def test_appearance_is_turned_upright(tmp_path):
    """Catches a phone's portrait read lying on its side."""
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees to show
    Image.new("RGB", (16, 8)).save(tmp_path / "phone.jpg", exif=exif)
    assert video.read_image(tmp_path / "phone.jpg").shape == (16, 8, 3)


@pytest.mark.parametrize("rate", [Fraction(30), Fraction(30000, 1001), Fraction(25, 2)])
def test_video_keeps_colours_rate_and_length(tmp_path, rate):
    """Catches R and B swapped, a wrong YUV matrix or range, and a rounded frame rate."""
    path = tmp_path / "bars.mp4"
    video.write_video(path, bars(), rate)
    frames, fps = video.read_frames(path)
    assert fps == rate
    assert frames.shape == bars().shape
    middle = frames[:, 32, 16::32].astype(int)
    assert np.abs(middle - COLOURS).max() <= 3
    with av.open(str(path)) as container:
        codec = container.streams.video[0].codec_context
        assert (codec.name, codec.pix_fmt) == ("h264", "yuv420p")
    assert os.listdir(tmp_path) == ["bars.mp4"]


def test_an_untagged_video_has_the_colours_of_its_encoder(tmp_path):
    """Catches untagged YUV (BT.601, as tools make it from PNG files) read with another matrix."""
    path = tmp_path / "untagged.mkv"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=10, options={"crf": "5"})
        stream.height, stream.width = 64, 192
        stream.pix_fmt = "yuv420p"
        for pixels in bars():
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")
            container.mux(stream.encode(frame.reformat(format="yuv420p")))
        container.mux(stream.encode(None))
    frames, fps = video.read_frames(path)
    assert fps == 10
    assert np.abs(frames[:, 32, 16::32].astype(int) - COLOURS).max() <= 3


def test_frames_and_video_are_written_together(tmp_path):
    """Catches lossy or misnumbered frames beside the video."""
    frames = noise(3, 16)
    video.write_video(tmp_path / "v.mp4", frames, Fraction(30), tmp_path / "frames")
    names = sorted(os.listdir(tmp_path / "frames"))
    assert names == ["000001.png", "000002.png", "000003.png"]
    again, _ = video.read_frames(tmp_path / "frames")
    np.testing.assert_array_equal(again, frames)
    assert sorted(os.listdir(tmp_path)) == ["frames", "v.mp4"]


def test_frames_replace_older_frames_but_nothing_else(tmp_path):
    """Catches leftovers of a longer, earlier video, and a folder of other things wiped."""
    folder = tmp_path / "frames"
    folder.mkdir()
    video.write_frames(folder, noise(5, 16))
    video.write_frames(folder, noise(2, 16))
    assert sorted(os.listdir(folder)) == ["000001.png", "000002.png"]
    (folder / "thesis.tex").write_text("x")
    with pytest.raises(AnchorError, match=r"thesis\.tex"):
        video.write_frames(folder, noise(1, 16))
    assert len(os.listdir(folder)) == 3
    assert os.listdir(tmp_path) == ["frames"]


@pytest.mark.parametrize("fraction", [0.0, 0.5, 0.999])
@pytest.mark.parametrize("folder", [None, "frames"])
def test_no_space_is_one_error_and_the_old_video_stays(tmp_path, fraction, folder):
    """Catches a write error that is swallowed (at any point of the file) or leaves a partial."""
    path, frames = tmp_path / "v.mp4", noise(30, 32)
    video.write_video(path, frames, Fraction(30))
    whole = path.read_bytes()
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(fraction * len(whole)), before[1]))
    try:
        with pytest.raises(AnchorError, match=r"File too large$") as caught:
            video.write_video(path, frames, Fraction(30), folder and tmp_path / folder)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert "\n" not in str(caught.value)
    assert os.listdir(tmp_path) == ["v.mp4"]
    assert path.read_bytes() == whole


def test_an_interruption_leaves_nothing(tmp_path, monkeypatch):
    """Catches a partial file that survives Ctrl-C while the video is encoded."""

    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(video_writer, "encode", interrupt)
    with pytest.raises(KeyboardInterrupt):
        video.write_video(tmp_path / "v.mp4", noise(2, 16), Fraction(30), tmp_path / "frames")
    assert os.listdir(tmp_path) == []


def oriented(path: Path, matrix: tuple[float, ...]) -> Path:
    """Copy a video, with the entries a, b, c, d of its display matrix changed."""
    made = path.with_name("oriented.mp4")
    with av.open(str(path)) as source, av.open(str(made), "w") as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.dts is not None:
                packet.stream = stream
                target.mux(packet)
    data = made.read_bytes()
    stored = lambda a, b, c, d: b"".join(
        (round(v * (1 << 16)) % (1 << 32)).to_bytes(4, "big")
        for v in (a, b, 0, c, d, 0, 0, 0, 1 << 14)
    )
    identity = stored(1, 0, 0, 1)
    at = data.index(identity, data.index(b"tkhd"))
    made.write_bytes(data[:at] + stored(*matrix) + data[at + len(identity) :])
    return made


ORIENTATIONS = {
    (1, 0, 0, 1): lambda shown: shown,
    (0, 1, -1, 0): lambda shown: np.rot90(shown, -1),  # clockwise
    (-1, 0, 0, -1): lambda shown: np.rot90(shown, 2),
    (0, -1, 1, 0): lambda shown: np.rot90(shown, 1),
    (-1, 0, 0, 1): lambda shown: shown[:, ::-1],
    (1, 0, 0, -1): lambda shown: shown[::-1],
    (0, 1, 1, 0): lambda shown: shown.transpose(1, 0, 2),
    (0, -1, -1, 0): lambda shown: np.rot90(shown, 2).transpose(1, 0, 2),
}


@pytest.mark.parametrize("matrix", [*ORIENTATIONS, (0, 0, 0, 0)])
def test_a_turned_or_mirrored_video_is_read_as_it_is_shown(tmp_path, matrix):
    """Catches a phone's portrait video read lying on its side or turned the wrong way, a mirror
    left out, a size that is not that of the frames, and arrays of negative strides, which some
    libraries refuse."""
    path = tmp_path / "v.mp4"
    video.write_video(path, np.concatenate([bars(), np.zeros_like(bars())], 1), Fraction(30))
    stored, _ = video.read_frames(path)
    path = oriented(path, matrix)
    frames, _ = video.read_frames(path)
    expected = ORIENTATIONS.get(matrix, lambda shown: shown)(stored[0])
    np.testing.assert_array_equal(frames[0], expected)
    assert video.count_frames(path) == (3, expected.shape[1::-1])
    with path.open("rb") as file:
        streamed = next(video.open_stream(file, "v")[1])
    np.testing.assert_array_equal(streamed, expected)
    assert streamed.flags.c_contiguous


@pytest.mark.parametrize(
    "matrix", [(0.866, 0.5, -0.5, 0.866), (2, 0, 0, 2), (1, 0.25, 0, 1), (1, 0, 0, 0)]
)
def test_a_video_to_be_shown_aslant_is_refused(tmp_path, matrix):
    """Catches other angles rounded to a quarter, and scales and shears left out in silence."""
    path = tmp_path / "v.mp4"
    video.write_video(path, bars(), Fraction(30))
    path = oriented(path, matrix)
    for read in (video.read_frames, video.count_frames):
        with pytest.raises(AnchorError, match=r"oriented\.mp4 .*display matrix") as caught:
            read(path)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("hflip", lambda plain: plain[:, ::-1]),
        ("vflip", lambda plain: plain[::-1]),
        ("rot90", lambda plain: np.rot90(plain, -1)),
        ("rot90flip", lambda plain: plain.transpose(1, 0, 2)),
    ],
)
def test_display_matrices_of_another_writer(cases_dir, name, shown):
    """Catches offsets of a display matrix, which other writers store, taken for more than they
    are, and a mirror left out."""
    folder = cases_dir / "mirrored-display-matrix"
    plain, _ = video.read_frames(folder / "plain.mp4")
    frames, _ = video.read_frames(folder / f"{name}.mp4")
    np.testing.assert_array_equal(frames, np.stack([shown(pixels) for pixels in plain]))
    assert video.count_frames(folder / f"{name}.mp4")[1] == frames.shape[2:0:-1]


URLS = [
    "2024-03-01T12:30:00.mp4",
    "-x.mp4",
    "file:x.mp4",
    "%03d.mp4",
    "concat:a|b.mp4",
    "http:x.mp4",
]


@pytest.mark.parametrize("name", [*URLS, "concat:a|b"])
def test_a_video_that_is_read_is_a_path_and_no_url(tmp_path, monkeypatch, name):
    """Catches a name with a colon, given relatively, that is opened as a URL, and a prefix for
    FFmpeg shown in errors."""
    video.write_video(tmp_path / "plain.mp4", bars(), Fraction(30))
    monkeypatch.chdir(tmp_path)
    os.rename("plain.mp4", name)
    path = Path(name)
    assert len(video.read_frames(path)[0]) == len(bars())
    assert video.count_frames(path) == (3, (192, 64))
    assert video.read_rate(path) == 30
    path.write_text("not a video")
    with pytest.raises(AnchorError, match=re.escape(f"cannot read {name} as")) as caught:
        video.read_frames(path)
    assert "file:" not in str(caught.value).replace(name, "")


@pytest.mark.parametrize("name", URLS)
def test_a_video_that_is_written_is_a_path_and_no_url(tmp_path, monkeypatch, name):
    """Catches a name with a colon, given relatively, that is written to a URL or to another file,
    also where parts are joined."""
    monkeypatch.chdir(tmp_path)
    path = Path(name)
    video.write_video(path, bars(), Fraction(30))
    assert os.listdir() == [name]
    video_writer.encode(path, bars(), Fraction(30), path)
    joined = Path(f"joined:{name}")
    video_writer.join([path, path], joined)
    assert sorted(os.listdir()) == sorted([name, joined.name])
    assert len(video.read_frames(joined)[0]) == 2 * len(bars())


def test_a_time_as_a_name(cases_dir, tmp_path, monkeypatch):
    """Catches a recorder's name, with colons, that is opened as a URL."""
    name = "2024-03-01T12:30:00.mp4"
    shutil.copy(cases_dir / "colon-name" / "plain.mp4", tmp_path / name)
    monkeypatch.chdir(tmp_path)
    frames, _ = video.read_frames(Path(name))
    expected, _ = video.read_frames(cases_dir / "colon-name" / "plain.mp4")
    np.testing.assert_array_equal(frames, expected)


FADED = np.full((64, 96, 4), (200, 100, 50, 0), np.uint8)  # the hidden colour is no black
FADED[:, :32, 3], FADED[:, 32:64, 3] = 255, 128


@pytest.mark.parametrize(
    ("suffix", "codec", "format"),
    [
        ("mov", "qtrle", "argb"),
        ("mov", "prores_ks", "yuva444p10le"),
        ("mov", "png", "rgba"),
        ("mkv", "ffv1", "yuva420p"),
        ("webm", "libvpx", "yuva420p"),
        ("webm", "libvpx-vp9", "yuva420p"),
    ],
)
def test_a_transparent_video_lies_on_black(tmp_path, suffix, codec, format):
    """Catches the hidden colour of transparent pixels shown, the alpha channel of WebM files, which
    FFmpeg's own decoders leave out, and frames that, unlike others, cannot be written to."""
    path = tmp_path / f"v.{suffix}"
    options = {"auto-alt-ref": "0"} if codec == "libvpx" else {}
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=10, options=options)
        stream.height, stream.width = FADED.shape[:2]
        stream.pix_fmt = format
        for _ in range(3):
            frame = av.VideoFrame.from_ndarray(FADED, format="rgba").reformat(format=format)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    frames = [pixels for _, pixels in video.iter_video(path)]
    assert video.count_frames(path) == (len(frames), (96, 64)) == (3, (96, 64))
    expected = [[200, 100, 50], [100, 50, 25], [0, 0, 0]]
    for pixels in frames:
        assert pixels.flags.writeable
        np.testing.assert_allclose(pixels[32, [16, 48, 80]].astype(int), expected, atol=2)


def test_a_video_with_a_transparent_palette_lies_on_black(tmp_path):
    """Catches a palette's alpha left out: its pixel format has no channel of alpha."""
    image = Image.new("P", (16, 16), 1)
    image.putpalette([0, 0, 0, 250, 200, 150])
    png = io.BytesIO()
    image.save(png, "PNG", transparency=bytes([255, 0]))
    path = tmp_path / "v.mov"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("png", rate=10)
        stream.height = stream.width = 16
        stream.pix_fmt = "pal8"
        packet = av.Packet(png.getvalue())
        packet.stream, packet.pts, packet.dts = stream, 0, 0
        packet.time_base = Fraction(1, 10)
        container.mux(packet)
    assert not video.read_frames(path)[0].any()


def test_a_transparent_video_equals_its_pictures(cases_dir):
    """Catches frames of a video and of a folder that are blended in two ways."""
    frames, _ = video.read_frames(cases_dir / "alpha-video" / "alpha.mov")
    expected, _ = video.read_frames(cases_dir / "alpha-video" / "alpha_png")
    np.testing.assert_allclose(frames.astype(int), expected, atol=2)


def empty_video(path: Path) -> None:
    with av.open(str(path), "w") as container:
        container.add_stream("libx264", rate=30).pix_fmt = "yuv420p"
        container.start_encoding()


def sound_only(path: Path) -> None:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=8000)
        stream.layout = "mono"
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), layout="mono")
        sound.sample_rate = 8000
        container.mux(stream.encode(sound))
        container.mux(stream.encode(None))


def truncated_video(path: Path) -> None:
    whole = path.with_name("whole.mp4")
    video.write_video(whole, noise(), Fraction(30))
    path.write_bytes(whole.read_bytes()[:100_000])


@pytest.mark.parametrize(
    ("name", "make", "message"),
    [
        ("missing.mp4", lambda path: None, "does not exist"),
        ("poses", Path.mkdir, "holds no images"),
        ("text.mp4", lambda path: path.write_text("not a video"), "cannot read .* as a video"),
        ("empty.mp4", Path.touch, "cannot read .* as a video"),
        ("none.mkv", empty_video, "no frames|cannot read"),
        ("sound.mkv", sound_only, "no video stream"),
        ("cut.mp4", truncated_video, "damaged or cut short"),
        ("text.png", lambda path: path.write_text("not a picture"), "cannot read .* as a picture"),
    ],
)
def test_what_holds_no_frames_is_one_clear_error(tmp_path, name, make, message):
    """Catches a traceback, an empty array, or half a video taken for the whole."""
    path = tmp_path / name
    make(path)
    with pytest.raises(AnchorError, match=message) as caught:
        video.read_frames(path)
    assert "\n" not in str(caught.value)
    assert name in str(caught.value)


def test_images_of_two_sizes_are_named(tmp_path):
    """Catches an error that does not say which files, and a silent resize."""
    for name, size in {"1.png": (16, 8), "2.png": (16, 8), "3.png": (8, 8)}.items():
        grey(tmp_path, name, 0, size)
    with pytest.raises(AnchorError, match=r"1\.png is 16x8 and 3\.png is 8x8"):
        video.read_frames(tmp_path)


def test_a_damaged_picture_is_one_error(tmp_path):
    """Catches any of the exceptions that decoders raise for cut or altered files."""
    Image.fromarray(noise(1, 64)[0]).save(tmp_path / "whole.png")
    whole = (tmp_path / "whole.png").read_bytes()
    rng, refused = np.random.default_rng(0), []
    for trial in range(100):
        data = bytearray(whole[: rng.integers(1, len(whole))])
        for at in rng.integers(0, min(len(data), 200), 3):
            data[at] = rng.integers(0, 256)
        path = tmp_path / f"{trial}.png"
        path.write_bytes(data)
        try:
            video.read_image(path)
        except AnchorError as error:
            lines = str(error).splitlines()
            refused.append(len(lines) == 1)
    assert len(refused) > 50
    assert all(refused)


@pytest.mark.parametrize(
    ("size", "expected"), [((512, 512), (512, 512)), ((130, 103), (128, 96)), ((8, 15), (8, 8))]
)
def test_sizes_are_rounded_down(size, expected):
    """Catches rounding to the nearest multiple."""
    assert round_size(size) == expected


@pytest.mark.parametrize("size", [(7, 64), (64, 0), (-8, 64)])
def test_a_size_without_pixels_is_an_error(size):
    """Catches a size of 0 that fails much later."""
    with pytest.raises(AnchorError, match="too small"):
        round_size(size)


def test_places_that_cannot_be_written(tmp_path):
    """Catches a bad output place that is found only after the work."""
    file = tmp_path / "file.mp4"
    file.touch()
    folder = tmp_path / "folder.mp4"
    folder.mkdir()
    for path in (file / "v.mp4", tmp_path / "v.avi", folder):
        with pytest.raises(AnchorError):
            video.check_output(path)
    for path in (file / "frames", file, tmp_path):
        with pytest.raises(AnchorError):
            video.check_output(folder=path)
    video.check_output(file, folder)
    video.check_output(tmp_path / "new" / "v.mp4", tmp_path / "new" / "frames")
    assert not (tmp_path / "new").exists()


def test_the_same_frames_make_the_same_file(tmp_path):
    """Catches bytes that hang on threads or on memory nobody wrote: two runs of one command would
    differ. x264's AVX-512 code did that, at this size, in 5 to 12 ways of 20 runs."""
    frames, _ = composite(room(), 40)
    made = set()
    for _ in range(20):
        video.write_video(tmp_path / "v.mp4", frames, Fraction(30))
        made.add((tmp_path / "v.mp4").read_bytes())
    assert len(made) == 1
