"""The structure-guided diffusion model: control branch and UNet put together (paper, section 3.1).

Training, validation and generation all call the networks through `Denoiser`.
"""

from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Float, Int, UInt8

from anchor_jax.models.configs import ControlConfig, UNetConfig
from anchor_jax.models.control import POSE_EMBEDDING, Control, pose_embedding
from anchor_jax.models.frames import PUBLISHED, Inflation
from anchor_jax.models.remat import Remat
from anchor_jax.models.reuse import COLLECTION, NO_REUSE, Reuse
from anchor_jax.models.unet import UNet
from anchor_jax.shapes import Array, Params


@dataclass(frozen=True)
class Denoiser:
    """The two networks and how they are computed. It is hashable, so that it can be part of the key
    of a compiled program.

    Attributes:
        unet: 4 input channels for the body, 9 for the face, at Stable Diffusion's size.
        control: the control branch.
        dtype: type of the computation; parameters keep theirs.
        inflation: what spans the frames of a window.
        remat: what the backward pass computes again to save memory, see `models.remat`.
    """

    unet: UNetConfig
    control: ControlConfig
    dtype: str = "float32"
    inflation: Inflation = PUBLISHED
    remat: Remat = "none"

    def __call__(self, params: Params, *inputs: Any, **options: Any) -> Float[Array, "b f h w o"]:
        """Predict the noise (or v) of noisy latents; arguments as for `reusing`, from `params`."""
        return self.reusing(NO_REUSE, {}, params, *inputs, **options)[0]

    def reusing(
        self,
        reuse: Reuse,
        kept: Any,
        params: Params,
        latents: Float[Array, "r f h w c"],
        poses: UInt8[Array, "p f H W 3"] | Float[Array, "p f _ _ _"],
        timesteps: ArrayLike,
        context: Float[Array, "b s d"],
        *,
        control_scale: ArrayLike = 1.0,
        num_real: Int[Array, " r"] | None = None,
        inpainting: Float[Array, "r f h w k"] | None = None,
        embedded: bool = False,
    ) -> tuple[Float[Array, "b f h w o"], Any]:
        """Predict the noise (or v) of noisy latents, and reuse features.

        Args:
            reuse: features that are kept for a later call, or taken from an earlier one.
            kept: the features that are taken.
            params: {"unet": tree, "control": tree}.
            latents: noisy; b rows, or one row for every row of the context.
            poses: pose images, uint8 or float in [0, 1]; one row serves every row of the latents.
            timesteps: a scalar or one for each row of the latents, in [0, 1000).
            context: appearance tokens; for guidance the unconditional ones first.
            control_scale: W_c of equation (2).
            num_real: leading frames of each window that are real; None: all.
            inpainting: channels of mask and masked image, which the UNet reads after the latents;
                the control branch does not see them.
            embedded: `poses` are results of `embed`.

        Returns:
            The prediction, float32, for each row of the context; and the features that a later call
            may take, which are `kept` if they were taken. Their axes are those of rows, frames (or
            tokens of all frames), and others.
        """
        dtype = jnp.dtype(self.dtype)
        latents = latents.astype(dtype)
        residuals: Any = None
        if reuse.takes("control"):
            residuals = kept["control"]
        elif not reuse.takes("encoder"):
            residuals = Control(self.control, dtype, self.remat).apply(
                {"params": params["control"]},
                latents,
                timesteps,
                context,
                self._images(poses),
                control_scale,
                num_real,
                self.inflation,
                embedded,
                shallow=reuse.takes("deep"),
            )
        if inpainting is not None:
            latents = jnp.concatenate([latents, inpainting.astype(dtype)], -1)
        out, found = UNet(self.unet, dtype, self.remat).apply(
            {"params": params["unet"], COLLECTION: kept.get("unet", {})},
            latents,
            timesteps,
            context,
            residuals,
            num_real,
            self.inflation,
            reuse,
            mutable=[COLLECTION],
        )
        if reuse.fresh:
            kept = {"unet": found.get(COLLECTION, {})}
            kept |= {"control": residuals} if reuse.keeps("control") else {}
        return out.astype(jnp.float32), kept

    def embed(
        self, params: Params, poses: UInt8[Array, "f H W 3"] | Float[Array, "f H W 3"]
    ) -> Float[Array, "f h w c"]:
        """Embed pose images, which depends neither on the timestep nor on other frames.

        Args:
            params: {"control": tree}.
            poses: pose images, uint8 or float in [0, 1].
        """
        module = pose_embedding(self.control, jnp.dtype(self.dtype))
        params = params["control"][POSE_EMBEDDING]
        embedding: Any = module.apply({"params": params}, self._images(poses))
        return embedding

    def _images(self, poses: Array) -> Array:
        images = poses / 255 if poses.dtype == jnp.uint8 else poses
        return images.astype(self.dtype)
