"""Output files that appear whole or not at all."""

import errno
import os
import shutil
from collections import namedtuple
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest

from anchor_jax import files
from anchor_jax.errors import AnchorError
from tests.full_disk import largest_file

usage = namedtuple("usage", "free")


def enter(manager: AbstractContextManager, block: Callable[[Any], object]) -> None:
    with manager as value:
        block(value)


def never(partial: Path) -> None:
    pytest.fail("the block ran")


def test_an_output_replaces_an_older_one_when_it_is_complete(tmp_path):
    """Catches an older file or folder that is lost or kept, and hidden ones left over."""
    for name in ("file", "folder"):
        for text in ("older", "newer"):
            with files.placed(tmp_path / name) as partial:
                assert partial.parent == tmp_path and partial.name.startswith(f".{name}.partial-")
                if name == "folder":
                    partial.mkdir()
                (partial / text if name == "folder" else partial).write_text(text)
    assert (tmp_path / "file").read_text() == "newer"
    assert os.listdir(tmp_path / "folder") == ["newer"]
    assert sorted(os.listdir(tmp_path)) == ["file", "folder"]


@pytest.mark.parametrize("folder", [False, True])
@pytest.mark.parametrize("error", [KeyboardInterrupt(), ValueError("no"), OSError(28, "full")])
def test_a_failure_leaves_everything_as_it_was(tmp_path, folder, error):
    """Catches hidden files left over at a failure or Ctrl-C, a parent that is made for nothing, an
    older file that is lost, and a full disk that is no `AnchorError`."""

    def block(partial: Path) -> None:
        assert partial.parent.is_dir()
        if folder:
            partial.mkdir(exist_ok=True)
        (partial / "file" if folder else partial).write_text("half")
        raise error

    files.write_text(tmp_path / "old", "older")
    expected = AnchorError if isinstance(error, OSError) else type(error)
    for path in (tmp_path / "old", tmp_path / "new" / "newer" / "file"):
        with pytest.raises(expected):
            enter(files.placed(path), block)
    if folder:
        with pytest.raises(expected):
            enter(files.new_folder(tmp_path / "a" / "b", 1), block)
    assert os.listdir(tmp_path) == ["old"]
    assert (tmp_path / "old").read_text() == "older"


def test_a_full_disk_is_one_line(tmp_path):
    """Catches a write error that gets through as an `OSError`, or that does not name the output."""
    with largest_file(10), pytest.raises(AnchorError, match="File too large") as caught:
        files.write_text(tmp_path / "file", "x" * 100)
    assert str(caught.value) == f"cannot write {tmp_path / 'file'}: File too large"
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)),
        ValueError("Orbax: No space left on device"),
        OSError("4160 requested and 0 written"),  # NumPy's
    ],
)
def test_every_error_of_a_full_disk_names_the_output(tmp_path, monkeypatch, error):
    """Catches "No space left on device" without a path, and a library's own words for it."""

    def block(_: Path) -> None:
        raise error

    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(free=0))
    for manager in (files.named_errors(tmp_path / "out"), files.placed(tmp_path / "out")):
        with pytest.raises(AnchorError) as caught:
            enter(manager, block)
        assert str(caught.value) == f"cannot write {tmp_path / 'out'}: no space left on the disk"


def test_other_errors_stay_what_they_are(tmp_path):
    """Catches a mistake in a program, or an error that is worded already, taken for a full disk."""
    for error in (ValueError("no"), AnchorError(f"{files.NO_SPACE}, says somebody else")):
        with pytest.raises(type(error)) as caught, files.named_errors(tmp_path / "out"):
            raise error
        assert caught.value is error


def test_space_is_checked_for_each_disk(tmp_path, monkeypatch):
    """Catches two outputs that fit alone but not together, and space of another disk counted."""
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(free=1_000_000))
    one, two = tmp_path / "one", tmp_path / "missing" / "two"
    files.check_space({one: 900_000})
    with pytest.raises(AnchorError) as caught:
        files.check_space({one: 900_000, two: 900_000})
    assert str(caught.value) == (
        f"{one} and {two}: no space left on the disk: about 1.8 MB needed, 1.0 MB free"
    )
    monkeypatch.setattr(files, "_disk_of", lambda path: path == one)
    files.check_space({one: 900_000, two: 900_000})


def test_a_missing_parent_is_made_and_kept(tmp_path):
    """Catches an output that fails where its folder is missing, and a parent that is removed."""
    files.check_parent(tmp_path / "a" / "b" / "file")
    assert os.listdir(tmp_path) == []
    files.write_text(tmp_path / "a" / "b" / "file", "text")
    assert (tmp_path / "a" / "b" / "file").read_text() == "text"
    with files.new_folder(tmp_path / "c" / "d" / "folder", 1):
        pass
    assert (tmp_path / "c" / "d" / "folder").is_dir()

    def block(_: object) -> None:
        (tmp_path / "e" / "kept").touch()
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        enter(files.parent_made(tmp_path / "e" / "f" / "out"), block)
    assert os.listdir(tmp_path / "e") == ["kept"]


def test_a_parent_that_cannot_be_written_is_refused(tmp_path, monkeypatch):
    """Catches a folder inside of a file, or in another's folder, that fails only after the work."""
    (tmp_path / "file").touch()
    for check in (files.check_parent, files.check_new):
        with pytest.raises(AnchorError, match="file is not a folder"):
            check(tmp_path / "file" / "a" / "out")
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != tmp_path)
    for check in (files.check_parent, files.check_new):
        with pytest.raises(AnchorError, match="is not writable"):
            check(tmp_path / "a" / "out")


def test_a_new_folder_replaces_nothing(tmp_path, monkeypatch):
    """Catches a folder that is lost, before the work or when another process made it meanwhile, a
    link that counts as a free place, and too little space that only a full disk shows."""

    def block(_: Path) -> None:
        (tmp_path / "new").mkdir()
        (tmp_path / "new" / "theirs").touch()

    (tmp_path / "mine").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    for name in ("mine", "link"):
        with pytest.raises(AnchorError, match="exists already"):
            enter(files.new_folder(tmp_path / name, 1), never)
    with pytest.raises(AnchorError, match="cannot write"):
        enter(files.new_folder(tmp_path / "new", 1), block)
    assert os.listdir(tmp_path / "new") == ["theirs"]
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(free=1000))
    with pytest.raises(AnchorError, match="no space left on the disk"):
        enter(files.new_folder(tmp_path / "a" / "b", 1001), never)
    assert sorted(os.listdir(tmp_path)) == ["link", "mine", "new"]


def test_a_link_stays_a_link(tmp_path):
    """Catches a link that is replaced by the file, instead of the file that it leads to."""
    (tmp_path / "link").symlink_to(tmp_path / "file")
    files.write_text(tmp_path / "link", "text")
    assert (tmp_path / "link").is_symlink() and (tmp_path / "file").read_text() == "text"


def test_what_a_killed_process_left_is_found(tmp_path):
    """Catches leftovers with another name than `placed` gives, and outputs taken for leftovers."""
    (tmp_path / "output").touch()
    with files.placed(tmp_path / "output") as partial:
        partial.touch()
        assert files.leftovers(tmp_path) == [partial]
    assert files.leftovers(tmp_path) == []


def test_a_file_does_not_replace_a_folder(tmp_path):
    """Catches a user's folder that is removed for a file of its name."""
    (tmp_path / "folder" / "mine").mkdir(parents=True)
    with pytest.raises(AnchorError, match="cannot write"):
        files.write_text(tmp_path / "folder", "text")
    assert os.listdir(tmp_path) == ["folder"] and os.listdir(tmp_path / "folder") == ["mine"]
