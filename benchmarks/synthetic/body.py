"""The anny body, cut off at the thighs, with a person's shape and a motion."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy import sparse

from anchor_jax.body.view import HIPS, LENS, View
from anchor_jax.errors import AnchorError
from benchmarks.synthetic.motion import Skeleton, Talk
from benchmarks.synthetic.people import Person

# The world has y up, z to the viewer (`anchor_jax.body.view`); anny has z up, -y to the front.
TO_WORLD = np.array([[1.0, 0, 0], [0, 0, 1], [0, -1, 0]])
_LOWEST = -0.16  # metres from the hips, at rest; lower vertices are never visible
_HEIGHT = 0.80  # metres that the image shows, for a person of average height
_ABOVE = 0.045  # metres of it above the crown
_FRAMES_AT_ONCE = 30  # frames posed together
_MOUTH, _TONGUE, _EYES = (
    1,
    2,
    3,
)  # part labels, skin is 0; interpolated between neighbouring vertices


@dataclass(frozen=True)
class Shaped:
    """A body at rest, or what a change of its shape adds, in the world's axes, metres."""

    vertices: np.ndarray  # float32 (V, 3)
    heads: np.ndarray  # float32 (B, 3), where the bones begin
    covariances: np.ndarray  # float32 (B, 3, 3), whose nearest rotations orient the bones


@dataclass(frozen=True)
class _Posed:
    """Vertices float32 (n, V, 3) and the head's placement (n, 4, 4), both in anny's axes."""

    vertices: np.ndarray
    head: np.ndarray


class Anny:
    """The model, loaded once. The paint uses coordinates of the `average` body at rest.

    Attributes:
        kept: the vertices of the whole body that are kept.
    """

    def __init__(self) -> None:
        try:
            import anny
            import torch
        except ModuleNotFoundError as error:
            raise AnchorError(
                f"synthetic anchors need {error.name}; install it: pip install -e '.[synthetic]'"
            ) from error
        torch.set_num_threads(1)  # sums in the same order on every machine
        self._torch = torch
        model = anny.Anny(local_changes="none", facial_actions="all", skinning_method="lbs")
        self._model = model.to(dtype=torch.float32)
        self.bones = {name: number for number, name in enumerate(model.bone_labels)}
        everywhere, bones = self._rest(dict.fromkeys(model.phenotype_labels, 0.5))
        self.joints = {name: bones[number, :3, 3] for name, number in self.bones.items()}
        kept = everywhere[:, 2] > _LOWEST
        triangles = model.faces.numpy()
        inside = kept[triangles].all(1)
        self.kept = np.unique(triangles[inside])
        number = np.full(len(kept), -1)
        number[self.kept] = np.arange(len(self.kept))
        self.faces = number[triangles[inside]]
        self.average = everywhere[self.kept]
        self._segment = self._segments(inside)

    def _rest(self, phenotype: dict[str, float], **actions: float):
        torch = self._torch
        pose = torch.eye(4)[None, None].repeat(1, len(self._model.bone_labels), 1, 1)
        with torch.no_grad():
            out = self._model(
                pose_parameters=pose,
                phenotype_kwargs=phenotype,
                facial_actions={name: torch.tensor([value]) for name, value in actions.items()},
            )
        return out["vertices"][0].numpy(), out["bone_poses"][0].numpy()

    def _segments(self, inside: np.ndarray) -> dict[str, np.ndarray]:
        from anny.face_segmentation import get_face_segmentation_mask

        def vertices(*labels: str) -> np.ndarray:
            of_part = get_face_segmentation_mask(self._model, labels).numpy()[inside]
            flags = np.zeros(len(self.kept), bool)
            flags[self.faces[of_part]] = True
            return flags

        return {
            "right_eye": vertices("eye_front.R"),
            "left_eye": vertices("eye_front.L"),
            "eyes": vertices("eye_front.R", "eye_front.L", "eye_back.R", "eye_back.L"),
            "mouth": vertices("mouth_cavity"),
            "tongue": vertices("tongue"),
        }

    @cached_property
    def weights(self) -> dict[str, np.ndarray]:
        """Skinning weights of vertices for head with neck, skull, and hands, 0 to 1."""
        index, weight = self._model.vertex_bone_indices, self._model.vertex_bone_weights
        index, weight = index.numpy()[self.kept], weight.numpy()[self.kept]
        names = np.array(list(self.bones))

        def share(*prefixes: str) -> np.ndarray:
            of_part = np.array([name.startswith(prefixes) for name in names])
            return (weight * of_part[index]).sum(1)

        return {
            "head": share("head", "neck", "eye"),
            "skull": share("head", "eye"),
            "hand": share("wrist", "finger", "metacarpal"),
        }

    @cached_property
    def parts(self) -> np.ndarray:
        """Part label of each vertex: eyes, mouth, tongue, or 0 for skin."""
        parts = np.zeros(len(self.kept), np.int32)
        for name, part in (("mouth", _MOUTH), ("tongue", _TONGUE), ("eyes", _EYES)):
            parts[self._segment[name]] = part
        return parts

    @cached_property
    def lips(self) -> np.ndarray:
        """Displacement of vertices when the lips roll, relative to the largest."""
        rolled, _ = self._rest(
            dict.fromkeys(self._model.phenotype_labels, 0.5), mouthRollLower=1, mouthRollUpper=1
        )
        moved = np.linalg.norm(rolled[self.kept] - self.average, axis=1)
        return moved / moved.max()

    @cached_property
    def landmarks(self) -> list[np.ndarray]:
        """For each landmark, the vertices whose mean it is: right and left eye, nose tip, right and
        left mouth corner (image-left first)."""
        x, y, z = self.average.T
        eyes = self.joints["eye.L"][2]
        lips = np.flatnonzero((self.lips > 0.3) & (self.parts == 0))
        mouth = z[lips].mean()
        middle = np.flatnonzero((abs(x) < 0.012) & (z < eyes) & (z > mouth + 0.015))
        return [
            np.flatnonzero(self._segment["right_eye"]),
            np.flatnonzero(self._segment["left_eye"]),
            middle[[y[middle].argmin()]],
            lips[[x[lips].argmin()]],
            lips[[x[lips].argmax()]],
        ]

    @cached_property
    def face(self) -> np.ndarray:
        """Indices of the face's vertices, from chin to hairline and ear to ear."""
        x, y, z = self.average.T
        eye = self.joints["eye.L"]
        chin = z[(abs(x) < 0.02) & (y < eye[1] + 0.015) & (z > eye[2] - 0.14)].min()
        front = (self.weights["head"] > 0.5) & (y < eye[1] + 0.055)
        inside = self.parts > 0  # eyes, tongue and inside of the mouth
        return np.flatnonzero(front & (z > chin) & (z < eye[2] + 0.056) | inside)

    @property
    def all_faces(self) -> np.ndarray:
        """Triangles (F, 3) of the whole body."""
        return self._model.faces.numpy()

    @property
    def parents(self) -> list[int]:
        """Parent of each bone, -1 for the root."""
        return [int(parent) for parent in self._model.bone_parents]

    @property
    def skin(self) -> tuple[np.ndarray, np.ndarray]:
        """Of every vertex of the whole body: its bones and their weights, (V, 9) each."""
        return self._model.vertex_bone_indices.numpy(), self._model.vertex_bone_weights.numpy()

    @property
    def references(self) -> np.ndarray:
        """Orientations (B, 3, 3) of the bones in the reference pose, in the world's axes."""
        return TO_WORLD @ self._model.reference_bone_orientations.numpy() @ TO_WORLD.T

    def coefficients(self, phenotype: dict[str, float]) -> np.ndarray:
        """Coefficients of anny's blend shapes for a phenotype, without facial actions."""
        torch = self._torch
        with torch.no_grad():
            values = self._model.get_phenotype_blendshape_coefficients(
                **{name: torch.tensor([value]) for name, value in phenotype.items()}
            )
        return values[0].numpy().astype(np.float64)

    def shaped(self, coefficients: np.ndarray, change: bool = False) -> Shaped:
        """The body with these coefficients at rest; with `change`, what they alone add to it."""
        model = self._model
        parts = (
            (model.template_vertices, model.blendshapes),
            (model.template_bone_heads, model.bone_heads_blendshapes),
            (model.bone_template_orientation_matrices, model.bone_orientation_blendshapes),
        )
        vertices, heads, covariances = (
            np.tensordot(coefficients, added.numpy(), 1) + (0 if change else template.numpy())
            for template, added in parts
        )
        return Shaped(
            (vertices @ TO_WORLD.T).astype(np.float32),
            (heads @ TO_WORLD.T).astype(np.float32),
            (TO_WORLD @ covariances @ TO_WORLD.T).astype(np.float32),
        )

    def facial_actions(self, names: Sequence[str]) -> np.ndarray:
        """Displacements (52, V, 3) of all vertices by each facial action, in the world's axes."""
        labels = list(self._model.blendshape_labels)
        rows = [labels.index(f"facial_action:{name}") for name in names]
        return self._model.blendshapes[rows].numpy() @ TO_WORLD.T

    def groups(self) -> dict[str, np.ndarray]:
        """Vertices of the parts that `anchor_jax.body.body_file.GROUPS` names."""
        eyes_nose_mouth = ("right_eye", "left_eye", "nose", "right_mouth", "left_mouth")
        found = dict(zip(eyes_nose_mouth, self.landmarks, strict=True))
        lips = np.flatnonzero((self.lips > 0.3) & (self.parts == 0))
        opened, _ = self._rest(dict.fromkeys(self._model.phenotype_labels, 0.5), jawOpen=1)
        drop = np.linalg.norm(opened[self.kept[lips]] - self.average[lips], axis=1)
        middle = abs(self.average[lips, 0]) < 0.01
        lower = drop > 0.5 * drop[middle].max()
        found |= {"upper_lip": lips[~lower & middle], "lower_lip": lips[lower & middle]}
        x = self.average[:, 0]
        hand = self.weights["hand"] > 0.5
        found |= {
            "face": self.face,
            "head": np.flatnonzero(self.weights["skull"] > 0.5),
            "left_hand": np.flatnonzero(hand & (x > 0)),
            "right_hand": np.flatnonzero(hand & (x < 0)),
        }
        return {name: self.kept[group] for name, group in found.items()}

    @cached_property
    def incidence(self) -> sparse.csr_matrix:
        """Incidence matrix (vertices, triangles)."""
        rows = self.faces.ravel()
        columns = np.repeat(np.arange(len(self.faces)), 3)
        ones = np.ones(len(rows), np.float32)
        return sparse.csr_matrix((ones, (rows, columns)), (len(self.kept), len(self.faces)))

    def normals(self, vertices: np.ndarray) -> np.ndarray:
        """Smooth normals (V, 3), weighted by the area of triangles."""
        a, b, c = (vertices[self.faces[:, corner]] for corner in range(3))
        total = self.incidence @ np.cross(b - a, c - a).astype(np.float32)
        return total / np.maximum(np.linalg.norm(total, axis=1, keepdims=True), 1e-12)

    def rest(self, person: Person) -> tuple[np.ndarray, np.ndarray]:
        """Vertices (V, 3) and the head's placement (4, 4) of a person at rest."""
        vertices, bones = self._rest(person.phenotype)
        return vertices[self.kept], bones[self.bones["head"]]

    def skeleton(self, person: Person) -> Skeleton:
        """The joints of a person at rest, and how far the belly reaches."""
        vertices, bones = self._rest(person.phenotype)
        rest, joints = vertices[self.kept], {n: bones[i, :3, 3] for n, i in self.bones.items()}
        trunk = (abs(self.average[:, 0]) < 0.12) & (self.average[:, 2] < 0.4)
        trunk &= self.weights["hand"] < 0.01
        return Skeleton(joints, float(self.average[trunk, 1].min() - rest[trunk, 1].min()))

    def pose(self, person: Person, talk: Talk) -> _Posed:
        """The vertices and head placement of a person in every frame."""
        n = len(next(iter(talk.actions.values())))
        pose = np.tile(np.eye(4, dtype=np.float32), (n, len(self.bones), 1, 1))
        for bone, matrices in talk.rotations.items():
            pose[:, self.bones[bone], :3, :3] = matrices
        parts = [self._posed(person, talk, pose, start) for start in range(0, n, _FRAMES_AT_ONCE)]
        vertices, heads = zip(*parts, strict=True)
        return _Posed(np.concatenate(vertices), np.concatenate(heads))

    def _posed(self, person: Person, talk: Talk, pose: np.ndarray, start: int):
        torch = self._torch
        part = slice(start, start + _FRAMES_AT_ONCE)
        count = len(pose[part])
        with torch.no_grad():
            out = self._model(
                pose_parameters=torch.from_numpy(pose[part]),
                phenotype_kwargs={
                    name: torch.full((count,), value) for name, value in person.phenotype.items()
                },
                facial_actions={
                    name: torch.tensor(values[part], dtype=torch.float32)
                    for name, values in talk.actions.items()
                },
            )
        return (
            out["vertices"].numpy()[:, self.kept],
            out["bone_poses"].numpy()[:, self.bones["head"]],
        )


def make_view(rest: np.ndarray, size: int) -> View:
    """The camera of a person, the same for all frames. It shows crown to hips and has the focal
    length of the published renders.

    Args:
        rest: the person's vertices, in anny's axes.
        size: side of the picture, pixels.
    """
    crown = float(rest[:, 2].max())
    height = _HEIGHT * max(1.0, crown / 0.79)
    focal_length = LENS * size
    distance = focal_length * height / size
    middle = HIPS[1] + crown + _ABOVE - height / 2
    return View(
        rotation=TO_WORLD,
        offset=HIPS,
        position=np.array([0.0, middle, distance]),
        focal_length=focal_length,
        center=(size / 2, size / 2),
        size=(size, size),
        near=distance / 4,
        far=distance * 4,
    )
