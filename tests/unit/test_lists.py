"""The published JSON lists: what comes out of a good one, and one error line for a bad one."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from anchor_jax.data import dataset as datasets
from anchor_jax.data.lists import read_list
from anchor_jax.data.pictures import resize
from anchor_jax.data.request import Request
from anchor_jax.errors import AnchorError
from anchor_jax.progress import silent

SIDE = 16


def picture(path: Path, seed: int, size: tuple[int, int] = (SIDE, SIDE), mode: str = "RGB") -> str:
    """Write noise as a picture; its path as a list beside its folder names it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), np.uint8)
    Image.fromarray(pixels).convert(mode).save(path)
    return f"{path.parent.name}/{path.name}"


def good(folder: Path, count: int = 4, mask: bool = False) -> list[dict[str, str]]:
    """The lines of a list of two clips, which take turns, and its pictures."""
    lines = []
    for number in range(count):
        clip, name = f"clip{number % 2}", f"{number}.png"
        line = {
            "source": picture(folder / "poses" / name, number),
            "target": picture(folder / clip / name, 100 + number),
            "reference": f"{clip}/{number % 2}.png",
        }
        if mask:
            line["mask"] = picture(folder / "masks" / name, 200 + number, mode="L")
        lines.append(line)
    return lines


def save(folder: Path, lines: list) -> Path:
    path = folder / "list.json"
    path.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    return path


@pytest.mark.parametrize("mask", [False, True])
def test_a_list_becomes_the_data_set_it_names(tmp_path, mask):
    """Catches source and target swapped, a mask lost or inverted, and the frames of one folder
    split or mixed with another's."""
    lines = good(tmp_path, mask=mask)
    path = save(tmp_path, lines)
    made = Request(json_list=path).make(tmp_path / "out", 1, silent)
    assert [(clip.name, clip.identity, clip.frames) for clip in made.clips] == [
        *(("clip0", "clip0", 2), ("clip1", "clip1", 2))
    ]
    names = {"face_pose": "source", "face": "target", "face_mask": "mask"}
    names = names if mask else {"pose": "source", "target": "target"}
    assert made.pictures == dict.fromkeys(names, (SIDE, SIDE))
    stored = made.source()
    for position, line in enumerate([lines[0], lines[2], lines[1], lines[3]]):
        for name, key in names.items():
            expected = np.asarray(Image.open(tmp_path / line[key]))
            pixels = datasets.decode(name, stored[position][name])
            np.testing.assert_array_equal(pixels, expected)


def test_size_and_identity_are_the_users(tmp_path):
    """Catches --size or --identity without effect on lists."""
    lines = good(tmp_path)
    path = save(tmp_path, lines)
    made = Request(json_list=path, identity="seth", size=(8, 12)).make(tmp_path / "out", 1, silent)
    assert {clip.identity for clip in made.clips} == {"seth"}
    pixels = np.asarray(Image.open(tmp_path / lines[0]["target"]))
    stored = datasets.decode("target", made.source()[0]["target"])
    np.testing.assert_array_equal(stored, resize(pixels, (8, 12)))


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("{", "line 3: not JSON"),
        ("[" * 5000, "line 3: not JSON"),
        ("[1]", "line 3: not a JSON object"),
        ('{"source": "a.png"}', "line 3: has no target and no reference"),
        ('{"source": 1, "target": 2, "reference": 3}', "line 3: its source is not a path"),
        (
            '{"source": "gone.png", "target": "clip0/0.png", "reference": "clip0/0.png"}',
            "line 3: its source gone.png is not a file",
        ),
        (
            '{"source": "poses/0.png", "target": "clip0/0.png", "reference": "gone.png"}',
            "line 3: its reference gone.png is not a file",
        ),
        (
            '{"source": "poses/0.png", "target": "poses", "reference": "clip0/0.png"}',
            "line 3: its target poses is not a file",
        ),
        (
            '{"source": "poses/0.png", "target": "poses/0.png", "reference": "poses/0.png"}',
            "poses gives one frame",
        ),
        (
            '{"source": "poses/0.png", "target": "clip0/0.png", "reference": "clip0/0.png",'
            ' "mask": "poses/0.png"}',
            "some lines have a mask",
        ),
        ("x" * (1 << 17), "line 3 is too long"),
        ("\ud800", "cannot read the list"),
    ],
)
def test_a_bad_line_is_named(tmp_path, line, told):
    """Catches tracebacks, devices and folders read as pictures, and lines dropped in silence."""
    first, second, *rest = (json.dumps(each) for each in good(tmp_path))
    text = "\n".join([first, second, line, *rest])
    path = tmp_path / "list.json"
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    with pytest.raises(AnchorError) as error:
        read_list(path)
    assert told in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("key", ["source", "target"])
@pytest.mark.parametrize("size", [None, (8, 8)])
def test_sizes_that_differ_within_a_line_are_refused(tmp_path, key, size):
    """Catches a pose that is stretched over a frame of another shape, with or without --size."""
    lines = good(tmp_path)
    picture(tmp_path / lines[2][key], 0, (SIDE, 2 * SIDE))
    with pytest.raises(AnchorError, match="16x32") as error:
        Request(json_list=save(tmp_path, lines), size=size).make(tmp_path / "out", 1, silent)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "out").exists()


def test_a_picture_that_is_none_is_told(tmp_path):
    """Catches a traceback out of the decoder, and a data set with frames missing."""
    lines = good(tmp_path)
    (tmp_path / lines[3]["target"]).write_bytes(b"no picture")
    with pytest.raises(AnchorError, match=r"3\.png") as error:
        Request(json_list=save(tmp_path, lines)).make(tmp_path / "out", 1, silent)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "out").exists()
