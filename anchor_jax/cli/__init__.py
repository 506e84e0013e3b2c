"""The `anchor-jax` command: `demo`, `convert`, `export`, `inspect`, `render`, `prepare`, `train`,
`generate` and `bench`.

Heavy imports happen inside functions, so that `--help` answers at once.
"""

import gc
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from fractions import Fraction
from importlib import import_module
from importlib.util import find_spec
from inspect import cleandoc
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Literal

import tyro
from tyro.conf import FlagCreatePairsOff, Positional, arg

import anchor_jax
from anchor_jax.errors import AnchorError
from anchor_jax.processes import num_cores
from anchor_jax.progress import bars

if TYPE_CHECKING:
    import numpy as np

    from anchor_jax.assets import Assets
    from anchor_jax.body.motion import Motion
    from anchor_jax.body.parallel import Body

EXIT_BAD_INPUT = 2
EXIT_INTERRUPTED = 130

Folder = Annotated[Path, arg(metavar="DIR")]
AnchorFolder = Annotated[Path, arg(metavar="ANCHOR")]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; the exit code is 0 only when the output is complete."""
    name, *rest = (sys.argv[1:] if argv is None else argv) or ["--help"]
    every = demo, convert, export, inspect, render, prepare, train, generate, bench
    commands = {f.__name__: f for f in every}
    try:
        if name in {"-h", "--help"}:
            print(_overview(commands))
        elif name == "--version":
            print(f"anchor-jax {anchor_jax.__version__}")
        elif name not in commands:
            raise AnchorError(f"unknown command {name}; expected one of {', '.join(commands)}")
        else:
            command = commands[name]
            with _interruptible():
                if name == "train":
                    return _train(rest)
                tyro.cli(
                    command, prog=f"anchor-jax {name}", description=_teaching(command), args=rest
                )
    except AnchorError as error:
        return _fail(str(error), EXIT_BAD_INPUT)
    except OSError as error:  # a full disk, no permission
        where = f"{error.filename}: " if error.filename else ""
        return _fail(f"{where}{error.strerror or error}", EXIT_BAD_INPUT)
    except KeyboardInterrupt as interrupt:
        return _fail(f"interrupted; {str(interrupt) or 'nothing was written'}", EXIT_INTERRUPTED)
    return 0


@tyro.conf.configure(FlagCreatePairsOff)
def demo(
    *,
    out: Folder = Path("demo"),
    motion: Annotated[
        Path | None, arg(metavar="MOTION", help_behavior_hint="(default: the test clip's)")
    ] = None,
    finetune: bool = False,
    finetune_steps: int = 1200,
    data: Annotated[
        Path | None, arg(metavar="DATASET", help_behavior_hint="(default: what is shipped)")
    ] = None,
    frames: Annotated[
        int | None, arg(metavar="N", help_behavior_hint="(default: as many as the test clip has)")
    ] = None,
    steps: int = 10,
    seed: int = 42,
    assets: Annotated[
        Path | None, arg(metavar="DIR", help_behavior_hint="(default: what is shipped)")
    ] = None,
) -> None:
    """Show the whole system on an anchor that is shipped: a person who does not exist.

        anchor-jax demo

    The person of the demo, doing what a motion file says (needs the extra `render`):

        anchor-jax demo --motion talk.npy

    Finetune the pretrained anchor on that person, about ten minutes (needs the extra `train`):

        anchor-jax demo --finetune

    Args:
        out: folder for video.mp4, sheet.png, metrics.json and report.html.
        motion: a motion file to follow, in any layout that `anchor-jax render` reads.
        finetune: show an anchor that is finetuned now, in OUT-finetune; a stopped run goes on.
        finetune_steps: optimizer steps.
        data: data set to finetune on.
        frames: how many to generate.
        steps: denoising steps.
        seed: of the noise.
        assets: folder with other assets, from `python -m benchmarks.synthetic.assets`.
    """
    _check_seed(seed)
    if frames is not None and frames < 1:
        raise AnchorError(f"--frames {frames}: expected at least 1")
    if data is not None and not finetune:
        raise AnchorError(f"--data {data}: it is for --finetune")
    use_compile_cache()
    from anchor_jax.assets import open_assets
    from anchor_jax.demo.demo import check_place, read_inputs, show
    from anchor_jax.studies.clip import Setting

    check_place(out)
    shipped, setting = open_assets(assets), Setting(steps=steps, crossfade=True)
    clip = read_inputs(shipped, motion, setting, seed)
    anchor, before, grids = shipped.anchor, None, None
    if finetune:
        before = shipped.pretrained
        anchor = _finetune_demo(shipped, out, data, finetune_steps)
        grids = anchor.with_name("grids")
    scores = show(
        shipped,
        clip,
        out,
        anchor=anchor,
        before=before,
        motion=motion,
        count=frames,
        setting=setting,
        seed=seed,
        grids=grids,
    )
    told = [f"{name} {scores[f'{name}/psnr']:.1f} dB" for name in _REGIONS if scores]
    print(f"{out / 'report.html'}: complete" + (f"; PSNR of {', '.join(told)}" if told else ""))


_REGIONS = "body", "face", "hands"


def _finetune_demo(assets: "Assets", out: Path, data: Path | None, steps: int) -> Path:
    """The ANCHOR that `demo --finetune` makes in OUT-finetune."""
    _need_extra("train", *_TRAIN_MODULES)
    from anchor_jax.data import dataset as datasets
    from anchor_jax.demo.demo import finetune, prepare_training

    folder = out.with_name(f"{out.name}-finetune")
    if data is None:
        data = prepare_training(assets, folder / "data", bars())
    datasets.load(data)
    folder.mkdir(parents=True, exist_ok=True)
    program = import_module("anchor_jax.train.finetune")
    with _without_logs():
        return finetune(assets, data, folder / "run", steps, program.main)


def convert(
    *,
    base: Annotated[Path, arg(metavar="DIR|FILE")],
    image_encoder: Folder,
    out: AnchorFolder,
    body: Annotated[Path | None, arg(metavar="DIR", help_behavior_hint="(default: fresh)")] = None,
    face: Annotated[Path | None, arg(metavar="DIR", help_behavior_hint="(default: none)")] = None,
    dtype: Literal["keep", "float32", "float16", "bfloat16"] = "keep",
    seed: int = 0,
) -> None:
    """Turn published PyTorch weights into an anchor.

    A person of the published system:

        anchor-jax convert --body mya/body --face mya/head --base sd15 \\
            --image-encoder clip-vit-base-patch32 --out anchors/seth

    Without --body a fresh anchor to train: the base's UNet, and a control
    branch copied from its encoder.

        anchor-jax convert --base v1-5-pruned-emaonly.safetensors \\
            --image-encoder clip-vit-base-patch32 --out anchors/fresh

    Reading .bin and .ckpt files needs torch: pip install 'anchor-jax[torch]'.

    Args:
        base: Stable Diffusion 1.5: a diffusers folder, or one .safetensors or .ckpt file.
        image_encoder: CLIP vision folder (openai/clip-vit-base-patch32).
        out: the anchor, a new folder.
        body: folder with `unet` and `controlnet` of a trained body.
        face: the same of a trained head.
        dtype: type of the stored weights; `keep` is the source's own.
        seed: draws what a fresh anchor cannot take from the base.
    """
    _check_seed(seed)
    from anchor_jax.convert import convert

    with _without_logs():
        notes = convert(
            base=base,
            image_encoder=image_encoder,
            out=out,
            body=body,
            face=face,
            dtype=dtype,
            seed=seed,
        )
    for note in notes:
        _note(note)
    print(f"{out}: complete; `anchor-jax inspect` tells what it holds")


def export(anchor: Positional[AnchorFolder], *, out: Folder) -> None:
    """Write an anchor back in the published folder layout.

        anchor-jax export anchors/seth --out seth-pytorch

    Args:
        anchor: what `convert` wrote.
        out: a new folder for `body`, `head`, `sd` and `clip-vision`.
    """
    from anchor_jax.convert import export

    with _without_logs():
        export(anchor, out)
    print(f"{out}: complete")


def inspect(anchor: Positional[AnchorFolder]) -> None:
    """Tell what an anchor holds and where it came from.

        anchor-jax inspect anchors/seth

    Args:
        anchor: what `convert` wrote.
    """
    from anchor_jax import checkpoint

    print(checkpoint.describe(anchor))


def render(
    motion: Positional[Annotated[Path, arg(metavar="MOTION")]],
    *,
    out: Annotated[Path, arg(metavar="DIR|VIDEO")],
    model: Annotated[
        Path | None, arg(metavar="FILE", help_behavior_hint="(default: the free mannequin)")
    ] = None,
    conditions: Annotated[
        Path | None, arg(metavar="DIR", help_behavior_hint="(default: beside, OUT-conditions)")
    ] = None,
    size: Annotated[str, arg(metavar="PX|WxH")] = "512",
    fps: Annotated[
        str | None, arg(metavar="FPS", help_behavior_hint="(default: the motion's own)")
    ] = None,
    start: float = 0.0,
    end: Annotated[
        float | None, arg(metavar="FLOAT", help_behavior_hint="(default: the motion's end)")
    ] = None,
    processes: Annotated[
        int | None, arg(metavar="N", help_behavior_hint="(default: one a core)")
    ] = None,
) -> None:
    """Draw a motion file as pose images, of SMPL-X or a free mannequin.

        anchor-jax render talk.npy --out poses.mp4

    With your licensed model file, which published weights expect:

        anchor-jax render talk.npy --model SMPLX_NEUTRAL.npz --out poses.mp4

    As PNG, and only a part:

        anchor-jax render talk.npy --out poses/ --start 2 --end 12.5

    Reads TalkSHOW .npy, BEAT2 and AMASS .npz, SHOW .pkl and .npz, and our own .npz. Needs
    pip install 'anchor-jax[render]', and libegl1 libgl1-mesa-dri of Debian.

    Args:
        motion: body motion, recognised by what the file holds.
        out: an .mp4 (H.264), or a folder for 000001.png, ...
        model: of the body: SMPL-X, the .npz file of its authors.
        conditions: folder for face landmarks, face masks and foreground masks.
        size: of the pictures: a square's side, or WxH.
        fps: frames per second, such as 30, 29.97 or 30000/1001.
        start: seconds into the motion at which to begin.
        end: seconds into the motion at which to end.
        processes: how many draw at once.
    """
    from contextlib import closing

    from anchor_jax.body.parallel import draw_clip
    from anchor_jax.body.view import check_size, make_view
    from anchor_jax.poses import pose_images

    conditions = conditions or pose_images.conditions_beside(out)
    pose_images.check_outputs(out, conditions)
    pixels = _parse_size(size)
    check_size(pixels)
    rate = None if fps is None else _parse_fps(fps)
    if processes is not None and processes < 1:
        raise AnchorError(f"--processes {processes}: expected at least 1")
    whole, clip = _read_motion(motion, rate, start, end)
    body = _make_body(model, whole)
    view = make_view(whole, body.joints(whole), pixels)  # the same for every part of a motion
    if whole.camera is not None and view.crops(whole.camera):
        _note(
            f"the motion's camera saw {whole.camera.size[0]}x{whole.camera.size[1]}; the middle of "
            f"its picture is drawn; --size {whole.camera.size[0]}x{whole.camera.size[1]} draws all"
        )
    with (
        bars()("drawing", len(clip.poses), "frame") as advance,
        closing(draw_clip(body, clip, view, processes, advance)) as images,
    ):
        count = pose_images.write_pose_images(images, view, clip.fps, out, conditions)
    print(f"{out}: {count} frames, {pixels[0]}x{pixels[1]}, {float(clip.fps):g} fps")
    print(f"{conditions}: face landmarks, face masks and foreground masks")


@tyro.conf.configure(FlagCreatePairsOff)
def prepare(
    videos: Positional[
        Annotated[tuple[Path, ...], arg(metavar="VIDEO ...", help_behavior_hint="")]
    ] = (),
    *,
    out: Annotated[Path, arg(metavar="DATASET")],
    poses: Annotated[
        tuple[Path, ...], arg(metavar="DIR|VIDEO ...", help_behavior_hint="(one a video)")
    ] = (),
    identity: Annotated[
        str | None, arg(metavar="NAME", help_behavior_hint="(default: each video's name)")
    ] = None,
    mattes: Annotated[
        tuple[Path, ...], arg(metavar="DIR|VIDEO ...", help_behavior_hint="(default: none)")
    ] = (),
    green_screen: bool = False,
    still_background: bool = False,
    plate: Annotated[
        tuple[Path, ...], arg(metavar="FILE ...", help_behavior_hint="(default: the median)")
    ] = (),
    json_list: Annotated[
        Path | None, arg(name="list", metavar="JSON", help_behavior_hint="(default: none)")
    ] = None,
    loop_poses: bool = False,
    no_face: bool = False,
    face_size: Annotated[int, arg(metavar="PX")] = 256,
    no_audio: bool = False,
    crop: Annotated[
        str | None,
        arg(metavar="X,Y,SIDE", help_behavior_hint="(default: the person, or the middle)"),
    ] = None,
    size: Annotated[
        str | None,
        arg(metavar="PX", help_behavior_hint="(default: 512; of a list, its pictures' own)"),
    ] = None,
    fps: Annotated[str, arg(metavar="FPS")] = "30",
    processes: Annotated[
        int | None, arg(metavar="N", help_behavior_hint="(default: one a core)")
    ] = None,
    preview: bool = False,
    verify: bool = False,
) -> None:
    """Turn videos and their pose images into a data set to train on.

        anchor-jax prepare seth.mp4 --poses seth-poses --out data/seth --preview

    Killed or interrupted, the same command goes on where it was. Several
    videos of one person, each with its poses, before a background that
    does not move:

        anchor-jax prepare a.mp4 b.mp4 --poses a-poses b-poses --identity seth \\
            --still-background --out data/seth

    The JSON lists of the published system:

        anchor-jax prepare --list train_body.json --out data/body

    Look at a data set that is there, and read every frame of it:

        anchor-jax prepare --out data/seth --preview --verify

    Args:
        videos: of people, in any format; cut into clips of 300 frames.
        out: the data set, a new folder.
        poses: for each video a folder or video with one pose image a frame, squares or of the
            video's own size; with what `render` writes beside them the faces are cut out, too.
        identity: who is seen, where all videos show one person.
        mattes: for each video a folder or video with a matte for every frame.
        green_screen: make the mattes: the person is before a green or blue screen.
        still_background: make the mattes: neither camera nor background moves.
        plate: the same, with the scene without the person: a picture or video for each video, or
            one for all.
        json_list: instead of videos: {"source": pose, "target": frame, "reference": other} a
            line, and "mask" for the head.
        loop_poses: repeat or cut poses of another motion to the video's length, to try things.
        no_face: leave the faces out.
        face_size: side of the face crops; a multiple of 8.
        no_audio: leave the sound of the videos out of DATASET/audio.
        crop: the square of the videos to keep: its left, top and side in pixels.
        size: of the stored frames.
        fps: frames per second of the data set and of pose folders.
        processes: that work side by side; each takes about 1 GB.
        preview: write a contact sheet of each clip to DATASET/preview.
        verify: check the hash of every file and decode every frame.
    """
    _need_extra("train", "tensorflow_datasets", "array_record")
    from anchor_jax.data import dataset as datasets
    from anchor_jax.data.prepare import hidden_folder
    from anchor_jax.data.preview import write_sheets
    from anchor_jax.data.request import Request
    from anchor_jax.poses.face_crops import find_faces

    count = num_cores() if processes is None else processes
    if count < 1:
        raise AnchorError(f"--processes {count}: expected at least 1")
    if not videos and json_list is None and (preview or verify):
        made = datasets.load(out)
    else:
        request = Request(
            videos=videos,
            poses=poses,
            faces=() if no_face else find_faces(poses, face_size),
            identity=identity,
            mattes=mattes,
            green_screen=green_screen,
            still_background=still_background,
            plates=plate,
            json_list=json_list,
            loop_poses=loop_poses,
            audio=not no_audio,
            crop=None if crop is None else _parse_crop(crop),
            size=None if size is None else _parse_size(size),
            fps=_parse_fps(fps),
        )
        try:
            made = request.make(out, count, bars())
        except KeyboardInterrupt:
            kept = hidden_folder(out)
            if not kept.is_dir():
                raise
            words = f"complete clips are kept in {kept}, and the same command goes on there"
            raise KeyboardInterrupt(words) from None
    progress = bars()
    if verify:
        with progress("verifying", len(made), "frame") as advance:
            datasets.verify(made, advance)
    if preview:
        with progress("previewing", len(made.clips), "clip") as advance:
            write_sheets(made, out / "preview", advance)
    pictures = ", ".join(f"{name} {w}x{h}" for name, (w, h) in made.pictures.items())
    print(f"{out}: {len(made)} frames in {len(made.clips)} clips; {pictures}")
    if verify:
        print(f"{out}: every file is what was written and every picture can be decoded")
    if preview:
        print(f"{out / 'preview'}: a contact sheet of each clip; look whether bodies and poses fit")


def train(stage: Literal["autoencoder", "pretrain", "finetune", "face"]) -> None:
    """Train an anchor on data sets: many people first, then the one.

        anchor-jax train pretrain --anchor anchors/fresh --data data/many --out runs/many
        anchor-jax train finetune --anchor runs/many/anchor --data data/seth --out runs/seth
        anchor-jax train face --anchor runs/seth/anchor --data data/seth --out runs/face

    `anchor-jax train autoencoder` makes a small anchor of one's own to begin with. Each of the
    four explains its settings: anchor-jax train finetune --help.
    """


_TRAIN_MODULES = "grain", "optax", "tensorboardX", "matplotlib", "tensorflow_datasets"


def _train(words: Sequence[str]) -> int:
    """`train` has commands of its own, whose defaults hang on their --preset."""
    stages = ("autoencoder", "pretrain", "finetune", "face")
    stage, *rest = words or ["--help"]
    if stage in {"-h", "--help"}:
        print(f"usage: anchor-jax train {{{','.join(stages)}}} ...\n\n{_teaching(train)}")
        return 0
    if stage not in stages:
        raise AnchorError(f"unknown stage {stage}; expected one of {', '.join(stages)}")
    _need_extra("train", *_TRAIN_MODULES)
    use_compile_cache()
    program = import_module(f"anchor_jax.train.{stage}")
    with _without_logs():
        program.main(rest or ["--help"])
    return 0


def generate(
    anchor: Positional[AnchorFolder],
    *,
    poses: Annotated[Path, arg(metavar="DIR|VIDEO")],
    appearance: Annotated[Path, arg(metavar="IMAGE")],
    out: Annotated[Path, arg(metavar="VIDEO")],
    frames_dir: Annotated[
        Path | None, arg(metavar="DIR", help_behavior_hint="(default: none)")
    ] = None,
    steps: int = 20,
    guidance: float = 7.5,
    control_scale: float = 2.0,
    window: int = 16,
    overlap: int = 4,
    crossfade: FlagCreatePairsOff[bool] = False,
    size: Annotated[
        str | None, arg(metavar="PX|WxH", help_behavior_hint="(default: the poses' own)")
    ] = None,
    noise: Annotated[
        Path | None, arg(metavar="NPY", help_behavior_hint="(default: from the seed)")
    ] = None,
    seed: int = 42,
    fps: Annotated[
        str | None,
        arg(metavar="FPS", help_behavior_hint="(default: the pose video's own, or 30)"),
    ] = None,
    dtype: Literal["float32", "bfloat16"] = "float32",
    face: bool = True,
    face_landmarks: Annotated[
        Path | None, arg(metavar="FILE|DIR", help_behavior_hint="(default: beside the poses)")
    ] = None,
    face_masks: Annotated[
        Path | None, arg(metavar="DIR", help_behavior_hint="(default: beside the landmarks)")
    ] = None,
    face_detector: Annotated[
        Path | None, arg(metavar="DIR", help_behavior_hint="(default: the cache folder)")
    ] = None,
    face_appearance: Annotated[
        Path | None, arg(metavar="IMAGE", help_behavior_hint="(default: the appearance)")
    ] = None,
    face_guidance: float = 3.5,
    face_control_scale: float = 1.0,
    face_windows: FlagCreatePairsOff[bool] = False,
    face_smoothing: float = 0.0,
    face_blend: Literal["square", "face"] = "square",
    face_size: Annotated[int, arg(metavar="PX")] = 256,
) -> None:
    """Generate a video: the person of the picture moves as the poses say.

        anchor-jax generate anchors/seth --poses poses/ --appearance seth.png \\
            --out seth.mp4

    A quick look, small and in few steps:

        anchor-jax generate anchors/seth --poses poses.mp4 --appearance seth.png \\
            --out quick.mp4 --size 256 --steps 5

    Args:
        anchor: what `convert` wrote.
        poses: folder of pose images (.png, .jpg), in the order of their numbers, or a video.
        appearance: a picture of the person.
        out: the video, an .mp4 (H.264).
        frames_dir: also write the frames as PNG here: 000001.png, ...
        steps: denoising steps.
        guidance: how strongly the picture counts.
        control_scale: how strongly the poses count.
        window: frames that are denoised together; memory grows with it.
        overlap: frames that neighbouring windows share.
        crossfade: let each window pass gradually into the next, against flicker.
        size: resize the poses, to a square or to WxH; rounded down to multiples of 8.
        noise: initial latents, float32, (h/8, w/8, 4) for all frames or (n, h/8, w/8, 4).
        seed: the same seed gives the same video on the same machine.
        fps: frames per second, such as 30, 29.97 or 30000/1001.
        dtype: what the networks compute in.
        face: repaint faces, where the anchor has a face part.
        face_landmarks: .npz, .json, or what `render` wrote beside the poses.
        face_masks: the face's region in each frame: white, or a parser's class numbers.
        face_detector: folder with models to find landmarks with, see docs/face.md.
        face_appearance: a picture of the face, upright and cropped.
        face_guidance: how strongly the picture of the face counts.
        face_control_scale: how strongly the poses count for the face.
        face_windows: denoise faces in overlapping windows, too, against flicker.
        face_smoothing: smooth the landmarks over time, by that many frames.
        face_blend: what is pasted: the whole square (published), or the face alone.
        face_size: of the repainted crop; published models were trained at 256.
    """
    from anchor_jax.data import video

    video.check_output(out, frames_dir)
    rate = None if fps is None else _parse_fps(fps)
    target = None if size is None else _rounded(_parse_size(size))
    pose_frames, own_rate = video.read_frames(poses, target)
    if target is None:
        pose_frames = _fit(pose_frames)
    picture = video.read_image(appearance)
    start = None if noise is None else _read_noise(noise)

    use_compile_cache()
    from anchor_jax import checkpoint
    from anchor_jax.generation import pipeline
    from anchor_jax.generation.face import Face
    from anchor_jax.poses.face_inputs import read_face

    header = checkpoint.load(anchor, networks=())
    networks = ["body/unet", "body/control", "vae", "image_encoder"]
    has_face = face and "face/unet" in header.networks
    files = {
        "landmarks": face_landmarks,
        "masks": face_masks,
        "detector": face_detector,
        "appearance": face_appearance,
    }
    for name, path in files.items():
        if path is not None and not has_face:
            reason = "the anchor has no face part" if face else "--no-face leaves faces alone"
            raise AnchorError(f"--face-{name} {path}: {reason}")
    request = None
    if has_face:
        networks += ["face/unet", "face/control"]
        settings = face_landmarks, face_masks, face_detector, face_smoothing
        track, masks = read_face(poses, pose_frames, *settings, progress=True)
        for note in track.notes():
            _note(note)
        request = Face(
            track,
            masks,
            appearance=None if face_appearance is None else video.read_image(face_appearance),
            guidance=face_guidance,
            control_scale=face_control_scale,
            all_frames=face_windows,
            blend=face_blend,
            size=face_size,
        )
    pipeline.check_arguments(  # before the long loading
        header,
        pose_frames.shape,
        steps=steps,
        guidance=guidance,
        control_scale=control_scale,
        window=window,
        overlap=overlap,
        seed=seed,
        dtype=dtype,
        face=request,
    )
    frames = pipeline.generate(
        checkpoint.load(anchor, networks=networks),
        pose_frames,
        picture,
        steps=steps,
        guidance=guidance,
        control_scale=control_scale,
        window=window,
        overlap=overlap,
        crossfade=crossfade,
        noise=start,
        seed=seed,
        dtype=dtype,
        face=request,
        progress=True,
    )
    rate = rate or own_rate or Fraction(30)
    video.write_video(out, frames, rate, frames_dir)
    num_frames, height, width = frames.shape[:3]
    print(f"{out}: {num_frames} frames, {width}x{height}, {float(rate):g} fps")


def bench(
    study: Positional[Literal["windows"]],
    anchor: Positional[
        Annotated[Path | None, arg(metavar="ANCHOR", help_behavior_hint="(default: the shipped)")]
    ] = None,
    *,
    out: Folder,
    clip: Annotated[
        Path | None, arg(metavar="DIR", help_behavior_hint="(default: the shipped test clip)")
    ] = None,
    pairs: tuple[str, ...] = ("4/1", "8/2", "16/4", "32/8", "16/0", "16/8", "16/12"),
    seeds: tuple[int, ...] = (0, 1, 2),
    frames: Annotated[int | None, arg(metavar="N", help_behavior_hint="(default: all)")] = None,
    steps: int = 20,
    guidance: float = 1.0,
    control_scale: float = 1.0,
    crossfade: FlagCreatePairsOff[bool] = False,
    face: bool = True,
) -> None:
    """Measure an anchor: sizes of windows and overlaps against the truth, time and memory.

        anchor-jax bench windows seth --clip test/ --out windows/

    Writes windows.json, windows.md (a table), windows.svg (a plot) and windows.png (frames of each
    pair). Without an ANCHOR it measures the shipped one.

    Args:
        study: what is varied; "windows" is the paper's table 2 and further pairs.
        anchor: what to generate from.
        out: folder for the results.
        clip: folder with poses/, truth/, appearance.png and perhaps poses-conditions/.
        pairs: window/overlap.
        seeds: of the noise; intervals are over these.
        frames: of the clip, its first ones.
        steps: denoising steps.
        guidance: how strongly the picture counts.
        control_scale: how strongly the poses count.
        crossfade: let each window pass gradually into the next.
        face: repaint faces, where anchor and clip have them.
    """
    _need_extra("train", "matplotlib")
    from anchor_jax.assets import open_assets
    from anchor_jax.studies.clip import Setting
    from anchor_jax.studies.run import Study
    from anchor_jax.studies.windows import study_windows

    if anchor is None or clip is None:
        shipped = open_assets()
        anchor, clip = anchor or shipped.anchor, clip or shipped.test
    setting = Setting(
        crossfade=crossfade,
        face=face,
        steps=steps,
        guidance=guidance,
        control_scale=control_scale,
    )
    study_windows(anchor, Study(clip, frames, seeds), pairs, setting, out)


def use_compile_cache() -> None:
    """Keep compiled programs in the user's cache folder, so that a second run starts at once.

    `JAX_COMPILATION_CACHE_DIR` names another folder, or none when it is empty. A folder that
    cannot be written costs only the time to compile.
    """
    folder = os.environ.get("JAX_COMPILATION_CACHE_DIR")
    if folder is None:
        home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
        folder = str(Path(home) / "anchor-jax" / "jax")
    import jax

    try:
        if folder:
            Path(folder).mkdir(parents=True, exist_ok=True)
        usable = bool(folder) and os.access(folder, os.W_OK)
    except OSError:
        usable = False
    jax.config.update("jax_compilation_cache_dir", folder if usable else None)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    jax.config.update("jax_compilation_cache_max_size", 4 << 30)  # a limit makes jax lock, too


@contextmanager
def _interruptible() -> Iterator[None]:
    """Let Ctrl-C through at any moment. Jax calls back from the garbage collector, where Python
    drops exceptions: one that arrives there is raised a little later."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        collectors = {getattr(callback, "__code__", None) for callback in gc.callbacks}
        while frame is not None:
            if frame.f_code in collectors:
                signal.setitimer(signal.ITIMER_REAL, 0.05)
                return
            frame = frame.f_back
        raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {
        number: signal.signal(number, interrupt) for number in (signal.SIGINT, signal.SIGALRM)
    }
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _need_extra(extra: str, *modules: str) -> None:
    if any(find_spec(module) is None for module in modules):
        raise AnchorError(f"this needs more packages: pip install 'anchor-jax[{extra}]'")


@contextmanager
def _without_logs() -> Iterator[None]:
    """Orbax logs the tracebacks of its threads besides raising what went wrong."""
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)


def _teaching(command: Callable[..., None]) -> str:
    """The docstring of `command` up to its arguments, which tyro tells."""
    text = cleandoc(command.__doc__ or "").partition("\nArgs:")[0]
    return text.replace("\n\n    ", "\n    ")  # tyro sets off indented lines itself


def _overview(commands: dict[str, Callable[..., None]]) -> str:
    lines = [f"  {name:<10}{_teaching(f).splitlines()[0]}" for name, f in commands.items()]
    return "\n".join(
        [
            "usage: anchor-jax COMMAND ...",
            "",
            "Make-Your-Anchor in JAX: body motion and a picture in, video out.",
            "",
            *lines,
            "",
            "anchor-jax COMMAND --help tells more, with examples. anchor-jax --version",
        ]
    )


def _parse_size(text: str) -> tuple[int, int]:
    width, _, height = text.lower().partition("x")
    try:
        return int(width), int(height or width)
    except ValueError:
        raise AnchorError(f"--size {text}: expected pixels such as 512 or 640x384") from None


def _parse_crop(text: str) -> tuple[int, int, int]:
    try:
        left, top, side = (int(number) for number in text.split(","))
    except ValueError:
        raise AnchorError(
            f"--crop {text}: expected left, top and side in pixels, such as 420,0,1080"
        ) from None
    return left, top, side


def _parse_fps(text: str) -> Fraction:
    try:
        rate = Fraction(text).limit_denominator(1001)
    except (ValueError, ZeroDivisionError):
        rate = Fraction(0)
    if not 0 < rate <= 1000:
        raise AnchorError(f"--fps {text}: expected a number such as 30, 29.97 or 30000/1001")
    return rate


def _check_seed(seed: int) -> None:
    if not 0 <= seed < 1 << 32:
        raise AnchorError(f"--seed {seed}: expected 0 to {(1 << 32) - 1}")


def _rounded(size: tuple[int, int]) -> tuple[int, int]:
    """`size` as the networks can take it; says so when that is another size."""
    from anchor_jax.data import video

    rounded = video.round_size(size)
    if rounded != size:
        _note(f"{size[0]}x{size[1]} is rounded down to {rounded[0]}x{rounded[1]}, multiples of 8")
    return rounded


def _fit(frames: "np.ndarray") -> "np.ndarray":
    """The frames at a size that the networks can take."""
    import numpy as np

    from anchor_jax.data import video

    size = frames.shape[2], frames.shape[1]
    rounded = _rounded(size)
    return frames if rounded == size else np.stack([video.resize(f, rounded) for f in frames])


def _read_motion(
    path: Path, fps: Fraction | None, start: float, end: float | None
) -> tuple["Motion", "Motion"]:
    """The whole motion, and the part of it that is asked for."""
    from anchor_jax.body import edit, formats

    whole = formats.read_motion(path)
    if fps is not None:
        whole = edit.resample(whole, fps)
    return whole, edit.crop(whole, start, end)


def _make_body(model: Path | None, motion: "Motion") -> "Body":
    """SMPL-X of a model file, or the free body; with a word about what it is."""
    if model is not None:
        use_compile_cache()
        from anchor_jax.body.smplx import Smplx

        body = Smplx(model)
    else:
        from anchor_jax.body.mannequin import Mannequin

        body = Mannequin()
    for note in body.notes(motion):
        _note(note)
    return body


def _read_noise(path: Path) -> "np.ndarray":
    import numpy as np

    try:
        noise = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise AnchorError(f"cannot read --noise {path} as an .npy file: {error}") from error
    if not isinstance(noise, np.ndarray) or not np.issubdtype(noise.dtype, np.floating):
        raise AnchorError(f"--noise {path}: expected one array of float32")
    if not np.isfinite(noise).all():
        raise AnchorError(f"--noise {path} holds values that are not finite")
    return noise.astype(np.float32)


def _note(message: str) -> None:
    print(f"anchor-jax: note: {message}", file=sys.stderr)


def _fail(message: str, code: int) -> int:
    print(f"anchor-jax: error: {message}", file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())
