"""The memory of a device: the share that commands use, and its peak."""

import resource
import sys

# The share of a GPU's memory that our commands let JAX reserve, in place of three quarters. The
# rest is for the driver, and for a desktop on the same device.
MEMORY_SHARE = 0.92


def peak_memory_mb() -> float:
    """Measure the peak memory of the first device, or of this process if the device reports none,
    in MiB."""
    import jax

    stats = jax.local_devices()[0].memory_stats() or {}
    if "peak_bytes_in_use" in stats:
        return stats["peak_bytes_in_use"] / 2**20
    unit = 2**20 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit
