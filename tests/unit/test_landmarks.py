"""Landmark distances, jitter, the warping error, and files of landmarks that others found."""

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from anchor_jax.data.video import read_frames, write_frames
from anchor_jax.errors import AnchorError
from anchor_jax.evaluation import identity, network_scores, people
from anchor_jax.evaluation.flow import flow_error, flow_errors
from anchor_jax.evaluation.landmarks import jitter, mean_distances, points_of, without_outliers
from anchor_jax.evaluation.people import Person, PersonFinder
from anchor_jax.studies import evaluate as module
from anchor_jax.studies.disturb import disturb
from anchor_jax.studies.evaluation_report import table
from anchor_jax.studies.keypoint_files import read_keypoints
from anchor_jax.studies.people import five_landmarks


def person(seed: int, size: float = 40.0) -> Person:
    rng = np.random.default_rng(seed)
    return Person(*(rng.uniform(0, size, (*shape, 2)) for shape in ((17,), (68,), (2, 21), (5,))))


def test_distances_are_means_over_what_is_seen_in_both():
    """Catches an unseen landmark that counts as far away or as right, and sums of axes."""
    expected = np.zeros((2, 1, 3, 2))
    points = np.array([[[[3, 4], [0, 1], [np.nan] * 2]], [[[np.nan] * 2] * 3]])
    expected[0, 0, 1] = np.nan
    np.testing.assert_array_equal(mean_distances(points, expected), [[5], [np.nan]])
    np.testing.assert_array_equal(mean_distances(expected, points), [[5], [np.nan]])


def test_outliers_are_far_from_the_median():
    """Catches a fence of standard deviations, which a single outlier moves, and one below."""
    distances = np.random.default_rng(0).normal(10, 1, (200, 2))
    distances[9, 1] = 500
    distances[11] = 0.01
    kept, share = without_outliers(distances)
    assert kept[9] == distances[9, 0] and kept[11] == 0.01
    assert kept.max() < 14 and 0.002 < share < 0.01
    assert np.isnan(without_outliers(np.full((3, 2), np.nan))[0]).all()
    kept, share = without_outliers(np.array([[0.0], [0], [0], [5], [6]]))
    assert kept.tolist() == [0, 0, 0, 5, 6] and share == 0  # no scale to judge by


def test_jitter_is_how_much_more_landmarks_shake():
    """Catches a motion that counts as jitter, and the truth's own that does."""
    t = np.arange(12.0)
    motion = np.stack([3 * t, -2 * t], -1)[:, None, None].repeat(4, 2)
    shaken = motion + (-1) ** t[:, None, None, None] * [1, 0]
    assert jitter(motion + 5, motion) == pytest.approx(np.zeros(10))
    assert jitter(shaken, motion) == pytest.approx(np.full(10, 4))
    assert jitter(motion, shaken) == pytest.approx(np.full(10, -4))
    shaken[5] = np.nan
    assert np.isnan(jitter(shaken, motion)).nonzero()[0].tolist() == [3, 4, 5]


def stripes(shift: float) -> np.ndarray:
    y, x = np.mgrid[:64, :96]
    waves = np.sin((x - shift) / 4) * np.cos(y / 5) + np.sin((x - shift + 2 * y) / 7)
    return np.stack([127 + 50 * waves, 120 + 40 * waves, 110 - 45 * waves], -1).astype(np.uint8)


def test_the_warping_error_follows_the_truths_motion():
    """Catches a flow in the other direction, one of the generated frames, squares of grey levels,
    and the pixels that leave the image."""
    truth = np.stack([stripes(2.0 * t) for t in range(6)])
    moved, still = flow_errors(np.ascontiguousarray(truth), truth)[:, 0], truth[:1].repeat(6, 0)
    assert moved.max() < 5e-4
    np.testing.assert_array_equal(flow_error(truth[::-1], truth) > 20 * moved, [True] * 5)
    wrong = flow_errors(still, truth)
    assert (wrong[:, 0] > 20 * moved).all() and wrong[:, 1] == pytest.approx(moved)
    noise = np.random.default_rng(0).normal(0, 1, truth.shape)
    errors = [flow_error((truth + k * noise).clip(0, 255).astype(np.uint8), truth) for k in (4, 16)]
    assert (moved < errors[0]).all() and (errors[0] < errors[1]).all()
    assert flow_error(still, still) == pytest.approx(np.zeros(5))


def test_occluded_pixels_do_not_count():
    """Catches a mask that is inverted or missing: what a moving square uncovers was not seen."""
    rng = np.random.default_rng(0)
    ground = cv2.GaussianBlur(rng.uniform(0, 255, (96, 128, 3)).astype(np.float32), (0, 0), 2)
    ground = ((ground - ground.min()) / np.ptp(ground) * 255).astype(np.uint8)
    square = ground[:32, :32][::-1] // 6  # dark
    truth = np.stack([ground] * 2)
    for t, frame in enumerate(truth):
        frame[30:62, 40 + 9 * t : 72 + 9 * t] = square
    uncovered = np.zeros((96, 128), bool)
    uncovered[32:60, 75:81] = True  # covered in the second frame
    spoilt = truth.copy()
    spoilt[0][uncovered] = 255
    seen = 0.8 * uncovered.mean()  # about: white beside what covers it, if it counted
    assert flow_error(spoilt, truth)[0] - flow_error(truth, truth)[0] < seen / 4


def rows(points: np.ndarray, confidence: float = 0.9) -> np.ndarray:
    found = np.concatenate([points, np.full((len(points), 1), confidence)], 1)
    return np.where(np.isnan(found), 0, found)


def openpose(found: Person, body: int = 25) -> dict:
    """A person in OpenPose's order, by its documentation: neck and middle of the hips added."""
    nose, l_eye, r_eye, l_ear, r_ear, *limbs = rows(found.body)
    left, right = limbs[0::2], limbs[1::2]  # shoulder, elbow, wrist, hip, knee, ankle
    none = np.zeros(3)
    legs = [*right[3:], *left[3:]]
    middle = [none, *legs] if body == 25 else legs
    points = [nose, none, *right[:3], *left[:3], *middle, r_eye, l_eye, r_ear, l_ear]
    points += [none] * (body - len(points))
    flat = lambda x: np.concatenate(list(x)).tolist()
    return {
        "pose_keypoints_2d": flat(points),
        "face_keypoints_2d": flat([*rows(found.face), none, none]),
        "hand_left_keypoints_2d": flat(rows(found.hands[0])),
        "hand_right_keypoints_2d": [],
    }


@pytest.mark.parametrize("body", [25, 18])
def test_openpose_files_are_read(tmp_path, body):
    """Catches left and right exchanged, the wrong one of two people, and an empty hand at the
    corner of the image."""
    found, other = person(0), person(1)
    weak = openpose(other, body)
    weak["pose_keypoints_2d"] = [x * 0.1 for x in weak["pose_keypoints_2d"]]
    for number, crowd in enumerate([[weak, openpose(found, body)], []]):
        path = tmp_path / f"video_{9 + number}_keypoints.json"  # 9 before 10
        path.write_text(json.dumps({"version": 1.3, "people": crowd}))
    read = read_keypoints(tmp_path, 2)
    first, second = read(0), read(1)
    np.testing.assert_allclose(first.body, found.body)
    np.testing.assert_allclose(first.face, found.face)
    np.testing.assert_allclose(first.hands[0], found.hands[0])
    assert np.isnan(first.hands[1]).all() and np.isnan(second.body).all()
    with pytest.raises(AnchorError, match=r"2 files .*; expected 3"):
        read_keypoints(tmp_path, 3)


@pytest.mark.parametrize("form", ["annotations", "results", "mmpose"])
def test_whole_body_files_are_read(tmp_path, form):
    """Catches frames by the order of annotations instead of images, the feet for the face, and a
    frame without anybody that shifts the others."""
    found = {0: person(0), 2: person(2)}
    annotations = []
    for number in (2, 0):
        one, flat = found[number], lambda x: rows(x).ravel().tolist()
        row: dict[str, Any] = {"image_id": 7 + number if form == "annotations" else number}
        if form == "mmpose":
            parts = one.body, np.ones((6, 2)), one.face, *one.hands
            row["keypoints"] = flat(np.concatenate(parts))
        else:
            names = "face_kpts", "lefthand_kpts", "righthand_kpts"
            row |= {"keypoints": flat(one.body)}
            row |= {k: flat(x) for k, x in zip(names, (one.face, *one.hands), strict=True)}
        annotations.append(row)
    content = annotations
    if form == "annotations":
        images = [{"id": 7 + n, "file_name": f"{9 + n}.png"} for n in (2, 0, 1)]
        content = {"images": images, "annotations": annotations}
    path = tmp_path / "whole.json"
    path.write_text(json.dumps(content))
    read = read_keypoints(path, 3)
    for number, expected in found.items():
        for part in ("body", "face", "hands"):
            np.testing.assert_allclose(getattr(read(number), part), getattr(expected, part))
    assert np.isnan(read(1).body).all()
    with pytest.raises(AnchorError, match=r"expected (an image_id of 0 to )?\d"):
        read_keypoints(path, 1)
    path.write_text(json.dumps([{"image_id": 1, "keypoints": []}]))
    with pytest.raises(AnchorError, match="do not say whether they count from 0 or 1"):
        read_keypoints(path, 2)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[", "not a readable JSON file"),
        ('{"annotations": [3]}', "no list of annotations"),
        ('[{"image_id": 0, "keypoints": [1, 2]}]', "keypoints is not a list"),
        ('[{"image_id": 0, "keypoints": [1, 2, NaN]}]', "keypoints is not a list"),
        ('[{"image_id": 0, "keypoints": [1, 2, 3]}]', "1 points; expected 17"),
        ('[{"image_id": "a", "keypoints": []}]', "image_id"),
        ('[{"image_id": [0], "keypoints": []}]', "no list of annotations"),
        ('{"images": 5, "annotations": []}', "no list of annotations"),
        ('{"images": [{"id": 3}, {"id": 3}], "annotations": []}', "2 images with 1 ids"),
        ('[{"image_id": 0, "keypoints": [1%s, 2, 3]}]' % ("0" * 400), "keypoints is not a list"),
    ],
)
def test_files_without_landmarks_are_one_line(tmp_path, text, message):
    """Catches a traceback of a file of something else."""
    path = tmp_path / "x.json"
    path.write_text(text)
    with pytest.raises(AnchorError, match=message):
        read_keypoints(path, 1)


class Finder(PersonFinder):
    """Finds a person whose landmarks lie around the grey level of a frame's first pixel."""

    def __init__(self):
        pass

    def find(self, frame: np.ndarray) -> Person:
        level = float(frame[0, 0, 0])
        if level > 200:
            return Person.nobody()
        still = person(0)
        hands = still.hands.copy()
        hands[1] = np.nan
        return Person(still.body + level, still.face, hands + level, still.five)


@pytest.fixture
def finders(monkeypatch):
    load = lambda folder, count=2: (tuple(Finder() for _ in range(count)), {"a": "b"})
    monkeypatch.setattr(people, "load_finders", load)
    describe = lambda _, chips: chips[:, :128, 75, 0].astype(np.float32)
    monkeypatch.setattr(identity, "load_descriptor", lambda folder: ({}, {"c": "d"}))
    monkeypatch.setattr(identity, "describe", describe)


def levels(folder: Path, values: list[int]) -> Path:
    """Write frames of one grey level each."""
    write_frames(
        folder,
        np.array(values, np.uint8)[:, None, None, None].repeat(32, 1).repeat(40, 2).repeat(3, 3),
    )
    return folder


def test_people_are_compared(tmp_path, finders):
    """Catches generated and true frames exchanged, a frame without anybody that counts, shares of
    another side, and jitter that ends at each block."""
    shifts = [1] * 10 + [2] * 10 + [9] + [3] * 14
    truth = levels(tmp_path / "real", list(range(35)))
    values = [n + shift for n, shift in enumerate(shifts)]
    values[3] = 255  # nobody
    made = levels(tmp_path / "made", values)
    names = ["lmd_body", "lmd_face", "lmd_hands", "jitter", "identity"]
    result = module.evaluate([made], [truth], names)
    (found,) = result.values
    seen = np.ones(35, bool)
    seen[3] = False
    expected = np.where(seen, np.hypot(1, 1) * np.array(shifts), np.nan)
    np.testing.assert_allclose(found["lmd_body"], expected)
    np.testing.assert_allclose(found["lmd_face"], np.where(seen, 0, np.nan), atol=1e-9)
    expected[20] = np.nan  # an outlier
    np.testing.assert_allclose(found["lmd_hands"], expected)
    assert result.facts["hands ignored as outliers"] == pytest.approx(1 / 34, abs=1e-4)
    assert result.facts["found"]["generated"] == {
        "body": pytest.approx(34 / 35, abs=1e-4),
        "face": pytest.approx(34 / 35, abs=1e-4),
        "hands": pytest.approx(17 / 35, abs=1e-4),
    }
    assert result.facts["found"]["truth"] == {"body": 1, "face": 1, "hands": 0.5}
    shaken = np.flatnonzero(np.nan_to_num(found["jitter"]) > 1)
    assert len(found["jitter"]) == 33 and shaken.tolist() == [18, 19, 20]
    assert np.isnan(found["jitter"]).nonzero()[0].tolist() == [1, 2, 3]
    assert np.isnan(found["identity"][3]) and found["identity"][5] > 0
    lines = table(result).splitlines()
    assert lines[4] == "| found, generated | 97 % | 97 % | 49 % |  |  |"
    assert lines[5] == "| found, truth | 100 % | 100 % | 50 % |  |  |"
    assert set(result.floors) == {"lmd_body", "lmd_face", "lmd_hands", "identity"}
    same = module.evaluate([truth], [truth], names)
    assert same.scores == dict.fromkeys(names, 0)


def test_a_detector_that_finds_nobody_is_told(tmp_path, finders):
    """Catches NaN without a reason."""
    made, truth = levels(tmp_path / "made", [250] * 9), levels(tmp_path / "real", [3] * 9)
    result = module.evaluate([made], [truth], ["lmd_face", "psnr"])
    (told,) = result.notes
    assert told == (
        "lmd_face has no score: face found in 0 % of generated and 100 % of true frames, never in"
        " both"
    )
    assert np.isnan(result.scores["lmd_face"]) and np.isfinite(result.scores["psnr"])


def test_given_and_exact_landmarks_are_used(tmp_path, finders):
    """Catches detected landmarks in place of those that are given, landmarks of frames that were
    resized, and another order of the five."""
    truth, made = levels(tmp_path / "real", [3] * 9), levels(tmp_path / "made", [3] * 9)
    exact = five_landmarks(person(0).face)
    np.savez(tmp_path / "face.npz", landmarks=np.stack([2 * exact] * 9), size=np.array([80, 64]))
    result = module.evaluate([made], [truth], ["lmd_face"], poses=[tmp_path / "face.npz"])
    assert result.scores["lmd_face"] == pytest.approx(0, abs=1e-6)
    joints = np.zeros((9, 55, 2))
    joints[:, :, 0] = np.arange(55)
    many = {"landmarks": np.stack([exact] * 9), "size": np.array([40, 32]), "joints": joints}
    np.savez(tmp_path / "all.npz", **many)
    result = module.evaluate(
        [made], [truth], ["lmd_body", "lmd_hands"], poses=[tmp_path / "all.npz"]
    )
    found = Finder().find(read_frames(made)[0][0])
    # By SMPL-X's names: left shoulder, elbow, wrist 16, 18, 20; left middle finger 28 to 30.
    body = [(5, 16), (6, 17), (7, 18), (8, 19), (9, 20), (10, 21), (13, 4), (14, 5), (15, 7)]
    hand = [(0, 20), (1, 37), (2, 38), (3, 39), (5, 25), (6, 26), (7, 27), (9, 28), (10, 29)]
    hand += [(11, 30), (13, 34), (14, 35), (15, 36), (17, 31), (18, 32), (19, 33)]
    distance = lambda point, joint: np.hypot(point[0] - joint, point[1])
    for name, points, pairs in (
        ("lmd_body", found.body, [*body, (16, 8)]),
        ("lmd_hands", found.hands[0], hand),
    ):
        expected = np.mean([distance(points[k], joint) for k, joint in pairs])
        assert result.scores[name] == pytest.approx(expected), name
    moved = person(0)
    folder = tmp_path / "json"
    folder.mkdir()
    moved = Person(moved.body + np.array([3, 4]), moved.face, moved.hands, moved.five)
    for number in range(9):
        path = folder / f"{number:012d}_keypoints.json"
        path.write_text(json.dumps({"people": [openpose(moved)]}))
    result = module.evaluate(
        [made], [truth], ["lmd_body"], generated_landmarks=[folder], truth_landmarks=[folder]
    )
    assert result.scores["lmd_body"] == 0 and not result.floors and not result.facts["weights"]
    result = module.evaluate([made], [truth], ["lmd_body"], generated_landmarks=[folder])
    assert result.scores["lmd_body"] == pytest.approx(np.hypot(0, 1))  # the level is 3


def test_studies_and_reports_measure_what_they_can(finders, monkeypatch, tmp_path):
    """Catches other landmarks than those of `evaluate`, a truth that is kept for another one, and
    an error where weights are missing."""
    monkeypatch.setattr(network_scores, "load_stlpips", lambda folder: (np.subtract, {}))
    truth, made, other = (
        read_frames(levels(tmp_path / name, values))[0]
        for name, values in (("t", [3, 5, 9]), ("m", [4, 255, 11]), ("o", [3, 5, 8]))
    )
    scores = network_scores.NetworkScores()
    found = scores.measure(made, truth)
    result = module.evaluate([tmp_path / "m"], [tmp_path / "t"], [x for x in found if x[0] != "s"])
    assert {name: found[name] for name in result.scores} == pytest.approx(result.scores)
    assert found["lmd_body"] == pytest.approx(np.hypot(1.5, 1.5))
    assert scores.measure(truth, truth)["lmd_body"] == 0
    assert scores.measure(truth, other)["lmd_body"] == pytest.approx(np.hypot(1, 1) / 3)
    monkeypatch.undo()
    missing = network_scores.NetworkScores(tmp_path)
    assert missing.measure(made, truth) == {}
    assert [note.split(":")[1] for note in missing.notes] == [
        " landmark distances and identity",
        " identity",
        " ST-LPIPS",
    ]


@pytest.fixture(scope="module")
def real() -> PersonFinder:
    pytest.importorskip("ai_edge_litert", reason="needs ai-edge-litert")
    try:
        return people.load_finders(None)[0][0]
    except AnchorError as error:
        pytest.skip(str(error))


def test_a_real_person_is_found(real, data_dir):
    """Catches another colour order or range, left and right exchanged, and crops that are off."""
    frames, _ = read_frames(data_dir / "video" / "student.mkv")
    found = real.find(frames[40])
    left_eye, right_eye, left_hand, right_hand = (
        found.face[[42, 45]].mean(0),
        found.face[[36, 39]].mean(0),
        found.hands[0].mean(0),
        found.hands[1].mean(0),
    )
    read = [[326, 106], [291, 107], [363, 378], [238, 367]]  # off the picture, by eye
    for point, expected in zip((left_eye, right_eye, left_hand, right_hand), read, strict=True):
        assert np.abs(point - expected).max() < 12
    assert found.body[5, 0] > found.body[6, 0]  # the left shoulder is at the right of the image
    for copy in disturb(frames[40]):
        again = points_of([real.find(copy)])
        for part, points in points_of([found]).items():
            assert np.nanmean(mean_distances(again[part], points)) < 4
    assert np.isnan(real.find(np.zeros((64, 64, 3), np.uint8)).body).all()
