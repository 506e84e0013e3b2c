"""The built wheel, installed without torch outside of the checkout, is the whole program."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
COMMANDS = [
    "demo",
    "convert",
    "export",
    "inspect",
    "store",
    "render",
    "prepare",
    "train",
    "generate",
    "bench",
]

pytestmark = pytest.mark.slow


def run(*words: object, cwd: Path) -> str:
    done = subprocess.run(
        [str(word) for word in words],
        cwd=cwd,
        env={k: v for k, v in os.environ.items() if k != "PYTHONPATH"},
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert done.returncode == 0, f"{words}:\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """A wheel built from a copy of the sources, so that the checkout stays clean."""
    source = tmp_path_factory.mktemp("source")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    for name in ("anchor_jax", "convert", "train"):
        if (ROOT / name).exists():
            shutil.copytree(
                ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__")
            )
    run(sys.executable, "-m", "build", "--wheel", "--no-isolation", ".", cwd=source)
    (built,) = (source / "dist").glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory) -> Path:
    """The `bin` folder of a fresh environment that has the wheel and what it needs."""
    place = tmp_path_factory.mktemp("elsewhere")
    run(sys.executable, "-m", "venv", "venv", cwd=place)
    run("venv/bin/python", "-m", "pip", "install", "--quiet", wheel, cwd=place)
    return place / "venv" / "bin"


def test_the_wheel_has_one_top_level_name_and_every_module(wheel):
    """Catches `convert` or `tests` at the top level, and a package left out of pyproject.toml."""
    names = zipfile.ZipFile(wheel).namelist()
    tops = {name.split("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"anchor_jax"}
    sources = {str(path.relative_to(ROOT)) for path in (ROOT / "anchor_jax").rglob("*.py")} | {
        "anchor_jax/" + str(path.relative_to(ROOT))
        for folder in ("convert", "train")
        for path in (ROOT / folder).rglob("*.py")
    }
    assert sources == {name for name in names if name.endswith(".py")}


def test_every_command_answers_outside_of_the_checkout(installed, tmp_path):
    """Catches a console script that points nowhere, and an import that needs the checkout."""
    assert "anchor-jax COMMAND" in run(installed / "anchor-jax", "--help", cwd=tmp_path)
    for command in COMMANDS:
        answer = run(installed / "anchor-jax", command, "--help", cwd=tmp_path)
        assert f"anchor-jax {command}" in answer


def test_the_demo_needs_nothing_but_the_wheel(installed, tmp_path):
    """Catches assets that are not in the wheel, and a demo that needs an extra or the checkout."""
    done = run(installed / "anchor-jax", "demo", "--frames=8", "--steps=2", cwd=tmp_path)
    assert "report.html: complete" in done
    assert (tmp_path / "demo" / "video.mp4").stat().st_size > 1000


def test_weights_become_a_video_without_torch(installed, tmp_path):
    """Catches a dependency on torch, or on any package that only the tests have."""
    run(
        *(sys.executable, "-m", "benchmarks.random_checkpoint"),
        *("--size", "tiny", "--out", tmp_path / "weights"),
        cwd=ROOT,
    )
    code = "import importlib.util as u, sys; sys.exit(u.find_spec('torch') is not None)"
    run(installed / "python", "-c", code, cwd=tmp_path)
    program = installed / "anchor-jax"
    run(
        *(program, "convert", "--body", "weights/body", "--base", "weights/sd"),
        *("--image-encoder", "weights/clip-vision", "--out", "anchor"),
        cwd=tmp_path,
    )
    run(program, "inspect", "anchor", cwd=tmp_path)
    code = (
        "from PIL import Image; import os; os.mkdir('poses');"
        "[Image.new('RGB', (64, 64), (i * 20, 0, 0)).save(f'poses/{i}.png') for i in range(5)]"
    )
    run(installed / "python", "-c", code, cwd=tmp_path)
    run(
        *(program, "generate", "anchor", "--poses", "poses", "--appearance", "poses/1.png"),
        *("--out", "video.mp4", "--steps", "2"),
        cwd=tmp_path,
    )
    assert (tmp_path / "video.mp4").stat().st_size > 1000
