"""The folder of a run: logs that continue, events for TensorBoard, folders that are refused."""

import json
import shutil
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

from anchor_jax.errors import AnchorError
from anchor_jax.train.configs import FREE, PRESETS, settings, translate
from anchor_jax.training.events import EventWriter
from anchor_jax.training.run import Run
from tests.full_disk import largest_file

SETTINGS = {"steps": 4, "seed": 1}


def opened(folder: Path, **changed: object) -> Run:
    return Run(folder, SETTINGS | changed, frozenset({"steps"}))


def events(folder: Path):
    """The events of the files in `folder`, in order."""
    from tensorboardX.proto import event_pb2

    for path in sorted(folder.iterdir()):
        content = path.read_bytes()
        while content:  # a record: its length, a checksum, the event, a checksum
            (length,) = struct.unpack("<Q", content[:8])
            yield cast(Any, event_pb2).Event.FromString(content[12 : 12 + length])
            content = content[16 + length :]


def test_tensorboard_gets_scalars_and_pictures(tmp_path):
    """Catches numbers at another step or under another name, a picture in other colours, and steps
    that appear twice where a run continues."""
    from PIL import Image

    picture = np.random.default_rng(0).integers(0, 256, (4, 6, 3), np.uint8)
    made = EventWriter(tmp_path / "events", 3)
    made.add_scalars(3, {"loss": 0.5, "loss/t1of4": 0.25})
    made.add_image(4, "validation", picture)
    version, start, scalars, image = events(tmp_path / "events")  # there before it is closed
    made.close()
    assert version.file_version == "brain.Event:2"
    assert (start.session_log.status, start.step) == (1, 3)  # START: later steps are void
    values = {value.tag: value.simple_value for value in scalars.summary.value}
    assert values == {"loss": 0.5, "loss/t1of4": 0.25} and scalars.step == 3
    (value,) = image.summary.value
    assert value.tag == "validation" and image.step == 4
    (tmp_path / "picture.png").write_bytes(value.image.encoded_image_string)
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "picture.png")), picture)


def test_a_full_disk_is_an_error_and_no_endless_wait(tmp_path):
    """Catches a writer that waits for ever for its thread, which ended."""
    made = EventWriter(tmp_path / "events", 0)
    with largest_file(2000), pytest.raises(OSError, match="File too large"):
        made.add_scalars(1, {f"loss{i}": 0.5 for i in range(200)})
    made.close()


def test_logs_go_on_where_the_run_does(tmp_path):
    """Catches two lines of a step that is repeated, and the half line of a killed process."""
    run = opened(tmp_path / "run")
    run.begin(0)
    for step in (1, 2, 3):
        run.log(step, {"loss": float(step)}, [[step, 0]])
    run.close()
    with (tmp_path / "run" / "metrics.jsonl").open("a") as file:
        file.write('{"step": 4, "lo')
    run = opened(tmp_path / "run", steps=9)
    run.begin(2)
    run.log(3, {"loss": 7.0})
    run.close()
    assert run.metrics() == [
        {"step": 1, "loss": 1.0, "frames": [[1, 0]]},
        {"step": 2, "loss": 2.0, "frames": [[2, 0]]},
        {"step": 3, "loss": 7.0},
    ]


def test_what_is_no_run_of_ours_is_left_alone(tmp_path):
    """Catches two processes that write into one folder, a run that goes on with other settings,
    and a config that is cut short or somebody's folder taken for a run."""
    run = opened(tmp_path / "run")
    with pytest.raises(AnchorError, match="another process trains in this folder"):
        opened(tmp_path / "run")
    run.close()
    config = tmp_path / "run" / "config.json"
    before = config.read_text("utf-8")
    with pytest.raises(AnchorError, match="seed was 1 and is 2; give the same ones"):
        opened(tmp_path / "run", seed=2)
    assert config.read_text("utf-8") == before
    assert json.loads(before)["settings"] == SETTINGS
    opened(tmp_path / "stages", stage="autoencoder").close()
    with pytest.raises(AnchorError, match="of `train autoencoder`, not of `train finetune`"):
        opened(tmp_path / "stages", stage="finetune", other=1)
    config.write_text(before[:50], "utf-8")
    with pytest.raises(AnchorError, match=r"config.json: cannot be read"):
        opened(tmp_path / "run")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("mine")
    with pytest.raises(AnchorError, match="exists and is no run"):
        opened(tmp_path / "mine")


def test_an_interrupted_run_says_what_it_keeps(tmp_path):
    """Catches a run that says that nothing was written, or that hides what its loop says, and a
    lock that stays."""
    for said, told in (((), "what is complete in .*run is kept"), (("step 2 is saved",), "step 2")):
        with pytest.raises(KeyboardInterrupt, match=told), opened(tmp_path / "run"):
            raise KeyboardInterrupt(*said)


def test_a_run_of_an_earlier_version_goes_on(tmp_path):
    """Catches a run that is refused for a setting that it did not have, or whose values have other
    names now, and one that goes on although a setting has another value."""
    now = settings(PRESETS["finetune"]["debug"]) | {"dtype": "float32"}
    added = {"tf32", "ema_memory", "optimizer.first_moment"}
    earlier = {name: value for name, value in now.items() if name not in added}

    def start(settings: Mapping[str, object]) -> None:
        Run(tmp_path / "run", settings, FREE, translate).close()

    for old, new, other in ((False, "none", "blocks"), (True, "blocks", "none")):
        start(earlier | {"remat": old})
        with pytest.raises(AnchorError, match=f"remat was '{new}' and is '{other}'"):
            start(now | {"remat": other})
        with pytest.raises(AnchorError, match="tf32 was False and is True"):
            start(now | {"remat": new, "tf32": True})
        start(now | {"remat": new, "ema_memory": "host"})
        shutil.rmtree(tmp_path / "run")
