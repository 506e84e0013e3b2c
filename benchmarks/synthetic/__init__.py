"""Data sets of people who do not exist: the CC0 body anny with procedural clothes and motion.

`people`   identities: shape, colours, clothes       `motion`  random gestures and speech
`body`     the anny body in a pose                   `painter` draws a person with OpenGL
`scenery`  the room behind                           `source`  frames for `anchor_jax.data.prepare`
`output`   a clip as files                           `sheet`   overview images
`assets`   packs the embedded default                `gesture` a simple SMPL-X motion
"""
