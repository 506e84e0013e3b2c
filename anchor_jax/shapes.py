"""Axis letters and array aliases, the same in every module.

    b  batch (with classifier-free guidance: the unconditional and the conditional half)
    f  frames in a window          n  frames in a video
    h  height    w  width          c  channels (always last)
    s  tokens (queries)            t  tokens (keys)
    m  attention heads             d  head width

Images are RGB. Callers of the library pass and receive uint8 in [0, 255]. Inside, pose images are
float in [0, 1], and the images of the autoencoder float in [-1, 1]. Latents are multiplied by the
scaling factor unless a docstring says otherwise.
"""

import jax
import numpy as np

Array = jax.Array
Images = np.ndarray  # uint8 (n, h, w, 3)
Params = dict  # nested: module name -> ... -> array
