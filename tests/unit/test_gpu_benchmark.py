"""The benchmark of GPUs, with tiny networks on a CPU. Its golden videos are in `tests/golden`."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from anchor_jax.checkpoint.parameters import flatten
from anchor_jax.convert import names
from anchor_jax.models import Denoiser, blocks
from benchmarks.gpu import kernels, scale
from benchmarks.gpu.__main__ import SECTIONS, run
from benchmarks.gpu.report import Report, Section, table
from benchmarks.gpu.torch_window import random_step
from tests.torch_side import relative

ROOT = Path(__file__).resolve().parents[2]
# What the project needs and a machine with jax, flax, optax, orbax-checkpoint, jaxtyping, pillow,
# scipy, tqdm, absl and safetensors may lack.
ABSENT = (
    *("anchor_jax.convert", "anchor_jax.train", "array_record", "av", "beartype", "diffusers"),
    *("filelock", "grain", "matplotlib", "mannequin", "pyrender", "smplx", "tensorboardX"),
    *("tensorflow_datasets", "torch", "transformers", "trimesh", "tyro"),
)


@pytest.fixture(scope="module")
def report(tmp_path_factory) -> tuple[dict, str]:
    """The results of a whole run, as saved: JSON and table."""
    out = tmp_path_factory.mktemp("gpu")
    run([name for name in SECTIONS if name != "golden"], 30, out, toy=True)
    device = jax.local_devices()[0].device_kind.lower()
    file = out / f"gpu-{device}-toy.json"
    return json.loads(file.read_text("utf-8")), file.with_suffix(".md").read_text("utf-8")


def test_every_section_measures_something(report):
    """Catches a section that fails, or that ends without results, after a change of the library."""
    sections = report[0]["sections"]
    assert list(sections) == [name for name in SECTIONS if name != "golden"]
    for name, section in sections.items():
        assert not {"error", "skipped", "running"} & set(section), (name, section)
        assert section["results"], name
        for what, result in section["results"].items():
            assert result, what
            assert "error" not in result or isinstance(result["error"], float), (what, result)
            numbers = [value for value in result.values() if isinstance(value, float)]
            assert all(np.isfinite(numbers)), (what, result)


def test_the_expected_results_are_there(report):
    """Catches a result that is no longer measured, without any error."""
    found = {name: list(section["results"]) for name, section in report[0]["sections"].items()}
    assert len(found["matmul"]) == 3
    assert set(found["attention"]) >= {"toy, bfloat16, attention", "toy, float32, attention"}
    assert found["programs"] == [
        *("window step", "decode one frame", "face step", "window step, each frame alone"),
    ]
    assert [name.partition(", 3 steps")[0] for name in found["videos"]] == [
        *("body alone", "with faces", "body alone, each frame alone"),
    ]
    assert found["PyTorch"] == ["eager", "torch.compile"]


def test_a_run_says_where_it_was(report):
    """Catches results without the device, versions or command that they belong to."""
    content, text = report
    about = content["environment"]
    assert about["versions"]["jax"] == jax.__version__
    assert about["command"].startswith("python -m benchmarks.gpu")
    assert text.startswith(f"# {about['device']}\n")
    assert all(f"\n## {name}\n" in text for name in content["sections"])


def test_errors_of_attention_are_small_and_differ_from_those_of_a_wrong_kernel(report):
    """Catches a comparison with something else than the attention of the same inputs."""
    results = report[0]["sections"]["attention"]["results"]
    for name, result in results.items():
        bound = 1e-5 if "float32" in name else 2e-2
        assert all(result[key] < bound for key in ("error", "dq", "dk", "dv")), (name, result)
    shape = kernels.TOY_SHAPES[0]
    wrong = kernels._Kernel(lambda q, k, v: kernels.plain(q, k * 1.1, v), timed=False)
    found = kernels._measure(shape, "float32", wrong, kernels._reference(shape, "float32"))
    assert min(found.values()) > 1e-3


def test_plain_attention_in_several_blocks(monkeypatch):
    """Catches blocks of queries that are put together in another order."""
    rng = np.random.default_rng(0)
    query, key, value = (
        jnp.asarray(rng.standard_normal((2, 96, 3, 8)), jnp.float32) for _ in range(3)
    )
    monkeypatch.setattr(kernels, "_BLOCK_BYTES", 4 * 2 * 3 * 96 * 33)  # 32 queries
    found = kernels.plain(query, key, value)
    assert relative(found, jax.nn.dot_product_attention(query, key, value)) < 1e-6


def test_attention_counts_as_two_products():
    """Catches a count of the kernel's own loop, or of the kernels of all platforms together."""
    x = jax.ShapeDtypeStruct((2, 40, 3, 8), jnp.float32)
    y = jax.ShapeDtypeStruct((2, 2000, 3, 8), jnp.float32)
    attend = lambda q, k, v: blocks.attention(q, k, v)
    assert scale.operations(attend, x, y, y) == 4 * 2 * 3 * 40 * 2000 * 8


def test_pytorchs_window_step_is_ours():
    """Catches a benchmark against another computation: the same weights give the same noise."""
    sizes = scale.toy()
    frames, side, pixels = 3, sizes.side, sizes.pixels
    ours = {
        "unet": scale.random_params(sizes.unet, 0, "float32"),
        "control": scale.random_params(sizes.control, 1, "float32"),
    }
    step = random_step(sizes.unet, sizes.control, frames, "cpu", torch.float32)
    state = {
        f"{network}.{names.torch_key(path)}": torch.tensor(names.to_torch(path, np.asarray(leaf)))
        for network, params in ours.items()
        for path, leaf in flatten(params).items()
    }
    step.load_state_dict(state)
    rng = np.random.default_rng(2)
    latents = rng.standard_normal((frames, side, side, 4), np.float32)
    poses = rng.random((frames, pixels, pixels, 3), np.float32)
    context = rng.standard_normal((2, 5, sizes.unet.context_dim), np.float32)
    first = lambda x: torch.tensor(np.moveaxis(x, -1, 1).copy())
    with torch.inference_mode():
        theirs = step(first(latents), 481.0, torch.tensor(context), first(poses), 2.0)
    denoiser = Denoiser(sizes.unet, sizes.control)
    found = jax.jit(lambda *inputs: denoiser(*inputs, control_scale=2.0))(
        ours, latents[None], poses[None], 481, context
    )
    theirs = np.moveaxis(theirs.numpy().reshape(2, frames, -1, side, side), 2, -1)
    assert relative(found, theirs) < 1e-5


def test_a_section_stops_at_its_time():
    """Catches work that is begun after the end of its section."""
    section = Section(time.monotonic() - 1)
    kernels.measure_attention(section, toy=True)
    assert not section.results
    assert section.skipped == ["toy, bfloat16", "toy, float32"]


def test_an_error_ends_only_what_it_happens_in(tmp_path):
    """Catches a kernel that fails and takes the other results with it."""
    results = Report({"device": "none"}, 60, None, "gpu")

    def work(section: Section) -> None:
        with section.measuring("first"):
            raise ValueError("refused\nat length")
        with section.measuring("second") as result:
            result["seconds"] = 1.5
        raise RuntimeError("later")

    results.run("work", work, 60)
    section = results.content["sections"]["work"]
    assert "refused" in section["results"]["first"]["error"]
    assert section["results"]["second"] == {"seconds": 1.5}
    assert "later" in section["error"]


def test_a_run_ends_at_its_time_and_keeps_its_results(tmp_path):
    """Catches a run that hangs in a compilation until it is killed, with all results lost."""
    code = f"""if True:
        import time, pathlib
        from benchmarks.gpu.report import Report, environment
        report = Report(environment("x"), 3, pathlib.Path({str(tmp_path)!r}), "gpu")
        report.watch()
        report.run("done", lambda section: section.results.update(a={{"s": 1.0}}), 1)
        report.run("hanging", lambda section: time.sleep(60), 1)
    """
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=50, cwd=ROOT
    )
    assert done.returncode == 3, done.stderr
    content = json.loads((tmp_path / "gpu.json").read_text("utf-8"))
    assert content["sections"]["done"]["results"] == {"a": {"s": 1.0}}
    assert "hanging" in content["stopped"]
    assert "Not complete" in table(content)


def test_it_needs_no_installation_and_few_packages(tmp_path):
    """Catches an import of a package that a machine with a GPU may lack, also in the library's
    modules for generation, training and conversion."""
    code = f"""if True:
        import importlib, importlib.metadata, pkgutil, sys
        class Blocker:
            def find_spec(self, name, path=None, target=None):
                if name.startswith({ABSENT!r}) and name.partition(".")[0] != "anchor_jax":
                    raise ModuleNotFoundError(name, name=name)
        sys.meta_path.insert(0, Blocker())
        import benchmarks.gpu, convert
        for info in pkgutil.iter_modules(benchmarks.gpu.__path__, "benchmarks.gpu."):
            if not info.name.rpartition(".")[2].startswith("torch_"):
                importlib.import_module(info.name)
    """
    # Without site-packages' .pth files, an installation that can be edited is not seen.
    (tmp_path / "packages").symlink_to(Path(np.__file__).parents[1])
    environment = os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{tmp_path / 'packages'}"}
    done = subprocess.run(
        [sys.executable, "-S", "-c", code], capture_output=True, text=True, timeout=120,
        env=environment, cwd=ROOT,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
