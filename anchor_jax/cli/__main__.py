"""`python -m anchor_jax.cli` is `anchor-jax`."""

import sys

from anchor_jax.cli import main

sys.exit(main())
