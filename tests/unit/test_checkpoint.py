"""Our own format: what is saved is loaded, and nothing in the files is believed unchecked."""

import json
import os
import shutil
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from anchor_jax import AnchorError, checkpoint
from anchor_jax.checkpoint import (
    Anchor,
    Settings,
    describe,
    load,
    parameters,
    save,
    store_settings,
    with_networks,
)
from anchor_jax.checkpoint.parameters import Lazy, abstract_params, flatten, groups, unflatten
from anchor_jax.checkpoint.settings import settings_of_version_1
from anchor_jax.diffusion import Sampling
from anchor_jax.diffusion.schedule import ScheduleConfig
from anchor_jax.face.settings import FaceSampling
from anchor_jax.generation.networks import cast_kernels
from anchor_jax.models import (
    CLIPTextConfig,
    CLIPVisionConfig,
    ControlConfig,
    NetworkConfig,
    UNetConfig,
    VAEConfig,
)
from anchor_jax.poses.framing import Framing, Place
from tests.anchors import make_anchor

UNET = UNetConfig(
    channels=(8,),
    layers_per_block=1,
    cross_attention=(True,),
    num_heads=2,
    context_dim=8,
    norm_groups=4,
)
CONTROL = ControlConfig(
    channels=(8,),
    layers_per_block=1,
    cross_attention=(True,),
    num_heads=2,
    context_dim=8,
    norm_groups=4,
    pose_embedding_channels=(4, 4),
)
NETWORKS: dict[str, NetworkConfig] = {
    "body/unet": UNET,
    "body/control": CONTROL,
    "vae": VAEConfig(channels=(4, 4), layers_per_block=1, norm_groups=2),
    "image_encoder": CLIPVisionConfig(8, 4, 8, 8, 1, 2),
    "text_encoder": CLIPTextConfig(11, 6, 8, 8, 1, 2),
}
TYPES = (np.dtype("float16"), np.dtype(jnp.bfloat16), np.dtype("float32"))


def random_params(config: NetworkConfig, seed: int = 0):
    """Leaves of all three types, with every bit drawn, but finite."""
    rng = np.random.default_rng(seed)
    leaves = {}
    for i, (path, leaf) in enumerate(flatten(abstract_params(config)).items()):
        dtype = TYPES[i % 3]
        bits = rng.integers(0, 256, (*leaf.shape, dtype.itemsize), np.uint8)
        array = bits.view(dtype)[..., 0]
        with np.errstate(invalid="ignore"):
            leaves[path] = np.where(np.isfinite(array), array, dtype.type(1))
    return unflatten(leaves)


def configs_of(anchor: Anchor) -> dict[str, NetworkConfig]:
    return {name: network.config for name, network in anchor.networks().items()}


def loaded_of(anchor: Anchor) -> set[str]:
    """The networks whose parameters were loaded."""
    return {name for name, network in anchor.networks().items() if network.params}


@pytest.fixture(scope="module")
def anchor() -> Anchor:
    return make_anchor(
        NETWORKS,
        {name: random_params(config, i) for i, (name, config) in enumerate(NETWORKS.items())},
        np.random.default_rng(0).normal(size=(5, 8)).astype("f"),
        schedule=ScheduleConfig(num_train_timesteps=500, prediction_type="v_prediction"),
        settings=Settings(Sampling(steps=7, crossfade=True), FaceSampling(size=64, fit="crop")),
        framing=Framing(
            (96, 64),
            Place(crown=0.1, neck=0.3, column=-0.2, head=0.2),
            Place(crown=0.11, neck=0.31, column=0.0, head=0.25),
            Place(crown=0.125, neck=0.32, column=0.2, head=0.3),
            {"height": 0.75},
        ),
        appearance=np.random.default_rng(1).integers(0, 256, (6, 4, 3), np.uint8),
        provenance={"made": "by a test", "sources": [{"file": "x", "bytes": 3}]},
        tokenizer={"vocab.json": b"{}", "merges.txt": b"\xff\x00"},
    )


@pytest.fixture(scope="module")
def saved(anchor, tmp_path_factory) -> Path:
    """The anchor on disk. Do not write here."""
    path = tmp_path_factory.mktemp("saved") / "anchor"
    save(path, anchor)
    return path


@pytest.fixture
def broken(saved, tmp_path) -> Path:
    """The same, for a test to spoil."""
    return shutil.copytree(saved, tmp_path / "anchor")


def refused(path: Path, act=load) -> str:
    with pytest.raises(AnchorError) as info:
        act(path)
    assert "\n" not in str(info.value)
    assert str(path) in str(info.value)
    return str(info.value)


def test_an_anchor_comes_back_bit_for_bit(anchor, saved):
    """Catches a leaf cast, moved or lost, bfloat16 rounded, and configs, schedule, tokenizer or
    provenance that change."""
    back = load(saved, NETWORKS, dtype=None)
    assert configs_of(back) == configs_of(anchor) == NETWORKS
    assert back.settings == anchor.settings
    np.testing.assert_array_equal(back.appearance, anchor.appearance)
    assert repr(back.framing) == repr(anchor.framing)  # NaN differs from itself
    assert back.schedule == anchor.schedule
    assert back.provenance == anchor.provenance
    assert back.tokenizer == anchor.tokenizer
    assert back.empty_text.tobytes() == anchor.empty_text.tobytes()
    assert loaded_of(back) == set(NETWORKS)
    for name in NETWORKS:
        ours, theirs = (flatten(x.networks()[name].params) for x in (anchor, back))
        assert list(ours) == list(theirs)
        for path, array in ours.items():
            assert isinstance(theirs[path], jax.Array)
            assert theirs[path].dtype == array.dtype
            assert np.asarray(theirs[path]).tobytes() == array.tobytes()


def test_saving_again_what_was_loaded_changes_nothing(anchor, saved, tmp_path):
    """Catches jax arrays that are saved otherwise than numpy's."""
    save(tmp_path / "again", load(saved, NETWORKS, dtype=None))
    for name in NETWORKS:
        back = load(tmp_path / "again", [name], dtype=None).networks()[name].params
        for path, array in flatten(anchor.networks()[name].params).items():
            assert np.asarray(flatten(back)[path]).tobytes() == array.tobytes()


def test_loading_casts_and_leaves_out_the_text_encoder(anchor, saved):
    """Catches parameters in their stored type, a text encoder in memory for nothing, and a
    selection that is ignored."""
    back = load(saved)
    assert loaded_of(back) == set(NETWORKS) - {"text_encoder"}
    params = [network.params for network in back.networks().values()]
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(params))
    leaf = back.vae.params["quant_conv"]["kernel"]
    stored = anchor.vae.params["quant_conv"]["kernel"]
    np.testing.assert_array_equal(leaf, np.asarray(stored, np.float32))
    assert loaded_of(load(saved, [])) == set()
    assert loaded_of(load(saved, ["vae"], jnp.bfloat16)) == {"vae"}
    assert "no network face/unet" in refused(saved, lambda path: load(path, ["face/unet"]))


def test_lazy_parameters_are_read_once_and_a_few_at_a_time(anchor, tmp_path, monkeypatch):
    """Catches a tree that is in memory as a whole while it is written."""
    monkeypatch.setattr(parameters, "_GROUP_BYTES", 256)
    alive, most, reads = [0], [0], []

    class Counted(np.ndarray):
        def __del__(self):
            alive[0] -= 1

    def lazy(path, array):
        def read():
            reads.append(path)
            alive[0] += 1
            most[0] = max(most[0], alive[0])
            return np.ascontiguousarray(array).view(Counted)

        return Lazy(array.shape, array.dtype, read)

    leaves = {("a", str(i)): np.full((16,), i, "f") for i in range(40)}
    folder = tmp_path / "params"
    bad = parameters.write_params(folder, unflatten({k: lazy(k, a) for k, a in leaves.items()}))
    assert bad == []
    assert sorted(reads) == sorted(leaves)
    assert most[0] <= 3 * 256 // 64
    wanted = unflatten({k: jax.ShapeDtypeStruct(a.shape, a.dtype) for k, a in leaves.items()})
    back = flatten(parameters.read_params(folder, wanted))
    for path, array in leaves.items():
        np.testing.assert_array_equal(back[path], array)


def test_groups_keep_order_and_lose_nothing(monkeypatch):
    """Catches a last group that is dropped and an item that is bigger than a group."""
    monkeypatch.setattr(parameters, "_GROUP_BYTES", 10)
    assert list(groups([3, 3, 4, 50, 1, 2], lambda item: item)) == [[3, 3, 4], [50], [1, 2]]
    assert list(groups([], lambda item: item)) == []


def test_parameters_that_are_not_finite_are_not_saved(anchor, tmp_path):
    """Catches a diverged training run saved as an anchor."""
    networks = {
        name: replace(network, params=jax.tree.map(np.copy, network.params))
        for name, network in anchor.networks().items()
    }
    networks["vae"].params["quant_conv"]["bias"][1] = np.nan
    networks["body/unet"].params["conv_in"]["bias"][0] = np.inf
    bad = with_networks(anchor, networks)
    message = refused(tmp_path / "x", lambda path: save(path, bad))
    assert "body/unet/conv_in/bias, vae/quant_conv/bias" in message
    assert os.listdir(tmp_path) == []


def test_an_anchor_without_all_its_parameters_is_not_saved(saved, tmp_path):
    """Catches an anchor that was loaded in part and saved as if it were whole."""
    message = refused(tmp_path / "x", lambda path: save(path, load(saved)))
    assert "text_encoder" in message
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    "error", [KeyboardInterrupt(), RuntimeError("x"), OSError(28, "No space left on device")]
)
def test_an_interrupted_save_leaves_nothing(anchor, tmp_path, error):
    """Catches a folder that is half an anchor."""

    def fail():
        raise error

    params = jax.tree.map(lambda x: x, anchor.text_encoder.params)
    layer = params["text_model"]["final_layer_norm"]
    layer["bias"] = Lazy(layer["bias"].shape, layer["bias"].dtype, fail)
    bad = replace(anchor, text_encoder=replace(anchor.text_encoder, params=params))
    with pytest.raises((AnchorError, KeyboardInterrupt, RuntimeError)) as info:
        save(tmp_path / "anchor", bad)
    assert os.listdir(tmp_path) == []
    assert isinstance(info.value, AnchorError) == isinstance(error, OSError)


def test_no_room_is_found_out_before_anything_is_written(anchor, tmp_path, monkeypatch):
    """Catches a disk that is filled up for nothing."""
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1000))
    monkeypatch.setattr(parameters, "write_params", None)
    assert "no space left" in refused(tmp_path / "x", lambda path: save(path, anchor))


def test_places_that_hold_something_are_refused(anchor, tmp_path):
    """Catches an anchor replaced by another, and a traceback where the parent is a file."""
    (tmp_path / "full").mkdir()
    (tmp_path / "file").touch()
    for place in ("full", "file"):
        assert "exists already" in refused(tmp_path / place, lambda path: save(path, anchor))
    assert "file is not a folder" in refused(tmp_path / "file/x", lambda path: save(path, anchor))
    assert sorted(os.listdir(tmp_path)) == ["file", "full"]


def edit(path: Path, change) -> None:
    content = json.loads((path / "anchor.json").read_text())
    change(content)
    (path / "anchor.json").write_text(json.dumps(content))


HOSTILE = {
    "newer": (lambda c: c.update(version=3), "install a newer"),
    "no version": (lambda c: c.pop("version"), "format version None"),
    "another format": (lambda c: c.update(format="tar"), "format"),
    "networks a list": (lambda c: c.update(networks=[]), "networks is not an object"),
    "no schedule": (lambda c: c.pop("schedule"), "schedule is not an object"),
    "path as a network": (
        lambda c: c["networks"].update({"../../etc": c["networks"]["vae"]}),
        "unknown network '../../etc'",
    ),
    "no vae": (lambda c: c["networks"].pop("vae"), "'vae' is missing"),
    "half a face": (
        lambda c: c["networks"].update({"face/unet": c["networks"]["body/unet"]}),
        "'face/control' is missing",
    ),
    "network a list": (lambda c: c["networks"].update(vae=[1]), "vae is not an object"),
    "unknown field": (lambda c: c["networks"]["vae"].update(evil=1), "unknown entry 'evil'"),
    "text for a number": (lambda c: c["networks"]["vae"].update(norm_groups="2"), "norm_groups"),
    "true for a number": (lambda c: c["networks"]["vae"].update(norm_groups=True), "norm_groups"),
    "number for true": (
        lambda c: c["networks"]["body/unet"].update(cross_attention=[1]),
        "cross_attention",
    ),
    "empty channels": (lambda c: c["networks"]["vae"].update(channels=[]), "channels"),
    "huge": (lambda c: c["networks"]["vae"].update(layers_per_block=10**6), "layers_per_block"),
    "negative": (lambda c: c["networks"]["vae"].update(latent_channels=-1), "latent_channels"),
    "nan": (lambda c: c["schedule"].update(beta_end=float("nan")), "beta_end"),
    "code": (lambda c: c["schedule"].update(prediction_type=["x"]), "prediction_type"),
    "other widths": (lambda c: c["networks"]["vae"].update(channels=[8, 8]), "does not fit"),
    "other depth": (lambda c: c["networks"]["vae"].update(layers_per_block=2), "does not fit"),
    "shallower": (lambda c: c["networks"]["body/unet"].update(cross_attention=[False]), "unknown"),
    "indivisible": (lambda c: c["networks"]["vae"].update(norm_groups=3), "norm_groups"),
    "no groups": (lambda c: c["networks"]["vae"].update(norm_groups=0), "norm_groups"),
    "no sizes": (lambda c: c["stored"]["vae"].pop("files"), "stored.vae"),
    "sizes of text": (lambda c: c["stored"]["vae"]["files"].update(x="y"), "another size"),
    "path as a file": (lambda c: c["stored"]["vae"]["files"].update({"../..": 1}), "another size"),
    "settings a list": (lambda c: c.update(sampling=[1]), "sampling is not an object"),
    "unknown setting": (lambda c: c["sampling"].update(stepz=1), "unknown entry 'stepz'"),
    "text for steps": (lambda c: c["sampling"].update(steps="1"), "sampling.steps"),
    "no steps": (lambda c: c["sampling"].update(steps=0), "steps is 0"),
    "guidance too large": (lambda c: c["sampling"].update(guidance=1e5), "guidance is 100000.0"),
    "a framing of text": (lambda c: c.update(framing="x"), "framing is not an object"),
    "half a size": (lambda c: c["framing"].update(size=[96]), "framing.size is [96]"),
    "no middle": (lambda c: c["framing"].pop("middle"), "framing.middle is None"),
    "no head": (lambda c: c["framing"]["middle"].pop("head"), "framing.middle is {'crown'"),
    "a head of text": (lambda c: c["framing"]["low"].update(head="x"), "framing.low is"),
    "a shape of codes": (lambda c: c["framing"].update(shape={"\x1b": 1}), "framing.shape is"),
    "another blend": (lambda c: c["face_sampling"].update(blend="x"), "blend is 'x'"),
    "trained a list": (lambda c: c.update(trained=[]), "trained is not"),
    "trained a number": (lambda c: c["trained"].update(body=1), "trained is not"),
    "other tokens": (lambda c: c["networks"]["image_encoder"].update(patch_size=2), "empty_text"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_a_description_that_is_wrong_is_refused(broken, case):
    """Catches a value believed, a path followed, or a traceback, for a stranger's anchor.json."""
    change, words = HOSTILE[case]
    edit(broken, change)
    assert words in refused(broken)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff", b"[" * 100_000, b"null"])
def test_a_description_that_is_no_json_is_refused(broken, content):
    """Catches a traceback for an anchor.json that was cut off or replaced."""
    (broken / "anchor.json").write_bytes(content)
    refused(broken)
    refused(broken, describe)


def test_damaged_parameters_are_refused(broken):
    """Catches a traceback, pages of Orbax's log, or weights of zero, after a broken copy."""
    folder = broken / "params" / "vae"
    read = partial(load, networks=["vae"])
    files = [file for file in folder.rglob("*") if file.is_file()]
    assert len(files) > 3
    for path in files:
        content = path.read_bytes()
        for length in (0, len(content) // 2, len(content) - 1):
            path.write_bytes(content[:length])
            assert path.name in refused(broken, read)
        path.unlink()
        assert path.name in refused(broken, read)
        path.write_bytes(content)
    (folder / ".DS_Store").touch()
    assert loaded_of(read(broken))
    shutil.rmtree(folder)
    assert "params/vae" in refused(broken, read)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_files_with_other_bytes_are_refused(anchor, broken):
    """Catches a traceback where the sizes are right and the index is not."""
    for path in (broken / "params" / "vae").iterdir():
        if path.is_file() and path.stat().st_size > 60:
            content = path.read_bytes()
            path.write_bytes(content[:20] + bytes(20) + content[40:])
            try:
                back = load(broken, ["vae"], dtype=None).vae.params
            except AnchorError as error:
                message = str(error)
                assert "params/vae" in message and "\n" not in message
            else:  # not every file matters for reading
                for key, array in flatten(anchor.vae.params).items():
                    assert np.asarray(flatten(back)[key]).tobytes() == array.tobytes()
            path.write_bytes(content)
    # Of a failed read TensorStore's threads still finish the rest, and find Orbax's event loop
    # closed: let them do it here, where such complaints are expected, not in the next test.
    time.sleep(1)


def test_what_is_no_anchor_is_told_apart(saved, tmp_path):
    """Catches a traceback for a folder of PyTorch weights given to generate, and a name or a run of
    a training in place of its anchor without the words that help."""
    told = refused(tmp_path / "missing")
    assert "no such folder" in told and "`shipped`" in told
    assert "anchor-jax convert" in refused(tmp_path)
    run = tmp_path / "run"
    run.mkdir()
    (run / "config.json").write_text('{"architectures": ["CLIPModel"]}')
    assert "anchor-jax convert" in refused(run)
    (run / "config.json").write_text('{"settings": {}, "command": []}')
    assert "the run of a training that is not complete" in refused(run)
    shutil.copytree(saved, run / "anchor")
    assert f"give {run / 'anchor'}" in refused(run)
    for content in (b"", b"\x93NUMPY", b"PK"):
        broken = shutil.copytree(saved, tmp_path / str(len(content)))
        (broken / "empty_text.npy").write_bytes(content)
        assert "empty_text.npy" in refused(broken)


def test_a_pickle_in_the_empty_text_is_not_run(broken):
    """Catches np.load with pickles allowed."""

    class Evil:
        def __reduce__(self):
            return exec, ("raise SystemExit('the pickle ran')",)

    np.save(broken / "empty_text.npy", np.array([Evil()], object), allow_pickle=True)
    assert "empty_text.npy" in refused(broken)


def test_the_description_tells_what_is_inside(anchor, saved):
    """Catches a wrong count, and a network or source left out."""
    text = describe(saved)
    for name, config in NETWORKS.items():
        count = sum(int(np.prod(x.shape)) for x in jax.tree.leaves(abstract_params(config)))
        row = next(line for line in text.splitlines() if line.startswith(name))
        assert f"{count:,}" in row.split()
        assert "bfloat16, float16, float32" in row
    for words in ("5 x 8", "prediction_type=v_prediction", "vocab.json", "by a test", "bytes 3"):
        assert words in text


def test_the_description_obeys_no_terminal_codes(broken):
    """Catches a stranger's anchor that rewrites the screen."""
    edit(broken, lambda content: content["provenance"].update({"made": "\x1b[2J\r", "\x07": "x"}))
    assert not any(ord(c) < 32 and c != "\n" for c in describe(broken))


def test_the_description_of_damage_is_a_number(broken):
    """Catches describe failing where only the sizes are off."""
    shutil.rmtree(broken / "params" / "vae")
    assert "0.0 MB" in describe(broken)


def test_paths_may_be_relative(saved, monkeypatch):
    """Catches Orbax's refusal of relative paths reaching the user."""
    monkeypatch.chdir(saved.parent)
    assert checkpoint.load(saved.name, ["vae"]).vae.params


def test_settings_and_training_marks_come_back(anchor, saved, tmp_path):
    """Catches a setting or a mark that is lost, and settings that cannot be changed later."""
    body = replace(anchor.body, trained=False)
    save(tmp_path / "fresh", replace(anchor, body=body))
    assert not load(tmp_path / "fresh", []).body.trained
    assert load(saved, []).body.trained and load(saved, []).settings == anchor.settings
    other = Settings(Sampling(steps=3), FaceSampling(size=128))
    before = (tmp_path / "fresh" / "anchor.json").read_text()
    store_settings(tmp_path / "fresh", other)
    back = load(tmp_path / "fresh", None)
    assert back.settings == other and not back.body.trained
    changed = json.loads((tmp_path / "fresh" / "anchor.json").read_text())
    kept = json.loads(before)
    assert {key for key in kept if kept[key] != changed[key]} == {"sampling", "face_sampling"}


def test_storing_settings_keeps_what_this_library_does_not_know(saved, tmp_path):
    """Catches a part of anchor.json that a newer library, or the user, wrote and that is lost."""
    path = shutil.copytree(saved, tmp_path / "anchor")
    edit(path, lambda c: c.update(mine={"tall": True}))
    store_settings(path, Settings(Sampling(steps=3)))
    content = json.loads((path / "anchor.json").read_text())
    assert content["mine"] == {"tall": True} and content["sampling"]["steps"] == 3


def test_a_setting_that_an_older_library_did_not_know_has_its_default(saved, tmp_path):
    """Catches an ANCHOR that can no longer be read once a setting is added."""
    path = shutil.copytree(saved, tmp_path / "anchor")
    edit(path, lambda c: c["sampling"].pop("window"))
    assert load(path, []).settings.sampling == Sampling(steps=7, crossfade=True)


def test_kernels_are_loaded_in_the_type_of_the_computation(saved):
    """Catches a float32 copy of the kernels in memory, norms or biases in bfloat16, an image
    encoder that is not float32, other values than a cast on the device gives, and a copy of
    kernels that have their type already."""
    plain = load(saved)
    present = {id(x) for x in jax.live_arrays()}
    back = load(saved, kernels="bfloat16")
    new = [x for x in jax.live_arrays() if id(x) not in present]
    encoder = {id(x) for x in jax.tree.leaves(back.image_encoder.params)}
    assert not [
        x.shape for x in new if x.ndim > 1 and x.nbytes > 2 * x.size and id(x) not in encoder
    ]
    for name, network in back.networks().items():
        dtype = "float32" if name == "image_encoder" else "bfloat16"
        expected = cast_kernels(plain.networks()[name].params, dtype)
        jax.tree.map(np.testing.assert_array_equal, network.params, expected)
        assert jax.tree.map(lambda x: x.dtype, network.params) == jax.tree.map(
            lambda x: x.dtype, expected
        )
        for ours, cast in zip(
            *map(jax.tree.leaves, (network.params, cast_kernels(network.params, dtype))),
            strict=True,
        ):
            assert cast.unsafe_buffer_pointer() == ours.unsafe_buffer_pointer()
    assert (
        load(saved, ["vae"], kernels="auto").vae.params["quant_conv"]["kernel"].dtype == "float32"
    )


@pytest.mark.parametrize("stored", ["float32", "int3"])
def test_an_anchor_does_not_choose_the_type_of_the_computation(anchor, saved, tmp_path, stored):
    """Catches an ANCHOR that was converted on a CPU and then computes in float32 on every GPU, as
    those of older versions, which stored the type, would."""
    mine = anchor.settings.sampling.updated(dtype="bfloat16")
    path = shutil.copytree(saved, tmp_path / "anchor")
    store_settings(path, Settings(mine, anchor.settings.face))
    assert {"dtype", "tf32"}.isdisjoint(json.loads((path / "anchor.json").read_text())["sampling"])
    assert "dtype" not in describe(path).splitlines()[1]
    edit(path, lambda c: c["sampling"].update(dtype=stored))
    assert load(path, []).settings.sampling == Sampling(steps=7, crossfade=True)
    assert Sampling().dtype == "auto"


PUBLISHED = Settings()
VERSION_1: dict[str, tuple[dict[str, Any], Settings, dict[str, bool]]] = {
    "converted": ({"notes": []}, PUBLISHED, {"body": True, "face": True}),
    "fresh": ({"notes": ["fresh control branch: ..."]}, PUBLISHED, {"body": False, "face": True}),
    "fresh, pretrained": (
        {
            "notes": ["fresh control branch: ..."],
            "training": [{"stage": "pretrain", "guidance": 5.0, "control_scale": 1.5}],
        },
        Settings(Sampling(guidance=5.0, control_scale=1.5)),
        {"body": True, "face": True},
    ),
    "autoencoder": (
        {"training": [{"stage": "autoencoder"}]},
        Settings(Sampling(guidance=1.0, control_scale=1.0), FaceSampling(guidance=1.0, fit="crop")),
        {"body": False, "face": False},
    ),
    "small, without a face": (
        {"training": [{"stage": "autoencoder"}, {"stage": "finetune", "guidance": 2.0}]},
        Settings(Sampling(guidance=2.0, control_scale=1.0), FaceSampling(guidance=1.0, fit="crop")),
        {"body": True, "face": False},
    ),
    "converted, face trained": (
        {"training": [{"stage": "face", "guidance": 3.0}]},
        Settings(face=FaceSampling(guidance=3.0, fit="crop")),
        {"body": True, "face": True},
    ),
    "nonsense": (
        {"notes": 3, "training": [1, {"stage": []}, {"stage": "face", "guidance": 1e9}]},
        Settings(face=FaceSampling(fit="crop")),
        {"body": True, "face": True},
    ),
}


@pytest.mark.parametrize("case", VERSION_1)
def test_settings_of_an_older_anchor_follow_from_its_provenance(case):
    """Catches small anchors of format version 1 that are driven as published ones, faces repainted
    by networks that nobody trained, and a traceback for provenance that says something else."""
    provenance, settings, trained = VERSION_1[case]
    assert settings_of_version_1(provenance) == (settings, trained)


def test_an_anchor_of_version_1_loads(saved, tmp_path):
    """Catches today's anchors refused."""
    path = shutil.copytree(saved, tmp_path / "anchor")
    edit(path, lambda c: [c.pop(key) for key in ("sampling", "face_sampling", "trained")])
    edit(path, lambda c: c.update(version=1))
    assert load(path, []).settings == Settings()
    assert "format version 1" in describe(path)


def test_inspect_shows_the_settings_first(saved):
    """Catches settings that a reader has to look for."""
    lines = describe(saved).splitlines()
    assert lines[0].endswith("ANCHOR, format version 2")
    assert lines[1].startswith("sampling") and "steps=7" in lines[1] and "crossfade" in lines[1]
