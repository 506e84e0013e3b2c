"""The identities: shapes, colours and clothes."""

from dataclasses import dataclass

_Colour = tuple[float, float, float]  # sRGB, 0 to 1

_TIE, BLOUSE, _SHIRT = 0, 1, 2  # suit with shirt and tie; suit with open blouse; shirt alone
_PLAIN, _PINSTRIPE, _CHECK, _TWEED = 0, 1, 2, 3  # patterns of the cloth
_SHORT, _LONG, _BOB = 0, 1, 2  # haircuts


@dataclass(frozen=True)
class Person:
    """One identity. Phenotype values are anny's, 0 to 1 (gender: 0 male, 1 female)."""

    name: str
    gender: float
    age: float
    muscle: float
    weight: float
    height: float
    proportions: float
    skin: _Colour
    lips: _Colour
    eyes: _Colour
    hair: _Colour
    jacket: _Colour
    stripe: _Colour
    shirt: _Colour
    tie: _Colour
    wall: _Colour
    clothes: int
    pattern: int
    haircut: int

    @property
    def phenotype(self) -> dict[str, float]:
        names = "gender", "age", "muscle", "weight", "height", "proportions"
        return {name: getattr(self, name) for name in names}


TARGET = Person(
    "ada", 0.05, 0.55, 0.55, 0.45, 0.6, 0.6,
    skin=(0.88, 0.67, 0.55), lips=(0.74, 0.36, 0.34), eyes=(0.20, 0.34, 0.50),
    hair=(0.30, 0.18, 0.10), jacket=(0.15, 0.20, 0.38), stripe=(0.36, 0.42, 0.60),
    shirt=(0.93, 0.94, 0.97), tie=(0.72, 0.12, 0.16), wall=(0.58, 0.66, 0.68),
    clothes=_TIE, pattern=_PINSTRIPE, haircut=_SHORT,
)  # fmt: skip

OTHERS = (
    Person(
        "bea", 0.95, 0.5, 0.4, 0.45, 0.5, 0.6,
        skin=(0.95, 0.76, 0.66), lips=(0.78, 0.24, 0.28), eyes=(0.25, 0.42, 0.28),
        hair=(0.62, 0.40, 0.17), jacket=(0.55, 0.13, 0.24), stripe=(0.70, 0.30, 0.38),
        shirt=(0.95, 0.91, 0.86), tie=(0.85, 0.70, 0.30), wall=(0.74, 0.68, 0.58),
        clothes=BLOUSE, pattern=_PLAIN, haircut=_LONG,
    ),
    Person(
        "cem", 0.1, 0.7, 0.5, 0.65, 0.5, 0.4,
        skin=(0.50, 0.33, 0.23), lips=(0.52, 0.26, 0.23), eyes=(0.20, 0.12, 0.07),
        hair=(0.10, 0.09, 0.09), jacket=(0.42, 0.43, 0.42), stripe=(0.30, 0.31, 0.31),
        shirt=(0.64, 0.79, 0.91), tie=(0.10, 0.32, 0.27), wall=(0.45, 0.54, 0.48),
        clothes=_TIE, pattern=_CHECK, haircut=_SHORT,
    ),
    Person(
        "dil", 0.9, 0.45, 0.5, 0.35, 0.6, 0.5,
        skin=(0.78, 0.57, 0.42), lips=(0.62, 0.22, 0.28), eyes=(0.22, 0.14, 0.08),
        hair=(0.12, 0.09, 0.09), jacket=(0.15, 0.44, 0.40), stripe=(0.10, 0.32, 0.30),
        shirt=(0.92, 0.84, 0.48), tie=(0.80, 0.80, 0.85), wall=(0.64, 0.62, 0.74),
        clothes=BLOUSE, pattern=_TWEED, haircut=_BOB,
    ),
    Person(
        "edo", 0.15, 0.6, 0.6, 0.5, 0.55, 0.6,
        skin=(0.80, 0.60, 0.46), lips=(0.66, 0.34, 0.31), eyes=(0.24, 0.20, 0.12),
        hair=(0.45, 0.42, 0.40), jacket=(0.86, 0.83, 0.76), stripe=(0.35, 0.45, 0.62),
        shirt=(0.86, 0.83, 0.76), tie=(0.25, 0.22, 0.20), wall=(0.68, 0.52, 0.44),
        clothes=_SHIRT, pattern=_CHECK, haircut=_SHORT,
    ),
)  # fmt: skip
