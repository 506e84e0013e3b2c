"""A training data set: one example a frame, with lossless PNG pictures; one shard a clip.

On disk it is a tensorflow-datasets folder in the array_record format, which can be read without
TensorFlow: `tfds.builder_from_directory(path).as_data_source("train")`. An additional file,
`dataset.json`, lists the clips with the size and SHA-256 of each shard. The number of a frame in
the data set counts through all clips in their order.

Shards are not written by tensorflow-datasets' `GeneratorBasedBuilder`: its version 4.9.10 uses one
process, starts from the first example again after it was killed (and leaves the old folder behind),
and writes the fields of an example in the order of a hash, so each process writes other bytes.
"""

import io
import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields, replace
from fractions import Fraction
from functools import cached_property
from itertools import accumulate
from pathlib import Path
from typing import Any, cast

import numpy as np

from anchor_jax.errors import AnchorError, first_line, shorten
from anchor_jax.files import file_hash, placed
from anchor_jax.progress import Advance, no_advance
from anchor_jax.shapes import Size

FORMAT = 1
MANIFEST = "dataset.json"
SHARD_NAME = "anchor_frames-train.array_record-{:05d}-of-{:05d}"

# Pictures of a frame and their channels. A data set has each of them for every frame or for none.
PICTURES = {"target": 3, "pose": 3, "matte": 1, "face": 3, "face_pose": 3, "face_mask": 1}
# At least one of these groups is complete.
BODY, FACE = ("target", "pose"), ("face", "face_pose", "face_mask")
TEXTS = ("identity", "clip")

Pictures = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class ClipRecord:
    """One clip of a data set."""

    name: str
    identity: str
    frames: int
    bytes: int = 0  # size of its shard
    sha256: str = ""


@dataclass(frozen=True)
class Dataset:
    """A data set on disk: the content of its `dataset.json`, and access to its frames."""

    path: Path
    pictures: dict[str, Size]  # name and size of each picture of a frame
    fps: Fraction
    clips: tuple[ClipRecord, ...]
    inputs: str = ""  # SHA-256 of inputs and options, to recognise a complete data set

    @cached_property
    def starts(self) -> tuple[int, ...]:
        """The number of each clip's first frame in the data set, and last the number of frames."""
        return tuple(accumulate((clip.frames for clip in self.clips), initial=0))

    def __len__(self) -> int:
        return self.starts[-1]

    def shard(self, index: int) -> Path:
        """Return the path of one clip's shard."""
        return self.path / SHARD_NAME.format(index, len(self.clips))

    def source(self):
        """Random access to the frames: an object with `len` and `[]` that can be pickled.

        An item maps each picture to PNG bytes (see `decode`), "identity" and "clip" to UTF-8 bytes,
        and "frame" to the frame's number in its clip.
        """
        import tensorflow_datasets as tfds

        decoders: Any = {name: tfds.decode.SkipDecoding() for name in self.pictures}
        builder: Any = tfds.builder_from_directory(self.path)
        return builder.as_data_source("train", decoders=decoders)


def load(path: Path) -> Dataset:
    """Open a data set. Sizes of shards are checked, but not their content (see `verify`).

    Raises:
        AnchorError: it is no data set or has another format, or files are missing or cut short.
    """
    if not (path / MANIFEST).is_file():
        raise AnchorError(
            f"{path} is not a data set: it has no {MANIFEST}; expected what `anchor-jax prepare`"
            " wrote"
        )
    try:
        data = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
        if data["format"] != FORMAT:
            raise AnchorError(
                f"{path} has format {data['format']}; this version of anchor-jax reads {FORMAT}:"
                " update anchor-jax or prepare the data set again"
            )
        names = {field.name for field in fields(ClipRecord)}
        dataset = Dataset(
            path,
            {str(name): (int(w), int(h)) for name, (w, h) in data["pictures"].items()},
            Fraction(data["fps"]),
            tuple(ClipRecord(**{name: clip[name] for name in names}) for clip in data["clips"]),
            data["inputs"],
        )
        problems = [
            f"{dataset.shard(index).name} has {_size(dataset.shard(index))} bytes instead of"
            f" {clip.bytes}"
            for index, clip in enumerate(dataset.clips)
            if _size(dataset.shard(index)) != clip.bytes
        ]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise AnchorError(f"cannot read {path / MANIFEST}: {first_line(error)}") from error
    if problems:
        raise AnchorError(f"the data set {path} is damaged: {shorten(problems)}; prepare it again")
    return dataset


def verify(dataset: Dataset, advance: Advance = no_advance) -> None:
    """Check every shard against its hash and decode every picture of every frame.

    Args:
        dataset: from `load`.
        advance: called with the number of frames checked since the last call.

    Raises:
        AnchorError: with the names of damaged shards and frames.
    """
    problems = [
        f"{dataset.shard(index).name} is not what was written (SHA-256)"
        for index, clip in enumerate(dataset.clips)
        if file_hash(dataset.shard(index)) != clip.sha256
    ]
    if not problems:
        source = dataset.source()
        if len(source) != len(dataset):
            problems.append(f"{len(source)} frames instead of {len(dataset)}")
        places = ((clip, frame) for clip in dataset.clips for frame in range(clip.frames))
        for number, (clip, frame) in enumerate(places):
            problems += _check(dataset, source[number], clip, frame)
            advance(1)
    if problems:
        raise AnchorError(f"the data set {dataset.path} is damaged: {shorten(problems)}")


def decode(name: str, png: bytes) -> np.ndarray:
    """Decode a stored picture: uint8 (h, w, 3), or (h, w) where it has one channel."""
    from PIL import Image

    with Image.open(io.BytesIO(png), formats=["PNG"]) as image:
        if image.mode != ("RGB" if PICTURES[name] == 3 else "L"):
            raise ValueError(f"{name} is stored as {image.mode}")
        return np.asarray(image)


def encode(pixels: np.ndarray, compress_level: int = 1) -> bytes:
    """Encode uint8 (h, w, 3) or (h, w) as PNG; the level is from 0 (fast) to 9 (small)."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "png", compress_level=compress_level)
    return buffer.getvalue()


def write_shard(
    path: Path,
    clip: ClipRecord,
    frames: Iterable[Pictures],
    pictures: dict[str, Size],
    *,
    scratch: Path | None = None,
    advance: Advance = no_advance,
) -> ClipRecord:
    """Write the frames of one clip as a shard, which appears when it is complete.

    Args:
        path: the shard.
        clip: its name, identity and number of frames.
        frames: the pictures of each frame, uint8 (h, w, 3), or (h, w) for mattes and masks.
        pictures: name and size of each picture that a frame must have.
        scratch: folder for the unfinished shard; default: the folder of `path`.
        advance: called with the number of frames written since the last call.

    Returns:
        The clip with the size and hash of the shard.

    Raises:
        AnchorError: the number of frames or their pictures differ from `clip` and `pictures`; the
            disk is full.
    """
    from array_record.python.array_record_module import ArrayRecordWriter
    from tensorflow_datasets.core.example_serializer import ExampleSerializer

    described = features(pictures)
    serializer = ExampleSerializer(cast(Any, described.get_serialized_info()))
    try:
        with placed(path, scratch) as partial:
            # PNG is compressed already. A group is one frame, because frames are read one by one.
            writer, count = ArrayRecordWriter(str(partial), "group_size:1,uncompressed"), 0
            try:
                for count, frame in enumerate(frames, 1):
                    _check_frame(frame, pictures, clip, count)
                    example: dict[str, Any] = {name: encode(frame[name]) for name in pictures}
                    example |= {"identity": clip.identity, "clip": clip.name, "frame": count - 1}
                    proto = serializer.get_tf_example(described.encode_example(example))
                    writer.write(proto.SerializeToString(deterministic=True))
                    advance(1)
            finally:
                writer.close()
            if count != clip.frames:
                raise AnchorError(
                    f"clip {clip.name} gave {count} frames instead of {clip.frames}: its files"
                    " changed while they were read; run the command again"
                )
            with partial.open("rb") as file:
                os.fsync(file.fileno())
            return replace(clip, bytes=partial.stat().st_size, sha256=file_hash(partial))
    except RuntimeError as error:  # array_record raises it
        raise AnchorError(f"cannot write {path}: {first_line(error)}") from error


def write_metadata(dataset: Dataset) -> None:
    """Write the files that tensorflow-datasets and `load` need, into the folder of the shards. The
    same data set gives the same bytes."""
    import tensorflow_datasets as tfds
    from etils import epath

    template = tfds.core.ShardedFileTemplate(
        data_dir=epath.Path(dataset.path),
        dataset_name="anchor_frames",
        split="train",
        filetype_suffix="array_record",
    )
    split = tfds.core.SplitInfo(
        name="train",
        shard_lengths=[clip.frames for clip in dataset.clips],
        num_bytes=sum(clip.bytes for clip in dataset.clips),
        filename_template=template,
    )
    tfds.folder_dataset.write_metadata(
        data_dir=dataset.path,
        features=features(dataset.pictures),
        split_infos=[split],
        filename_template=template,
        check_data=False,  # checking the data would need TensorFlow
        description="Frames of clips of a person with their pose images.",
    )
    data = {
        "format": FORMAT,
        "fps": str(dataset.fps),
        "pictures": {name: list(size) for name, size in dataset.pictures.items()},
        "frames": len(dataset),
        "clips": [asdict(clip) for clip in dataset.clips],
        "inputs": dataset.inputs,
    }
    (dataset.path / MANIFEST).write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")


def features(pictures: dict[str, Size]):
    """Make the `FeaturesDict` of tensorflow-datasets for an example with these pictures."""
    import tensorflow_datasets as tfds

    missing = [set(group) - set(pictures) for group in (BODY, FACE)]
    if all(missing) or not set(pictures) <= set(PICTURES):
        raise ValueError(f"a data set cannot have the pictures {sorted(pictures)}")
    described: dict[str, Any] = {
        name: tfds.features.Image(
            shape=(height, width, PICTURES[name]), dtype=np.uint8, encoding_format="png"
        )
        for name, (width, height) in pictures.items()
    }
    described |= {name: tfds.features.Text() for name in TEXTS}
    return tfds.features.FeaturesDict({**described, "frame": tfds.features.Scalar(np.int64)})


def _check_frame(frame: Pictures, pictures: dict[str, Size], clip: ClipRecord, number: int) -> None:
    for name, (width, height) in pictures.items():
        expected = (height, width, 3) if PICTURES[name] == 3 else (height, width)
        if name not in frame or frame[name].shape != expected or frame[name].dtype != np.uint8:
            found = f"is {frame[name].shape}" if name in frame else "is missing"
            raise AnchorError(
                f"the {name} of frame {number} of clip {clip.name} {found}; expected {expected}"
            )


def _check(dataset: Dataset, example: Mapping[str, Any], clip: ClipRecord, frame: int) -> list[str]:
    where = f"frame {frame + 1} of clip {clip.name}"
    stored = tuple(example[name].decode() for name in TEXTS), int(example["frame"])
    problems = []
    if stored != ((clip.identity, clip.name), frame):
        problems.append(f"{where} is stored as {stored}")
    for name, size in dataset.pictures.items():
        try:
            if decode(name, example[name]).shape[1::-1] != size:
                problems.append(f"{name} of {where} has a wrong size")
        except (OSError, ValueError, SyntaxError):
            problems.append(f"{name} of {where} cannot be decoded")
    return problems


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0
