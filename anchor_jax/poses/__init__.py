"""Pose images on disk, and the faces that are known beside them."""
