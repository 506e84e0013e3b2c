"""Peak memory."""

import resource
import sys

import jax


def peak_memory_mb() -> float:
    """Measure the peak memory of the first device, or of this process if the device reports none,
    in MiB."""
    stats = jax.local_devices()[0].memory_stats() or {}
    if "peak_bytes_in_use" in stats:
        return stats["peak_bytes_in_use"] / 2**20
    unit = 2**20 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit
