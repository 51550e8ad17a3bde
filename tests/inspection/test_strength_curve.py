"""Accuracy on trained classes and on others, over how much of a fit is used."""

import re

import numpy as np
import pytest
from sklearn.exceptions import NotFittedError

from skclipsvd import CLIPLoRAClassifier, CLIPSVDClassifier, CLIPZeroShotClassifier
from skclipsvd.inspection import StrengthCurveDisplay
from skclipsvd.model_selection import base_novel_split

SETTINGS = dict(augment=False, random_state=0, device="cpu")


@pytest.fixture(autouse=True)
def _figures():
    import matplotlib.pyplot as plt

    plt.switch_backend("Agg")
    yield
    plt.close("all")


@pytest.fixture(scope="module")
def halves(digits):
    """Images of the first five digits by name and of the others: 30 to train on, 100 of each."""
    paths, labels = digits
    base, novel = (np.flatnonzero(np.isin(labels, half)) for half in base_novel_split(labels))
    return {
        name: (paths[rows], labels[rows])
        for name, rows in (("train", base[:30]), ("own", base[30:130]), ("others", novel[:100]))
    }


@pytest.fixture(scope="module")
def clf(halves):
    """Trained far too hard: it forgets."""
    return CLIPSVDClassifier("tiny", max_steps=20, lr=0.1, **SETTINGS).fit(*halves["train"])


def test_every_point_is_the_score_at_that_strength(clf, halves):
    strengths = [0, 0.3, 1, 1.5]
    display = StrengthCurveDisplay.from_estimator(
        clf, *halves["own"], *halves["others"], strengths=strengths
    )
    assert display.strengths.tolist() == strengths
    others = clf.with_classes(sorted(set(halves["others"][1])))
    for i, strength in enumerate(strengths):
        assert display.trained[i] == clf.with_strength(strength).score(*halves["own"])
        assert display.others[i] == others.with_strength(strength).score(*halves["others"])
    for name, at_none in (("own", display.trained[0]), ("others", display.others[0])):
        zero_shot = CLIPZeroShotClassifier("tiny").fit(None, halves[name][1])
        assert at_none == zero_shot.score(*halves[name])
    assert display.others[2] < display.others[0]  # what it forgot is seen

    trained, other = display.ax_.lines
    np.testing.assert_allclose(trained.get_ydata(), 100 * display.trained)
    np.testing.assert_allclose(other.get_ydata(), 100 * display.others)
    assert [text.get_text() for text in display.ax_.get_legend().get_texts()] == [
        "trained classes (100 images)", "other classes (100 images)",
    ]  # fmt: skip
    display.figure_.canvas.draw()


def test_other_classes_have_words_prompts_and_rivals_of_their_own(clf, halves):
    paths, labels = halves["others"]
    words = {0: "seven", 1: ["six", "the digit six"], 2: "an octopus", 3: "star"}
    chosen = np.isin(labels, ["six", "seven"])
    numbers = np.where(labels == "six", 1, 0)[chosen]
    options = dict(classes=words, templates="many {} and circles")
    display = StrengthCurveDisplay.from_estimator(
        clf, *halves["own"], paths[chosen], numbers, strengths=0.5, **options
    )
    expected, plain = (
        clf.with_classes(words, templates=templates).with_strength(0.5)
        for templates in (options["templates"], None)
    )
    assert display.others.tolist() == [expected.score(paths[chosen], numbers)]
    assert display.others[0] < plain.score(paths[chosen], numbers)  # such prompts mislead


def test_low_rank_updates_as_well(halves):
    clf = CLIPLoRAClassifier("tiny", max_steps=4, lr=0.01, **SETTINGS).fit(*halves["train"])
    display = StrengthCurveDisplay.from_estimator(clf, *halves["own"], *halves["others"])
    assert display.strengths.tolist() == [0, 0.2, 0.4, 0.6, 0.8, 1]
    assert display.trained[-1] == clf.score(*halves["own"])


def test_every_image_passes_through_the_model_once_per_strength(clf, halves, capsys):
    loud = clf.with_strength(1).set_params(verbose=1)
    StrengthCurveDisplay.from_estimator(
        loud, *halves["own"], *halves["others"], strengths=[0.4, 0.8]
    )
    # Old versions of tqdm draw a full bar twice; its last drawing ends the line.
    bars = re.findall(r"embedding: 100%[^\r\n]* (\d+)/(\d+)[^\r\n]*\n", capsys.readouterr().err)
    assert bars == [("100", "100")] * 4


def test_points_are_drawn_in_order_whatever_order_they_came_in():
    display = StrengthCurveDisplay([1, 0, 0.5], [0.9, 0.6, 0.8], [0.3, 0.7, 0.6]).plot()
    own, other = display.ax_.lines
    assert own.get_xdata().tolist() == [0, 0.5, 1]
    np.testing.assert_allclose(own.get_ydata(), [60, 80, 90])
    np.testing.assert_allclose(other.get_ydata(), [70, 60, 30])
    texts = [text.get_text() for text in display.ax_.get_legend().get_texts()]
    assert texts == ["trained classes", "other classes"]


def test_what_does_not_fit_is_named_by_where_it_was_given(clf, halves):
    (paths, labels), (other_paths, other_labels) = halves["own"], halves["others"]
    draw = StrengthCurveDisplay.from_estimator
    with pytest.raises(ValueError, match=r"y has labels that are none of the classes: \['six'"):
        draw(clf, paths, np.where(labels == "one", "six", labels), other_paths, other_labels)
    with pytest.raises(ValueError, match=r"y_others has labels that are none of .*: \['two'"):
        draw(clf, paths, labels, other_paths, other_labels, classes=["zero", "one"])
    with pytest.raises(ValueError, match=r"y_others\[0\]"):
        draw(clf, paths, labels, other_paths[:2], [None, "two"])
    with pytest.raises(FileNotFoundError, match=r"X_others\[1\].*gone\.png"):
        draw(clf, paths, labels, [other_paths[0], "gone.png"], other_labels[:2])
    with pytest.raises(ValueError, match=r"cannot be decoded.*X_others\[1\]"):
        draw(clf, paths, labels, [other_paths[0], b"no picture"], other_labels[:2])
    with pytest.raises(ValueError, match="inconsistent numbers of samples"):
        draw(clf, paths, labels[1:], other_paths, other_labels)
    for strengths in ([], [-1], [np.nan], [[0, 1]]):
        with pytest.raises(ValueError, match=r"strengths=.* finite numbers of 0 or more"):
            draw(clf, paths, labels, other_paths, other_labels, strengths=strengths)


def test_it_takes_classifiers_that_were_trained(halves):
    zero_shot = CLIPZeroShotClassifier("tiny").fit(None, halves["own"][1])
    with pytest.raises(TypeError, match="CLIPZeroShotClassifier, which changes no weights"):
        StrengthCurveDisplay.from_estimator(zero_shot, *halves["own"], *halves["others"])
    with pytest.raises(NotFittedError):
        StrengthCurveDisplay.from_estimator(
            CLIPSVDClassifier("tiny"), *halves["own"], *halves["others"]
        )
