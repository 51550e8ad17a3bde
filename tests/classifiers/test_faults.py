"""Faults that were seen: each of these failed before it was mended."""

import gc
import os

import numpy as np
import pytest
import torch

import skclipsvd
from skclipsvd import CLIPLoRAClassifier, CLIPSVDClassifier, CLIPZeroShotClassifier

FAST = dict(max_steps=1, lr=0.01, augment=False, random_state=0)


def fitted_state(clf):
    return {name: value for name, value in vars(clf).items() if name.endswith("_")}


@pytest.mark.parametrize(
    "settings",
    [
        {"lr": 1e30},
        {"weight_decay": 1e38, "lr": 0.1},
        {"lr": 1e30, "towers": ("image",)},
        {"lr": 1e30, "towers": ("image",), "matrices": ("mlp",)},
    ],
)
@pytest.mark.parametrize("estimator", [CLIPSVDClassifier, CLIPLoRAClassifier])
def test_a_last_step_that_diverges_is_an_error(small_model, photographs, estimator, settings):
    """The loss is finite before the only update, and nothing is after it."""
    clf = estimator(small_model, **FAST).fit(*photographs)
    before = fitted_state(clf)
    clf.set_params(**settings)
    with pytest.raises(FloatingPointError, match="Lower lr"):
        clf.fit(*photographs)
    assert all(value is before[name] for name, value in fitted_state(clf).items())


@pytest.mark.parametrize(
    ("estimator", "learnt"),
    [(CLIPSVDClassifier, "singular_values_"), (CLIPLoRAClassifier, "factors_")],
)
def test_a_warm_fit_that_fails_leaves_the_old_numbers(small_model, photographs, estimator, learnt):
    clf = estimator(small_model, **FAST, warm_start=True).fit(*photographs)
    numbers = getattr(clf, learnt)
    before = {name: array.copy() for name, array in numbers.items()}
    with pytest.raises(FloatingPointError):
        clf.set_params(lr=1e30, max_steps=3).fit(*photographs)
    for name, array in getattr(clf, learnt).items():
        np.testing.assert_array_equal(array, before[name])


@pytest.mark.parametrize("mode", ["r", "r+", "c"])
def test_a_warm_fit_of_mapped_numbers(small_model, photographs, tmp_path, mode):
    """Written into, read-only ones ended the process, and writable ones changed their file."""
    import joblib

    clf = CLIPSVDClassifier(small_model, **FAST, warm_start=True).fit(*photographs)
    joblib.dump(clf, tmp_path / "clf.joblib")
    content = (tmp_path / "clf.joblib").read_bytes()
    mapped = joblib.load(tmp_path / "clf.joblib", mmap_mode=mode).fit(*photographs)
    assert (tmp_path / "clf.joblib").read_bytes() == content
    clf.fit(*photographs)
    for name, array in clf.singular_values_.items():
        np.testing.assert_array_equal(mapped.singular_values_[name], array)


def test_other_classes_share_no_numbers(small_model, photographs):
    clf = CLIPSVDClassifier(small_model, **FAST).fit(*photographs)
    other = clf.with_classes(["a", "b", "c"])
    for name, array in clf.singular_values_.items():
        np.testing.assert_array_equal(array, other.singular_values_[name])
        assert not np.shares_memory(array, other.singular_values_[name])


@pytest.mark.parametrize(
    ("first", "second"),
    [({"matrices": ["q"]}, {}), ({}, {"matrices": ["q"]}), ({"layers": [0]}, {"layers": [1]})],
)
@pytest.mark.parametrize("estimator", [CLIPSVDClassifier, CLIPLoRAClassifier])
def test_a_warm_fit_of_other_matrices_is_refused(
    small_model, photographs, estimator, first, second
):
    clf = estimator(small_model, **FAST, warm_start=True, **first).fit(*photographs)
    defaults = estimator(small_model).get_params()
    clf.set_params(matrices=defaults["matrices"], layers="all").set_params(**second)
    with pytest.raises(ValueError, match="warm_start=True, but towers, matrices or layers"):
        clf.fit(*photographs)


def test_a_warm_fit_of_another_alpha_is_refused(small_model, photographs):
    clf = CLIPLoRAClassifier(small_model, **FAST, warm_start=True).fit(*photographs)
    with pytest.raises(ValueError, match=r"alpha=2\.0 are not those of the last fit"):
        clf.set_params(alpha=2.0).fit(*photographs)


@pytest.mark.parametrize("weight", [-1.0, np.nan, np.inf])
def test_a_class_weight_that_is_no_weight_is_refused(small_model, photographs, weight):
    clf = CLIPSVDClassifier(small_model, **FAST, class_weight={"flower": weight})
    with pytest.raises(ValueError, match=r"class_weight\['flower'\] is"):
        clf.fit(*photographs)


def test_class_weights_that_are_all_zero_are_refused(small_model, photographs):
    clf = CLIPSVDClassifier(small_model, **FAST, class_weight={"flower": 0, "temple": 0.0})
    with pytest.raises(ValueError, match=r"class_weight=.*is zero for every label"):
        clf.fit(*photographs)


def test_large_sample_weights_count_like_small_ones(small_model, photographs):
    weights = np.linspace(0.5, 1.0, 20)
    small = CLIPSVDClassifier(small_model, **FAST).fit(*photographs, weights)
    large = CLIPSVDClassifier(small_model, **FAST).fit(*photographs, weights * 1.5e308)
    for name, array in small.singular_values_.items():
        np.testing.assert_allclose(large.singular_values_[name], array, rtol=1e-6)


def test_rows_of_weight_zero_keep_the_others_names(small_model, photographs, tmp_path):
    paths, labels = photographs
    bad = tmp_path / "bad.jpg"
    bad.write_bytes(b"no image")
    weights = np.ones(20)
    weights[[0, 3]] = 0
    with pytest.raises(ValueError, match=r"X\[7\] = .*bad\.jpg"):
        CLIPSVDClassifier(small_model, **FAST).fit(
            [*paths[:7], str(bad), *paths[8:]], labels, weights
        )


def test_a_zero_shot_refit_that_is_interrupted_leaves_the_old_one(small_model, monkeypatch):
    clf = CLIPZeroShotClassifier(small_model).fit(None, ["a", "b"])
    before = fitted_state(clf)

    def interrupted(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(type(clf), "_logit_scale", interrupted)
    with pytest.raises(KeyboardInterrupt):
        clf.fit(None, ["c", "d", "e"])
    assert all(value is before[name] for name, value in fitted_state(clf).items())


def test_fits_leave_no_tensors_behind(small_model, photographs):
    def fit():
        CLIPSVDClassifier(small_model, **FAST).fit(*photographs)
        skclipsvd.clear_caches()
        gc.collect()
        return sum(1 for thing in gc.get_objects() if type(thing) is torch.Tensor)

    fit()
    before = fit()
    for _ in range(3):
        after = fit()
    assert after == before


# --- The validation part that early_stopping sets aside is weighed like the rest


STOPPING = dict(
    epochs=3, lr=0.02, batch_size=8, augment=False, early_stopping=True, validation_fraction=0.4,
    random_state=0,
)  # fmt: skip


def validation_rows(labels, fraction, rng):
    """The rows that a fit of these settings sets aside: what it draws first."""
    from sklearn.model_selection import train_test_split

    return train_test_split(
        np.arange(len(labels)), test_size=int(np.ceil(fraction * len(labels))), stratify=labels,
        random_state=rng,
    )[1]  # fmt: skip


@pytest.mark.parametrize("given_by", ["sample_weight", "class_weight", "both"])
@pytest.mark.parametrize("estimator", [CLIPSVDClassifier, CLIPLoRAClassifier])
def test_validation_scores_are_weighted_accuracies(small_model, photographs, estimator, given_by):
    paths, labels = photographs
    of_class = {"temple": 5.0, "flower": 1.0}
    weights = np.linspace(1, 9, 20)
    total = np.ones(20)
    arguments, params = {}, dict(STOPPING)
    if given_by != "class_weight":
        arguments["sample_weight"] = weights
        total = total * weights
    if given_by != "sample_weight":
        params["class_weight"] = of_class
        total = total * np.where(labels == "temple", 5.0, 1.0)
    start = CLIPSVDClassifier(small_model, max_steps=0).fit(paths, labels)
    rows = validation_rows(labels, 0.4, np.random.RandomState(0))
    right = start.predict(np.array(paths)[rows]) == labels[rows]
    assert 0 < right.mean() < 1, "nothing to be told apart"
    expected = np.average(right, weights=total[rows])
    clf = estimator(small_model, **params).fit(paths, labels, **arguments)
    assert clf.validation_scores_[0] == pytest.approx(expected, abs=1e-6)
    assert clf.validation_scores_[0] != pytest.approx(right.mean(), abs=1e-3)


def test_weights_decide_which_epoch_is_kept(small_model, photographs):
    """All weight on images that only the start gets right: no epoch is better."""
    paths, labels = photographs
    start = CLIPSVDClassifier(small_model, max_steps=0).fit(paths, labels)
    rows = validation_rows(labels, 0.4, np.random.RandomState(0))
    favoured = rows[start.predict(np.array(paths)[rows]) == labels[rows]]
    weights = np.full(20, 1e-3)
    weights[favoured] = 1e3
    ruin = {**STOPPING, "lr": 0.3, "epochs": 4}
    clf = CLIPSVDClassifier(small_model, **ruin).fit(paths, labels, sample_weight=weights)
    assert clf.best_validation_score_ == pytest.approx(1, abs=1e-4)
    assert clf.score(np.array(paths)[favoured], labels[favoured]) == 1


def test_a_validation_part_of_the_users_own_has_no_weights(small_model, photographs):
    paths, labels = photographs
    clf = CLIPSVDClassifier(small_model, **FAST, class_weight={"temple": 9.0, "flower": 1.0})
    clf.fit(paths, labels, np.linspace(1, 9, 20), X_val=paths[5:15], y_val=labels[5:15])
    assert clf.validation_scores_[-1] == pytest.approx(clf.score(paths[5:15], labels[5:15]))


# --- Rows that hold the same image


@pytest.mark.parametrize(
    "settings",
    [{**FAST, "batch_size": 64}, {**FAST, "batch_size": 3}, {**FAST, "augment": True}],
    ids=["merged", "batches", "augmented"],
)
def test_a_path_that_stands_twice_is_named_with_both_rows(
    small_model, photographs, tmp_path, settings
):
    paths, labels = photographs
    bad = tmp_path / "bad.jpg"
    bad.write_bytes(b"no image")
    rows = [*paths[:3], str(bad), *paths[3:8], str(bad), *paths[8:]]
    y = [*labels[:3], "temple", *labels[3:8], "temple", *labels[8:]]
    clf = CLIPSVDClassifier(small_model, **settings)
    with pytest.raises(ValueError, match="cannot be decoded") as caught:
        clf.fit(rows, y)
    for row in (3, 9):
        assert str(caught.value).count(f"X[{row}]") == 1
    weights = np.ones(22)
    weights[[0, 3]] = 0
    with pytest.raises(ValueError, match="cannot be decoded") as caught:
        clf.fit(rows, y, sample_weight=weights)
    assert "X[9] = " in str(caught.value)
    assert "X[3]" not in str(caught.value)


def test_many_rows_of_one_bad_image_stay_one_line(small_model, photographs, tmp_path):
    bad = tmp_path / "bad.jpg"
    bad.write_bytes(b"no image")
    paths, labels = photographs
    with pytest.raises(ValueError, match=r"X\[20\], .*X\[24\] and 15 more rows = '"):
        CLIPSVDClassifier(small_model, **FAST, batch_size=64).fit(
            [*paths, *[str(bad)] * 20], [*labels, *["temple"] * 20]
        )


def test_predictions_name_both_rows_too(small_model, photographs, tmp_path):
    bad = tmp_path / "bad.jpg"
    bad.write_bytes(b"no image")
    clf = CLIPZeroShotClassifier(small_model).fit(None, ["a", "b"])
    with pytest.raises(ValueError, match=r"2 image.*X\[0\] = .*; X\[2\] = "):
        clf.predict([str(bad), photographs[0][0], str(bad)])


# --- Paths as Windows writes them


@pytest.mark.skipif(os.sep == "\\", reason="they are right there")
@pytest.mark.parametrize("path", [r"photos\temple\0.jpg", r"C:\photos\0.jpg", r"\\server\0.jpg"])
def test_backslashes_in_paths_are_pointed_out(small_model, photographs, path):
    clf = CLIPZeroShotClassifier(small_model).fit(None, ["a", "b"])
    with pytest.raises(FileNotFoundError, match=r"backslashes, as on Windows, needs /.*X\[1\]"):
        clf.predict([photographs[0][0], path])
    with pytest.raises(FileNotFoundError) as caught:
        clf.predict(["photos/none.jpg"])
    assert "backslash" not in str(caught.value)
