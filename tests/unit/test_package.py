"""The package as a whole: what importing it costs, and who may import whom."""

import re
import subprocess
import sys
import tomllib
from importlib.metadata import metadata
from pathlib import Path


def test_importing_the_package_loads_nothing_heavy():
    """Catches a module-level import of jax, numpy or a submodule in `anchor_jax/__init__.py`."""
    code = (
        "import sys, anchor_jax; anchor_jax.AnchorError; anchor_jax.__version__;"
        "heavy = {'jax', 'flax', 'numpy', 'orbax', 'PIL', 'av', 'torch'} & set(sys.modules);"
        "sys.exit(f'loaded {sorted(heavy)}' if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


def test_extras_for_accelerators_are_extras_of_jax():
    """Catches an extra of jax that is misspelt here or that jax has renamed: pip then installs no
    plugin, with a warning alone, and jax computes on the CPU."""
    text = (Path(__file__).resolve().parents[2] / "pyproject.toml").read_text("utf-8")
    extras = tomllib.loads(text)["project"]["optional-dependencies"]
    named = {
        extra: match[1]
        for extra, packages in extras.items()
        for package in packages
        if (match := re.match(r"jax\[([^]]+)\]", package))
    }
    assert named.keys() == {"cuda12", "cuda13", "tpu", "plan"}
    assert not set(named.values()) - set(metadata("jax").get_all("Provides-Extra") or [])
