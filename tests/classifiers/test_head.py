"""`head="logistic"`: the answer is the weighted mean of the texts' scores and a regression's."""

import json
import pickle

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file, save_file
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV

from skclipsvd import (
    CLIPLoRAClassifier,
    CLIPSVDClassifier,
    CLIPZeroShotClassifier,
    load_adapter,
)

SETTINGS = dict(max_steps=3, lr=0.02, augment=False, random_state=0)
KINDS = [CLIPSVDClassifier, CLIPLoRAClassifier]


@pytest.fixture(scope="module")
def some_digits(digits):
    paths, labels = digits
    return paths[:40], labels[:40], paths[40:80], labels[40:80]


@pytest.fixture(scope="module")
def with_head(some_digits):
    return CLIPSVDClassifier("tiny", head="logistic", **SETTINGS).fit(*some_digits[:2])


@pytest.fixture(scope="module")
def without(some_digits):
    return CLIPSVDClassifier("tiny", **SETTINGS).fit(*some_digits[:2])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("n_classes", [2, 10])
def test_scores_are_a_mean_of_the_texts_and_a_logistic_regression(kind, n_classes, digits):
    paths, labels = digits
    few = np.flatnonzero(np.isin(labels, np.unique(labels)[:n_classes]))[:40]
    clf = kind("tiny", head="logistic", **SETTINGS).fit(paths[few], labels[few])
    new = paths[-30:]
    regression = LogisticRegression(C=10, max_iter=1000, tol=1e-8)
    regression.fit(clf.transform(paths[few]).astype(float), labels[few])
    by_regression = regression.predict_log_proba(clf.transform(new))
    by_text = clf.logit_scale_ * clf.transform(new) @ clf.text_features_.T
    by_text -= np.log(np.exp(by_text).sum(axis=1, keepdims=True))
    mean = (1 - clf.head_weight_) * by_text + clf.head_weight_ * by_regression
    expected = np.exp(mean) / np.exp(mean).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(clf.predict_proba(new), expected, atol=2e-3)
    assert (clf.predict(new) == clf.classes_[expected.argmax(axis=1)]).all()
    scores = clf.decision_function(new)
    if n_classes == 2:
        np.testing.assert_allclose(scores, mean[:, 1] - mean[:, 0], atol=1e-2)
    else:
        np.testing.assert_array_equal(clf.classes_[scores.argmax(axis=1)], clf.predict(new))


@pytest.mark.parametrize("names", ["right", "turned"])
def test_its_weight_is_the_loss_before_training_over_a_guess(names, some_digits):
    paths, labels = some_digits[0][:30], some_digits[1][:30]
    words = np.unique(labels)
    if names == "turned":  # words that know nothing of the classes
        words = np.roll(words, 1)
    classes = dict(zip(np.unique(labels).tolist(), words.tolist(), strict=True))
    clf = CLIPSVDClassifier("tiny", head="logistic", class_names=classes, **SETTINGS)
    zero = CLIPZeroShotClassifier("tiny", class_names=classes).fit(None, np.unique(labels))
    truth = zero.predict_proba(paths)[np.arange(30), np.searchsorted(zero.classes_, labels)]
    loss = -np.log(truth).mean() / np.log(10)
    assert (loss < 0.4) == (names == "right")
    expected = min(max(loss, 0.5), 0.8)
    assert clf.fit(paths, labels).head_weight_ == pytest.approx(expected, abs=1e-4)


def test_one_image_per_class_is_enough(digits):
    paths, labels = digits
    firsts = np.unique(labels, return_index=True)[1]
    clf = CLIPSVDClassifier("tiny", head="logistic", **SETTINGS).fit(paths[firsts], labels[firsts])
    assert (clf.predict(paths[firsts]) == labels[firsts]).all()
    regression = LogisticRegression(C=10, max_iter=1000, tol=1e-8)
    embeddings, twice = clf.transform(paths[firsts]).astype(float), np.tile(np.arange(10), 2)
    regression.fit(embeddings[twice], labels[firsts][twice], np.full(20, 0.5))
    np.testing.assert_allclose(clf.head_coef_, regression.coef_, atol=2e-3)


def test_the_adaptation_is_the_one_without_a_head(with_head, without, some_digits):
    for name, values in without.singular_values_.items():
        np.testing.assert_array_equal(values, with_head.singular_values_[name])
    np.testing.assert_array_equal(with_head.text_features_, without.text_features_)
    new = some_digits[2]
    np.testing.assert_array_equal(with_head.transform(new), without.transform(new))
    assert not np.array_equal(with_head.decision_function(new), without.decision_function(new))
    assert not hasattr(without, "head_coef_")


def test_crops_change_nothing_of_the_adaptation(photographs, small_model):
    settings = {**SETTINGS, "augment": True}
    fitted = [CLIPSVDClassifier(small_model, head=h, **settings) for h in (None, "logistic")]
    plain, headed = (clf.fit(*photographs) for clf in fitted)
    np.testing.assert_array_equal(headed.text_features_, plain.text_features_)
    assert headed.head_coef_.shape == headed.text_features_.shape
    assert headed.head_intercept_.shape == (2,)


def test_it_survives_every_way_of_saving(with_head, some_digits, tmp_path):
    with_head.save_adapter(tmp_path / "head.safetensors")
    scores = with_head.decision_function(some_digits[2])
    for other in (
        load_adapter(tmp_path / "head.safetensors"),
        pickle.loads(pickle.dumps(with_head)),
    ):
        assert other.head == "logistic"
        np.testing.assert_array_equal(other.decision_function(some_digits[2]), scores)


def test_files_with_a_head_are_of_a_format_that_older_readers_refuse(with_head, without, tmp_path):
    said = []
    for clf in (with_head, without):
        clf.save_adapter(tmp_path / "a.safetensors")
        with safe_open(tmp_path / "a.safetensors", "np") as file:
            said.append(json.loads(file.metadata()["skclipsvd"])["format"])
    assert said == [3, 2]


@pytest.mark.parametrize("damage", ["one alone", "another shape"])
def test_half_a_head_is_refused(with_head, tmp_path, damage):
    path = tmp_path / "a.safetensors"
    with_head.save_adapter(path)
    with safe_open(path, "np") as file:
        metadata = file.metadata()
    header = json.loads(metadata["skclipsvd"])
    del header["sha256"]
    arrays = load_file(path)
    if damage == "one alone":
        del arrays["head_intercept_"]
    else:
        arrays["head_coef_"] = arrays["head_coef_"][:, :-1].copy()
    save_file(arrays, path, {"skclipsvd": json.dumps(header)})
    with pytest.raises(ValueError, match=r"head_coef_, head_intercept_, head_weight_ belong"):
        load_adapter(path)


def test_other_classes_are_told_by_their_texts_alone(with_head, without, some_digits):
    others = [clf.with_classes(["square", "circle"]) for clf in (with_head, without)]
    assert not hasattr(others[0], "head_coef_")
    scores = [other.decision_function(some_digits[2]) for other in others]
    np.testing.assert_array_equal(*scores)
    assert hasattr(with_head, "head_coef_")


def test_a_fit_without_a_head_leaves_none_of_the_last_one(some_digits, without):
    clf = CLIPSVDClassifier("tiny", head="logistic", **SETTINGS).fit(*some_digits[:2])
    clf.set_params(head=None).fit(*some_digits[:2])
    assert vars(clf).keys() == vars(without).keys()


def test_an_image_of_twice_the_weight_counts_as_two(some_digits):
    paths, labels = some_digits[0][:20], some_digits[1][:20]
    twice, weights = np.r_[0:20, 0:10], np.where(np.arange(20) < 10, 2.0, 1.0)

    def coef(*data):
        return CLIPSVDClassifier("tiny", head="logistic", **SETTINGS).fit(*data).head_coef_

    heavier = coef(paths, labels, weights)
    np.testing.assert_allclose(coef(paths[twice], labels[twice]), heavier, atol=2e-3)
    # Weights are scaled to a mean of 1, so that the penalty does not depend on their unit.
    np.testing.assert_allclose(coef(paths, labels, 3 * weights), heavier, atol=2e-3)
    assert abs(coef(paths, labels) - heavier).max() > 0.05


def test_it_is_a_parameter_like_any_other(some_digits):
    paths, labels = some_digits[:2]
    clf = CLIPSVDClassifier("tiny", **SETTINGS)
    search = GridSearchCV(clf, {"head": [None, "logistic"]}, cv=2, error_score="raise")
    assert search.fit(paths, labels).best_params_["head"] in (None, "logistic")
    with pytest.raises(ValueError, match=r"'head' parameter .* must be a str among \{'logistic'\}"):
        clf.set_params(head="mlp").fit(paths, labels)


def test_an_interrupt_leaves_the_last_fit(some_digits, monkeypatch):
    paths, labels, new, _ = some_digits
    clf = CLIPSVDClassifier("tiny", head="logistic", **SETTINGS).fit(paths, labels)
    before, scores = dict(vars(clf)), clf.decision_function(new)

    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(LogisticRegression, "fit", interrupted)
    with pytest.raises(KeyboardInterrupt):
        clf.fit(paths[:20], labels[:20])
    assert vars(clf) == before
    np.testing.assert_array_equal(clf.decision_function(new), scores)


def test_the_fit_says_what_it_does(some_digits, capsys):
    CLIPSVDClassifier("tiny", head="logistic", verbose=1, **SETTINGS).fit(*some_digits[:2])
    assert "[skclipsvd] fitting the head to 40 embeddings: done in" in capsys.readouterr().err
