"""GPUs that a program can be compiled for, whether they are there or not.

XLA compiles for an absent GPU from a description of it: all passes, the assignment of memory, and
the machine code. It cannot run the program, choose among kernels by their speed, or build cuDNN's
kernels, so that their working memory is missing.
"""

from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import jax

from anchor_jax.errors import AnchorError


@dataclass(frozen=True)
class Target:
    """A kind of GPU.

    Attributes:
        name: name of the product.
        memory: of the device, in bytes.
        bandwidth: of its memory, in bytes a second.
        bfloat16: floating-point operations a second of dense products in bfloat16 with float32
            sums, from the manufacturer's data sheet.
        float32: the same in float32, without tensor cores.
        capability: compute capability.
        cores: streaming multiprocessors.
        units: float32 units of each.
        clock: GHz.
        shared_memory: of each multiprocessor, in bytes; a block of threads may have 1 KiB less.
        threads: most threads of each multiprocessor.
        cache: of level 2, in bytes.
    """

    name: str
    memory: int
    bandwidth: int
    bfloat16: float
    float32: float
    capability: tuple[int, int]
    cores: int
    units: int
    clock: float
    shared_memory: int
    threads: int
    cache: int

    def description(self) -> str:
        """Describe the GPU to XLA: a `stream_executor.GpuTargetConfigProto` in text form."""
        major, minor = self.capability
        features = "ACCELERATED_FEATURES" if major >= 9 else "NONE"
        return f"""
            gpu_device_info {{
              threads_per_block_limit: 1024 threads_per_warp: 32 shared_memory_per_block: 49152
              shared_memory_per_core: {self.shared_memory}
              shared_memory_per_block_optin: {self.shared_memory - 1024}
              threads_per_core_limit: {self.threads}
              core_count: {self.cores} fpus_per_core: {self.units} clock_rate_ghz: {self.clock}
              memory_bandwidth: {self.bandwidth} l2_cache_size: {self.cache}
              device_memory_size: {self.memory}
              cuda_compute_capability {{
                major: {major} minor: {minor} feature_extension: {features}
              }}
              registers_per_core_limit: 65536 registers_per_block_limit: 65536
              block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535
              thread_dim_limit_x: 1024 thread_dim_limit_y: 1024 thread_dim_limit_z: 64
            }}
            platform_name: "CUDA"
            dnn_version_info {{ major: 9 minor: 10 patch: 0 }}
            device_description_str: "{self.name}"
        """


# Sizes as OpenXLA's descriptions of these devices have them, rates from NVIDIA's data sheets.
TARGETS = {
    "a100": Target(
        "NVIDIA A100-SXM4-80GB",
        memory=85_100_068_864,
        bandwidth=2_039_040_000_000,
        bfloat16=312e12,
        float32=19.5e12,
        capability=(8, 0),
        cores=108,
        units=64,
        clock=1.41,
        shared_memory=167_936,
        threads=2048,
        cache=41_943_040,
    ),
    "h100": Target(
        "NVIDIA H100 80GB HBM3",
        memory=84_942_979_072,
        bandwidth=3_352_320_000_000,
        bfloat16=989e12,
        float32=67e12,
        capability=(9, 0),
        cores=132,
        units=128,
        clock=1.98,
        shared_memory=233_472,
        threads=2048,
        cache=52_428_800,
    ),
    "4090": Target(
        "NVIDIA GeForce RTX 4090",
        memory=25_393_692_672,
        bandwidth=1_008_096_000_000,
        bfloat16=165e12,
        float32=82.6e12,
        capability=(8, 9),
        cores=128,
        units=128,
        clock=2.52,
        shared_memory=102_400,
        threads=1536,
        cache=75_497_472,
    ),
}
# The tiles of these kernels are chosen by their speed, which an absent GPU cannot tell.
_ABSENT_OPTIONS = {"xla_gpu_enable_triton_gemm": False}


def open_device(name: str) -> tuple[Any, dict[str, Any] | None]:
    """Return a device to compile for, and options of the compiler.

    Args:
        name: one of `TARGETS`, or "here" for the first device of this machine.

    Raises:
        AnchorError: the packages that compile for an absent GPU are missing.
    """
    if name == "here":
        from anchor_jax.compiling import options

        return jax.local_devices()[0], options()
    if not any(find_spec(f"jax_cuda{version}_plugin") for version in (12, 13)):
        raise AnchorError(
            f"--device {name}: compiling for a GPU that is not here needs more packages:"
            " pip install 'anchor-jax[plan]'"
        )
    from jax.experimental import topologies

    try:
        topology = topologies.get_topology_desc(
            platform="cuda", topology="1x1x1", target_config=TARGETS[name].description()
        )
    except Exception as error:
        raise AnchorError(
            f"--device {name}: jax's CUDA plugin cannot compile here ({str(error).splitlines()[0]})"
        ) from None
    return topology.devices[0], _ABSENT_OPTIONS
