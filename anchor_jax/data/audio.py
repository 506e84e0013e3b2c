"""The sound of a video, beside its clips."""

from pathlib import Path


def write_audio(video: Path, path: Path) -> bool:
    """Write the first sound track of a video as 16-bit PCM, its first sample at the first frame.

    So the sound of a clip begins `clip.start` seconds into the file. What the sound lacks at its
    beginning or in between is silence. Rate and channels are the video's own.

    Args:
        video: the video.
        path: the file, ending in `.wav`; replaced when it exists.

    Returns:
        whether there is any sound; without, nothing is written.

    Raises:
        AnchorError: a video that cannot be read or a place that cannot be written.
    """
    raise NotImplementedError
