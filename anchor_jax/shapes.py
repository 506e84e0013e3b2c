"""Axis letters and array aliases, the same in every module.

    b  batch (with classifier-free guidance: the unconditional and the conditional half)
    f  frames in a window          n  frames in a video
    h  height    w  width          c  channels (always last)
    s  tokens (queries)            t  tokens (keys)
    m  attention heads             d  head width

Images are RGB, uint8 in [0, 255] outside of the library and float in [0, 1] (pose images) or
[-1, 1] (the autoencoder's side) inside; latents carry the scaling factor unless a docstring says
otherwise.
"""

import jax
import numpy as np

Array = jax.Array
Images = np.ndarray  # uint8 (n, h, w, 3)
Params = dict  # nested: module name -> ... -> array
