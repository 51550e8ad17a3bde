"""Several labels per image: what is computed, what is refused, and what else knows of it."""

import json
import pickle
import warnings

import numpy as np
import onnxruntime
import open_clip
import pandas as pd
import pytest
import scipy.sparse
import sklearn
import skops.io
import torch
from helpers import published
from PIL import Image
from safetensors import safe_open
from safetensors.numpy import save_file
from scipy.optimize import brentq
from scipy.special import expit
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, average_precision_score, f1_score
from sklearn.model_selection import GridSearchCV, cross_val_predict, cross_val_score
from torch.nn import functional as F

from skclipsvd import (
    CLIPLoRAClassifier,
    CLIPSVDClassifier,
    CLIPZeroShotClassifier,
    OpenSetClassifier,
    load_adapter,
    prediction_table,
)
from skclipsvd.classifiers import model_card
from skclipsvd.clip import load_backbone
from skclipsvd.exceptions import (
    ConflictingLabelsWarning,
    ConstantLabelWarning,
    UnchangedPredictionsWarning,
)
from skclipsvd.experiments import CLIPSOClassifier, ProKeRClassifier, TwoStageClassifier
from skclipsvd.inspection import (
    EmbeddingDisplay,
    PredictionSheetDisplay,
    StrengthCurveDisplay,
    explain_prediction,
)
from skclipsvd.training import OneClass, SeveralLabels

NAMES = ["zero", "one", "two", "three", "four"]
SKLEARN = tuple(map(int, sklearn.__version__.split(".")[:2]))
QUICK = dict(augment=False, random_state=0)


@pytest.fixture(scope="module")
def pairs(digits, tmp_path_factory):
    """Files of two handwritten digits side by side, and which digits they show, as a frame."""
    folder = tmp_path_factory.mktemp("pairs")
    paths, labels = digits
    known = np.flatnonzero(np.isin(labels, NAMES))
    rng = np.random.RandomState(0)
    files, rows = [], []
    for i in range(120):
        chosen = rng.choice(known, 2, replace=False)
        picture = Image.new("L", (64, 64))
        for left, k in zip((0, 32), chosen, strict=True):
            picture.paste(Image.open(paths[k]).convert("L").resize((32, 32)), (left, 16))
        files.append(str(folder / f"{i}.png"))
        picture.save(files[-1])
        rows.append([int(name in labels[chosen]) for name in NAMES])
    return np.array(files), pd.DataFrame(rows, columns=NAMES)


@pytest.fixture(scope="module")
def fitted(pairs):
    X, Y = pairs
    return CLIPSVDClassifier("tiny", max_steps=20, lr=0.05, **QUICK).fit(X[:60], Y[:60])


def plain_model():
    backbone = load_backbone("tiny", None, torch.device("cpu"))
    model = backbone.skeleton().eval()
    images = open_clip.transform.image_transform_v2(backbone.preprocess, is_train=False)
    return model, images


def seen_by(model, transform, paths):
    """Images and texts as plain open_clip sees them, and their cosines."""
    images = torch.stack([transform(Image.open(path)) for path in paths])
    tokens = open_clip.SimpleTokenizer()([f"a photo of a {name}." for name in NAMES])
    with torch.no_grad():
        units = [
            F.normalize(model.encode_image(images), dim=-1),
            F.normalize(model.encode_text(tokens), dim=-1),
        ]
    return images, tokens, (units[0] @ units[1].T).double().numpy()


def intercepts(scores, targets, weights):
    """Root by root: the weighted mean probability is the weighted share of positives."""
    found = []
    for s, t, w in zip(scores.T, targets.T, weights.T, strict=True):
        share = ((w * t).sum() + 0.5) / (w.sum() + 1)
        found.append(brentq(lambda b: (w * expit(s + b)).sum() / w.sum() - share, -500, 500))  # noqa: B023
    return np.array(found)


@pytest.mark.parametrize(
    ("options", "sample_weight"),
    [
        ({}, None),
        ({"class_weight": {"two": 3.0}}, None),
        ({"class_weight": "balanced", "label_smoothing": 0.1}, np.linspace(1, 2, 24)),
    ],
    ids=["plain", "weight of a label", "balanced, smoothed, weighted"],
)
def test_training_equals_an_independent_one(pairs, options, sample_weight):
    """Its own intercepts, its own singular values, torch's own binary cross-entropy."""
    paths, targets = pairs[0][:24], pairs[1][:24].to_numpy()
    clf = CLIPSVDClassifier("tiny", max_steps=15, lr=2e-3, batch_size=24, **QUICK, **options)
    clf.fit(paths, pairs[1][:24], sample_weight=sample_weight)

    of_images = np.ones(24) if sample_weight is None else sample_weight / sample_weight.mean()
    having = np.ones(5) + 2 * (np.array(NAMES) == "two") * ("class_weight" in options)
    without = np.ones(5)
    if options.get("class_weight") == "balanced":
        having, without = 24 / 2 / targets.sum(axis=0), 24 / 2 / (1 - targets).sum(axis=0)
    weights = np.where(targets, having, without)
    weights *= 120 / (weights * of_images[:, None]).sum()
    weights *= of_images[:, None]
    model, transform = plain_model()
    images, tokens, cosines = seen_by(model, transform, paths)
    scale = model.logit_scale.exp().item()
    added = intercepts(scale * cosines, targets, weights)
    np.testing.assert_allclose(clf.intercept_, added, atol=2e-4)

    smoothing = options.get("label_smoothing", 0)
    loss = torch.nn.BCEWithLogitsLoss(torch.tensor(weights), reduction="sum")

    def loss_of(scores, y):
        y = y * (1 - smoothing) + smoothing / 2
        return loss(scores + torch.tensor(added), y) / len(scores)

    expected = published.singular_values(published.factorise(model))
    before = {name: s.detach().clone() for name, s in expected.items()}
    losses = published.optimise(
        model,
        expected.values(),
        images,
        tokens,
        torch.tensor(targets).double(),
        steps=15,
        lr=2e-3,
        weight_decay=0.01,
        loss_of=loss_of,
    )
    np.testing.assert_allclose(clf.loss_curve_, losses, rtol=2e-4)
    for name, values in expected.items():
        assert (values - before[name]).norm() > 0, name
        np.testing.assert_allclose(
            clf.singular_values_[name], values.detach().numpy(), atol=2e-4, err_msg=name
        )


def test_probabilities_equal_plain_ones(fitted, pairs):
    X = pairs[0][60:80]
    model, transform = fitted.merged_model(), plain_model()[1]
    _, _, cosines = seen_by(model, transform, X)
    scores = fitted.logit_scale_ * cosines + fitted.intercept_
    np.testing.assert_allclose(fitted.decision_function(X), scores, atol=1e-3)
    np.testing.assert_allclose(fitted.predict_proba(X), expit(scores), atol=1e-4)
    predicted = fitted.predict(X)
    assert predicted.shape == (20, 5)
    assert predicted.dtype == np.int64
    np.testing.assert_array_equal(predicted, fitted.predict_proba(X) > 0.5)
    assert 0 < predicted.sum() < predicted.size
    assert fitted.classes_.tolist() == NAMES
    assert fitted.logit_bias_ == 0


@pytest.mark.parametrize("kind", [CLIPSVDClassifier, CLIPLoRAClassifier, CLIPSOClassifier])
def test_no_step_ranks_as_zero_shot_at_observed_frequencies(kind, pairs):
    X, Y = pairs[0][:40], pairs[1][:40]
    clf = kind("tiny", max_steps=0, **QUICK).fit(X, Y)
    np.testing.assert_allclose(
        clf.predict_proba(X).mean(axis=0), (Y.sum(axis=0) + 0.5) / 41, atol=1e-4
    )
    zero_shot = CLIPZeroShotClassifier("tiny").fit(None, NAMES)
    columns = [zero_shot.classes_.tolist().index(name) for name in NAMES]
    expected = zero_shot.decision_function(X)[:, columns] + clf.intercept_
    np.testing.assert_allclose(clf.decision_function(X), expected, atol=1e-4)


@pytest.mark.parametrize("head", [None, "logistic"])
def test_it_learns_to_see_both_digits(pairs, head):
    X, Y = pairs
    start = CLIPSVDClassifier("tiny", max_steps=0, **QUICK).fit(X[:60], Y[:60])
    clf = CLIPSVDClassifier("tiny", head=head, **QUICK).fit(X[:60], Y[:60])
    before, after = (
        average_precision_score(Y[60:], c.decision_function(X[60:])) for c in (start, clf)
    )
    assert after > before + 0.1
    assert clf.score(X[60:], Y[60:]) > start.score(X[60:], Y[60:])
    assert clf.loss_curve_[-1] < clf.loss_curve_[0] / 2


def test_a_head_is_one_regression_for_each_label(pairs):
    X, Y = pairs[0][:30], pairs[1][:30].assign(six=0)
    options = dict(max_steps=3, lr=0.02, **QUICK)
    with pytest.warns(ConstantLabelWarning, match=r"have the label\(s\) 'six' \(none\)"):
        clf = CLIPSVDClassifier("tiny", head="logistic", **options).fit(X, Y)
    with pytest.warns(ConstantLabelWarning):
        plain = CLIPSVDClassifier("tiny", **options).fit(X, Y)
    embeddings = plain.transform(X).astype(np.float64)
    of_head = np.full((30, 6), np.log(0.5) - np.log(30.5))
    for i, name in enumerate(NAMES):
        one = LogisticRegression(C=10, max_iter=1000).fit(embeddings, Y[name])
        of_head[:, i] = one.decision_function(embeddings)
    w = clf.head_weight_
    assert 0.5 <= w <= 0.8
    expected = (1 - w) * plain.decision_function(X) + w * of_head
    np.testing.assert_allclose(clf.decision_function(X), expected, atol=2e-3)


FORMS = {
    "array": lambda Y: Y.to_numpy(),
    "rows": lambda Y: Y.to_numpy().tolist(),
    "tuples": lambda Y: [tuple(row) for row in Y.to_numpy()],
    "booleans": lambda Y: Y.to_numpy().astype(bool),
    "floats": lambda Y: Y.to_numpy().astype(np.float32),
    "sparse": lambda Y: scipy.sparse.csr_matrix(Y.to_numpy()),
    "frame": lambda Y: Y,
    "polars frame": lambda Y: pytest.importorskip("polars").DataFrame(Y.to_dict("list")),
    "Arrow frame": lambda Y: pytest.importorskip("pyarrow").table(Y.to_dict("list")),
    "frame of nullable integers": lambda Y: Y.astype("Int64"),
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_y_gives_the_same_numbers(form, small_model, pairs):
    X, Y = pairs[0][:20], pairs[1][:20]
    clf = CLIPSVDClassifier(small_model, class_names=NAMES, max_steps=2, lr=0.01, **QUICK)
    expected = clf.fit(X, Y).decision_function(X)
    np.testing.assert_array_equal(clf.fit(X, FORMS[form](Y)).decision_function(X), expected)
    assert clf.classes_.tolist() == (NAMES if "frame" in form else [0, 1, 2, 3, 4])
    assert clf.score(X, Y.to_numpy()) == accuracy_score(Y, clf.predict(X))


def test_words_belong_to_columns_in_their_order(small_model, pairs):
    X, Y = pairs[0][:20], pairs[1][:20]
    words = {name: [f"a {name}", f"the digit {name}"] for name in NAMES}
    options = dict(templates=["{}", "a photo of {}"], max_steps=0)
    clf = CLIPSVDClassifier(small_model, class_names=words, **options).fit(X, Y)
    turned = Y[Y.columns[::-1]]
    other = CLIPSVDClassifier(small_model, class_names=words, **options).fit(X, turned)
    assert other.classes_.tolist() == NAMES[::-1]
    np.testing.assert_allclose(other.text_features_, clf.text_features_[::-1], atol=1e-6)
    listed = [words[name] for name in NAMES]
    numbered = CLIPSVDClassifier(small_model, class_names=listed, **options).fit(X, Y.to_numpy())
    np.testing.assert_array_equal(numbered.text_features_, clf.text_features_)


def changed(Y, value):
    Y = Y.astype(object)
    Y.iloc[3, 2] = value
    return Y


@pytest.mark.parametrize(
    ("y", "message"),
    [
        (lambda Y: changed(Y, 2), r"y\[3\], column 'two', is 2\. With several labels per image"),
        (lambda Y: changed(Y, np.nan), r"y\[3\], column 'two', is nan"),
        (lambda Y: changed(Y, pd.NA), r"y\[3\], column 'two', is <NA>"),
        (lambda Y: changed(Y, "yes"), r"1 entries are neither 0 nor 1.*column 'two', is 'yes'"),
        (lambda Y: np.where(Y == 0, np.nan, 1.0), r"y\[0\], column \d, is nan"),
        (lambda Y: [["zero"], ["one", "two"]] * 10, "different lengths.*MultiLabelBinarizer"),
        (lambda Y: [{"zero", "one"}] * 20, "neither 0 nor 1.*MultiLabelBinarizer"),
        (lambda Y: Y.set_axis(["a", "a", "b", "c", "d"], axis=1), r"y\.columns=\['a', 'a'"),
        (lambda Y: Y.set_axis(["a", 1, "b", "c", "d"], axis=1), r"y\.columns=\['a', 1"),
        (lambda Y: Y * 0, "every column of y says the same of all images"),
        (lambda Y: Y[:19], "inconsistent numbers of samples"),
    ],
)
def test_what_is_no_table_of_0_and_1_is_said_before_work(small_model, pairs, y, message):
    X, Y = pairs[0][:20], pairs[1][:20]
    clf = CLIPSVDClassifier(small_model, max_steps=1)
    with pytest.raises(ValueError, match=message):
        clf.fit(["no such file.png", *X[1:]], y(Y))
    assert not hasattr(clf, "classes_")


def test_one_column_is_one_label_per_image(small_model, pairs):
    X, y = pairs[0][:20], pairs[1][["one"]][:20]
    clf = CLIPSVDClassifier(small_model, class_names=["none", "one"], max_steps=0)
    with pytest.warns(UserWarning, match="column-vector"):
        clf.fit(X, y)
    assert clf.predict_proba(X).sum(axis=1) == pytest.approx(1)
    assert not hasattr(clf, "intercept_")


def test_a_fit_leaves_nothing_of_the_last_ones_labels(small_model, pairs):
    X, Y = pairs[0][:20], pairs[1][:20]
    clf = CLIPSVDClassifier(small_model, max_steps=0).fit(X, Y)
    assert clf.predict(X).shape == (20, 5)
    single = clf.fit(X, np.where(Y["one"], "one", "none"))
    assert single.predict(X).shape == (20,)
    assert not hasattr(single, "intercept_")


def test_a_column_that_says_nothing_warns_and_is_finite(small_model, pairs):
    X, Y = pairs[0][:20], pairs[1][:20].assign(six=0, digit=1)
    clf = CLIPSVDClassifier(small_model, max_steps=2, **QUICK)
    with pytest.warns(ConstantLabelWarning, match=r"'six' \(none\), 'digit' \(all\).*drop"):
        clf.fit(X, Y)
    probabilities = clf.predict_proba(X)
    assert np.isfinite(clf.intercept_).all()
    assert (probabilities[:, 5] < 0.2).all()
    assert (probabilities[:, 6] > 0.8).all()


# --- the fit


def test_repeating_an_image_is_doubling_its_weight(small_model, pairs):
    X, Y = pairs[0][:12], pairs[1][:12]
    clf = CLIPSVDClassifier(small_model, max_steps=3, lr=0.02, **QUICK)
    weighed = clf.fit(X, Y, sample_weight=[2] + 11 * [1]).decision_function(X)
    rows = np.r_[5:12, 0, 0:5]
    repeated = clf.fit(X[rows], Y.iloc[rows]).decision_function(X)
    np.testing.assert_array_equal(repeated, weighed)
    dropped = clf.fit(X, Y, sample_weight=[0] + 11 * [1]).decision_function(X)
    np.testing.assert_array_equal(clf.fit(X[1:], Y[1:]).decision_function(X), dropped)
    assert (dropped != weighed).all()


def test_one_picture_with_two_sets_of_labels_is_named(small_model, pairs):
    X, Y = pairs[0][:12].copy(), pairs[1][:12]
    other = next(i for i in range(1, 12) if (Y.iloc[i] != Y.iloc[0]).any())
    X[other] = X[0]
    said = [[name for name in NAMES if Y[name][i]] for i in (0, other)]
    with pytest.warns(ConflictingLabelsWarning) as caught:
        CLIPSVDClassifier(small_model, max_steps=0).fit(X, Y)
    message = str(caught[0].message)
    assert all(f"is {labels!r}" in message for labels in said)


def test_validation_scores_are_those_of_score(small_model, pairs):
    X, Y = pairs
    clf = CLIPSVDClassifier(small_model, epochs=3, lr=0.03, batch_size=20, **QUICK)
    clf.fit(X[:40], Y[:40], X_val=X[40:80], y_val=Y[40:80].to_numpy())
    assert len(clf.validation_scores_) == 4
    assert clf.validation_scores_[-1] == pytest.approx(clf.score(X[40:80], Y[40:80]))
    stopped = CLIPSVDClassifier(small_model, epochs=3, early_stopping=True, lr=0.03, **QUICK)
    stopped.fit(X[:40], Y[:40])
    assert stopped.best_validation_score_ == stopped.validation_scores_.max()


@pytest.mark.parametrize(
    ("y_val", "message"),
    [
        (lambda Y: Y["one"], r"y_val has shape \(5,\); it needs a column for each label"),
        (lambda Y: Y[Y.columns[::-1]], "y_val has the columns.*same order"),
        (lambda Y: Y.to_numpy()[:, :3], "y_val has the columns"),
    ],
)
def test_validation_labels_of_another_kind(small_model, pairs, y_val, message):
    X, Y = pairs
    clf = CLIPSVDClassifier(small_model, max_steps=1)
    with pytest.raises(ValueError, match=message):
        clf.fit(X[:20], Y[:20], X_val=X[20:25], y_val=y_val(Y[20:25]))
    with pytest.raises(ValueError, match="it needs one label per image"):
        clf.fit(X[:20], Y["one"][:20].map({0: "a", 1: "b"}), X_val=X[20:25], y_val=Y[20:25])


def test_a_weight_for_what_is_no_label(small_model, pairs):
    clf = CLIPSVDClassifier(small_model, class_weight={"nine": 2}, max_steps=1)
    with pytest.raises(ValueError, match="'nine', which is none of the labels"):
        clf.fit(pairs[0][:20], pairs[1][:20])


def test_a_fit_that_changed_nothing_says_so(pairs):
    X, Y = pairs[0][:20], pairs[1][:20]
    with pytest.warns(UnchangedPredictionsWarning, match="its 20 training images") as caught:
        clf = CLIPSVDClassifier("tiny", lr=1e-9, max_steps=2, **QUICK).fit(X, Y)
    n_wrong = (clf.predict(X) != Y.to_numpy()).any(axis=1).sum()
    assert f"(still wrong: {n_wrong})" in str(caught[0].message)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UnchangedPredictionsWarning)
        CLIPSVDClassifier("tiny", lr=0.05, max_steps=5, **QUICK).fit(X, Y)


# --- scikit-learn


def ranked_precision(clf, X, Y):
    return average_precision_score(Y, clf.decision_function(X))


@pytest.mark.parametrize("n_labels", [2, 5])
@pytest.mark.parametrize(
    "scoring", ["accuracy", "f1_macro", "f1_micro", "average_precision", "roc_auc"]
)
def test_searches_and_scores(small_model, pairs, n_labels, scoring):
    X, Y = pairs[0][:30], pairs[1][NAMES[:n_labels]][:30]
    if scoring == "average_precision" and (n_labels == 2 or SKLEARN < (1, 9)):
        scoring = ranked_precision  # scikit-learn takes one of the names for the positive class
    clf = CLIPSVDClassifier(small_model, max_steps=2, lr=0.02, **QUICK)
    search = GridSearchCV(clf, {"lr": [1e-4, 0.02]}, scoring=scoring, cv=2, error_score="raise")
    search.fit(X, Y)
    assert np.isfinite(search.best_score_)
    assert search.best_estimator_.classes_.tolist() == NAMES[:n_labels]
    scores = cross_val_score(clf, X, Y, scoring=scoring, cv=2, error_score="raise")
    expected = []
    for train, test in ((np.r_[15:30], np.r_[0:15]), (np.r_[0:15], np.r_[15:30])):
        clf.fit(X[train], Y.iloc[train])
        if scoring == "f1_macro":
            expected.append(f1_score(Y.iloc[test], clf.predict(X[test]), average="macro"))
        if scoring in ("average_precision", ranked_precision):
            expected.append(average_precision_score(Y.iloc[test], clf.decision_function(X[test])))
    if expected:
        np.testing.assert_allclose(scores, expected)


def test_out_of_fold_probabilities(small_model, pairs):
    X, Y = pairs[0][:20], pairs[1][:20]
    clf = CLIPSVDClassifier(small_model, class_names=NAMES, max_steps=1, lr=0.02, **QUICK)
    found = cross_val_predict(clf, X, Y, cv=2, method="predict_proba")
    np.testing.assert_allclose(found[:10], clf.fit(X[10:], Y[10:]).predict_proba(X[:10]))


# --- what else a fitted classifier does


def test_files_hold_all_of_it(fitted, pairs, tmp_path):
    X = pairs[0][60:70]
    fitted.save_adapter(tmp_path / "pairs.safetensors")
    skops.io.dump(fitted, tmp_path / "pairs.skops")
    trusted = skops.io.get_untrusted_types(file=tmp_path / "pairs.skops")
    for same in (
        load_adapter(tmp_path / "pairs.safetensors"),
        pickle.loads(pickle.dumps(fitted)),
        skops.io.load(tmp_path / "pairs.skops", trusted=trusted),
    ):
        np.testing.assert_array_equal(same.intercept_, fitted.intercept_)
        np.testing.assert_array_equal(same.predict_proba(X), fitted.predict_proba(X))
        np.testing.assert_array_equal(same.predict(X), fitted.predict(X))
    with safe_open(tmp_path / "pairs.safetensors", "np") as file:
        assert json.loads(file.metadata()["skclipsvd"])["format"] == 4


def test_a_file_needs_an_intercept_for_each_label(fitted, pairs, tmp_path):
    damaged = pickle.loads(pickle.dumps(fitted))
    damaged.intercept_ = damaged.intercept_[:3]
    damaged.save_adapter(tmp_path / "pairs.safetensors")
    with pytest.raises(ValueError, match="one intercept per label"):
        load_adapter(tmp_path / "pairs.safetensors")


def test_a_file_whose_format_knows_of_no_intercepts(fitted, pairs, tmp_path):
    path, other = tmp_path / "pairs.safetensors", tmp_path / "other.safetensors"
    fitted.save_adapter(path)
    with safe_open(path, "np") as file:
        header = json.loads(file.metadata()["skclipsvd"])
        arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    del header["sha256"]
    for changed, kept in (
        (header | {"format": 3}, arrays),
        (header, {name: array for name, array in arrays.items() if name != "intercept_"}),
    ):
        save_file(kept, other, metadata={"skclipsvd": json.dumps(changed)})
        with pytest.raises(ValueError, match=r"other\.safetensors is damaged.*do not agree"):
            load_adapter(other)


def test_rare_labels_are_learnt_when_a_guess_is_nearly_right():
    targets = np.zeros((500, 2))
    targets[:4] = 1
    alike = SeveralLabels.calibrated(
        np.random.RandomState(0).normal(20, 1, (500, 2)), targets, np.ones(500), np.ones((2, 2))
    )
    assert alike.guess == pytest.approx(0.1, abs=0.02)
    assert 0 < alike.learnt_loss(0.1) < 0.05 * alike.guess
    assert OneClass().learnt_loss(0.1) == 0.1


def test_a_score_reads_the_names_of_columns(fitted, pairs):
    X, Y = pairs[0][60:80], pairs[1][60:80]
    right = accuracy_score(Y, fitted.predict(X))
    assert fitted.score(X, Y) == fitted.score(X, Y.to_numpy()) == right
    with pytest.raises(ValueError, match=r"y has the columns.*same order"):
        fitted.score(X, Y[Y.columns[::-1]])


def test_columns_that_are_numbers_have_an_order(small_model, pairs):
    X, Y = pairs[0][:30], pairs[1][:30].iloc[:, :2].set_axis([1, 0], axis=1)
    clf = CLIPSVDClassifier(small_model, class_names=["one", "zero"], max_steps=0, **QUICK)
    clf.fit(X[:20], Y[:20], X_val=X[20:], y_val=Y[20:])
    with pytest.raises(ValueError, match=r"y_val has the columns.*same order"):
        clf.fit(X[:20], Y[:20], X_val=X[20:], y_val=Y[20:][[0, 1]])


def test_part_of_a_fit(fitted, pairs):
    X, Y = pairs
    start = CLIPSVDClassifier("tiny", max_steps=0, **QUICK).fit(X[:60], Y[:60])
    none, whole = fitted.with_strength(0), fitted.with_strength(1)
    np.testing.assert_array_equal(none.predict_proba(X[60:70]), start.predict_proba(X[60:70]))
    np.testing.assert_array_equal(whole.predict_proba(X[60:70]), fitted.predict_proba(X[60:70]))


@pytest.mark.parametrize("head", [None, "logistic"])
def test_onnx_gives_a_probability_for_each_label(pairs, tmp_path, head):
    X, Y = pairs
    clf = CLIPSVDClassifier("tiny", max_steps=3, lr=0.03, head=head, **QUICK)
    clf.fit(X[:30], Y[:30]).export_onnx(tmp_path / "pairs.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "pairs.onnx")
    pixels = np.stack(
        [np.asarray(Image.open(p).convert("RGB").resize((32, 32), Image.BICUBIC)) for p in X[60:66]]
    )
    (found,) = session.run(None, {"pixels": pixels})
    expected = clf.predict_proba(list(pixels))
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert not np.allclose(found.sum(axis=1), 1, atol=0.01)
    known = session.get_modelmeta().custom_metadata_map
    assert json.loads(known["several_labels"]) is True
    assert json.loads(known["classes"]) == NAMES


def test_what_describes_it_says_labels(fitted, pairs):
    X, Y = pairs[0][60:66], pairs[1][60:66]
    assert "Labels, any per image" in fitted._repr_mimebundle_()["text/html"]
    card = model_card(fitted, "jane/pairs", {})
    assert "An image classifier of 5 labels, any number per image" in card
    assert "Each label has a probability of its own" in card
    assert "one of these classes" not in card
    rows = prediction_table(fitted, X, top_k=5)
    proba = fitted.predict_proba(X)
    np.testing.assert_allclose(rows["probability"], proba.max(axis=1))
    np.testing.assert_allclose(rows["probability_5"], proba.min(axis=1))
    pytest.importorskip("matplotlib")
    sheet = PredictionSheetDisplay.from_estimator(fitted, X, Y)
    predicted = fitted.predict(X)
    for i in range(6):
        names = [name for j, name in enumerate(NAMES) if predicted[i, j]]
        assert sheet.predicted[i] == (", ".join(names) or "none")
        assert sheet.true[i] == ", ".join(name for name in NAMES if Y[name].iloc[i])
    for wrong in (Y.iloc[:, :4], ["one"] * 6):
        with pytest.raises(ValueError, match="a row for each image and 5 columns of 0 and 1"):
            PredictionSheetDisplay.from_estimator(fitted, X, wrong)
    with pytest.raises(ValueError, match="1 entries are neither 0 nor 1"):
        PredictionSheetDisplay.from_estimator(fitted, X, [*Y.to_numpy()[:5], [0, 1, 2, 0, 1]])


def test_an_explanation_adds_up_to_the_score(fitted, pairs):
    explanation = explain_prediction(fitted, pairs[0][60])
    scores = fitted.decision_function(pairs[0][60:61])[0]
    np.testing.assert_allclose(explanation.scores_after, scores, atol=2e-3)
    parts = explanation.heat_map.sum(axis=(1, 2)) + explanation.heat_map_rest
    np.testing.assert_allclose(parts, scores, atol=2e-3)


# --- what is for one label per image


def test_zero_shot_says_what_to_use(pairs):
    X, Y = pairs
    for given in (X[:20], None):
        clf = CLIPZeroShotClassifier("tiny")
        with pytest.raises(ValueError, match=r"CLIPSVDClassifier\(max_steps=0\)"):
            clf.fit(given, Y[:20])
        assert not hasattr(clf, "classes_")


def test_other_labels_need_images(fitted):
    with pytest.raises(ValueError, match=r"with_classes is for one label per image.*max_steps=0"):
        fitted.with_classes(["six", "seven"])


def test_what_takes_one_label_says_so(fitted, pairs):
    X, Y = pairs[0][:20], pairs[1][:20]
    zero_shot = CLIPZeroShotClassifier("tiny")
    for kind in (
        OpenSetClassifier(zero_shot),
        ProKeRClassifier(zero_shot),
        TwoStageClassifier(CLIPSVDClassifier("tiny", max_steps=2)),
    ):
        with pytest.raises(
            ValueError, match=r"takes one label per image; y has the shape \(20, 5\)"
        ):
            kind.fit(X, Y)
    with pytest.raises(ValueError, match="the frozen classifier gives images several labels"):
        OpenSetClassifier(FrozenEstimator(fitted)).fit(X, ["zero", "one"] * 10)
    pytest.importorskip("matplotlib")
    with pytest.raises(ValueError, match="EmbeddingDisplay takes one label per image"):
        EmbeddingDisplay.from_estimator(fitted, X, Y)
    with pytest.raises(ValueError, match="with_classes is for one label"):
        StrengthCurveDisplay.from_estimator(fitted, X, NAMES * 4, X, ["six", "seven"] * 10)
