"""Check settings and inputs against an anchor before its parameters are loaded."""

from anchor_jax.checkpoint import Anchor, Settings
from anchor_jax.diffusion.solvers import most_steps
from anchor_jax.errors import AnchorError, shorten
from anchor_jax.generation.face import Face


def check_inputs(
    anchor: Anchor, poses_shape: tuple[int, ...], settings: Settings, face: Face | None = None
) -> tuple[int, int, int, int]:
    """Check that a video can be generated.

    Args:
        anchor: the anchor; its parameters need not be loaded.
        poses_shape: shape (n, h, w, 3) of the pose images.
        settings: settings of the body and of the face.
        face: where to repaint faces, or None.

    Returns:
        The shape of the latents, (n, h / factor, w / factor, channels).

    Raises:
        AnchorError: the inputs do not fit; the message names all problems.
    """
    factor = anchor.vae.config.factor
    n, height, width, _ = poses_shape
    problems = []
    if n == 0:
        problems.append("there are no pose images: expected at least one frame")
    if not height or not width or height % factor or width % factor:
        problems.append(
            f"pose images are {width}x{height}: expected sides that are multiples of {factor};"
            " resize them (--size)"
        )
    problems += _steps_problems(anchor, settings)
    if not anchor.body.trained:
        problems.append(
            "the anchor's body was never trained: run anchor-jax train pretrain or finetune on it"
            " first"
        )
    if face is not None:
        problems += _face_problems(anchor, (n, height, width), settings, face)
    if problems:
        raise AnchorError(shorten(problems, 8, "; "))
    return n, height // factor, width // factor, anchor.vae.config.latent_channels


def check_settings(anchor: Anchor, settings: Settings) -> None:
    """Check that settings fit an anchor, whatever the video is.

    Raises:
        AnchorError: they do not; the message names all problems.
    """
    if problems := _steps_problems(anchor, settings) + _face_size_problems(anchor, settings):
        raise AnchorError("; ".join(problems))


def _steps_problems(anchor: Anchor, settings: Settings) -> list[str]:
    sampling = settings.sampling
    most = most_steps(anchor.schedule, sampling.solver, sampling.spacing)
    return [] if sampling.steps <= most else [f"steps is {sampling.steps}: expected 1 to {most}"]


def _face_size_problems(anchor: Anchor, settings: Settings) -> list[str]:
    factor, size = anchor.vae.config.factor, settings.face.size
    if size >= 2 * factor and size % factor == 0:
        return []
    return [f"the face's size is {size}: expected a multiple of {factor} from {2 * factor} on"]


def _face_problems(
    anchor: Anchor, shape: tuple[int, int, int], settings: Settings, face: Face
) -> list[str]:
    """List the problems of repainting faces in a video of `shape` (n, h, w)."""
    problems = []
    if anchor.face is None:
        problems.append("the anchor has no face part: convert one with --face, or use --no-face")
    elif not anchor.face.trained:
        problems.append(
            "the anchor's face part was never trained: run anchor-jax train face, or use --no-face"
        )
    if len(face.track.usable) != shape[0]:
        problems.append(
            f"there are face landmarks of {len(face.track.usable)} frames: expected {shape[0]}, as "
            "many as pose images"
        )
    if face.masks is not None and face.masks.shape != shape:
        problems.append(f"face masks are {face.masks.shape}: expected {shape}, as the poses are")
    return problems + _face_size_problems(anchor, settings)
