"""The package as a whole: what importing it costs, and who may import whom."""

import subprocess
import sys


def test_importing_the_package_loads_nothing_heavy():
    """Catches a module-level import of jax, numpy or a submodule in `anchor_jax/__init__.py`."""
    code = (
        "import sys, anchor_jax; anchor_jax.AnchorError; anchor_jax.__version__;"
        "heavy = {'jax', 'flax', 'numpy', 'orbax', 'PIL', 'av', 'torch'} & set(sys.modules);"
        "sys.exit(f'loaded {sorted(heavy)}' if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
