"""Image processing of the identity-specific face enhancement (paper, section 3.3).

`detect`    finds landmarks in an image
`litert`    runs the model files of detectors
`landmarks` checks the landmarks of a video and fills short gaps
`align`     cuts out the face as an upright crop
`mask`      chooses the region of the crop that is repainted
`blend`     pastes the crop back into the frame

The networks that repaint the crop are in `anchor_jax.generation.face`.
"""
