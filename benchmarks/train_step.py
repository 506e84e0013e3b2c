"""Compares the speed and memory of our training step with the same step in PyTorch.

    python -m benchmarks.train_step [--pairs 7] [--out docs/benchmarks/train_step.json]
    python -m benchmarks.train_step --plan sd15 [--batch 4] [--dtype bfloat16] [--steps 3]

A step computes equation (1) of the paper, its gradients, clipping of the control branch and AdamW
(https://arxiv.org/abs/1711.05101), in float32. `benchmarks.peer` describes the two sides. The run
also compares loss and gradient norms of the first step.

`--plan` compiles our step without arrays and prints the memory that the program needs on this
device; for a GPU, run it on a GPU. `--plan` with `--steps` computes steps instead, without PyTorch.

`--without` measures what gradients written by hand save: each is replaced, alone, by the gradient
that JAX derives. Steps with and without it alternate in one process.
"""

import argparse
import importlib
import statistics
import time
from typing import TYPE_CHECKING, get_args

import numpy as np

from benchmarks import peer
from benchmarks.peer import Case

if TYPE_CHECKING:
    from anchor_jax.models import Remat

CASES = {"50m": Case("50M model, batch 4, 32x32 latents", "train", "50m", 4, 32)}
LEARNING_RATE = 1e-5
HAND_WRITTEN = {  # gradients written by hand: module of `anchor_jax.models`, function
    "attention": ("attention", "_attend"),
    "group_norm": ("group_norm", "_normalise"),
    "linear": ("products", "mix_channels"),
    "convolution": ("products", "convolve"),
}


def inputs(case: Case, context_dim: int) -> dict[str, np.ndarray]:
    """Draw what one step trains on, under the field names of `DenoisingBatch`."""
    rng = np.random.default_rng(7)
    shape = (case.frames, case.side, case.side, 4)
    pixels = 8 * case.side
    return {
        "latents": rng.standard_normal(shape, dtype=np.float32),
        "noise": rng.standard_normal(shape, dtype=np.float32),
        "timesteps": rng.integers(0, 1000, case.frames),
        "tokens": rng.standard_normal((case.frames, 50, context_dim), dtype=np.float32),
        "poses": rng.integers(0, 256, (case.frames, pixels, pixels, 3), dtype=np.uint8),
    }


def make_jitted(case: Case, dtype: str = "float32", remat: "Remat" = "none"):
    """Return our jitted step, and the function from parameters to its first state."""
    import jax

    from anchor_jax.compiling import options
    from anchor_jax.diffusion.schedule import ScheduleConfig
    from anchor_jax.models import PER_FRAME, Denoiser
    from anchor_jax.training.loss import Model, losses
    from anchor_jax.training.optimizer import OptimizerConfig, make_optimizer
    from anchor_jax.training.step import init_state, make_step
    from benchmarks.random_checkpoint import SIZES

    configs = SIZES[case.size]
    denoiser = Denoiser(configs.unet, configs.control, dtype, PER_FRAME, remat)
    model = Model(denoiser, ScheduleConfig(), configs.vae.scaling_factor)
    optimizer = make_optimizer(OptimizerConfig(learning_rate=LEARNING_RATE), 1000)

    def loss(params, key, batch):
        each = losses(model, params, batch["drawn"])
        return each.mean(), {"losses": each}

    begin = lambda params: init_state(params, optimizer, 0, ema=False)
    compiler = options(training=True)
    step = jax.jit(make_step(loss, optimizer), donate_argnums=0, compiler_options=compiler)
    return step, begin


def build_ours(case: Case, dtype: str = "float32", remat: "Remat" = "none"):
    """Build our side: a function that computes a step and returns loss and gradient norms."""
    import jax
    import jax.numpy as jnp

    from anchor_jax.compiling import Compilation
    from anchor_jax.training.loss import DenoisingBatch
    from benchmarks.random_checkpoint import SEEDS, SIZES, random_params

    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    configs = SIZES[case.size]
    drawn = DenoisingBatch(**jax.tree.map(jnp.asarray, inputs(case, configs.unet.context_dim)))
    jitted, begin = make_jitted(case, dtype, remat)
    params = {
        name: random_params(getattr(configs, name), SEEDS[name]) for name in ("unet", "control")
    }
    state = jax.jit(begin)(params)
    del params  # or they would stay in memory

    step = None

    def run():
        nonlocal state, step
        step = step or Compilation(jitted, state, {"drawn": drawn}).wait()
        state, metrics = step(state, {"drawn": drawn})
        names = ("loss", "gradient_norm/unet", "gradient_norm/control")
        return np.array([float(metrics[name]) for name in names])

    return run


def build_torch(case: Case):
    """Build the PyTorch side: diffusers' networks with fused attention, channels last."""
    import torch
    from torch.nn import functional as F

    from anchor_jax.diffusion.schedule import ScheduleConfig, alphas_cumprod
    from benchmarks import torch_peer
    from benchmarks.random_checkpoint import SEEDS, SIZES

    configs = SIZES[case.size]
    unet = torch_peer.random_network(configs.unet, SEEDS["unet"]).requires_grad_(True)
    control = torch_peer.random_network(configs.control, SEEDS["control"]).requires_grad_(True)
    both = [*unet.parameters(), *control.parameters()]
    optimizer = torch.optim.AdamW(both, lr=LEARNING_RATE, weight_decay=1e-2)
    arrays = {k: torch.from_numpy(v) for k, v in inputs(case, configs.unet.context_dim).items()}
    latents, noise, poses = (
        arrays[name].permute(0, 3, 1, 2) for name in ("latents", "noise", "poses")
    )
    timesteps, tokens = arrays["timesteps"], arrays["tokens"]
    alphas = torch.from_numpy(alphas_cumprod(ScheduleConfig())).float()[timesteps]
    signal, share = (x[:, None, None, None] for x in (alphas.sqrt(), (1 - alphas).sqrt()))
    norm = lambda network: torch.nn.utils.get_total_norm(
        [p.grad for p in network.parameters()]
    ).item()

    def run():
        noisy = signal * latents + share * noise
        down, mid = control(noisy, timesteps, tokens, poses.float() / 255, return_dict=False)
        predicted = unet(
            noisy,
            timesteps,
            tokens,
            down_block_additional_residuals=down,
            mid_block_additional_residual=mid,
            return_dict=False,
        )[0]
        loss = F.mse_loss(predicted, noise)
        loss.backward()
        metrics = np.array([loss.item(), norm(unet), norm(control)])
        torch.nn.utils.clip_grad_norm_(control.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return metrics

    return run


def compute(case: Case, dtype: str, remat: "Remat", steps: int) -> dict[str, float]:
    """Return seconds of the first step, which compiles, and of the fastest of the other steps, and
    the peak memory in GB."""
    from anchor_jax.memory import peak_memory_mb

    run, seconds = build_ours(case, dtype, remat), []
    for _ in range(1 + steps):
        began = time.perf_counter()
        run()
        seconds.append(round(time.perf_counter() - began, 2))
    peak = round(peak_memory_mb() * 2**20 / 1e9, 2)
    return {"first": seconds[0], "other": min(seconds[1:]), "peak": peak}


def plan(case: Case, dtype: str, remat: "Remat") -> dict[str, float]:
    """Return the memory in GB that a step's program needs: its state, and its other arrays."""
    import jax
    import jax.numpy as jnp

    from anchor_jax.models import abstract_params
    from anchor_jax.training.loss import DenoisingBatch
    from benchmarks.random_checkpoint import SIZES

    configs = SIZES[case.size]
    step, begin = make_jitted(case, dtype, remat)
    params = {name: abstract_params(getattr(configs, name)) for name in ("unet", "control")}
    drawn = DenoisingBatch(**jax.tree.map(jnp.asarray, inputs(case, configs.unet.context_dim)))
    compiled = step.lower(jax.eval_shape(begin, params), {"drawn": drawn}).compile()
    sizes = compiled.memory_analysis()
    assert sizes is not None
    gb = lambda count: round(count / 1e9, 2)
    return {"state": gb(sizes.argument_size_in_bytes), "beside": gb(sizes.temp_size_in_bytes)}


def without(case: Case, names: list[str], pairs: int) -> dict[str, dict[str, float]]:
    """For each gradient: how many times the CPU time, the time and the memory of a training step
    are without it what they are with it (medians over pairs of steps)."""
    import jax
    import jax.numpy as jnp

    from anchor_jax.training.loss import DenoisingBatch
    from benchmarks.random_checkpoint import SEEDS, SIZES, random_params

    configs = SIZES[case.size]
    drawn = DenoisingBatch(**jax.tree.map(jnp.asarray, inputs(case, configs.unet.context_dim)))
    params = {
        name: random_params(getattr(configs, name), SEEDS[name]) for name in ("unet", "control")
    }
    jitted, begin = make_jitted(case)
    state = jax.jit(begin)(params)
    compiled = {"": jitted.lower(state, {"drawn": drawn}).compile()}
    for name in names:
        module = importlib.import_module(f"anchor_jax.models.{HAND_WRITTEN[name][0]}")
        function = getattr(module, HAND_WRITTEN[name][1])
        setattr(module, HAND_WRITTEN[name][1], function.fun)
        jax.clear_caches()  # of functions that are traced already
        compiled[name] = make_jitted(case)[0].lower(state, {"drawn": drawn}).compile()
        setattr(module, HAND_WRITTEN[name][1], function)

    def measure(name: str) -> tuple[float, float]:
        nonlocal state
        began = time.process_time(), time.perf_counter()
        state, _ = jax.block_until_ready(compiled[name](state, {"drawn": drawn}))
        return time.process_time() - began[0], time.perf_counter() - began[1]

    def memory(name: str) -> int:
        sizes = compiled[name].memory_analysis()
        assert sizes is not None
        return sizes.argument_size_in_bytes + sizes.temp_size_in_bytes

    rounds = [{name: measure(name) for name in compiled} for _ in range(1 + pairs)][1:]
    ratio = lambda name, i: statistics.median(times[name][i] / times[""][i] for times in rounds)
    return {
        name: {
            "cpu_time": round(ratio(name, 0), 3),
            "time": round(ratio(name, 1), 3),
            "memory": round(memory(name) / memory(""), 3),
        }
        for name in names
    }


def main() -> None:
    from anchor_jax.models import Remat

    parser = argparse.ArgumentParser(description="Compares our training step with PyTorch's.")
    parser.add_argument("--plan", choices=("50m", "sd15"), help="only print a step's memory")
    parser.add_argument(
        "--batch", type=int, default=4, help="with --plan: batch size (default %(default)s)"
    )
    parser.add_argument("--side", type=int, default=32, help="with --plan: side of the latents")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument(
        "--remat",
        choices=get_args(Remat),
        default="blocks",
        help="with --plan: what the backward pass computes again (default %(default)s)",
    )
    parser.add_argument("--steps", type=int, default=0, help="with --plan: compute this many steps")
    parser.add_argument(
        "--without", choices=HAND_WRITTEN, nargs="+", help="measure gradients written by hand"
    )
    peer.add_arguments(parser, CASES)
    args = parser.parse_args()
    if args.without:
        print(without(CASES["50m"], args.without, args.pairs))
        return
    if args.plan:
        case = Case("", "train", args.plan, args.batch, args.side)
        how = args.dtype, args.remat
        print(compute(case, *how, args.steps) if args.steps > 0 else plan(case, *how))
        return
    peer.run(CASES, args, "benchmarks.train_step")


if __name__ == "__main__":
    main()
