"""Body motion: from motion files to SMPL-X parameters, body meshes and pose images.

`motion`    the `Motion` type
`formats`   reads and writes motion files (a new file format goes here)
`edit`      cuts, smooths, mirrors and resamples a motion
`perturb`   adds the paper's noise to a motion
`smplx`     the licensed SMPL-X body
`mannequin` the free body
`view`      the camera
`render`    draws one frame
`parallel`  draws a clip with several processes

`arrays`, `unpickle` and `smplx_file` read files safely: no pickle is ever executed.
"""
