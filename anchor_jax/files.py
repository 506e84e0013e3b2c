"""Output files and folders that appear whole or not at all.

An output is made under a hidden name beside its place and renamed when it is complete, so an older
file survives every failure. A parent folder that is missing is made when writing begins. Space on
the disk is checked before the work by `check_space`, and every error of writing names the output.
"""

import hashlib
import os
import secrets
import shutil
import time
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from anchor_jax.errors import AnchorError, first_line

NO_SPACE = "No space left on device"  # as the C library words it, and so every library does

# Bytes for each pixel of a picture, for estimates of what a command writes. They are those of
# still, dark videos: an output that has space is never refused.
VIDEO_BYTES = 0.005  # H.264
PNG_BYTES = 0.3

_FULL = 1 << 20  # bytes; with less free space a write that ended early is taken for a full disk


def cache_folder() -> Path:
    """Return the user's cache folder of anchor-jax, which may not exist yet."""
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(home) / "anchor-jax"


def file_hash(path: Path) -> str:
    """Compute the SHA-256 of a file, in hexadecimal digits, a part at a time."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def ffmpeg_name(path: Path) -> str:
    """Name a file for FFmpeg, which otherwise takes a relative path with a colon for a URL.

    >>> ffmpeg_name(Path("2024-03-01T12:30:00.mp4"))
    'file:2024-03-01T12:30:00.mp4'
    """
    return f"file:{path}"


def check_parent(path: Path) -> None:
    """Check that the folder of the output `path` is writable, or can be made. Nothing is made.

    Raises:
        AnchorError: the nearest folder above `path` that exists is no folder or is not writable.
    """
    parent = _nearest(path)
    if not parent.is_dir():
        raise AnchorError(f"cannot write {path}: {parent} is not a folder")
    if not os.access(parent, os.W_OK | os.X_OK):
        raise AnchorError(f"cannot write {path}: the folder {parent} is not writable")


def check_new(path: Path) -> None:
    """Check that the new folder `path` can be made: it must not exist.

    Raises:
        AnchorError: it exists, or as `check_parent`.
    """
    if os.path.lexists(path):
        raise AnchorError(f"{path}: exists already; remove it or choose another place")
    check_parent(path)


def check_space(needed: Mapping[Path, int]) -> None:
    """Check that the disk, or each of several disks, has space for outputs.

    Args:
        needed: bytes of each output, estimated from below.

    Raises:
        AnchorError: a disk has less.
    """
    disks: dict[int, dict[Path, int]] = {}
    for path, size in needed.items():
        disks.setdefault(_disk_of(path), {})[path] = size
    for outputs in disks.values():
        first, total = next(iter(outputs)), sum(outputs.values())
        free = shutil.disk_usage(_nearest(first)).free
        if free < total:
            raise AnchorError(
                f"{' and '.join(map(str, outputs))}: no space left on the disk: about"
                f" {total / 1e6:,.1f} MB needed, {free / 1e6:,.1f} MB free"
            )


@contextmanager
def named_errors(path: Path) -> Iterator[None]:
    """Let errors of writing inside the block name the output `path`.

    Raises:
        AnchorError: the operating system, or a library of a full disk, raised an error.
    """
    try:
        yield
    except Exception as error:
        # On a full disk Orbax raises ValueError, and ArrayRecord RuntimeError.
        if isinstance(error, AnchorError) or not (
            isinstance(error, OSError) or NO_SPACE in str(error)
        ):
            raise
        reason = "no space left on the disk" if _is_full(error, path) else first_line(error)
        raise AnchorError(f"cannot write {path}: {reason}") from error


def _is_full(error: Exception, path: Path) -> bool:
    """Return whether a full disk is the cause of an error."""
    if NO_SPACE in str(error):
        return True
    # NumPy only says that fewer bytes were written than it wanted.
    cause_is_known = getattr(error, "errno", None) is not None
    return not cause_is_known and shutil.disk_usage(_nearest(path)).free < _FULL


@contextmanager
def parent_made(path: Path) -> Iterator[None]:
    """Make the missing parent folders of `path`. If the block fails they are removed again, unless
    something was put into them.

    Raises:
        AnchorError: as `check_parent`, or a folder cannot be made.
    """
    check_parent(path)
    parents = path.absolute().parents
    missing = [
        parent for parent in parents if not os.path.exists(parent)
    ]  # the innermost comes first
    try:
        with named_errors(path):
            path.absolute().parent.mkdir(parents=True, exist_ok=True)
        yield
    except BaseException:
        with suppress(OSError):  # one that is missing, or not empty
            for parent in missing:
                parent.rmdir()
        raise


def check_results(path: Path, names: Collection[str]) -> None:
    """Check that the folder `path` can be made, or replaced: then it holds only files of `names`.

    Raises:
        AnchorError: it cannot, or it has other files.
    """
    check_parent(path)
    if not path.exists():
        return
    if not path.is_dir():
        raise AnchorError(f"cannot write {path}: it is not a folder")
    if others := sorted(set(os.listdir(path)) - set(names)):
        raise AnchorError(
            f"cannot write {path}: it holds other files, such as {others[0]}; choose another --out"
        )


@contextmanager
def placed(path: Path, scratch: Path | None = None) -> Iterator[Path]:
    """A hidden name to make a file or folder under; it takes the place of `path` when the block
    ends. If the block fails, the hidden one is removed and `path` is as it was.

    Args:
        path: the output; where it is a link, its target is replaced.
        scratch: a folder on the same disk for the hidden name; default: the folder of `path`.

    Raises:
        AnchorError: as `parent_made`; an operating system error inside the block, a full disk for
            example.
    """
    target = path.resolve()
    with parent_made(path), _hidden(target, scratch) as partial, named_errors(path):
        yield partial
        _replace(partial, target)


@contextmanager
def new_folder(path: Path, needed: int) -> Iterator[Path]:
    """A hidden folder to write about `needed` bytes into; it becomes `path` when the block ends. If
    the block fails, it is removed.

    Raises:
        AnchorError: as `check_new` and `placed`; too little space on the disk, before the work or
            in the middle of it.
    """
    check_new(path)
    check_space({path: needed})  # first: Orbax's threads are noisy when a disk fills up
    with parent_made(path), _hidden(path.absolute()) as partial, named_errors(path):
        partial.mkdir()
        yield partial
        os.rename(partial, path)  # unlike `_replace` it fails where `path` exists by now


def write_text(path: Path, text: str, scratch: Path | None = None) -> None:
    """Write a UTF-8 text file.

    Raises:
        AnchorError: as `placed`.
    """
    with placed(path, scratch) as partial:
        partial.write_text(text, "utf-8")


def remove(path: Path) -> None:
    """Remove a file or folder, if there is one. For two seconds it tries again while threads still
    write into the folder."""
    for _ in range(20):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            with suppress(OSError):
                path.unlink()
        if not os.path.lexists(path):
            return
        time.sleep(0.1)


def leftovers(folder: Path) -> list[Path]:
    """The hidden outputs in `folder` that processes left when they were killed."""
    return sorted(folder.glob(".*.partial-*"))


@contextmanager
def _hidden(target: Path, scratch: Path | None = None) -> Iterator[Path]:
    """A new hidden name for `target`; what is there at the end is removed."""
    # Random, not the process id: that one is the same again in every container.
    name = f".{target.name}.partial-{secrets.token_hex(4)}"
    partial = (scratch or target.parent) / name
    try:
        yield partial
    finally:
        remove(partial)


def _replace(source: Path, target: Path) -> None:
    """Rename `source` to `target`. A file replaces a file and a folder a folder."""
    if not (source.is_dir() and target.is_dir()):
        source.replace(target)
        return
    # A folder replaces another only where that is empty.
    old = target.rename(source.with_name(source.name + "-old"))
    source.rename(target)
    shutil.rmtree(old)


def _disk_of(path: Path) -> int:
    """Return the number of the disk that an output will be on."""
    return os.stat(_nearest(path)).st_dev


def _nearest(path: Path) -> Path:
    """The nearest of the folders above `path` that exists."""
    # `os.path.exists` is False where a folder may not be searched; `Path.exists` would raise.
    path = path.absolute()
    return next((parent for parent in path.parents if os.path.exists(parent)), path)
