"""Faults that were seen: each of these failed before it was mended."""

import gc

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


def test_a_warm_fit_of_read_only_numbers(small_model, photographs, tmp_path):
    """As joblib's memory map gives them."""
    import joblib

    clf = CLIPSVDClassifier(small_model, **FAST, warm_start=True).fit(*photographs)
    joblib.dump(clf, tmp_path / "clf.joblib")
    content = (tmp_path / "clf.joblib").read_bytes()
    mapped = joblib.load(tmp_path / "clf.joblib", mmap_mode="r+").fit(*photographs)
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
