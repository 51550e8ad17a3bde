"""The cosine head: exactness, scikit-learn's contract, and where it is used."""

import json
import os
import pickle
import subprocess
import sys

import numpy as np
import pytest
import sklearn
from scipy.optimize import check_grad
from sklearn.base import clone
from sklearn.calibration import CalibratedClassifierCV
from sklearn.datasets import load_digits
from sklearn.ensemble import BaggingClassifier, StackingClassifier
from sklearn.exceptions import ConvergenceWarning, NotFittedError
from sklearn.model_selection import GridSearchCV, train_test_split
from sklearn.multiclass import OneVsOneClassifier
from sklearn.preprocessing import normalize
from sklearn.semi_supervised import SelfTrainingClassifier
from sklearn.utils.estimator_checks import (
    check_dataframe_column_names_consistency,
    check_param_validation,
)

from skclipsvd.linear import CosineClassifier, Objective

SUITE = """
import json, warnings
warnings.simplefilter("error")
from sklearn.utils.estimator_checks import check_estimator
from skclipsvd.linear import CosineClassifier

balanced = CosineClassifier(class_weight="balanced", alpha=1.0)
for estimator in (CosineClassifier(), balanced):
    results = check_estimator(estimator, on_fail=None, on_skip=None)
    print(json.dumps([(r["check_name"], r["status"], repr(r["exception"])) for r in results]))
"""


@pytest.fixture(scope="module")
def data():
    X, y = load_digits(return_X_y=True)
    names = np.char.add("digit ", y.astype(str))
    return train_test_split(X - X.mean(axis=0), names, train_size=80, stratify=y, random_state=0)


@pytest.fixture
def texts():
    rng = np.random.RandomState(1)
    return rng.randn(3, 5), rng.randn(30, 5), np.repeat(["cat", "dog", "owl"], 10)


# --- scikit-learn's contract


def test_whole_suite_runs_and_passes():
    # In a fresh process, because SciPy reads the variable once, when it is imported, and
    # without it three checks are skipped.
    pytest.importorskip("pandas")
    result = subprocess.run(
        [sys.executable, "-c", SUITE],
        env={**os.environ, "SCIPY_ARRAY_API": "1", "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    for line in result.stdout.splitlines()[-2:]:
        checks = json.loads(line)
        assert [check for check in checks if check[1] != "passed"] == []
        if sklearn.__version__.startswith(("1.6.", "1.9.")):
            assert len(checks) == 63
        assert len(checks) >= 60
        assert "check_class_weight_classifiers" in {name for name, *_ in checks}


@pytest.mark.parametrize(
    "check", [check_param_validation, check_dataframe_column_names_consistency]
)
def test_checks_outside_the_suite(check):
    check("CosineClassifier", CosineClassifier())


def test_pickle_and_clone(data):
    X, X_test, y, _ = data
    fitted = CosineClassifier().fit(X, y)
    again = pickle.loads(pickle.dumps(fitted))
    np.testing.assert_array_equal(again.predict_proba(X_test), fitted.predict_proba(X_test))
    refitted = clone(fitted).fit(X, y)
    np.testing.assert_array_equal(refitted.coef_, fitted.coef_)
    assert all(
        isinstance(v, np.ndarray | int | float) for k, v in vars(fitted).items() if k[-1] == "_"
    )


# --- the formula


def test_zero_iterations_from_texts_is_zero_shot_clip(texts):
    vectors, X, y = texts
    model = CosineClassifier(init=vectors, max_iter=0, logit_scale=50.0).fit(X, y)
    cosines = X @ vectors.T / np.outer(*(np.linalg.norm(a, axis=1) for a in (X, vectors)))
    np.testing.assert_allclose(model.decision_function(X), 50 * cosines, rtol=1e-12)
    assert model.n_iter_ == 0
    assert not model.intercept_.any()


def test_mapping_equals_array_and_ignores_other_labels(texts):
    vectors, X, y = texts
    mapping = {"zebra": np.ones(2), "owl": vectors[2], "cat": vectors[0], "dog": vectors[1]}
    by_array = CosineClassifier(init=vectors).fit(X, y)
    by_mapping = CosineClassifier(init=mapping).fit(X, y)
    np.testing.assert_array_equal(by_array.coef_, by_mapping.coef_)


@pytest.mark.parametrize("n_classes", [2, 3])
def test_scores_are_the_documented_formula(data, n_classes):
    X, X_test, y, _ = data
    chosen = np.isin(y, np.unique(y)[:n_classes])
    model = CosineClassifier(logit_scale=20.0).fit(X[chosen], y[chosen])
    assert model.coef_.shape == (n_classes, 64)
    np.testing.assert_allclose(np.linalg.norm(model.coef_, axis=1), 1)
    logits = 20 * normalize(X_test) @ model.coef_.T + model.intercept_
    scores = model.decision_function(X_test)
    expected = logits[:, 1] - logits[:, 0] if n_classes == 2 else logits
    np.testing.assert_allclose(scores, expected, rtol=1e-9, atol=1e-12)
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(model.predict_proba(X_test), probabilities, rtol=1e-9)
    np.testing.assert_array_equal(model.predict(X_test), model.classes_[logits.argmax(axis=1)])


@pytest.mark.parametrize("intercept", [0, 1])
def test_gradient(intercept):
    rng = np.random.RandomState(0)
    X, start = normalize(rng.randn(20, 5)), normalize(rng.randn(3, 5))
    problem = Objective(X, rng.randint(0, 3, 20), rng.rand(20), start, 10.0, 0.3)
    theta = rng.randn(3 * (5 + intercept))
    error = check_grad(lambda t: problem(t)[0], lambda t: problem(t)[1], theta)
    assert error < 1e-5 * np.linalg.norm(problem(theta)[1])


def test_training_lowers_the_objective_to_a_stationary_point(data):
    X, _, y, _ = data
    start = CosineClassifier(max_iter=0).fit(X, y)
    end = CosineClassifier(tol=1e-6).fit(X, y)
    assert end.loss_ < start.loss_
    assert 1 <= end.n_iter_ < 200


def test_alpha_holds_to_the_start(data):
    X, _, y, _ = data
    distances = []
    for alpha in (1e-3, 1.0, 1e6):
        model = CosineClassifier(alpha=alpha, logit_scale=20.0).fit(X, y)
        distances.append(np.abs(model.coef_ - model.start_).max())
    assert distances[0] > distances[1] > distances[2]
    assert distances[2] < 1e-3


def test_better_than_class_means_on_real_digits(data):
    X, X_test, y, y_test = data
    means = CosineClassifier(max_iter=0).fit(X, y).score(X_test, y_test)
    trained = CosineClassifier(logit_scale=20.0).fit(X, y).score(X_test, y_test)
    assert trained > means > 0.75


@pytest.mark.parametrize("factor", [1e-160, 1e-3, 1e160])
def test_length_of_embeddings_does_not_matter(data, factor):
    X, X_test, y, _ = data
    expected = CosineClassifier().fit(X, y).predict_proba(X_test)
    scaled = CosineClassifier().fit(factor * X, y).predict_proba(factor * X_test)
    np.testing.assert_allclose(scaled, expected, rtol=1e-6, atol=1e-12)


def test_rows_of_zeros_are_undecided_not_nan(texts):
    vectors, X, y = texts
    X = X.copy()
    X[::7] = 0
    model = CosineClassifier(init=vectors, fit_intercept=False).fit(X, y)
    assert np.isfinite(model.coef_).all()
    np.testing.assert_allclose(model.predict_proba(np.zeros((2, 5))), 1 / 3)
    all_zero = CosineClassifier().fit(np.zeros((4, 3)), [0, 0, 1, 1])
    assert np.isfinite(all_zero.predict_proba(np.zeros((1, 3)))).all()


def test_class_means_that_cancel_out():
    X = np.array([[1.0, 0], [-1, 0], [0, 1], [0, 1]])
    model = CosineClassifier().fit(X, [0, 0, 1, 1])
    assert np.isfinite(model.coef_).all()
    assert model.predict([[0.0, 1]]) == 1


# --- weights


def test_weights_are_repetitions(data):
    X, _, y, _ = data
    repeats = np.random.RandomState(0).randint(0, 4, len(y))
    repeats[np.unique(y, return_index=True)[1]] = 1
    X_repeated, y_repeated = X.repeat(repeats, axis=0), y.repeat(repeats)
    weighted = CosineClassifier().fit(X, y, repeats)
    repeated = CosineClassifier().fit(X_repeated, y_repeated)
    backwards = CosineClassifier().fit(X_repeated[::-1], y_repeated[::-1])
    for other in (repeated, backwards):
        np.testing.assert_array_equal(other.coef_, weighted.coef_)
        np.testing.assert_array_equal(other.intercept_, weighted.intercept_)


def test_balanced_class_weight_equals_explicit_weights(data):
    X, X_test, y, _ = data
    X, y = X[y != "digit 9"][5:], y[y != "digit 9"][5:]
    labels, counts = np.unique(y, return_counts=True)
    explicit = {label: len(y) / (len(labels) * n) for label, n in zip(labels, counts, strict=True)}
    a, b = (CosineClassifier(class_weight=w).fit(X, y) for w in ("balanced", explicit))
    np.testing.assert_allclose(a.predict_proba(X_test), b.predict_proba(X_test))


def test_class_without_weight_is_kept_but_not_predicted(data):
    # All embeddings on one side, as CLIP's are.
    X, X_test, y, _ = data
    weights = (y != "digit 2").astype(float)
    model = CosineClassifier().fit(X + 10, y, weights)
    assert "digit 2" in model.classes_
    assert "digit 2" not in model.predict(X_test + 10)
    others = CosineClassifier().fit(X[weights > 0] + 10, y[weights > 0])
    agreement = model.predict(X_test + 10) == others.predict(X_test + 10)
    assert agreement.mean() > 0.99


# --- errors, all before any work


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"init": np.ones((2, 5))}, r"init has shape \(2, 5\).*expected \(3, 5\)"),
        ({"init": np.ones((3, 4))}, r"expected \(3, 5\)"),
        ({"init": [[1, 2], [3]]}, "init|inhomogeneous"),
        ({"init": np.full((3, 5), np.nan)}, "init contains NaN"),
        ({"init": np.diag([1.0, 0, 1]) @ np.ones((3, 5))}, r"class 'dog' \(row 1\) is all zeros"),
        ({"init": {"cat": np.ones(5)}}, r"no vector for 2 of the classes.*'dog', 'owl'"),
        ({"init": "texts"}, "'init' parameter"),
        ({"logit_scale": 0}, "'logit_scale' parameter"),
        ({"alpha": -1}, "'alpha' parameter"),
        ({"class_weight": {"cat": 0, "dog": 0, "owl": 0}}, "class_weight=.*at least one sample"),
        ({"class_weight": {"cat": -1}}, "class_weight=.*at least 0"),
    ],
)
def test_bad_parameters(texts, parameters, message):
    _, X, y = texts
    model = CosineClassifier(**parameters)
    with pytest.raises(ValueError, match=message):
        model.fit(X, y)
    assert not hasattr(model, "coef_")


def test_bad_data(texts):
    _, X, y = texts
    with pytest.raises(ValueError, match="one class only, 'cat'"):
        CosineClassifier().fit(X[:5], y[:5])
    with pytest.raises(ValueError, match=r"0 for every sample|zero"):
        CosineClassifier().fit(X, y, np.zeros(30))
    with pytest.raises(ValueError, match=r"[Nn]egative"):
        CosineClassifier().fit(X, y, -np.ones(30))
    with pytest.raises(NotFittedError):
        CosineClassifier().predict(None)


def test_stopping_early_is_said(data):
    X, _, y, _ = data
    with pytest.warns(ConvergenceWarning, match="max_iter=1 "):
        model = CosineClassifier(max_iter=1, logit_scale=20.0).fit(X, y)
    assert model.n_iter_ == 1


# --- meta-estimators that want numbers


@pytest.mark.parametrize(
    "wrap",
    [
        lambda m: BaggingClassifier(m, n_estimators=3, random_state=0),
        lambda m: CalibratedClassifierCV(m, cv=2),
        lambda m: GridSearchCV(m, {"alpha": [0.1, 10.0]}, cv=2),
        OneVsOneClassifier,
        lambda m: StackingClassifier(
            [("head", m)], final_estimator=CosineClassifier(tol=1e-3), cv=2
        ),
    ],
    ids=["bagging", "calibration", "grid", "ovo", "stacking"],
)
def test_inside_meta_estimators(data, wrap):
    X, X_test, y, y_test = data
    assert wrap(CosineClassifier()).fit(X, y).score(X_test, y_test) > 0.6


def test_self_training(data):
    X, X_test, y, y_test = data
    codes = np.unique(y, return_inverse=True)[1]
    codes[40:] = -1
    model = SelfTrainingClassifier(CosineClassifier(logit_scale=20.0)).fit(X, codes)
    assert model.score(X_test, np.unique(y_test, return_inverse=True)[1]) > 0.6
