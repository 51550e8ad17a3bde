"""MAPIE takes the classifiers as they are: its sets hold the right label as often as wanted."""

import numpy as np
import pytest
from sklearn.base import clone

from skclipsvd import CLIPSVDClassifier, CLIPZeroShotClassifier

mapie = pytest.importorskip("mapie.classification")

TRAINED = CLIPSVDClassifier("tiny", lr=0.02, max_steps=3, augment=False, random_state=0)


@pytest.fixture(scope="module")
def mixed(digits):
    """Digits in a random order: the files are in the order of those who wrote them."""
    rows = np.random.RandomState(0).permutation(len(digits[1]))
    return digits[0][rows], digits[1][rows]


def test_sets_are_those_of_the_definition_and_cover(mixed):
    X, y = mixed
    clf = clone(TRAINED).fit(X[:60], y[:60])
    calibrate, test = slice(60, 260), slice(260, 760)
    conformal = mapie.SplitConformalClassifier(clf, confidence_level=0.9, prefit=True)
    answers, sets = conformal.conformalize(X[calibrate], y[calibrate]).predict_set(X[test])

    # Least ambiguous sets (Sadinle, Lei, Wasserman 2019): the 181st of 200 sorted values of one
    # minus the true class's probability is what a class may lack.
    of_truth = np.searchsorted(clf.classes_, y[calibrate])
    lacking = np.sort(1 - clf.predict_proba(X[calibrate])[np.arange(200), of_truth])[180]
    expected = 1 - clf.predict_proba(X[test]) <= lacking + 1e-8
    np.testing.assert_array_equal(sets[:, :, 0], expected)
    np.testing.assert_array_equal(answers, clf.predict(X[test]))
    covered = expected[np.arange(500), np.searchsorted(clf.classes_, y[test])].mean()
    # Four standard deviations, of the threshold and of the test.
    assert abs(covered - 0.9) < 4 * np.sqrt(0.09 * (1 / 200 + 1 / 500))


def test_cross_conformal_fits_by_folds(mixed):
    X, y = mixed
    names = np.unique(y)
    words = dict(enumerate(names)) | dict(zip(names, names, strict=True))  # some fits see numbers
    inner = clone(TRAINED).set_params(class_names=words)
    conformal = mapie.CrossConformalClassifier(inner, confidence_level=0.9, cv=3)
    conformal.fit_conformalize(X[:90], y[:90])
    answers, sets = conformal.predict_set(X[90:390])
    assert sets.shape == (300, 10, 1)
    assert sets[np.arange(300), np.searchsorted(names, y[90:390]), 0].mean() > 0.85
    assert sets.sum() < 2 * 300
    assert (answers == y[90:390]).mean() > 0.85


def test_paths_have_to_be_an_array(mixed):
    X, y = mixed
    clf = CLIPZeroShotClassifier("tiny").fit(None, y)
    conformal = mapie.SplitConformalClassifier(clf, confidence_level=0.9, prefit=True)
    with pytest.raises(TypeError, match="number of features from X of type list"):
        conformal.conformalize(X[:50].tolist(), y[:50])
