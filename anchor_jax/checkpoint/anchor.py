"""One person's model in memory: its networks, by name and with their types, and its settings."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Generic, TypeVar

import numpy as np

from anchor_jax.diffusion.schedule import ScheduleConfig
from anchor_jax.diffusion.settings import Sampling
from anchor_jax.face.settings import FaceSampling
from anchor_jax.models import (
    CLIPTextConfig,
    CLIPVisionConfig,
    ControlConfig,
    NetworkConfig,
    UNetConfig,
    VAEConfig,
)
from anchor_jax.shapes import Params

# Every network by the name that it has on disk.
NETWORKS: dict[str, type[NetworkConfig]] = {
    "body/unet": UNetConfig,
    "body/control": ControlConfig,
    "face/unet": UNetConfig,
    "face/control": ControlConfig,
    "vae": VAEConfig,
    "image_encoder": CLIPVisionConfig,
    "text_encoder": CLIPTextConfig,
}
FACE_NETWORKS = frozenset({"face/unet", "face/control"})  # an anchor has both or neither

Config = TypeVar("Config", bound=NetworkConfig)


@dataclass(frozen=True)
class Network(Generic[Config]):
    """A network: its config and, where they were loaded, its parameters (else an empty dict)."""

    config: Config
    params: Params = field(default_factory=dict)


@dataclass(frozen=True)
class Part:
    """What is trained of an anchor: the two networks that denoise the body, or the face.

    Attributes:
        unet: the denoising UNet.
        control: the control branch.
        trained: False for networks that no training has seen yet; these are never used.
    """

    unet: Network[UNetConfig]
    control: Network[ControlConfig]
    trained: bool = True


@dataclass(frozen=True)
class Settings:
    """How an anchor's videos are made where a user asks for nothing else.

    Attributes:
        sampling: of the whole frame.
        face: of the repainted face.
    """

    sampling: Sampling = field(default_factory=Sampling)
    face: FaceSampling = field(default_factory=FaceSampling)

    def describe(self, face: bool = True) -> str:
        """All of them on one line, as a result records them; with or without the face's."""
        values = asdict(self.sampling)
        if face:
            values |= {f"face_{name}": value for name, value in asdict(self.face).items()}
        return ", ".join(f"{name} {value}" for name, value in values.items())


@dataclass(frozen=True)
class Anchor:
    """One person's model: what `generate` needs, and what a checkpoint holds.

    Attributes:
        body: denoises the whole frame.
        vae: the autoencoder.
        image_encoder: makes tokens of the appearance picture.
        text_encoder: for export alone; `load` leaves its parameters out.
        schedule: the noise schedule that the weights were trained with.
        empty_text: float32 (tokens, width), the text encoder's last hidden state for the empty
            text, of as many tokens as one image has: guidance's unconditional half.
        face: repaints faces, or None.
        settings: the recommended ones.
        provenance: where it came from, free-form JSON.
        tokenizer: file name to content, for export alone; empty where the base had none.
    """

    body: Part
    vae: Network[VAEConfig]
    image_encoder: Network[CLIPVisionConfig]
    text_encoder: Network[CLIPTextConfig]
    schedule: ScheduleConfig
    empty_text: np.ndarray
    face: Part | None = None
    settings: Settings = field(default_factory=Settings)
    provenance: dict[str, Any] = field(default_factory=dict)
    tokenizer: dict[str, bytes] = field(default_factory=dict)

    @property
    def trained_face(self) -> Part | None:
        """The face part, unless nobody has trained it."""
        return self.face if self.face is not None and self.face.trained else None

    def part(self, name: str) -> Part | None:
        """The part "body" or "face"."""
        return {"body": self.body, "face": self.face}[name]

    def networks(self) -> dict[str, Network[Any]]:
        """Every network by its name on disk, in the order of `NETWORKS`."""
        found: dict[str, Network[Any]] = {
            "vae": self.vae,
            "image_encoder": self.image_encoder,
            "text_encoder": self.text_encoder,
        }
        for name, part in (("body", self.body), ("face", self.face)):
            if part is not None:
                found |= {f"{name}/unet": part.unet, f"{name}/control": part.control}
        return {name: found[name] for name in NETWORKS if name in found}


def assemble(networks: Mapping[str, Network[Any]], trained: Mapping[str, bool], **rest) -> Anchor:
    """An anchor of networks by their names on disk.

    Args:
        networks: all of `NETWORKS`, the face's two or neither.
        trained: whether "body" and "face" are trained.
        rest: the anchor's other fields.
    """

    def part(name: str) -> Part:
        unet, control = networks[f"{name}/unet"], networks[f"{name}/control"]
        return Part(unet, control, trained[name])

    return Anchor(
        body=part("body"),
        face=part("face") if networks.keys() >= FACE_NETWORKS else None,
        vae=networks["vae"],
        image_encoder=networks["image_encoder"],
        text_encoder=networks["text_encoder"],
        **rest,
    )


def with_networks(anchor: Anchor, networks: Mapping[str, Network[Any]]) -> Anchor:
    """The anchor with these networks, by their names on disk, in place of its own."""
    trained = {"body": anchor.body.trained, "face": anchor.face is None or anchor.face.trained}
    others = ("schedule", "empty_text", "settings", "provenance", "tokenizer")
    return assemble(networks, trained, **{name: getattr(anchor, name) for name in others})
