"""One picture with two labels is told, whatever it is called and however it is passed."""

import shutil
import warnings

import numpy as np
import pytest
from PIL import Image

from skclipsvd import (
    CLIPLoRAClassifier,
    CLIPSVDClassifier,
    CLIPZeroShotClassifier,
    CosineClassifier,
)
from skclipsvd.exceptions import ConflictingLabelsWarning


@pytest.fixture
def photos(photographs):
    paths, labels = photographs
    return list(paths), labels.tolist()


@pytest.mark.parametrize("augment", [False, True])
@pytest.mark.parametrize("kind", ["the path", "a copy", "pixels"])
def test_one_picture_with_two_labels(small_model, photos, tmp_path, kind, augment):
    paths, labels = photos
    again = {"the path": paths[0], "a copy": str(tmp_path / "other.jpg")}.get(kind)
    if kind == "a copy":
        shutil.copy(paths[0], again)
    if kind == "pixels":
        again = np.asarray(Image.open(paths[0]))
    clf = CLIPSVDClassifier(small_model, max_steps=1, augment=augment, random_state=0)
    with pytest.warns(ConflictingLabelsWarning) as caught:
        clf.fit([*paths, again], [*labels, "flower"])
    (warning,) = caught
    message = str(warning.message)
    assert message.startswith("1 picture(s) occur with different labels: X[0")
    assert f"{paths[0]!r} is 'temple' and X[20] = " in message
    assert message.endswith("is 'flower'. Correct or drop them.")
    assert warning.filename == __file__


def test_repetition_with_one_label_and_rows_without_weight_are_no_conflict(small_model, photos):
    paths, labels = photos
    clf = CLIPLoRAClassifier(small_model, max_steps=1, augment=False, random_state=0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        clf.fit([*paths, paths[0]], [*labels, "temple"])
        clf.fit([*paths, paths[0]], [*labels, "flower"], sample_weight=[*[1] * 20, 0])
        CLIPZeroShotClassifier(small_model).fit([*paths, paths[0]], [*labels, "flower"])
        CosineClassifier(max_iter=1000).fit(np.eye(4), [0, 1, 0, 1])


def test_many_conflicts_are_counted_and_some_named(small_model, photos):
    paths, labels = photos
    other = ["flower" if label == "temple" else "temple" for label in labels]
    clf = CLIPSVDClassifier(small_model, max_steps=1, augment=False, random_state=0)
    with pytest.warns(ConflictingLabelsWarning, match=r"^20 picture\(s\)") as caught:
        clf.fit(paths * 2, labels + other)
    assert str(caught[0].message).count(" and X[") == 5
