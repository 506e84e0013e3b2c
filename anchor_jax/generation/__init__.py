"""From an anchor, pose images and a picture of the person to the frames of a video."""
