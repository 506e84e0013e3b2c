"""Files of pose images, and of the landmarks and face masks that belong to them.

`pose_images` writes and reads what `anchor-jax render` makes: pose images and a conditions folder
`framing`     where pose images show the person: measured, compared, reproduced
`face_inputs` `read_face`: landmarks and masks of a video, for generation
`face_crops`  `find_faces`: face crops of training frames, for data sets
"""
