"""Identity-specific face enhancement (paper, section 3.3), all but the networks.

`landmarks` where the face is, `align` its upright crop, `mask` what is repainted in it, `blend` the
way back into the frame.
"""
