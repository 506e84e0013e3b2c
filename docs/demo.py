"""The whole way from weights to a video in a minute, with weights that are RANDOM.

    python docs/demo.py [--out out/demo]      (from the checkout's root)

Makes a tiny checkpoint of random weights in the published layout, draws the poses of a waving
figure, then runs `anchor-jax convert` and `anchor-jax generate` as you would on real weights.
The video it makes is colourful noise: it shows that everything works, not what training gives.
"""

import argparse
import math
import shlex
import subprocess
import sys
from pathlib import Path

from PIL import Image, ImageDraw

NUM_FRAMES, SIZE = 24, 128
BODY, BACKGROUND = (118, 146, 152), (0, 0, 0)  # what lit skin looks like in real pose renders


def draw_pose(phase: float) -> Image.Image:
    """A seated figure at `phase` (0 to 1) of a wave of its arm."""
    image = Image.new("RGB", (4 * SIZE, 4 * SIZE), BACKGROUND)  # drawn large, then smoothed
    draw = ImageDraw.Draw(image)
    draw.ellipse((206, 60, 306, 190), BODY)
    draw.rounded_rectangle((166, 200, 346, 512), 60, BODY)
    swing = math.radians(35 * math.sin(2 * math.pi * phase))
    for shoulder, side in (((180, 240), -1), ((332, 240), 1)):
        lift = swing if side > 0 else 0.2 * swing
        elbow = shoulder[0] + side * 70, shoulder[1] + 120
        hand = (
            elbow[0] + side * 100 * math.cos(lift + 0.6),
            elbow[1] - 100 * math.sin(lift + 0.6),
        )
        draw.line([shoulder, elbow, hand], BODY, 44, joint="curve")
        draw.ellipse((hand[0] - 30, hand[1] - 30, hand[0] + 30, hand[1] + 30), BODY)
    return image.resize((SIZE, SIZE), Image.Resampling.LANCZOS)


def draw_person() -> Image.Image:
    """A picture of somebody: the first pose in a shirt, before a wall."""
    image = draw_pose(0)
    wall = Image.new("RGB", image.size, (206, 196, 180))
    shirt = Image.new("RGB", image.size, (150, 60, 50))
    return Image.composite(
        shirt, wall, image.convert("L").point([255 * (v > 40) for v in range(256)])
    )


PROGRAMS = {"python": [sys.executable], "anchor-jax": [sys.executable, "-m", "anchor_jax.cli"]}


def run(program: str, *arguments: object) -> None:
    words = [str(word) for word in arguments]
    print("\n$ " + shlex.join([program, *words]), flush=True)
    subprocess.run([*PROGRAMS[program], *words], check=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--out", type=Path, default=Path("out/demo"))
    out = parser.parse_args().out
    (out / "poses").mkdir(parents=True, exist_ok=True)
    for index in range(NUM_FRAMES):
        draw_pose(index / NUM_FRAMES).save(out / "poses" / f"{index + 1:06d}.png")
    draw_person().save(out / "person.png")
    weights, anchor = out / "weights", out / "anchor"
    if not weights.exists():
        run("python", "-m", "benchmarks.random_checkpoint", "--size", "tiny", "--out", weights)
    if not anchor.exists():
        run(
            *("anchor-jax", "convert", "--body", weights / "body", "--base", weights / "sd"),
            *("--image-encoder", weights / "clip-vision", "--out", anchor),
        )
    run("anchor-jax", "inspect", anchor)
    run(
        *("anchor-jax", "generate", anchor, "--poses", out / "poses"),
        *("--appearance", out / "person.png", "--out", out / "video.mp4", "--steps", 10),
    )
    print(f"\nThe weights were random, so {out / 'video.mp4'} shows noise that follows no one.")


if __name__ == "__main__":
    main()
