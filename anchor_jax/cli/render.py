"""Implement `anchor-jax render`."""

from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from tyro.conf import Positional, arg

from anchor_jax.body.bodies import FREE, open_body
from anchor_jax.cli.options import (
    OneEachCore,
    check_count,
    parse_fps,
    parse_size,
    use_compile_cache,
)
from anchor_jax.errors import AnchorError, note

if TYPE_CHECKING:
    from anchor_jax.body.motion import Motion
    from anchor_jax.body.parallel import Body
    from anchor_jax.poses.framing import Framing


@dataclass(frozen=True, kw_only=True)
class Render:
    """Draw a motion file as pose images of a free body or of SMPL-X.

        anchor-jax render talk.npy --out poses.mp4

    With your licensed SMPL-X model file, which published weights expect:

        anchor-jax render talk.npy --body SMPLX_NEUTRAL.npz --out poses.mp4

    Where the training of an anchor had the person, for `anchor-jax generate shipped`:

        anchor-jax render talk.npy --framing shipped --out poses.mp4

    A part of the motion, as PNG files:

        anchor-jax render talk.npy --out poses/ --start 2 --end 12.5

    Reads TalkSHOW .npy, BEAT2 and AMASS .npz, SHOW .pkl and .npz, and the .npz of anchor-jax. Needs
    pip install 'anchor-jax[render]', and on Debian libegl1 libgl1-mesa-dri.

    Attributes:
        motion: body motion; the format is recognised from the content.
        out: an .mp4 (H.264), or a folder for 000001.png, ...
        body: makehuman (free, with face and hands), mannequin (free, wooden), or FILE: the SMPL-X
            model, the .npz of its authors. --model is another name of this option.
        conditions: folder for face landmarks, face masks and foreground masks.
        framing: draw the person as the training of this anchor had it: the head in the same place
            and of the same size, and makehuman with the body shape that the anchor names, if any.
        size: size of the pictures: the side of a square, or WxH.
        fps: frames per second, such as 30, 29.97 or 30000/1001.
        start: start of the part to draw, in seconds.
        end: end of the part to draw, in seconds.
        processes: number of parallel processes.
    """

    motion: Positional[Annotated[Path, arg(metavar="MOTION")]]
    out: Annotated[Path, arg(metavar="DIR|VIDEO")]
    body: Annotated[str, arg(metavar="NAME|FILE", aliases=["--model"])] = FREE
    conditions: Annotated[
        Path | None, arg(metavar="DIR", help_behavior_hint="(default: OUT-conditions)")
    ] = None
    framing: Annotated[
        Path | None, arg(metavar="ANCHOR", help_behavior_hint="(default: from head to hips)")
    ] = None
    size: Annotated[
        str | None,
        arg(metavar="PX|WxH", help_behavior_hint="(default: 512, or that of --framing's training)"),
    ] = None
    fps: Annotated[
        str | None, arg(metavar="FPS", help_behavior_hint="(default: that of the motion)")
    ] = None
    start: float = 0.0
    end: Annotated[
        float | None, arg(metavar="FLOAT", help_behavior_hint="(default: the end of the motion)")
    ] = None
    processes: OneEachCore = None

    def run(self) -> None:
        """Draw the motion and write its files."""
        from anchor_jax.body.parallel import draw_clip
        from anchor_jax.body.view import check_size, make_view
        from anchor_jax.poses import pose_images
        from anchor_jax.poses.framing import reproduce
        from anchor_jax.progress import bars

        conditions = self.conditions or pose_images.conditions_beside(self.out)
        pose_images.check_outputs(self.out, conditions)
        framing = None if self.framing is None else _read_framing(self.framing)
        default = (512, 512) if framing is None else framing.size
        pixels = default if self.size is None else parse_size(self.size)
        check_size(pixels)
        rate = None if self.fps is None else parse_fps(self.fps)
        check_count("processes", self.processes)
        shape = framing.shape if framing and self.body == FREE else {}
        whole, clip = self._read_motion(rate, own_shape=not shape)
        pose_images.check_room(self.out, len(clip.poses), pixels)
        body = _make_body(self.body, whole, shape)
        view = make_view(whole, body.joints(whole), pixels)  # the same for every part
        if framing is not None:
            view = reproduce(framing, view, body, whole, self.processes)
        elif whole.camera is not None and view.crops(whole.camera):
            full = "x".join(map(str, whole.camera.size))
            note(
                f"the motion's camera has {full} pixels, and only the middle is drawn; --size"
                f" {full} draws all"
            )
        with (
            bars()("drawing", len(clip.poses), "frame") as advance,
            closing(draw_clip(body, clip, view, self.processes, advance)) as images,
        ):
            count = pose_images.write_pose_images(images, view, clip.fps, self.out, conditions)
        print(f"{self.out}: {count} frames, {pixels[0]}x{pixels[1]}, {float(clip.fps):g} fps")
        print(f"{conditions}: face landmarks, face masks and foreground masks")

    def _read_motion(self, rate: Fraction | None, own_shape: bool) -> tuple["Motion", "Motion"]:
        """Read the motion; return it whole, and the part to draw. Without `own_shape` the person
        has the average shape."""
        from anchor_jax.body import edit, formats

        whole = formats.read_motion(self.motion)
        if rate is not None:
            whole = edit.resample(whole, rate)
        if not own_shape:
            whole = replace(whole, betas=whole.betas[:0])
        return whole, edit.crop(whole, self.start, self.end)


def _read_framing(anchor: Path) -> "Framing":
    """Read where the training of an anchor had the person."""
    from anchor_jax import checkpoint

    framing = checkpoint.load(anchor, networks=()).framing
    if framing is None:
        raise AnchorError(
            f"--framing {anchor}: the anchor does not say where its training had the person; train"
            " it with this version of anchor-jax, or leave out --framing"
        )
    return framing


def _make_body(choice: str, motion: "Motion", shape: Mapping[str, float]) -> "Body":
    """Open the body, of a shape of its own, and print its notes."""
    use_compile_cache()
    body = open_body(choice, shape)
    for line in body.notes(motion):
        note(line)
    return body
