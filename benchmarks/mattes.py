"""Measures the quality of our mattes on composites with known mattes.

    python -m benchmarks.mattes [--poses DIR] [--frames 24] [--size 512] [--out out/mattes]

A figure moves in front of a background. The frames are encoded as H.264 with halved colour
resolution, as cameras do, then decoded and matted.

Figures: a drawn one, with textured clothes, thin fingers, loose hair and soft edges; with --poses
also the renders in a folder, at half their size so that edges are soft.

Backgrounds: a green screen, and a static room with a plate (filmed empty, or the median of a video
in which the person walks through). The hard green screen has uneven light, noise, and green light
on the person; the hard room has noise, flicker and a shadow.

Baselines, each with the best of a few settings for the very video: FFmpeg's chromakey filter with
the true colour, and a threshold on the difference to the plate.

Errors per frame, for mattes in [0, 1]: SAD, sum of absolute differences / 1000; MSE, mean squared
difference * 1000; Grad, sum of squared differences of the gradients (Gaussian derivatives, sigma
1.4) / 1000; IoU of the pixels with a matte above 1/2. One image sheet is written per composite.
"""

import argparse
import json
import tempfile
from fractions import Fraction
from itertools import product
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw
from scipy import ndimage

from anchor_jax.data.green_screen import green_screen
from anchor_jax.data.mattes import apply_matte
from anchor_jax.data.still_camera import median_plate, still_camera
from anchor_jax.data.video import iter_video, read_frames, write_video
from anchor_jax.files import ffmpeg_name

_Figure = tuple[np.ndarray, np.ndarray]  # float32 colour times matte (n, h, w, 3), matte (n, h, w)
_FINE = 4  # supersampling factor of the drawn figure
_GREEN = np.array([40, 170, 70], np.float32)


def _draw_figure(num_frames: int, side: int, walk: float) -> _Figure:
    """Draw a waving person, head to hips, who crosses the fraction `walk` of the image width."""
    rng = np.random.default_rng(1)
    stripes = 40 * (np.indices((side, side)).sum(0) // 9 % 2)[..., None].astype(np.float32)
    grain = ndimage.gaussian_filter(rng.normal(0, 60, (side, side, 3)), (2, 2, 0))
    colours, mattes = [], []
    for t in np.linspace(0, 1, num_frames):
        alpha, paint = _draw(t, side, walk)
        colour = paint + np.where(paint[..., :1] < 100, stripes, 0) + grain
        alpha = ndimage.gaussian_filter(alpha, 0.6)
        colours.append(np.clip(colour, 0, 255) * alpha[..., None])
        mattes.append(alpha)
    return np.stack(colours).astype(np.float32), np.stack(mattes).astype(np.float32)


def _draw(t: float, side: int, walk: float) -> tuple[np.ndarray, np.ndarray]:
    """The matte (h, w) and colours (h, w, 3) at time `t`, 0 to 1."""
    big = side * _FINE
    image = Image.new("RGBA", (big, big))
    draw = ImageDraw.Draw(image)
    x0 = 0.5 + walk * (t - 0.5) + 0.01 * np.sin(9 * t)
    xy = lambda points: [((x0 + x) * big, y * big) for x, y in points]
    rng = np.random.default_rng(2)  # the same random hair in every frame
    for angle in rng.uniform(-2.8, -0.3, 60):
        tip = rng.uniform(0.11, 0.155)
        end = tip * np.cos(angle), 0.27 + tip * np.sin(angle) + 0.01 * np.sin(12 * t + angle)
        draw.line(xy([(0, 0.27), end]), (60, 40, 30, 255), max(1, big // 400))
    draw.polygon(xy([(-0.17, 0.47), (0.17, 0.47), (0.2, 1.1), (-0.2, 1.1)]), (50, 60, 95, 255))
    draw.rectangle(xy([(-0.04, 0.36), (0.04, 0.5)]), (190, 140, 115, 255))
    draw.ellipse(xy([(-0.09, 0.16), (0.09, 0.4)]), (205, 155, 130, 255))
    draw.pieslice(xy([(-0.11, 0.14), (0.11, 0.4)]), 170, 370, (60, 40, 30, 255))
    for mirror in (-1, 1):
        swing = 0.5 * np.sin(6 * t + mirror)
        elbow = (mirror * 0.27, 0.72)
        hand = elbow[0] + mirror * 0.08 * np.cos(swing), 0.72 - 0.2 * np.cos(swing)
        draw.line(xy([(mirror * 0.15, 0.52), elbow]), (50, 60, 95, 255), big // 12, "curve")
        draw.line(xy([elbow, hand]), (50, 60, 95, 255), big // 16, "curve")
        for finger in np.linspace(-0.7, 0.7, 5):
            end = hand[0] + 0.075 * np.sin(finger), hand[1] - 0.075 * np.cos(finger)
            draw.line(xy([hand, end]), (215, 160, 135, 255), big // 60, "curve")
        box = [(hand[0] - 0.03, hand[1] - 0.03), (hand[0] + 0.03, hand[1] + 0.03)]
        draw.ellipse(xy(box), (210, 158, 132, 255))
    pixels = np.asarray(image, np.float32).reshape(side, _FINE, side, _FINE, 4)
    alpha = pixels[..., 3].mean((1, 3)) / 255
    painted = (pixels[..., :3] * pixels[..., 3:] / 255).mean((1, 3))
    paint = painted / np.maximum(alpha, 1 / 64)[..., None]
    if not (alpha >= 0.5).any():
        return alpha, paint
    near = np.empty((2, side, side), np.int32)
    ndimage.distance_transform_edt(
        alpha < 0.5, return_distances=False, return_indices=True, indices=near
    )
    solid = paint[near[0], near[1]]  # colours continued beyond the figure, for the blur
    return alpha, np.where(alpha[..., None] > 0.5, paint, solid)


def _load_poses(folder: Path, num_frames: int, walk: float) -> _Figure:
    """Load renders on black, halved and brightened; they cross `walk` of the image width."""
    frames = read_frames(folder)[0].astype(np.float32)
    frames = frames[np.linspace(0, len(frames) - 1, num_frames).astype(int)]
    alpha = (frames.max(-1, keepdims=True) > 0).astype(np.float32)
    both = np.concatenate([np.minimum(frames * 1.4, 255), alpha], -1)
    n, height, width, _ = both.shape
    both = both.reshape(n, height // 2, 2, width // 2, 2, 4).mean((2, 4))
    shifts = np.linspace(-walk / 2, walk / 2, num_frames) * width / 2
    both = np.stack([_shifted(b, round(s)) for b, s in zip(both, shifts, strict=True)])
    return both[..., :3], both[..., 3]


def _shifted(picture: np.ndarray, by: int) -> np.ndarray:
    shifted = np.roll(picture, by, 1)
    if by:
        shifted[:, slice(0, by) if by > 0 else slice(by, None)] = 0
    return shifted


def _compose(figure: _Figure, kind: str, hard: bool) -> tuple[np.ndarray, np.ndarray]:
    """Composite the figure: frames uint8 (n, h, w, 3), and the empty scene (h, w, 3)."""
    colour, alpha = figure
    rng = np.random.default_rng(3)
    n, height, width = alpha.shape
    y, x = np.meshgrid(np.linspace(0, 1, height), np.linspace(0, 1, width), indexing="ij")
    scene = _room(height, width) if kind == "room" else np.broadcast_to(_GREEN, (height, width, 3))
    if hard and kind == "green":
        scene = scene * (1.15 - 0.5 * np.hypot(x - 0.3, y - 0.3))[..., None]
        wrap = (
            ndimage.gaussian_filter(alpha, (0, 6, 6)) < 0.85
        )  # near the edge: screen light from behind
        colour = colour + (alpha * (0.08 + 0.1 * wrap))[..., None] * _GREEN
    frames = []
    for number in range(n):
        matte = alpha[number][..., None]
        back = scene
        if hard and kind == "room":
            shade = ndimage.gaussian_filter(_shifted(alpha[number], width // 12), 9)
            back = scene * (1 - 0.2 * shade)[..., None]
        frame = colour[number] + (1 - matte) * back
        if hard:
            frame = frame * (1 + 0.05 * np.sin(2.1 * number)) + rng.normal(0, 5, frame.shape)
        frames.append(frame)
    to_bytes = lambda values: np.rint(np.clip(values, 0, 255)).astype(np.uint8)
    return to_bytes(np.stack(frames)), to_bytes(scene + rng.normal(0, 2, scene.shape))


def _room(height: int, width: int) -> np.ndarray:
    """A wall with a pattern, shelves and a lamp."""
    rng = np.random.default_rng(4)
    wall = np.full((height, width, 3), (170, 165, 150), np.float32)
    for _ in range(40):
        top, left = rng.integers(0, height), rng.integers(0, width)
        size = rng.integers(height // 30, height // 6, 2)
        wall[top : top + size[0], left : left + size[1]] = rng.integers(60, 230, 3)
    texture = ndimage.gaussian_filter(rng.normal(0, 25, (height, width, 3)), (1, 1, 0))
    return np.clip(ndimage.gaussian_filter(wall, (1, 1, 0)) + texture, 0, 255)


def _ffmpeg_chromakey(path: Path, _: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """FFmpeg's chromakey with the true colour; the best of nine tolerances for this video."""
    settings = product((0.05, 0.08, 0.12), (0.0, 0.05, 0.1))
    tries = [_chromakey(path, similar, blend) for similar, blend in settings]
    return min(tries, key=lambda mattes: _errors(mattes, truth)["MSE"])


def _chromakey(path: Path, similar: float, blend: float) -> np.ndarray:
    import av
    from av.filter import Graph

    mattes = []
    with av.open(ffmpeg_name(path)) as container:
        graph = Graph()
        source = graph.add_buffer(template=container.streams.video[0])
        colour = "0x" + "".join(f"{round(float(c)):02x}" for c in _GREEN)
        key = graph.add("chromakey", f"{colour}:{similar}:{blend}")
        sink = graph.add("buffersink")
        source.link_to(key)
        key.link_to(sink)
        graph.configure()
        for frame in container.decode(video=0):
            graph.push(frame)
            mattes.append(graph.vpull().to_ndarray(format="rgba")[..., 3])
    return np.stack(mattes)


def _threshold(path: Path, plate: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Threshold the difference to the plate; the best of four thresholds for this video."""
    away = np.stack([np.abs(p.astype(int) - plate).max(-1) for _, p in iter_video(path)])
    tries = [(away > limit).astype(np.uint8) * 255 for limit in (15, 30, 45, 60)]
    return min(tries, key=lambda mattes: _errors(mattes, truth)["MSE"])


def _ours(path: Path, kind: str, plate: Path | None) -> np.ndarray:
    matting = green_screen(path) if kind == "green" else still_camera(path, plate)
    return np.stack([matting(pixels)[0] for _, pixels in iter_video(path)])


def _errors(mattes: np.ndarray, truth: np.ndarray) -> dict[str, float]:
    """The four errors, averaged over frames. Mattes are uint8, the truth is float in [0, 1]."""
    found = mattes.astype(np.float32) / 255
    away = found - truth
    slope = lambda m: np.stack([ndimage.gaussian_gradient_magnitude(frame, 1.4) for frame in m])
    inside, expected = found > 0.5, truth > 0.5
    return {
        "SAD": float(np.abs(away).sum((1, 2)).mean() / 1000),
        "MSE": float(np.square(away).mean() * 1000),
        "Grad": float(np.square(slope(found) - slope(truth)).sum((1, 2)).mean() / 1000),
        "IoU": float((inside & expected).sum() / (inside | expected).sum()),
    }


def _sheet(path: Path, frames: np.ndarray, truth: np.ndarray, mattes: np.ndarray) -> None:
    """Write an image of three frames: frame, true matte, our matte, and our matte over red."""
    rows = []
    for i in (0, len(frames) // 2, len(frames) - 1):
        laid = apply_matte(frames[i : i + 1], mattes[i : i + 1])[0]
        red = np.zeros_like(laid) + np.array([255, 0, 0], np.uint8)
        laid = laid + apply_matte(red[None], 255 - mattes[i : i + 1])[0]
        grey = lambda m: np.repeat(m[..., None], 3, -1)
        true_matte = np.rint(truth[i] * 255).astype(np.uint8)
        rows.append(np.concatenate([frames[i], grey(true_matte), grey(mattes[i]), laid], 1))
    Image.fromarray(np.concatenate(rows)).save(path)


def _measure(name: str, figure: _Figure, kind: str, hard: bool, out: Path, plated: bool) -> list:
    """Measure one composite: the rows of the table."""
    frames, scene = _compose(figure, kind, hard)
    with tempfile.TemporaryDirectory() as folder:
        video, plate = Path(folder) / "video.mp4", Path(folder) / "plate.png"
        write_video(video, frames, Fraction(30))
        Image.fromarray(scene).save(plate)
        mattes = _ours(video, kind, plate if plated else None)
        background = scene if plated else median_plate(video)
        if kind == "green":
            baseline = "ffmpeg_chromakey", _ffmpeg_chromakey(video, background, figure[1])
        else:
            baseline = "threshold", _threshold(video, background, figure[1])
        rows = [("ours", mattes), baseline]
        shown = read_frames(video)[0]
    _sheet(out / f"{name.replace(', ', '-').replace(' ', '_')}.png", shown, figure[1], mattes)
    return [{"scene": name, "method": who, **_errors(m, figure[1])} for who, m in rows]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--poses", type=Path, help="a folder of renders on black")
    parser.add_argument("--frames", type=int, default=24)
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--out", type=Path, default=Path("out/mattes"))
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    scenes = {
        "green, even": ("green", False, 0.0, False),
        "green, hard": ("green", True, 0.0, False),
        "room, plate": ("room", False, 0.0, True),
        "room, plate, hard": ("room", True, 0.0, True),
        "room, median, hard": ("room", True, 1.8, False),
    }
    rows = []
    for name, (kind, hard, walk, plated) in scenes.items():
        figures = {"drawn": _draw_figure(options.frames, options.size, walk)}
        if options.poses:
            figures["renders"] = _load_poses(options.poses, options.frames, walk)
        for who, figure in figures.items():
            rows += _measure(f"{who}, {name}", figure, kind, hard, options.out, plated)
            for row in rows[-2:]:
                numbers = "  ".join(f"{k} {row[k]:8.3f}" for k in ("SAD", "MSE", "Grad", "IoU"))
                print(f"{row['scene']:32} {row['method']:17} {numbers}", flush=True)
    (options.out / "mattes.json").write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
