"""Make a data set with several processes, and continue where a killed run stopped.

The work is in a hidden folder beside the data set's place. Each clip becomes one file, which
appears when it is complete, with a small JSON file that has its hash. Then the files of the whole
data set are written and the folder is renamed. After an interruption at any moment the same command
continues and makes the same bytes.
"""

import hashlib
import json
import math
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from fractions import Fraction
from pathlib import Path
from typing import Protocol, runtime_checkable

from anchor_jax.data.audio import Sound, write_audio
from anchor_jax.data.dataset import (
    FORMAT,
    PICTURES,
    ClipRecord,
    Dataset,
    Pictures,
    load,
    write_metadata,
    write_shard,
)
from anchor_jax.errors import AnchorError, first_line, shorten
from anchor_jax.files import (
    PNG_BYTES,
    check_parent,
    check_space,
    named_errors,
    parent_made,
    write_text,
)
from anchor_jax.processes import run_all
from anchor_jax.progress import Advance, Progress, silent
from anchor_jax.shapes import Size, show_size


@runtime_checkable  # because the tests check types at run time
class Source(Protocol):
    """Provides clips: `pairing.VideoSource` and `lists.ListSource` do."""

    @property
    def identity(self) -> str: ...
    @property
    def sound(self) -> Sound | None: ...
    def examine(self) -> "Source": ...
    def lengths(self) -> list[tuple[str, int]]: ...
    def pictures(self) -> dict[str, Size]: ...
    def read(self, wanted: range) -> Iterator[tuple[int, Iterator[Pictures]]]: ...


@dataclass(frozen=True)
class _Share:
    """A task of one worker: some clips of one source."""

    source: Source
    first: int  # number of the source's first clip in the data set
    clips: dict[int, ClipRecord]  # keys: numbers in the source
    dataset: Dataset
    folder: Path


def prepare(
    sources: Sequence[Source],
    out: Path,
    *,
    inputs: Sequence[Path],
    options: dict[str, object],
    fps: Fraction = Fraction(30),
    processes: int = 1,
    progress: Progress = silent,
) -> Dataset:
    """Make the data set `out`, or continue it. A complete one stays unchanged.

    Args:
        sources: the clips to store, in this order.
        out: a new or empty folder.
        inputs: the files and folders that are read, to notice changes.
        options: everything else that the content depends on.
        fps: frames per second, stored in the data set.
        processes: number of worker processes, which does not change the content.
        progress: shows the progress, see `anchor_jax.progress`.

    Raises:
        AnchorError: inputs cannot be read or do not fit each other; `out` cannot be written or
            exists; the disk is full. Complete clips are kept in the hidden folder, and the
            message says so.
    """
    digest, stamp = _digest(inputs, options)
    folder = hidden_folder(out)
    if finished := _finished(out, digest):
        shutil.rmtree(folder, ignore_errors=True)
        return finished
    check_parent(out)
    with parent_made(out), _locked(folder, {"inputs": digest, "changed": stamp}):
        try:
            sources = _examine(sources, processes, progress)
            with named_errors(out):
                made = _make(sources, folder, fps, digest, processes, progress)
                made.path.rename(out)  # `out` may be an empty folder; any other folder is an error
        except AnchorError as error:
            if not _complete(folder):
                raise
            raise AnchorError(
                f"{error}; complete clips are kept in {folder}, and the same command goes on there"
            ) from error
    shutil.rmtree(folder, ignore_errors=True)
    return load(out)


def hidden_folder(out: Path) -> Path:
    """Return the folder in which the data set `out` is made until it is complete."""
    return out.absolute().with_name(f".{out.absolute().name}.partial")


def _finished(out: Path, digest: str) -> Dataset | None:
    """Return the complete data set of these inputs at `out`, or None if nothing is there.

    Raises:
        AnchorError: something else is at `out`.
    """
    if not os.path.lexists(out) or (out.is_dir() and not os.listdir(out)):
        return None
    try:
        dataset = load(out)
    except AnchorError as error:
        raise AnchorError(f"cannot write {out}: it exists and is no data set ({error})") from error
    if dataset.inputs != digest:
        raise AnchorError(
            f"cannot write {out}: a data set of other inputs or options is there; name a new folder"
        )
    return dataset


@contextmanager
def _locked(folder: Path, job: dict[str, str]) -> Iterator[None]:
    """Make and lock the hidden folder. It is removed at the end unless a clip in it is complete."""
    from filelock import FileLock, Timeout

    written = folder / "job.json"
    try:
        folder.mkdir(exist_ok=True)
        with FileLock(folder / "lock", timeout=0):
            try:
                if (
                    written.exists()
                    and json.loads(written.read_text()) != job
                    and _complete(folder)
                ):
                    raise AnchorError(
                        f"{folder} holds the beginning of a data set of other inputs or options:"
                        " give the command that began it, or remove that folder"
                    )
                write_text(written, json.dumps(job))
                yield
            finally:
                if not _complete(folder):
                    shutil.rmtree(folder, ignore_errors=True)
    except Timeout:
        raise AnchorError(f"another process is at work in {folder}; wait for it") from None
    except ValueError as error:
        raise AnchorError(f"cannot read {written}: {first_line(error)}") from error


def _examine(sources: Sequence[Source], processes: int, progress: Progress) -> list[Source]:
    """Examine all sources, and report the problems of all of them together."""
    with progress("checking", len(sources), "input") as advance:
        results = run_all(_examine_one, sources, processes, advance)
    problems = [result for result in results if isinstance(result, str)]
    if problems:
        raise AnchorError(shorten(problems, separator="; "))
    return [result for result in results if not isinstance(result, str)]


def _examine_one(source: Source, advance: Advance) -> Source | str:
    try:
        return source.examine()
    except AnchorError as error:
        return str(error)
    finally:
        advance(1)


def _make(
    sources: list[Source],
    folder: Path,
    fps: Fraction,
    digest: str,
    processes: int,
    progress: Progress,
) -> Dataset:
    """Write the clips that are missing in the hidden folder, then the metadata."""
    pictures = sources[0].pictures()
    for source in sources:
        if source.pictures() != pictures:
            raise AnchorError(
                f"clips have different pictures: {_show(pictures)} and {_show(source.pictures())};"
                " expected the same for all (--size gives them one size)"
            )
    records = [
        [ClipRecord(name, source.identity, count) for name, count in source.lengths()]
        for source in sources
    ]
    clips = tuple(clip for of_source in records for clip in of_source)
    dataset = Dataset(folder / "data", pictures, fps, clips, digest)
    for name in ("data", "clips", "scratch"):
        (folder / name).mkdir(exist_ok=True)
    done = {number: record for number in range(len(clips)) if (record := _record(dataset, number))}
    left = sum(clip.frames for number, clip in enumerate(clips) if number not in done)
    coloured = [math.prod(size) for name, size in pictures.items() if PICTURES[name] == 3]
    check_space({dataset.path: int(left * sum(coloured) * PNG_BYTES)})  # masks are far smaller
    _keep_sounds(sources, dataset.path / "audio", progress)
    shares, first = [], 0
    pieces = -(-processes // len(sources))  # more than 1 where there are fewer sources than workers
    for source, of_source in zip(sources, records, strict=True):
        missing = [index for index in range(len(of_source)) if first + index not in done]
        for piece in range(pieces):
            part = missing[piece * len(missing) // pieces : (piece + 1) * len(missing) // pieces]
            if part:
                wanted = {index: of_source[index] for index in part}
                shares.append(_Share(source, first, wanted, dataset, folder))
        first += len(of_source)
    with progress("preparing", len(dataset), "frame") as advance:
        advance(sum(record.frames for record in done.values()))
        for made in run_all(_write_share, shares, processes, advance):
            done |= made
    complete = Dataset(dataset.path, pictures, fps, tuple(done[i] for i in range(first)), digest)
    write_metadata(complete)
    return complete


def _keep_sounds(sources: Sequence[Source], folder: Path, progress: Progress) -> None:
    """Write the sound of each video that has any, unless an earlier run did. This comes before the
    frames, so that a sound that cannot be read is found at once."""
    sounds = [source.sound for source in sources if source.sound is not None]
    if not sounds:
        return
    folder.mkdir(exist_ok=True)
    with progress("sound", len(sounds), "video") as advance:
        for sound in sounds:
            path = folder / f"{sound.name}.wav"
            if not path.exists():
                write_audio(sound.video, path, sound.start, sound.end)
            advance(1)
    if not os.listdir(folder):
        folder.rmdir()


def _write_share(share: _Share, advance: Advance) -> dict[int, ClipRecord]:
    """Write the clips of one share. Return their records by number in the data set."""
    made = {}
    for index, frames in share.source.read(range(min(share.clips), max(share.clips) + 1)):
        if index in share.clips:
            number = share.first + index
            made[number] = write_shard(
                share.dataset.shard(number),
                share.clips[index],
                frames,
                share.dataset.pictures,
                scratch=share.folder / "scratch",
                advance=advance,
            )
            path = share.folder / "clips" / f"{number}.json"
            write_text(path, json.dumps(asdict(made[number])), share.folder / "scratch")
    if len(made) != len(share.clips):
        raise AnchorError("a video became shorter while it was read; run the command again")
    return made


def _record(dataset: Dataset, number: int) -> ClipRecord | None:
    """Read the record of a clip, or return None if no earlier run completed it."""
    path, shard = dataset.path.parent / "clips" / f"{number}.json", dataset.shard(number)
    try:
        record = ClipRecord(**json.loads(path.read_text()))
        expected = dataset.clips[number]
        same = (record.name, record.frames) == (expected.name, expected.frames)
        return record if same and shard.stat().st_size == record.bytes else None
    except (OSError, ValueError, TypeError):
        return None


def _complete(folder: Path) -> bool:
    """Whether any clip in the hidden folder is complete."""
    return any((folder / "clips").glob("*.json"))


def _digest(inputs: Sequence[Path], options: dict[str, object]) -> tuple[str, str]:
    """Compute two hashes: one of the options and of the names and sizes of all files, one of the
    files' times."""
    names, times = hashlib.sha256(), hashlib.sha256()
    names.update(json.dumps([FORMAT, options], sort_keys=True, default=str).encode())
    for path in inputs:
        if not path.exists():
            raise AnchorError(f"{path} does not exist")
        files = sorted(path.iterdir()) if path.is_dir() else [path]
        for file in files:
            if not file.name.startswith(".") and file.is_file():
                status = file.stat()
                names.update(f"{path.name}/{file.name}\0{status.st_size}\0".encode())
                times.update(f"{file.absolute()}\0{status.st_mtime_ns}\0".encode())
    return names.hexdigest(), times.hexdigest()


def _show(pictures: dict[str, Size]) -> str:
    return ", ".join(f"{name} {show_size(size)}" for name, size in pictures.items())
