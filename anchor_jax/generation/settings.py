"""Whether settings and inputs fit an anchor and each other, found out before anything is loaded."""

from anchor_jax.checkpoint import Anchor, Settings
from anchor_jax.errors import AnchorError, shorten
from anchor_jax.generation.face import Face


def check_inputs(
    anchor: Anchor, poses_shape: tuple[int, ...], settings: Settings, face: Face | None = None
) -> tuple[int, int, int, int]:
    """The latents' shape (n, h, w, c) of a video.

    Args:
        anchor: its header is enough.
        poses_shape: (n, h, w, 3) of the pose images.
        settings: checked by themselves when they were made.
        face: where faces are, if they are to be repainted.

    Raises:
        AnchorError: naming everything that cannot work.
    """
    factor = anchor.vae.config.factor
    n, height, width, _ = poses_shape
    most = anchor.schedule.num_train_timesteps
    problems = []
    if n == 0:
        problems.append("there are no pose images: expected at least one frame")
    if not height or not width or height % factor or width % factor:
        problems.append(
            f"pose images are {width}x{height}: expected sides that are multiples of {factor};"
            " resize them (--size)"
        )
    if settings.sampling.steps > most:
        problems.append(f"steps is {settings.sampling.steps}: expected 1 to {most}")
    if not anchor.body.trained:
        problems.append(
            "the anchor's body was never trained, so it shows nobody: run anchor-jax train"
            " pretrain or finetune on it first"
        )
    if face is not None:
        problems += _face_problems(anchor, (n, height, width), settings, face)
    if problems:
        raise AnchorError(shorten(problems, 8, "; "))
    return n, height // factor, width // factor, anchor.vae.config.latent_channels


def _face_problems(
    anchor: Anchor, shape: tuple[int, int, int], settings: Settings, face: Face
) -> list[str]:
    problems, factor = [], anchor.vae.config.factor
    if anchor.face is None:
        problems.append("the anchor has no face part: convert one with --face, or say --no-face")
    elif not anchor.face.trained:
        problems.append(
            "the anchor's face part was never trained: run anchor-jax train face, or say --no-face"
        )
    if len(face.track.usable) != shape[0]:
        problems.append(
            f"there are face landmarks of {len(face.track.usable)} frames: expected {shape[0]}, as "
            "many as pose images"
        )
    if face.masks is not None and face.masks.shape != shape:
        problems.append(f"face masks are {face.masks.shape}: expected {shape}, as the poses are")
    size, least = settings.face.size, 2 * factor
    if size < least or size % factor:
        problems.append(
            f"the face's size is {size}: expected a multiple of {factor} from {least} on"
        )
    return problems
