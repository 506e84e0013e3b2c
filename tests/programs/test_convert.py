"""`anchor-jax convert`, `export` and `inspect` as a user runs them, and how they refuse."""

import json
import os
import pickle
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from anchor_jax import checkpoint, cli
from anchor_jax.assets import open_assets
from anchor_jax.checkpoint import Settings
from anchor_jax.checkpoint.parameters import flatten
from anchor_jax.diffusion import Sampling
from anchor_jax.face.settings import FaceSampling

from .conftest import convert_arguments
from .test_generate import one_error

UNET = "body/unet/diffusion_pytorch_model.safetensors"
VAE = "sd/vae/diffusion_pytorch_model.safetensors"
VISION = "clip-vision/model.safetensors"


def names(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


def test_inspect_tells_what_an_anchor_holds(anchor, capsys):
    """Catches an anchor whose networks or origin cannot be told."""
    assert cli.main(["inspect", str(anchor)]) == 0
    told = capsys.readouterr().out
    for word in ("body/unet", "body/control", "vae", "image_encoder", "safetensors"):
        assert word in told


def test_export_gives_back_every_tensor(weights, anchor, tmp_path):
    """Catches a tensor that changes, vanishes or appears on the way through an anchor."""
    assert cli.main(["export", str(anchor), "--out", str(tmp_path / "out")]) == 0
    for name in (UNET, VAE, VISION, "body/controlnet/diffusion_pytorch_model.safetensors"):
        source, exported = load_file(weights / name), load_file(tmp_path / "out" / name)
        assert sorted(source) == sorted(exported)
        for key, value in source.items():
            assert exported[key].dtype == value.dtype
            assert exported[key].tobytes() == value.tobytes()
    assert os.listdir(tmp_path) == ["out"]


def test_a_base_alone_makes_a_fresh_anchor(weights, tmp_path, capsys):
    """Catches --base without --body refused."""
    out = tmp_path / "fresh"
    words = ["convert", "--base", weights / "sd", "--image-encoder", weights / "clip-vision"]
    assert cli.main([str(word) for word in [*words, "--out", out]]) == 0
    assert cli.main(["inspect", str(out)]) == 0
    assert "body/control" in capsys.readouterr().out
    assert os.listdir(tmp_path) == ["fresh"]


def edit_json(path: Path, **changes: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def edit_tensors(path: Path, change: Callable[[dict[str, np.ndarray]], object]) -> None:
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


class Evil:
    """Unpickled carelessly, it makes the file `ran` in the working folder."""

    def __reduce__(self):
        return Path.touch, (Path("ran"),)


def pickled(path: Path) -> None:
    path.unlink()
    path.with_suffix(".bin").write_bytes(pickle.dumps({"conv_in.weight": Evil()}, protocol=2))


def zipped_pickle(path: Path) -> None:
    import torch

    path.unlink()
    torch.save({"conv_in.weight": Evil()}, path.with_suffix(".bin"))


def nan(tensors: dict[str, np.ndarray]) -> None:
    tensors["conv_in.weight"].flat[7] = np.nan


def folder_for_file(path: Path) -> None:
    path.unlink()
    path.mkdir()


def secret(path: Path) -> None:
    if os.geteuid() == 0:
        pytest.skip("root reads every file")
    path.chmod(0)


# What is spoilt, and what the error has to name.
BROKEN: dict[str, tuple[Callable[[Path], object], str]] = {
    "no body": (lambda w: shutil.rmtree(w / "body"), "body"),
    "no control branch": (lambda w: shutil.rmtree(w / "body/controlnet"), "controlnet"),
    "no base": (lambda w: shutil.rmtree(w / "sd"), "sd"),
    "no autoencoder": (lambda w: shutil.rmtree(w / "sd/vae"), "vae"),
    "no image encoder": (lambda w: shutil.rmtree(w / "clip-vision"), "clip-vision"),
    "no weights": (lambda w: (w / UNET).unlink(), "unet"),
    "no config": (lambda w: (w / "body/unet/config.json").unlink(), "config.json"),
    "folder for a file": (lambda w: folder_for_file(w / UNET), "unet"),
    "secret file": (lambda w: secret(w / UNET), "unet"),
    "truncated": (lambda w: truncate(w / UNET), "unet/diffusion_pytorch_model.safetensors"),
    "truncated to nothing": (lambda w: os.truncate(w / UNET, 0), "unet"),
    "not safetensors": (lambda w: (w / UNET).write_bytes(bytes(range(256))), "unet"),
    "pickle with code": (lambda w: pickled(w / UNET), "diffusion_pytorch_model.bin"),
    "zipped pickle with code": (lambda w: zipped_pickle(w / UNET), "diffusion_pytorch_model.bin"),
    "config not JSON": (lambda w: truncate(w / "body/unet/config.json"), "config.json"),
    "config of words": (
        lambda w: edit_json(w / "body/unet/config.json", block_out_channels="many"),
        "config.json",
    ),
    "unsupported activation": (
        lambda w: edit_json(w / "body/unet/config.json", act_fn="mish"),
        "act_fn",
    ),
    "base of SDXL": (
        lambda w: edit_json(w / "body/unet/config.json", addition_embed_type="text_time"),
        "addition_embed_type",
    ),
    "width of SD 2": (
        lambda w: edit_json(w / "body/unet/config.json", cross_attention_dim=1024),
        "1024",
    ),
    "another schedule": (
        lambda w: edit_json(w / "sd/scheduler/scheduler_config.json", beta_schedule="linear"),
        "beta_schedule",
    ),
    "unexpected key": (
        lambda w: edit_tensors(w / UNET, lambda t: t.update(lora=np.zeros(3, np.float16))),
        "lora",
    ),
    "missing key": (lambda w: edit_tensors(w / UNET, lambda t: t.pop("conv_in.bias")), "conv_in"),
    "wrong shape": (
        lambda w: edit_tensors(w / VAE, lambda t: t.update({"quant_conv.bias": np.zeros(3)})),
        "quant_conv.bias",
    ),
    "NaN": (lambda w: edit_tensors(w / UNET, nan), "conv_in"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_bad_weights_are_one_error_and_nothing_is_written(
    broken, tmp_path, capsys, monkeypatch, case
):
    """Catches a traceback, a wrong exit code, an error that does not name what is wrong, code of
    a pickle that runs, and a partial anchor left behind."""
    spoil, message = BROKEN[case]
    spoil(broken)
    before = names(tmp_path)
    monkeypatch.chdir(tmp_path)
    assert cli.main(convert_arguments(broken, tmp_path / "anchor")) == 2
    assert message in one_error(capsys)
    assert names(tmp_path) == before


FACE = {
    "no head": (lambda head: shutil.rmtree(head), "head"),
    "no unet": (lambda head: shutil.rmtree(head / "unet"), "unet"),
    "no control branch": (lambda head: shutil.rmtree(head / "controlnet"), "controlnet"),
    "the body's UNet": (
        lambda head: edit_json(head / "unet/config.json", in_channels=4),
        "in_channels",
    ),
    "weights of four channels": (
        lambda head: edit_tensors(
            head / "unet/diffusion_pytorch_model.safetensors",
            lambda t: t.update(
                {"conv_in.weight": np.ascontiguousarray(t["conv_in.weight"][:, :4])}
            ),
        ),
        "conv_in",
    ),
}


def face_arguments(tiny: Path, head: Path, out: Path) -> list[str]:
    words = ["convert", "--body", tiny / "body", "--face", head, "--base", tiny / "sd"]
    return [str(word) for word in [*words, "--image-encoder", tiny / "clip-vision", "--out", out]]


def test_export_gives_back_the_head_folder(tiny_dir, published, tmp_path):
    """Catches a tensor of the face that changes, vanishes, or comes from the body."""
    assert cli.main(["export", str(published), "--out", str(tmp_path / "out")]) == 0
    head = tmp_path / "out" / "head"
    assert names(head) >= names(tiny_dir / "head")
    for part in ("unet", "controlnet"):
        name = f"{part}/diffusion_pytorch_model.safetensors"
        source, exported = load_file(tiny_dir / "head" / name), load_file(head / name)
        assert sorted(source) == sorted(exported)
        for key, value in source.items():
            assert exported[key].dtype == value.dtype and exported[key].shape == value.shape
            assert exported[key].tobytes() == value.tobytes()
    assert json.loads((head / "unet/config.json").read_text())["in_channels"] == 9
    again = tmp_path / "again"  # what was exported is taken back
    assert cli.main(face_arguments(tmp_path / "out", head, again)) == 0
    assert cli.main(["export", str(again), "--out", str(tmp_path / "twice")]) == 0
    for path in head.rglob("*.*"):
        twin = tmp_path / "twice" / "head" / path.relative_to(head)
        assert twin.read_bytes() == path.read_bytes()


def params(anchor: Path) -> dict[str, Any]:
    """All parameters in their stored types, by network and path."""
    every = checkpoint.load(anchor, networks=()).networks()
    loaded = checkpoint.load(anchor, networks=list(every), dtype=None).networks()
    return {name: flatten(network.params) for name, network in loaded.items()}


@pytest.mark.parametrize(
    "which",
    [
        "anchor",
        "published",
        pytest.param("fresh", marks=pytest.mark.slow),  # less than the finetuned one
        "finetuned",
        "shipped",
    ],
)
def test_convert_takes_back_any_anchor_that_export_wrote(which, request, tmp_path):
    """Catches an anchor refused for channels that Stable Diffusion does not have, or for the scale
    of its latents, and settings, training history, an untrained part or the empty text lost."""
    if which == "shipped":
        before = open_assets().anchor
    else:
        before = request.getfixturevalue(which)
        before = before / "anchor" if which == "finetuned" else before
    changed = shutil.copytree(before, tmp_path / "changed")  # settings that are nobody's defaults
    settings = Settings(Sampling(steps=7, crossfade=True), FaceSampling(guidance=2.5, fit="crop"))
    checkpoint.store_settings(changed, settings)
    out = tmp_path / "out"
    assert cli.main(["export", str(changed), "--out", str(out)]) == 0
    words = ["convert", "--body", out / "body", "--base", out / "sd"]
    words += ["--image-encoder", out / "clip-vision", "--out", tmp_path / "again"]
    words += ["--face", out / "head"] if (out / "head").exists() else []
    assert cli.main(list(map(str, words))) == 0
    old, new = (checkpoint.load(path, networks=()) for path in (changed, tmp_path / "again"))
    for name in ("schedule", "settings", "tokenizer", "trained_face"):
        assert getattr(new, name) == getattr(old, name), name
    assert new.body.trained == old.body.trained
    assert new.provenance.get("training") == old.provenance.get("training")
    assert new.empty_text.tobytes() == old.empty_text.tobytes()
    assert {n: x.config for n, x in new.networks().items()} == {
        n: x.config for n, x in old.networks().items()
    }
    expected, found = params(changed), params(tmp_path / "again")
    for name, leaves in expected.items():
        assert found[name].keys() == leaves.keys()
        for path, leaf in leaves.items():
            twin = found[name][path]
            assert twin.dtype == leaf.dtype, (name, path)
            assert np.asarray(twin).tobytes() == np.asarray(leaf).tobytes(), (name, path)


@pytest.mark.parametrize("case", FACE)
def test_a_bad_face_is_one_error_and_nothing_is_written(tiny_dir, tmp_path, capsys, case):
    """Catches a body taken for a face, and an anchor that lost its face in silence."""
    head = shutil.copytree(tiny_dir / "head", tmp_path / "head", copy_function=shutil.copyfile)
    for path in (head, *head.rglob("*")):
        path.chmod(0o755)
    spoil, message = FACE[case]
    spoil(head)
    before = names(tmp_path)
    assert cli.main(face_arguments(tiny_dir, head, tmp_path / "anchor")) == 2
    assert message in one_error(capsys)
    assert names(tmp_path) == before


@pytest.mark.parametrize("where", ["existing", "file/anchor"])
def test_a_place_that_cannot_be_written_is_one_error(weights, tmp_path, capsys, where):
    """Catches an anchor merged into another folder, and a place that is found out to be none after
    the work."""
    (tmp_path / "existing").mkdir()
    (tmp_path / "existing" / "mine").touch()
    (tmp_path / "file").touch()
    before = names(tmp_path)
    assert cli.main(convert_arguments(weights, tmp_path / where)) == 2
    assert where.split("/")[0] in one_error(capsys)
    assert names(tmp_path) == before


@pytest.mark.parametrize("command", ["inspect", "export"])
def test_what_is_no_anchor_is_one_error(command, tmp_path, capsys):
    """Catches a traceback for a folder or file that is something else."""
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").touch()
    for name in ("missing", "folder", "file"):
        words = [command, str(tmp_path / name)]
        words += ["--out", str(tmp_path / "out")] if command == "export" else []
        assert cli.main(words) == 2
        assert name in one_error(capsys)
    assert names(tmp_path) == {"folder", "file"}


def test_a_full_disk_is_one_error(weights, tmp_path):
    """Catches a traceback, a hang, or a partial anchor when the disk is full."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = f"mount -t tmpfs -o size=1m none {disk}"
    if subprocess.run(["unshare", "-rm", "sh", "-c", mount], capture_output=True).returncode:
        pytest.skip("needs the right to mount a small file system")
    program = [sys.executable, "-m", "anchor_jax.cli", *convert_arguments(weights, disk / "a")]
    script = f'{mount} && "$@"; code=$?; ls -A {disk}; exit $code'
    done = subprocess.run(
        ["unshare", "-rm", "sh", "-c", script, "sh", *program],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 2, done.stderr
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    last = done.stderr.splitlines()[-1]
    assert last.startswith("anchor-jax: error: ")
    assert "no space left" in last


def test_an_interruption_leaves_nothing(weights, tmp_path, capsys, monkeypatch):
    """Catches a partial anchor after Ctrl-C in the middle of writing."""
    import orbax.checkpoint as ocp

    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(ocp.PyTreeCheckpointer, "save", interrupt)
    monkeypatch.setattr(ocp.Checkpointer, "save", interrupt)
    monkeypatch.setattr(ocp.StandardCheckpointer, "save", interrupt)
    assert cli.main(convert_arguments(weights, tmp_path / "anchor")) == 130
    assert one_error(capsys) == "interrupted; nothing was written"
    assert names(tmp_path) == set()
