"""Body motion, from the files that exist to the vertices of a body.

`motion` the type, `formats` reading and writing it, `edit` and `perturb` changing it,
`mannequin` the free body that it moves, `view` and `render` its pose images.
"""
