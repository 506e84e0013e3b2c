"""The page docs/own-video.md: its commands run one after the other, as they are printed.

Only the values of `TOY` differ from the page, so that a run takes seconds.
"""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from anchor_jax import cli
from anchor_jax.data import dataset as datasets
from anchor_jax.data import video
from benchmarks.own_video import main as compare

PAGE = Path(__file__).resolve().parents[2] / "docs" / "own-video.md"
BLOCK = re.compile(r"^```sh\n(.*?)^```$", re.MULTILINE | re.DOTALL)

# What the test replaces or adds, for each command in the order of the page.
TOY = {
    "prepare": {"--size": "32"},
    "train autoencoder": {"--preset": "debug", "--steps": "2"},
    "train finetune": {"--preset": "debug", "--steps": "2"},
    "generate": {"--size": "32", "--steps": "2"},
}


def blocks() -> list[str]:
    """The blocks of commands, but for the installation, with lines that go on joined."""
    found = [block.replace("\\\n", " ") for block in BLOCK.findall(PAGE.read_text("utf-8"))]
    return [block for block in found if not block.startswith("pip install")]


def lines() -> list[str]:
    """The lines of the blocks that run `anchor-jax`."""
    found = [line for block in blocks() for line in block.splitlines()]
    return [line for line in found if line.startswith("anchor-jax ")]


def toy(line: str) -> list[str]:
    """The words of a line of the page after `anchor-jax`, with the values of `TOY`."""
    _, *words = shlex.split(line, comments=True)
    name = " ".join(words[: 2 if words[0] == "train" else 1])
    for option, value in TOY[name].items():
        if option in words:
            words[words.index(option) + 1] = value
        else:
            words += [option, value]
    return words


def run_in_shell(block: str) -> None:
    """Run a block that is not ours, with this Python as `python`."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    subprocess.run(["bash", "-euc", block], env=os.environ | {"PATH": path}, check=True)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Where all commands of the page have run. Do not write here."""
    pytest.importorskip("tensorflow_datasets", reason="needs pip install '.[train]'")
    folder = tmp_path_factory.mktemp("own")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for block in blocks():
            if not block.startswith("anchor-jax "):
                run_in_shell(block)
                continue
            for line in block.splitlines():
                assert cli.main(toy(line)) == 0, line
    return folder


def test_the_page_leads_from_a_video_to_a_video(folder):
    """Catches a command of the page that fails, or that does not read what the one before wrote,
    and a page that ends without a video."""
    made = [words for words in map(toy, lines()) if words[0] == "generate"]
    assert lines()[-1].startswith("anchor-jax generate ") and len(made) == 2
    for words in made:
        frames, rate = video.read_frames(folder / words[words.index("--out") + 1])
        assert frames.shape == (100, 32, 32, 3) and rate == 30
    assert len(datasets.load(folder / "data" / "seth")) == 250


def test_every_command_of_the_table_is_on_the_page():
    """Catches a command that is left out of the page, and so runs no more."""
    for name in TOY:
        assert any(line.startswith(f"anchor-jax {name} ") for line in lines()), name


def test_runs_are_compared_by_size_and_steps(folder, capsys):
    """Catches a table without a run, frames of another size than their truth, and lines of the
    picture in another order."""
    out = folder / "compared.png"
    compare([f"32={folder / 'runs' / 'seth'}", "--frames", "8", "--out", str(out)])
    *_, row = capsys.readouterr().out.splitlines()
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    assert cells[:2] == ["32", "2"] and all(0 < float(cell) < 60 for cell in cells[2:])
    with Image.open(out) as picture:
        assert picture.height == 2 * 128  # the truth, and the run
