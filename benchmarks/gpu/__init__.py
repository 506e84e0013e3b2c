"""Measures the library on a GPU: `python -m benchmarks.gpu`, see `__main__`.

It runs from the root of a checkout without installing the project. Its modules import only jax,
flax, optax, orbax-checkpoint, jaxtyping, numpy, pillow, scipy, tqdm, absl and safetensors; torch is
optional.
"""
