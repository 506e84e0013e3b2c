"""The room behind a person: a wall, a window, shelves with books, a picture, a lamp."""

import numpy as np

from benchmarks.synthetic.people import Person

_FINER = 4  # supersampling factor


def room(person: Person, size: int, rng: np.random.Generator) -> np.ndarray:
    """Draw the static background of a person, float32 (size, size, 3), 0 to 1."""
    n = size * _FINER
    y, x = (np.mgrid[:n, :n] + 0.5) / n
    picture = np.asarray(person.wall) * (1.06 - 0.30 * y - 0.18 * abs(x - 0.35))[..., None]

    def box(left, right, top, bottom, colour) -> None:
        columns = slice(round(left * n), round(right * n))
        rows = slice(round(top * n), round(bottom * n))
        picture[rows, columns] = colour

    panel = (np.mod(x, 0.125) < 0.004) & (y > 0.64)
    picture[y > 0.64] *= 0.86
    picture[panel] *= 0.82
    box(0, 1, 0.63, 0.65, np.asarray(person.wall) * 0.60)
    mirrored = rng.uniform() < 0.5
    _window(box, 0.04 + 0.03 * rng.uniform(), 0.06, rng)
    _shelf(box, 0.78, 0.50, rng)
    _shelf(box, 0.77, 0.27, rng)
    disc = (x - 0.89) ** 2 + (y - 0.10) ** 2 < 0.05**2
    picture[disc] = rng.uniform(0.55, 0.85, 3)
    ring = abs(np.hypot(x - 0.89, y - 0.10) - 0.05) < 0.006
    picture[ring] = (0.25, 0.20, 0.16)
    if mirrored:
        picture = picture[:, ::-1]
    small = picture.reshape(size, _FINER, size, _FINER, 3).mean((1, 3))
    return np.clip(small, 0, 1).astype(np.float32)


def _window(box, left: float, top: float, rng: np.random.Generator) -> None:
    sky = np.array([0.76, 0.86, 0.95]) * rng.uniform(0.92, 1.0)
    box(left - 0.02, left + 0.20, top - 0.02, top + 0.46, (0.90, 0.88, 0.83))
    for column in range(2):
        for row in range(3):
            x, y = left + 0.095 * column, top + 0.145 * row
            box(x, x + 0.085, y, y + 0.13, sky * (1 - 0.07 * row))
            if row == 2:
                box(x, x + 0.085, y + 0.07, y + 0.13, np.array([0.42, 0.55, 0.36]))
    box(left - 0.035, left + 0.215, top + 0.46, top + 0.485, (0.80, 0.77, 0.70))


def _shelf(box, left: float, bottom: float, rng: np.random.Generator) -> None:
    place = left + 0.01
    while place < 0.97:
        width, height = rng.uniform(0.022, 0.038), rng.uniform(0.09, 0.14)
        colour = rng.uniform(0.18, 0.70, 3)
        box(place, place + width - 0.003, bottom - height, bottom, colour)
        box(
            place,
            place + width - 0.003,
            bottom - 0.75 * height,
            bottom - 0.65 * height,
            colour * 1.4,
        )
        place += width
    box(left - 0.01, 1, bottom, bottom + 0.02, (0.36, 0.25, 0.17))
