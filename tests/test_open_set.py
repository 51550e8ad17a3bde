"""OpenSetClassifier: what is refused, and how the threshold comes about."""

import pickle

import numpy as np
import pytest
from helpers.shim import OPEN_SET
from scipy.special import logsumexp
from sklearn.base import clone
from sklearn.calibration import CalibratedClassifierCV
from sklearn.exceptions import NotFittedError
from sklearn.frozen import FrozenEstimator
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import GridSearchCV, StratifiedGroupKFold, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.utils.estimator_checks import check_estimator

from skclipsvd import (
    CLIPEncoder,
    CLIPLoRAClassifier,
    CLIPSVDClassifier,
    CLIPZeroShotClassifier,
    CosineClassifier,
    OpenSetClassifier,
)
from skclipsvd.experiments import TwoStageClassifier

KNOWN_BY = ("image", "text", "energy", "probability")
ZERO_SHOT = CLIPZeroShotClassifier("tiny")
TRAINED = CLIPSVDClassifier("tiny", lr=0.02, max_steps=3, augment=False, random_state=0)


@pytest.fixture(scope="module")
def parts(digits):
    """Known digits to fit on and to test on, and the unknown ones: eights and nines.

    Mixed, because the files are in the order of those who wrote them.
    """
    mixed = np.random.RandomState(0).permutation(len(digits[1]))
    X, y = digits[0][mixed], digits[1][mixed]
    known = np.flatnonzero(~np.isin(y, ["eight", "nine"]))
    fit, test = known[:200], known[200:600]
    return X[fit], y[fit], X[test], y[test], X[np.isin(y, ["eight", "nine"])][:200]


def expected_scores(known_by, clf, X, reference):
    """What each score is, from the classifier's public answers."""
    if known_by == "probability":
        return clf.predict_proba(X).max(axis=1)
    if known_by == "energy":
        return logsumexp(clf.decision_function(X).astype(float), axis=1)
    against = clf.text_features_ if known_by == "text" else clf.transform(reference)
    return (clf.transform(X) @ against.T).max(axis=1)


@pytest.mark.parametrize("known_by", KNOWN_BY)
def test_the_threshold_comes_from_images_that_each_fit_did_without(known_by, digits):
    X, y = digits[0][:40], digits[1][:40]
    clf = OpenSetClassifier(TRAINED, known_by=known_by, false_alarm_rate=0.1, cv=2).fit(X, y)
    # By hand: the first, third, ... image of a class in one part, the others in the other one.
    order, held = np.argsort(y, kind="stable"), []
    for left_out in (order[::2], order[1::2]):
        others = np.sort(np.setdiff1d(order, left_out))
        part = clone(TRAINED).fit(X[others], y[others])
        held.extend(expected_scores(known_by, part, X[np.sort(left_out)], X[others]))
    np.testing.assert_allclose(clf.held_out_scores_, np.sort(held), rtol=1e-5)
    # The fourth lowest of 40 has 4 / 41 of new images below it, the fifth 5 / 41.
    low, high = np.sort(held)[3:5]
    assert clf.threshold_ == pytest.approx(low + 0.1 * (high - low), rel=1e-5)

    whole = clone(TRAINED).fit(X, y)
    known = expected_scores(known_by, whole, digits[0][40:80], X)
    np.testing.assert_allclose(clf.score_samples(digits[0][40:80]), known, rtol=1e-5)
    expected = np.where(known < clf.threshold_, "unknown", whole.predict(digits[0][40:80]))
    assert clf.predict(digits[0][40:80]).tolist() == expected.tolist()
    assert clf.classifier_.predict(X).tolist() == whole.predict(X).tolist()


@pytest.mark.parametrize("known_by", KNOWN_BY)
@pytest.mark.parametrize("rate", [0.05, 0.2])
def test_the_wanted_share_of_known_images_is_refused(known_by, rate, parts):
    X, y, X_test, _, strange = parts
    clf = OpenSetClassifier(ZERO_SHOT, known_by=known_by, false_alarm_rate=rate).fit(X, y)
    refused = (clf.predict(X_test) == "unknown").mean()
    # Four standard deviations, of a threshold from 200 images and of a test on 400.
    assert abs(refused - rate) < 4 * np.sqrt(rate * (1 - rate) * (1 / 200 + 1 / 400))
    assert (clf.predict(strange) == "unknown").mean() > 2 * refused


def test_unknown_digits_look_less_known(parts):
    X, y, X_test, _, strange = parts
    clf = OpenSetClassifier(ZERO_SHOT).fit(X, y)
    scores = clf.score_samples(np.concatenate([X_test, strange]))
    assert roc_auc_score(np.arange(len(scores)) < len(X_test), scores) > 0.8


def test_a_frozen_classifier_is_used_as_it_is(parts):
    X, y, X_test, _, _ = parts
    fitted = clone(TRAINED).fit(X[:40], y[:40])
    for known_by in KNOWN_BY:
        clf = OpenSetClassifier(FrozenEstimator(fitted), known_by=known_by).fit(X[40:], y[40:])
        assert clf.classifier_ is fitted
        if known_by == "image":
            similar = fitted.transform(X[40:]) @ fitted.transform(X[40:]).T
            np.fill_diagonal(similar, -1)
            expected = similar.max(axis=1)
        else:
            expected = expected_scores(known_by, fitted, X[40:], None)
        np.testing.assert_allclose(clf.held_out_scores_, np.sort(expected), rtol=1e-5)
    again = clone(clf).fit(X[40:], y[40:])
    assert again.predict(X_test[:50]).tolist() == clf.predict(X_test[:50]).tolist()
    with pytest.raises(ValueError, match=r"y\[0\]='eight' and 1 more are no classes of the frozen"):
        OpenSetClassifier(FrozenEstimator(fitted)).fit(X[:2], ["eight", "nine"])
    with pytest.raises(NotFittedError):
        OpenSetClassifier(FrozenEstimator(TRAINED)).fit(X, y)


def as_labels(y, dtype):
    numbers = np.unique(y, return_inverse=True)[1]
    return y.astype(object) if dtype is object else numbers.astype(dtype)


@pytest.mark.parametrize(
    ("dtype", "unknown", "answers"),
    [
        (object, "?", object),
        (np.int64, -1, np.int64),
        (np.uint8, 255, np.uint8),
        (np.uint8, -1, np.int16),
        (np.float64, -1, np.float64),
    ],
)
@pytest.mark.filterwarnings("ignore::skclipsvd.exceptions.BareLabelWarning")
def test_unknown_lives_beside_labels_of_any_kind(dtype, unknown, answers, parts):
    X, y, X_test, _, strange = parts
    labels = as_labels(y, dtype)
    names = dict(zip(labels.tolist(), y.tolist(), strict=True))
    inner = clone(ZERO_SHOT).set_params(class_names=names)
    clf = OpenSetClassifier(inner, unknown=unknown, false_alarm_rate=0.2).fit(X, labels)
    given = clf.predict(np.concatenate([X_test, strange]))
    assert given.dtype == answers
    of_text = OpenSetClassifier(ZERO_SHOT, false_alarm_rate=0.2).fit(X, y)
    expected = of_text.predict(np.concatenate([X_test, strange]))
    names[unknown] = "unknown"
    assert [names[label] for label in given.tolist()] == expected.tolist()
    assert set(expected) == {*y, "unknown"}


def test_texts_are_not_cut(parts):
    X, y, X_test, _, _ = parts
    word = "none of the digits from zero to seven"
    clf = OpenSetClassifier(ZERO_SHOT, unknown=word, false_alarm_rate=0.5).fit(X, y)
    assert word in set(clf.predict(X_test)) <= {*y, word}


@pytest.mark.parametrize(
    ("labels", "unknown", "said"),
    [
        (["a", "b"], -1, r"-1 cannot stand .* which are text. Use a text, such as"),
        ([0, 1], "unknown", r"'unknown' cannot stand .* whole numbers. Use a number, such as"),
        ([0, 1], 0.5, r"0.5 cannot stand among the labels, which are whole numbers"),
        ([0.0, 1.0], float("nan"), r"nan cannot stand among the labels, which are numbers"),
        ([True, False], -1, r"-1 cannot stand .* booleans. Use labels of text or whole numbers"),
        ([0, 1], 1, r"unknown=1 is a label of y, and stands for .* Leave those rows out"),
        (["a", "unknown"], "unknown", r"unknown='unknown' is a label of y"),
    ],
)
def test_unknown_that_has_no_place_is_refused(labels, unknown, said, digits):
    clf = OpenSetClassifier(ZERO_SHOT, unknown=unknown)
    with pytest.raises(ValueError, match=said):
        clf.fit(digits[0][:40], labels * 20)
    assert not hasattr(clf, "classifier_")


def test_too_few_images_for_the_rate_are_named(digits):
    X, y = digits
    with pytest.raises(ValueError, match=r"0\.05 needs 19 images .* there are 18\. .* of 0\.053 "):
        OpenSetClassifier(ZERO_SHOT).fit(X[:18], ["a", "b"] * 9)
    assert OpenSetClassifier(ZERO_SHOT).fit(X[:19], [*"ab" * 9, "a"]).threshold_ > -1
    one_each = [np.flatnonzero(y == label)[0] for label in np.unique(y)]
    with pytest.raises(ValueError, match=r"no image can be left out .*one image each"):
        OpenSetClassifier(ZERO_SHOT).fit(X[one_each], y[one_each])
    clf = OpenSetClassifier(ZERO_SHOT, false_alarm_rate=0).fit(X[one_each], y[one_each])
    assert clf.predict(X[:50]).tolist() == clf.classifier_.predict(X[:50]).tolist()


def test_the_only_image_of_a_class_is_never_left_out(digits):
    X, y = digits[0][:40], digits[1][:40]
    rows = np.r_[np.flatnonzero(y == "one")[:1], np.flatnonzero(y != "one")]
    words = sorted({*y})  # as many as there are classes in every fit
    inner = clone(ZERO_SHOT).set_params(class_names=words)
    clf = OpenSetClassifier(inner).fit(X[rows], y[rows])
    assert len(clf.held_out_scores_) == len(rows) - 1


def test_groups_are_left_out_together(digits):
    X, y = digits[0][:60], digits[1][:60]
    groups = np.arange(60) // 4
    clf = OpenSetClassifier(ZERO_SHOT, known_by="image", cv=3).fit(X, y, groups=groups)
    seen = clone(ZERO_SHOT).fit(None, y).transform(X)
    expected = [
        (seen[held] @ seen[train].T).max(axis=1)
        for train, held in StratifiedGroupKFold(3).split(X, y, groups)
    ]
    np.testing.assert_allclose(clf.held_out_scores_, np.sort(np.concatenate(expected)), rtol=1e-6)
    same = OpenSetClassifier(ZERO_SHOT, known_by="image", cv=StratifiedGroupKFold(3))
    same.fit(X, y, groups=groups)
    assert same.threshold_ == clf.threshold_


def test_an_image_that_weighs_nothing_is_left_out(digits):
    X, y = digits[0][:60], digits[1][:60]
    weights = np.where(np.arange(60) < 20, 0.0, np.linspace(0.5, 2, 60))
    weighed = OpenSetClassifier(TRAINED, known_by="energy", cv=2).fit(X, y, sample_weight=weights)
    without = OpenSetClassifier(TRAINED, known_by="energy", cv=2)
    without.fit(X[20:], y[20:], sample_weight=weights[20:])
    assert weighed.held_out_scores_.tolist() == without.held_out_scores_.tolist()
    unweighed = OpenSetClassifier(TRAINED, known_by="energy", cv=2).fit(X[20:], y[20:])
    assert unweighed.held_out_scores_.tolist() != without.held_out_scores_.tolist()
    with pytest.raises(ValueError, match="sample_weight is zero for every image"):
        without.fit(X, y, sample_weight=np.zeros(60))


def test_it_is_searched_cross_validated_and_pickled(digits):
    X, y = digits[0][:60], digits[1][:60]
    clf = OpenSetClassifier(TRAINED, cv=2)
    assert cross_val_score(clf, X, y, cv=2, error_score="raise").shape == (2,)
    grid = {"known_by": ["energy", "image"], "classifier__max_steps": [1, 2]}
    search = GridSearchCV(clf, grid, cv=2, error_score="raise").fit(X, y)
    assert search.best_estimator_.classifier_.n_iter_ in (1, 2)
    best = search.best_estimator_
    again = pickle.loads(pickle.dumps(best))
    assert again.predict(X).tolist() == best.predict(X).tolist()
    assert again.score_samples(X).tolist() == best.score_samples(X).tolist()


def test_others_give_their_probability(digits):
    X, y = digits[0][:60], digits[1][:60]
    others = [
        make_pipeline(CLIPEncoder("tiny"), CosineClassifier()),
        CalibratedClassifierCV(FrozenEstimator(clone(ZERO_SHOT).fit(None, y)), cv=2),
        TwoStageClassifier(clone(TRAINED)),
        CLIPLoRAClassifier("tiny", lr=0.005, max_steps=2, augment=False, random_state=0),
    ]
    for other in others:
        clf = OpenSetClassifier(other, known_by="probability", cv=2).fit(X, y)
        plain = clone(other).fit(X, y)
        answers = clf.predict(X)
        assert set(answers[answers != plain.predict(X)]) <= {"unknown"}
        if hasattr(plain, "predict_proba"):
            known = plain.predict_proba(X).max(axis=1)
            np.testing.assert_allclose(clf.score_samples(X), known, rtol=1e-5)
        assert hasattr(clf, "predict_proba") == hasattr(plain, "predict_proba")
    with pytest.raises(ValueError, match=r"'energy' needs a classifier of this .*Pipeline use"):
        OpenSetClassifier(others[0], known_by="energy").fit(X, y)
    with pytest.raises(ValueError, match="CLIPEncoder has neither predict_proba nor decision"):
        OpenSetClassifier(CLIPEncoder("tiny"), known_by="probability").fit(X, y)


@pytest.mark.parametrize("known_by", KNOWN_BY)
def test_two_classes(known_by, photographs):
    paths, labels = photographs
    inner = CLIPZeroShotClassifier("tiny")
    clf = OpenSetClassifier(inner, known_by=known_by, false_alarm_rate=0.1).fit(paths, labels)
    assert clf.decision_function(paths).shape == (20,)
    seen, texts = clf.classifier_.transform(paths), clf.classifier_.text_features_
    if known_by == "energy":
        scale, bias = clf.classifier_.logit_scale_, clf.classifier_.logit_bias_
        expected = logsumexp((scale * seen @ texts.T + bias).astype(float), axis=1)
        np.testing.assert_allclose(clf.score_samples(paths), expected, rtol=1e-5)
    assert set(clf.predict(paths)) <= {"flower", "temple", "unknown"}


def test_a_stream_is_answered(parts):
    X, y, X_test, _, _ = parts
    clf = OpenSetClassifier(ZERO_SHOT).fit(X, y)
    assert clf.predict(iter(X_test[:50])).tolist() == clf.predict(X_test[:50]).tolist()
    pipeline = make_pipeline(CLIPEncoder("tiny"), CosineClassifier())
    clf = OpenSetClassifier(pipeline, known_by="probability", cv=2).fit(X, y)
    assert clf.predict(iter(X_test[:50])).tolist() == clf.predict(X_test[:50]).tolist()


def test_a_failed_fit_leaves_the_last_one(parts, tmp_path):
    X, y, X_test, _, _ = parts
    clf = OpenSetClassifier(ZERO_SHOT).fit(X, y)
    before = clf.predict(X_test[:50]).tolist()
    with pytest.raises(ValueError, match="is a label of y"):
        clf.fit(X, np.where(y == "one", "unknown", y))
    with pytest.raises(FileNotFoundError):
        clf.fit([*X[:-1], str(tmp_path / "gone.png")], y)
    assert clf.predict(X_test[:50]).tolist() == before


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::skclipsvd.exceptions.BareLabelWarning")
def test_whole_suite_of_scikit_learn_through_image_files():
    texts = {"check_classifiers_classes": "text labels, among which the number has no place"}
    results = check_estimator(OPEN_SET, on_fail=None, on_skip=None, expected_failed_checks=texts)
    failed = [f"{r['check_name']}: {r['exception']!r}" for r in results if r["status"] == "failed"]
    assert not failed, "\n".join(failed)
    assert sum(r["status"] == "passed" for r in results) >= 50
