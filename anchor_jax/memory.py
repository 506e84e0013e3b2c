"""How much memory was in use at most."""

import resource
import sys

import jax


def peak_memory_mb() -> float:
    """Peak memory of the first device, or of this process where the device does not tell."""
    stats = jax.local_devices()[0].memory_stats() or {}
    if "peak_bytes_in_use" in stats:
        return stats["peak_bytes_in_use"] / 2**20
    unit = 2**20 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit
