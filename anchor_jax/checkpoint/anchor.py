"""The model of one person in memory: its networks, their configs and its settings."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
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
from anchor_jax.poses.framing import Framing
from anchor_jax.shapes import Params

# The config class of each network, by the network's name on disk.
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
    """A network: its config and its parameters, an empty dict if they are not loaded."""

    config: Config
    params: Params = field(default_factory=dict)


@dataclass(frozen=True)
class Part:
    """The two trainable networks that denoise the body, or the face.

    Attributes:
        unet: the denoising UNet.
        control: the control branch.
        trained: False for networks at their initial values; generation never uses these.
    """

    unet: Network[UNetConfig]
    control: Network[ControlConfig]
    trained: bool = True


@dataclass(frozen=True)
class Settings:
    """The settings of generation that an anchor recommends, or that a user chose.

    Attributes:
        sampling: settings for the whole frame.
        face: settings for the repainted face.
    """

    sampling: Sampling = field(default_factory=Sampling)
    face: FaceSampling = field(default_factory=FaceSampling)

    def resolved(self) -> "Settings":
        """Return a copy with the type that this machine computes in, in place of "auto"."""
        return replace(self, sampling=self.sampling.resolved())

    def describe(self, face: bool = True) -> str:
        """Format all settings as one line; `face` includes those of the face."""
        values = asdict(self.sampling)
        if face:
            values |= {f"face_{name}": value for name, value in asdict(self.face).items()}
        return ", ".join(f"{name} {value}" for name, value in values.items())


@dataclass(frozen=True)
class Anchor:
    """The model of one person: everything that `generate` needs and an ANCHOR stores.

    Attributes:
        body: the networks that denoise the whole frame.
        vae: the autoencoder.
        image_encoder: the encoder of the appearance picture.
        text_encoder: used by export only; `load` leaves its parameters out.
        schedule: the noise schedule of the training.
        empty_text: float32 (tokens, width), the text encoder's last hidden state for the empty
            text, with as many tokens as one image has. It is the unconditional input of guidance.
        face: the networks that repaint faces, or None.
        settings: the recommended settings.
        framing: where the pose images of the training had the person; None if unknown.
        appearance: a picture of the person, uint8 (h, w, 3), which generation takes if the user
            gives none; or None.
        provenance: the origin of the weights, free-form JSON.
        tokenizer: file name to content, used by export only; empty if the base had no tokenizer.
    """

    body: Part
    vae: Network[VAEConfig]
    image_encoder: Network[CLIPVisionConfig]
    text_encoder: Network[CLIPTextConfig]
    schedule: ScheduleConfig
    empty_text: np.ndarray
    face: Part | None = None
    settings: Settings = field(default_factory=Settings)
    framing: Framing | None = None
    appearance: np.ndarray | None = None
    provenance: dict[str, Any] = field(default_factory=dict)
    tokenizer: dict[str, bytes] = field(default_factory=dict)

    @property
    def trained_face(self) -> Part | None:
        """The face part if it exists and is trained, else None."""
        return self.face if self.face is not None and self.face.trained else None

    def part(self, name: str) -> Part | None:
        """Return the part called "body" or "face"; an anchor may have no face: None."""
        return {"body": self.body, "face": self.face}[name]

    def networks(self) -> dict[str, Network[Any]]:
        """Return all networks by their names on disk, in the order of `NETWORKS`."""
        present: dict[str, Network[Any]] = {
            "vae": self.vae,
            "image_encoder": self.image_encoder,
            "text_encoder": self.text_encoder,
        }
        for name, part in (("body", self.body), ("face", self.face)):
            if part is not None:
                present |= {f"{name}/unet": part.unet, f"{name}/control": part.control}
        return {name: present[name] for name in NETWORKS if name in present}


def assemble(networks: Mapping[str, Network[Any]], trained: Mapping[str, bool], **rest) -> Anchor:
    """Make an anchor from networks by their names on disk.

    Args:
        networks: all of `NETWORKS`; the two face networks may be left out together.
        trained: for "body" and "face", whether they are trained.
        rest: the other fields of the anchor.
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
    """Return the anchor with its networks replaced by `networks`, by their names on disk."""

    def renewed(name: str, part: Part) -> Part:
        return replace(part, unet=networks[f"{name}/unet"], control=networks[f"{name}/control"])

    return replace(
        anchor,
        body=renewed("body", anchor.body),
        face=None if anchor.face is None else renewed("face", anchor.face),
        vae=networks["vae"],
        image_encoder=networks["image_encoder"],
        text_encoder=networks["text_encoder"],
    )
