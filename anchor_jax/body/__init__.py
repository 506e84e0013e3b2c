"""Body motion, from the files that exist to the vertices of a body.

`motion` the type, `formats` reading and writing it, `edit` and `perturb` changing it,
`smplx` the licensed body and `mannequin` the free one, `view`
and `render` their pose images.
"""
