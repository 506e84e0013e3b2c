"""Write the sound of a video as a WAV file."""

import wave
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np

from anchor_jax.data.video import iter_video, open_video
from anchor_jax.errors import AnchorError
from anchor_jax.files import check_parent, placed

SLACK = Fraction(1, 20)  # seconds; smaller jumps in the times of the sound are ignored
LONGEST_SILENCE = 600  # seconds; a longer one means that the file is damaged
LARGEST = (1 << 32) - 1024  # bytes; a .wav file cannot be longer


@dataclass(frozen=True)
class Sound:
    """The sound of a part of a video; times are seconds from the video's first frame."""

    name: str
    video: Path
    start: Fraction = Fraction(0)
    end: Fraction | None = None  # None: the end of the sound


def write_audio(
    video: Path, path: Path, start: Fraction = Fraction(0), end: Fraction | None = None
) -> bool:
    """Write the first sound track of a video as 16-bit PCM that starts with the first frame.

    So the sound of a clip starts `clip.start` seconds into the file. Where the track starts later
    or has gaps there is silence. The sample rate is the video's; more than two channels become two.

    Args:
        video: the video.
        path: the file, ending in `.wav`; replaced when it exists.
        start: what to leave out at the beginning, seconds after the first frame.
        end: where to end, seconds after the first frame; None is the end of the track.

    Returns:
        whether the video has sound; without sound nothing is written.

    Raises:
        AnchorError: the video cannot be read, or the file cannot be written.
    """
    if path.suffix.lower() != ".wav" or path.is_dir():
        raise AnchorError(f"cannot write {path}: expected the name of a .wav file")
    check_parent(path)
    first, _ = next(iter_video(video))
    sound = _decode(video, first + start, None if end is None else end - start)
    rate, channels, samples = next(sound, (0, 0, None))
    if samples is None:
        return False
    with placed(path) as partial, wave.open(str(partial), "wb") as file:
        file.setframerate(rate)
        file.setnchannels(channels)
        file.setsampwidth(2)
        while samples is not None:
            if 2 * channels * file.tell() + samples.nbytes > LARGEST:
                raise AnchorError(f"the sound of {video} is too long for a .wav file")
            file.writeframes(samples.astype("<i2", copy=False).tobytes())
            _, _, samples = next(sound, (0, 0, None))
    return True


def _decode(
    video: Path, first: Fraction, seconds: Fraction | None
) -> Iterator[tuple[int, int, np.ndarray]]:
    """Decode the sound from time `first` on, at most `seconds` of it: rate, channels and int16
    samples (n, channels)."""
    import av

    with open_video(video) as (container, _):
        if not container.streams.audio:
            return
        stream = container.streams.audio[0]
        rate, channels = stream.codec_context.sample_rate, min(stream.codec_context.channels, 2)
        layout = "stereo" if channels == 2 else "mono"
        convert = av.AudioResampler(format="s16", layout=layout, rate=rate)
        count, most = 0, None if seconds is None else round(seconds * rate)
        for frame in container.decode(stream):
            at = count
            if frame.pts is not None and frame.time_base is not None:
                at = round((frame.pts * frame.time_base - first) * rate)
            parts = [part.to_ndarray().reshape(-1, channels) for part in convert.resample(frame)]
            samples = np.concatenate([np.empty((0, channels), np.int16), *parts])
            if count and abs(at - count) <= SLACK * rate:
                at = count
            if at - count > LONGEST_SILENCE * rate:
                raise AnchorError(
                    f"the sound of {video} leaves out {(at - count) // rate} s; expected at most "
                    f"{LONGEST_SILENCE} s; convert it anew, for example with ffmpeg"
                )
            silence = np.zeros((max(at - count, 0), channels), np.int16)
            for piece in (silence, samples[max(count - at, 0) :]):
                kept = piece if most is None else piece[: most - count]
                count += len(kept)
                if len(kept):
                    yield rate, channels, kept
            if count == most:
                return
