"""What every test shares: thread counts, how programs are compiled, the places of real data.

The environment is set here, before anything imports jax or torch. The cache only saves compile
time: its entries are keyed by program, compiler and machine.

Most of a test run is compiling tiny networks, half of it LLVM's optimisation, which is left out.
Tests of exact numbers, marked `exact`, run with it, as users' programs do: `make test` runs them by
themselves, with an empty XLA_FLAGS.

A worker holds millions of objects, most of them of traced programs, and each full garbage
collection looks at all. JAX, before it adds a program to the cache, reads the age of each one
there. Both were a large part of the time.
"""

import gc
import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SHARED = ROOT.parent / "shared"

_workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
_threads = str(max(1, len(os.sched_getaffinity(0)) // _workers))
for _name, _value in {
    "NPROC": _threads,  # the size of XLA's thread pool
    "OMP_NUM_THREADS": _threads,
    "XLA_FLAGS": "--xla_backend_optimization_level=0",
    "JAX_DEFAULT_MATMUL_PRECISION": "highest",
    "JAX_COMPILATION_CACHE_DIR": str(ROOT / ".jax_cache"),
    "JAX_COMPILATION_CACHE_MAX_SIZE": str(2 << 30),  # with a limit, jax also locks: workers share
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
}.items():
    os.environ.setdefault(_name, _value)

from jax._src.lru_cache import LRUCache  # noqa: E402

LRUCache._evict_if_needed = lambda *_, **__: None
gc.set_threshold(100_000, 20, 10)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what is held against fixed numbers of the published system."""
    for item in items:
        if "golden" in item.path.parts:
            item.add_marker("exact")


def _shared(*parts: str) -> Path:
    folder = SHARED.joinpath(*parts)
    if not folder.is_dir():
        pytest.skip(f"needs the third-party files in ../{folder.relative_to(ROOT.parent)}")
    return folder


@pytest.fixture(scope="session")
def golden_dir() -> Path:
    """Fixed numbers of the published system, and tiny weights in its layout."""
    return _shared("golden")


@pytest.fixture(scope="session")
def tiny_dir() -> Path:
    """Tiny random weights in the published folder layout."""
    return _shared("golden", "tiny")


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """Real pose renders and videos; never copied into the project."""
    return _shared("data")


@pytest.fixture(scope="session")
def cases_dir() -> Path:
    """Small files of the kinds that people really have."""
    return _shared("cases")


@pytest.fixture(scope="session")
def opengl() -> str:
    """The platform that draws without a screen here, chosen for this process too."""
    for module in ("pyrender", "trimesh"):
        if importlib.util.find_spec(module) is None:
            pytest.skip(f"needs {module}: pip install '.[render]'")
    from anchor_jax.body import render

    given = os.environ.get("PYOPENGL_PLATFORM")
    code = "import pyrender; pyrender.OffscreenRenderer(8, 8)"
    for platform in [given] if given else render.PLATFORMS:
        environment = os.environ | {"PYOPENGL_PLATFORM": platform}
        command = [sys.executable, "-c", code]
        if subprocess.run(command, env=environment, capture_output=True).returncode == 0:
            render.use_platform(platform)
            return platform
    pytest.skip(f"needs OpenGL without a screen: on Debian, {render.PACKAGES}")
