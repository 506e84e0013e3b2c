"""Checks that our pose images move like TalkSHOW's own renders of the same motion.

    python -m benchmarks.wrist_motion ../shared/data/motion --out docs/benchmarks/wrist_motion.json

Ours: image speed of both wrists, pixels per frame, projected by the camera of our pose images.
Theirs: dense Lucas-Kanade flow between consecutive frames of their video, root mean square below
the chin, where mainly the arms move. It uses nothing of ours.

The two speeds are correlated over time at several lags. For a correct rendering, the correlation
peaks at lag 0. Controls: our wrists against the other clip's video, and against the same video with
shuffled frames.

Lucas and Kanade 1981: https://www.ijcai.org/Proceedings/81-2/Papers/017.pdf
"""

import argparse
import json
from pathlib import Path

import numpy as np
from scipy import ndimage

from anchor_jax.body.formats import read_motion
from anchor_jax.body.makehuman import MakeHuman
from anchor_jax.body.view import make_view
from anchor_jax.data import video
from anchor_jax.files import write_text

_CLIPS = "talkshow_oliver", "talkshow_french"
_LAGS = -10, -5, -2, -1, 0, 1, 2, 5, 10
_WRISTS = 20, 21
_SHRINK, _BORDER, _CHIN = (
    4,
    8,
    0.44,
)  # of their images: binning factor, red border in pixels, chin height as a fraction
_SHUFFLES = 200


def _our_speed(path: Path) -> np.ndarray:
    """Sum of the image speeds of both wrists, pixels per frame, (n - 1,)."""
    motion = read_motion(path)
    joints = MakeHuman().joints(motion)
    view = make_view(motion, joints, (512, 512))
    pixels, _ = view.project(view.place(joints[:, _WRISTS]))
    return np.linalg.norm(np.diff(pixels, axis=0), axis=-1).sum(1)


def _their_speed(path: Path) -> np.ndarray:
    """Root mean square of the flow below the chin for each pair of frames, (n - 1,)."""
    speeds, last = [], None
    for _, frame in video.iter_video(path):
        grey = frame.mean(2)[_BORDER:-_BORDER, _BORDER:-_BORDER]
        side = len(grey) // _SHRINK
        grey = grey.reshape(side, _SHRINK, side, _SHRINK).mean((1, 3))
        if last is not None:
            speeds.append(np.sqrt((_flow(last, grey)[round(_CHIN * side) :] ** 2).sum(-1).mean()))
        last = grey
    return np.array(speeds)


def _flow(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Lucas-Kanade flow (h, w, 2), pixels: least squares over the neighbourhood of each pixel.
    Near zero where the image is uniform."""
    mean = (first + second) / 2
    x, y = (ndimage.gaussian_filter1d(mean, 1, axis, order=1) for axis in (1, 0))
    t = ndimage.gaussian_filter(second - first, 1)
    xx, xy, yy, xt, yt = (
        ndimage.gaussian_filter(product, 2.5) for product in (x * x, x * y, y * y, x * t, y * t)
    )
    xx, yy = xx + 2, yy + 2  # squared grey levels: compression noise
    determinant = xx * yy - xy * xy
    return -np.stack([yy * xt - xy * yt, xx * yt - xy * xt], axis=-1) / determinant[..., None]


def _correlation(ours: np.ndarray, theirs: np.ndarray, lag: int = 0) -> float:
    """Pearson correlation of our frame i + lag with their frame i."""
    count = min(len(ours), len(theirs)) - abs(lag)
    ours, theirs = ours[max(lag, 0) :][:count], theirs[max(-lag, 0) :][:count]
    return float(np.corrcoef(ours, theirs)[0, 1])


def _measure(ours: np.ndarray, theirs: np.ndarray, other: np.ndarray) -> dict:
    """The correlations of one clip, with the controls."""
    rng = np.random.default_rng(0)
    shuffled = [_correlation(ours, rng.permutation(theirs)) for _ in range(_SHUFFLES)]
    return {
        "lags": {str(lag): round(_correlation(ours, theirs, lag), 3) for lag in _LAGS},
        "other_clip": round(_correlation(ours, other), 3),
        "shuffled_p99": round(float(np.percentile(np.abs(shuffled), 99)), 3),
    }


def _plot(curves: dict[str, tuple[np.ndarray, np.ndarray]]) -> str:
    """An SVG with one panel per clip: both standardised speeds over time."""
    width, height = 900, 180
    parts = []
    for row, (name, pair) in enumerate(curves.items()):
        top = row * height
        parts.append(f'<text x="8" y="{top + 16}">{name}: ours blue, theirs orange</text>')
        for values, colour in zip(pair, ("#1f77b4", "#ff7f0e"), strict=True):
            levels = np.clip((values - values.mean()) / values.std(), -2, 5)
            points = " ".join(
                f"{8 + i * (width - 16) / len(levels):.1f},{top + 130 - 22 * level:.1f}"
                for i, level in enumerate(levels)
            )
            parts.append(f'<polyline points="{points}" fill="none" stroke="{colour}"/>')
    size = f'width="{width}" height="{height * len(curves)}"'
    style = 'font-family="sans-serif" font-size="13" style="background:white"'
    return f'<svg xmlns="http://www.w3.org/2000/svg" {size} {style}>{"".join(parts)}</svg>\n'


def main() -> None:
    parser = argparse.ArgumentParser(
        description="Correlate our wrists' speed with TalkSHOW's videos."
    )
    parser.add_argument(
        "folder", type=Path, help="folder with the .npy files and their .mp4 renders"
    )
    parser.add_argument(
        "--out", type=Path, help="JSON file for the results; the plot is written beside it"
    )
    args = parser.parse_args()
    curves = {
        name: (_our_speed(args.folder / f"{name}.npy"), _their_speed(args.folder / f"{name}.mp4"))
        for name in _CLIPS
    }
    results = {}
    for name, other in zip(_CLIPS, reversed(_CLIPS), strict=True):
        results[name] = _measure(*curves[name], curves[other][1])
        print(name, json.dumps(results[name]))
    if args.out:
        write_text(args.out, json.dumps(results, indent=1) + "\n")
        write_text(args.out.with_suffix(".svg"), _plot(curves))


if __name__ == "__main__":
    main()
