"""Three optimiser steps of the published training programs (golden F)."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from anchor_jax.checkpoint.parameters import flatten
from anchor_jax.convert import names
from anchor_jax.models import PER_FRAME, Denoiser
from anchor_jax.training.loss import DenoisingBatch, Model, losses
from anchor_jax.training.optimizer import OptimizerConfig, make_optimizer

NETWORKS = {"controlnet": "control", "unet": "unet"}


def last(array: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(array.transpose(0, 2, 3, 1))


def drawn(golden, step: int) -> DenoisingBatch:
    array = lambda name: golden[f"step{step}_{name}"]
    inpainting = None
    if f"step{step}_unet_sample_9ch" in golden:
        inpainting = last(array("unet_sample_9ch"))[..., 4:]
    fields = {
        "latents": last(array("latents")),
        "noise": last(array("noise")),
        "timesteps": array("timesteps"),
        "tokens": array("encoder_hidden_states"),
        "poses": last(array("controlnet_cond")),
        "inpainting": inpainting,
    }
    return DenoisingBatch(**jax.tree.map(jnp.asarray, fields))


@pytest.fixture(scope="module", params=["F_train_body", "F_train_body_clip0.1", "F_train_head"])
def run(request, anchor, face_anchor, golden_dir):
    """The recorded run, and ours."""
    golden = np.load(golden_dir / f"{request.param}.npz")
    report = json.loads((golden_dir / f"{request.param}.json").read_text("utf-8"))
    part, anchor = ("face", face_anchor) if "head" in request.param else ("body", anchor)
    model = Model(
        Denoiser(
            anchor.networks()[f"{part}/unet"].config,
            anchor.networks()[f"{part}/control"].config,
            inflation=PER_FRAME,
        ),
        anchor.schedule,
        anchor.vae.config.scaling_factor,
    )
    optimizer = make_optimizer(OptimizerConfig(max_norm=report["max_grad_norm"]), 3)

    # Two programs, of which runs of one network share the first: a third less to compile.
    @jax.jit
    def differentiate(params, draw):
        return jax.value_and_grad(lambda params: losses(model, params, draw).mean())(params)

    @jax.jit
    def update(params, moments, grads):
        updates, moments = optimizer.update(grads, moments, params)
        return optax.apply_updates(params, updates), moments

    params = {name: anchor.networks()[f"{part}/{name}"].params for name in ("unet", "control")}
    moments = optimizer.init(params)
    values, gradients = [], []
    for i in range(3):
        value, grads = differentiate(params, drawn(golden, i))
        params, moments = update(params, moments, grads)
        values.append(float(value))
        gradients.append(grads)
    return golden, report, values, gradients, params


def torch_names(tree, network: str):
    """{published name: array in its layout}."""
    return {
        names.torch_key(path): (path, np.asarray(leaf))
        for path, leaf in flatten(tree[NETWORKS[network]]).items()
    }


def test_losses(run):
    """Catches joint attention, pooled norms or the aliased residual in training, another noise
    schedule, a sum for a mean, and an optimizer that does not take the published steps."""
    golden, _, values, _, _ = run
    for i, value in enumerate(values):
        assert value == pytest.approx(float(golden[f"step{i}_loss"][0]), rel=1e-5)


@pytest.mark.parametrize("network", NETWORKS)
def test_gradient_norms(run, network):
    """Catches a gradient that does not flow into one of the tensors, and by its name says where."""
    _, report, _, gradients, _ = run
    expected = report["per_tensor"][network]
    ours = torch_names(gradients[0], network)
    assert set(ours) == set(expected)
    # Some are zero but for rounding.
    floor = 1e-6 * max(entry["grad0_norm"] for entry in expected.values())
    for name, (_, gradient) in ours.items():
        norm = np.linalg.norm(gradient.astype(np.float64))
        assert norm == pytest.approx(expected[name]["grad0_norm"], rel=1e-4, abs=floor), name


def test_clipping_norms(run):
    """Catches clipping of the UNet, and a norm taken over both networks."""
    _, report, _, gradients, _ = run
    for grads, step in zip(gradients, report["report"]["steps"], strict=True):
        for network, ours in NETWORKS.items():
            assert float(optax.tree.norm(grads[ours])) == pytest.approx(
                step[f"gnorm_{network}"], rel=1e-4
            )


def test_parameters_after_three_steps(run):
    """Catches coupled weight decay, another epsilon, clipping of the UNet or of nothing."""
    golden, _, _, gradients, params = run
    for network in NETWORKS:
        ours = torch_names(params, network)
        for name in golden.files:
            if not name.startswith(f"param3_{network}."):
                continue
            path, leaf = ours[name.removeprefix(f"param3_{network}.")]
            expected = golden[name]
            expected = names.from_torch(path, expected, leaf.shape)
            assert np.abs(leaf - expected).max() < 1e-6, name
