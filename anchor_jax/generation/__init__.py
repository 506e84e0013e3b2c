"""Generate a video from an anchor, pose images and a picture of the person."""
