"""Convert what `anchor.json` says besides the networks to and from JSON: the recommended settings,
which parts are trained, and the framing."""

import math
from collections.abc import Mapping
from dataclasses import asdict, fields
from typing import Any, TypeGuard

from anchor_jax.checkpoint.anchor import Anchor, Settings
from anchor_jax.checkpoint.config_json import brief, parse_config
from anchor_jax.diffusion.settings import MACHINE_SETTINGS, Sampling
from anchor_jax.errors import AnchorError
from anchor_jax.face.settings import FaceSampling
from anchor_jax.poses.framing import Framing, Place

# Guidance amplifies the difference between conditional and unconditional predictions. Small models
# that are trained here from random weights do not learn that difference.
SMALL_SETTINGS = Settings(
    Sampling(guidance=1.0, control_scale=1.0), FaceSampling(guidance=1.0, fit="crop")
)
_PLACES = "low", "middle", "high"  # of a framing
_HEAD = "crown", "neck", "column", "head"  # what each place must have
FRESH_NOTE = "fresh control branch"  # the note of a conversion without a trained body begins so


def settings_to_json(anchor: Anchor) -> dict[str, Any]:
    """Make the sections "sampling", "face_sampling" and "trained" of `anchor.json`. The settings
    that belong to the machine are left out."""
    sampling = asdict(anchor.settings.sampling)
    trained = {"body": anchor.body.trained}
    if anchor.face is not None:
        trained["face"] = anchor.face.trained
    return {
        "sampling": {name: x for name, x in sampling.items() if name not in MACHINE_SETTINGS},
        "face_sampling": asdict(anchor.settings.face),
        "trained": trained,
    }


def settings_from_json(
    content: Mapping[str, Any], problems: list[str]
) -> tuple[Settings, dict[str, bool]]:
    """Read the settings, and whether "body" and "face" are trained.

    Args:
        content: the content of `anchor.json`. Missing settings have their defaults. Those
            of the machine, which older versions stored, are ignored.
        problems: receives one line for each mistake.
    """

    def read(cls: type, key: str, ignored: tuple[str, ...] = ()) -> Any:
        values = content.get(key, {})
        if isinstance(values, dict):
            stored = {name: value for name, value in values.items() if name not in ignored}
            values = asdict(cls()) | stored
        return parse_config(cls, values, key, problems)

    trained = content.get("trained")
    if not isinstance(trained, dict) or not all(isinstance(x, bool) for x in trained.values()):
        problems.append('trained is not an object of "body" and "face" to true or false')
        trained = {}
    sampling = read(Sampling, "sampling", MACHINE_SETTINGS)
    settings = Settings(sampling, read(FaceSampling, "face_sampling"))
    return settings, {name: trained.get(name, True) for name in ("body", "face")}


def framing_to_json(framing: Framing | None) -> dict[str, Any]:
    """Make the section "framing" of `anchor.json`; nothing if it is unknown."""
    if framing is None:
        return {}
    places = {
        name: {key: x for key, x in asdict(getattr(framing, name)).items() if math.isfinite(x)}
        for name in _PLACES
    }
    return {"framing": {"size": list(framing.size), **places, "shape": dict(framing.shape)}}


def framing_from_json(content: Mapping[str, Any], problems: list[str]) -> Framing | None:
    """Read the framing. Older versions stored none.

    Args:
        content: the content of `anchor.json`.
        problems: receives one line for each mistake.
    """
    if "framing" not in content:
        return None
    values = content["framing"]
    if not isinstance(values, dict):
        problems.append("framing is not an object")
        return None
    size, shape = values.get("size"), values.get("shape", {})
    if not isinstance(size, list) or len(size) != 2 or not all(type(x) is int for x in size):
        problems.append(f"framing.size is {brief(size)}, expected width and height in pixels")
        size = 0, 0
    if not _names_numbers(shape) or not all(name.isidentifier() for name in shape):
        problems.append(f"framing.shape is {brief(shape)}, expected names with numbers")
        shape = {}
    names = {item.name for item in fields(Place)}
    places = {}
    for part in _PLACES:
        place = values.get(part)
        if not _names_numbers(place) or not place.keys() >= {*_HEAD} or place["head"] <= 0:
            problems.append(f"framing.{part} is {brief(place)}, expected {', '.join(_HEAD)}")
            place = {}
        places[part] = Place(**{name: float(x) for name, x in place.items() if name in names})
    return Framing((size[0], size[1]), **places, shape=shape)


def _names_numbers(value: Any) -> TypeGuard[dict[str, float]]:
    """Return whether a JSON value is an object of finite numbers."""
    return isinstance(value, dict) and all(
        isinstance(x, int | float) and not isinstance(x, bool) and abs(x) < 1e6
        for x in value.values()
    )


def settings_of_version_1(provenance: Mapping[str, Any]) -> tuple[Settings, dict[str, bool]]:
    """Infer the result of `settings_from_json` for format version 1, which did not store settings.

    They are the published settings, or those of the training runs that `provenance` lists.
    """
    entries = provenance.get("training")
    runs = [run for run in entries if isinstance(run, dict)] if isinstance(entries, list) else []
    stages = {run.get("stage") for run in runs if isinstance(run.get("stage"), str)}
    notes = provenance.get("notes")
    fresh = "autoencoder" in stages or any(
        str(note).startswith(FRESH_NOTE) for note in (notes if isinstance(notes, list) else [])
    )
    trained = {
        "body": not fresh or bool(stages & {"pretrain", "finetune"}),
        "face": "autoencoder" not in stages or "face" in stages,
    }
    settings = SMALL_SETTINGS if "autoencoder" in stages else Settings()
    sampling, face = settings.sampling, settings.face
    if "face" in stages:
        face = face.updated(fit="crop")
    for run in runs:
        scales = {
            key: float(run[key])
            for key in ("guidance", "control_scale")
            if isinstance(run.get(key), int | float)
        }
        try:
            if run.get("stage") == "face":
                face = face.updated(**scales)
            elif run.get("stage") in ("pretrain", "finetune"):
                sampling = sampling.updated(**scales)
        except AnchorError:  # no training run wrote such values
            continue
    return Settings(sampling, face), trained
