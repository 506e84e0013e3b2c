"""Mattes from every source, on small composites whose mattes are known."""

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from anchor_jax.data import green_screen, mattes, still_camera, video
from anchor_jax.data.clips import read_clips
from anchor_jax.errors import AnchorError

HEIGHT, WIDTH = 120, 160
GREEN, SKIN, SHIRT = (40, 170, 70), (210, 155, 130), (60, 60, 110)


def person(number: int = 0, walk: float = 0.0, width: int = WIDTH) -> tuple[np.ndarray, np.ndarray]:
    """Colours, float (h, w, 3), and soft matte (h, w) in [0, 1] of a figure with two hands."""
    y, x = np.mgrid[:HEIGHT, :width].astype(np.float32)
    x = x - width / 2 - walk * number
    shapes = [
        np.hypot(x, y - 40) - 16,
        np.maximum(np.abs(x) - 26, 58 - y),
        np.hypot(x - 40, y - 60 - 4 * np.sin(number)) - 6,
        np.maximum(np.abs(x - 33) - 10, np.abs(y - 66) - 4),
    ]
    matte = np.clip(0.5 - np.min(shapes, axis=0) / 2, 0, 1)
    colours = np.where((y < 57)[..., None], SKIN, SHIRT).astype(np.float32)
    return colours, matte


def room(seed: int = 0, width: int = WIDTH) -> np.ndarray:
    """A textured wall, float (h, w, 3)."""
    rng = np.random.default_rng(seed)
    blocks = rng.uniform(90, 240, (HEIGHT // 20, width // 20, 3))
    wall = blocks.repeat(20, 0).repeat(20, 1)
    return ndimage.gaussian_filter(wall, (1, 1, 0))


def composite(
    background: np.ndarray, num_frames: int = 3, walk: float = 0.0, noise: float = 3.0
) -> tuple[np.ndarray, np.ndarray]:
    """Frames, uint8 (n, h, w, 3), of the person before a background, and the true mattes."""
    rng = np.random.default_rng(1)
    frames, truth = [], []
    for number in range(num_frames):
        colours, matte = person(number - num_frames // 2, walk, background.shape[1])
        mixed = matte[..., None] * colours + (1 - matte[..., None]) * background
        frames.append(mixed + rng.normal(0, noise, mixed.shape))
        truth.append(matte)
    return mattes.to_bytes(np.stack(frames)), np.stack(truth)


def screen(colour: tuple[int, int, int] = GREEN) -> np.ndarray:
    """A screen whose light falls off to the right."""
    light = np.linspace(1.2, 0.6, WIDTH)[None, :, None]
    return np.broadcast_to(light * np.array(colour), (HEIGHT, WIDTH, 3))


def error(found: np.ndarray, truth: np.ndarray) -> float:
    return float(np.abs(found / 255 - truth).mean())


def keyed(frames: np.ndarray, key: tuple[int, int, int] | None = None) -> list[np.ndarray]:
    """Mattes and foregrounds of frames, as `green_screen` makes them of a video's."""
    if key is None:
        channel = green_screen._find_screen(frames, "the frames")
    else:
        channel = green_screen._screen_channel(key)
    return [
        np.stack(part)
        for part in zip(*(green_screen._key_out(frame, channel) for frame in frames), strict=True)
    ]


@pytest.mark.parametrize("colour", [GREEN, (30, 60, 190)])
def test_an_unevenly_lit_screen_is_keyed_out_softly(colour):
    """Catches one key colour for the whole frame, hard edges, and blue screens left alone."""
    frames, truth = composite(screen(colour))
    found, foreground = keyed(frames)
    assert found.dtype == foreground.dtype == np.uint8
    assert found.shape == truth.shape and foreground.shape == frames.shape
    assert error(found, truth) < 0.005
    assert error(np.where(found > 127, 255, 0), truth) > error(found, truth)
    assert (found[truth == 0] == 0).mean() > 0.99
    assert (found[ndimage.minimum_filter(truth, (0, 5, 5)) == 1] == 255).mean() > 0.999


def test_spill_is_removed_and_the_person_stays():
    """Catches a green rim around the person, and skin or clothes that change with it."""
    frames, truth = composite(screen(), noise=0)
    _, foreground = keyed(frames)
    values = foreground.astype(int)
    assert (values[..., 1] <= values[..., [0, 2]].max(-1)).all()
    inside = truth == 1
    assert np.abs(values[inside] - frames[inside]).max() <= 2
    edge = (truth > 0.3) & (truth < 1)
    colours = np.stack([person(number - 1)[0] for number in range(3)])
    assert np.abs(values[edge] - colours[edge]).mean() < 20


def test_a_given_key_tells_the_screen():
    """Catches a key that is ignored where the border shows something else."""
    frames, truth = composite(screen())
    frames[:, :12] = frames[:, :, :12] = frames[:, :, -12:] = 128
    with pytest.raises(AnchorError, match="no green or blue screen"):
        keyed(frames)
    found, _ = keyed(frames, key=(0, 177, 64))
    middle = np.s_[:, 14:, 14:-14]
    assert error(found[middle], truth[middle]) < 0.02
    with pytest.raises(AnchorError, match="neither green nor blue"):
        keyed(frames, key=(200, 60, 60))


def test_a_screen_that_is_not_there_is_refused(tmp_path):
    """Catches mattes of everything or nothing where no screen was filmed."""
    frames, _ = composite(room())
    video.write_video(tmp_path / "v.mp4", frames, Fraction(30))
    with pytest.raises(
        AnchorError, match=r"no green or blue screen in .*v\.mp4: \d+% of"
    ) as caught:
        green_screen.green_screen(tmp_path / "v.mp4")
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("level", [0, 128, 255])
def test_frames_of_one_colour_are_a_matte(level):
    """Catches a division by zero or an empty list of places, warnings included."""
    grey = np.full((1, HEIGHT, WIDTH, 3), level, np.uint8)
    only_green = np.broadcast_to(np.array(GREEN, np.uint8), grey.shape)
    found, _ = keyed(only_green)
    assert not found.any()
    assert keyed(grey, key=GREEN)[0].all()
    assert not still_camera.still_background(grey, grey[0]).any()
    assert still_camera.still_background(255 - grey, grey[0]).shape == grey.shape[:3]


@pytest.mark.parametrize("shape", [(1, 1), (7, 3), (33, 65)])
def test_small_and_odd_frames_are_matted(shape):
    """Catches blocks that do not divide the frame, and a border wider than it."""
    green = np.broadcast_to(np.array(GREEN, np.uint8), (2, *shape, 3))
    assert keyed(green)[0].shape == (2, *shape)
    assert still_camera.still_background(green, green[0]).shape == (2, *shape)


def test_a_still_background_is_taken_out():
    """Catches noise or texture taken for the person, and hard edges."""
    frames, truth = composite(room())
    found = still_camera.still_background(frames, mattes.to_bytes(room()))
    assert error(found, truth) < 0.015
    assert (found[truth == 0] == 0).mean() > 0.99


def test_flicker_and_shadows_are_background():
    """Catches the whole picture taken for the person where its light changes."""
    frames, truth = composite(room())
    light = np.array([0.92, 1.0, 1.08])[:, None, None, None]
    shadow = np.ones((HEIGHT, WIDTH, 1))
    shadow[:, :50] = 0.85
    shadow = ndimage.gaussian_filter(shadow, (4, 4, 0))
    lit = np.where(truth[..., None] > 0, frames, frames * shadow) * light
    found = still_camera.still_background(mattes.to_bytes(lit), mattes.to_bytes(room()))
    assert error(found, truth) < 0.03


def test_clothes_like_the_wall_are_filled_and_gaps_between_arms_are_not():
    """Catches holes in a person, and background that shows through an arm taken for them."""
    plate = np.full((HEIGHT, WIDTH, 3), 180, np.uint8)
    frame = plate.copy()
    frame[30:100, 40:120] = (70, 50, 40)
    frame[50:80, 50:70] = 180  # the wall, seen through
    frame[50:80, 90:110] = 150  # a print on the shirt, like the wall in a shadow
    found = still_camera.still_background(frame[None], plate)[0]
    assert not found[55:75, 55:65].any()
    assert (found[55:75, 95:105] == 255).all()


def test_somebody_behind_is_left_out():
    """Catches every moving thing taken for the person."""
    plate = np.full((HEIGHT, WIDTH, 3), 180, np.uint8)
    frame = plate.copy()
    frame[20:, 40:120] = (70, 50, 40)
    frame[50:60, 150:156] = (70, 50, 40)
    found = still_camera.still_background(frame[None], plate)[0]
    assert found[60, 80] == 255 and not found[:, 140:].any()


def walking_video(path: Path) -> np.ndarray:
    """A person who walks through the picture; the true mattes."""
    frames, truth = composite(room(), 40, walk=10)
    video.write_video(path, frames, Fraction(30))
    return truth


def test_the_median_of_a_walk_is_the_empty_room(tmp_path):
    """Catches a mean, in which the person leaves a trace, and a sample of the beginning alone."""
    truth = walking_video(tmp_path / "v.mp4")
    plate = still_camera.median_plate(tmp_path / "v.mp4")
    assert np.abs(plate - room()).mean() < 5
    matting = still_camera.still_camera(tmp_path / "v.mp4")
    made = [matting(pixels)[0] for _, pixels in video.iter_video(tmp_path / "v.mp4")]
    assert error(np.stack(made), truth) < 0.02


def test_a_median_that_shows_the_person_is_refused(tmp_path):
    """Catches mattes of moving hands alone, where the person never leaves their place."""
    path, plate = tmp_path / "v.mp4", tmp_path / "plate.png"
    frames, truth = composite(room(), 8)
    video.write_video(path, frames, Fraction(30))
    with pytest.raises(AnchorError, match=r"shows the person, .* film the scene without"):
        still_camera.still_camera(path)
    Image.fromarray(mattes.to_bytes(room())).save(plate)
    matting = still_camera.still_camera(path, plate)
    found, foreground = matting(frames[0])
    assert error(found, truth[0]) < 0.015
    assert foreground.shape == frames[0].shape
    Image.fromarray(mattes.to_bytes(room())[:-8]).save(plate)
    with pytest.raises(AnchorError, match=r"plate\.png is 160x112 and .* 160x120"):
        still_camera.still_camera(path, plate)


@pytest.mark.parametrize("plated", [False, True])
def test_a_moving_camera_is_refused(tmp_path, plated):
    """Catches mattes of everything that passes by."""
    wide = room(width=400)
    views = [wide[:, 5 * i : 5 * i + WIDTH] for i in range(40)]
    frames = np.concatenate([composite(view, 1)[0] for view in views])
    video.write_video(tmp_path / "v.mp4", frames, Fraction(30))
    Image.fromarray(mattes.to_bytes(views[0])).save(tmp_path / "plate.png")
    with pytest.raises(AnchorError, match=r"the background of .* moves") as caught:
        still_camera.still_camera(tmp_path / "v.mp4", tmp_path / "plate.png" if plated else None)
    assert len(str(caught.value).splitlines()) == 1


def test_clips_show_the_foreground_cropped_to_the_person(tmp_path):
    """Catches a crop of the whole frame, and green left in clips that have mattes."""
    path = tmp_path / "v.mp4"
    frames, _ = composite(screen(), 20)
    video.write_video(path, frames, Fraction(30))
    (clip,) = read_clips(path, size=64, mattes=green_screen.green_screen(path))
    left, top, side = clip.crop
    assert 10 < left < 60 and 5 < top < 24 and 90 < side < 115
    assert clip.mattes is not None and clip.mattes.shape == (20, 64, 64)
    values = mattes.apply_matte(clip.frames, clip.mattes).astype(int)
    excess = values[..., 1] - values[..., [0, 2]].max(-1)
    assert (excess > 5).mean() < 0.001  # Lanczos overshoots a little; the screen itself has 100
    assert excess.max() < 40


def test_mattes_are_read_from_alpha_grey_and_video(tmp_path):
    """Catches a folder of cut-out pictures whose colours are taken for mattes."""
    ramp = np.tile(np.arange(64, dtype=np.uint8) * 4, (48, 1))
    (tmp_path / "alpha").mkdir()
    colour = np.full((48, 64, 3), 200, np.uint8)
    Image.fromarray(np.dstack([colour, ramp])).save(tmp_path / "alpha" / "10.png")
    Image.fromarray(np.dstack([colour, ramp])[::-1]).save(tmp_path / "alpha" / "9.png")
    (tmp_path / "grey").mkdir()
    Image.fromarray(ramp).save(tmp_path / "grey" / "1.png")
    video.write_video(tmp_path / "v.mp4", ramp[None, ..., None].repeat(3, -1), Fraction(30))
    for name, count, accuracy in (("alpha", 2, 0), ("grey", 1, 0), ("v.mp4", 1, 4)):
        found = list(mattes.read_mattes(tmp_path / name))
        assert len(found) == count
        assert found[-1].dtype == np.uint8
        assert np.abs(found[-1].astype(int) - ramp).max() <= accuracy


def test_mattes_that_cannot_be_read_are_one_error(tmp_path):
    """Catches a traceback, and mattes of two sizes."""
    folder = tmp_path / "mattes"
    folder.mkdir()
    with pytest.raises(AnchorError, match="holds no images"):
        list(mattes.read_mattes(folder))
    Image.new("L", (8, 8)).save(folder / "1.png")
    Image.new("L", (8, 6)).save(folder / "2.png")
    with pytest.raises(AnchorError, match=r"the first is 8x8 and 2\.png is 8x6"):
        list(mattes.read_mattes(folder))
    (folder / "1.png").write_bytes(b"no picture")
    with pytest.raises(AnchorError, match="cannot read"):
        list(mattes.read_mattes(folder))
    with pytest.raises(AnchorError, match="does not exist"):
        list(mattes.read_mattes(tmp_path / "no"))


def test_a_matte_lays_frames_on_a_grey():
    """Catches an overflow of bytes, and a black that is not black."""
    frames = np.full((1, 1, 3, 3), 255, np.uint8)
    alpha = np.array([[[0, 128, 255]]], np.uint8)
    np.testing.assert_array_equal(mattes.apply_matte(frames, alpha)[0, 0, :, 0], [0, 128, 255])
    np.testing.assert_array_equal(
        mattes.apply_matte(frames, alpha, 100)[0, 0, :, 0], [100, 178, 255]
    )


def test_samples_are_spread_over_the_whole_video(tmp_path):
    """Catches a sample of the beginning, and one that grows with the video."""
    for count in (1, 7, 8, 9, 100):
        frames = np.arange(count, dtype=np.uint8)[:, None, None, None] * 2 + np.zeros((16, 16, 3))
        video.write_video(tmp_path / "v.mp4", frames.astype(np.uint8), Fraction(30))
        kept = mattes.sample_frames(tmp_path / "v.mp4", 8)[:, 8, 8, 0] / 2
        assert min(count, 4) <= len(kept) <= 8
        assert kept[0] < 1.5
        assert kept[-1] >= 0.75 * (count - 1) - 1
        assert np.ptp(np.diff(kept)) <= 2 if len(kept) > 1 else True
