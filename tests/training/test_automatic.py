"""What a fit does that is told neither how long nor how fast: the rule, and that it can be left."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.base import clone
from sklearn.metrics import log_loss
from sklearn.model_selection import GridSearchCV

from skclipsvd import CLIPLoRAClassifier, CLIPSVDClassifier, CLIPZeroShotClassifier
from skclipsvd.experiments import TwoStageClassifier
from skclipsvd.persistence import load_adapter
from skclipsvd.training import LEARNT_LOSS, automatic_lr, automatic_steps

BOTH = [CLIPSVDClassifier, CLIPLoRAClassifier]


# --- the rule


@given(
    n_classes=st.integers(2, 1000),
    shots=st.integers(1, 500),
    batch_size=st.integers(1, 512),
    reach=st.floats(0.1, 100),
)
@settings(max_examples=200, deadline=None)
def test_the_rule_gives_a_length_and_a_rate_for_any_data(n_classes, shots, batch_size, reach):
    n_steps = automatic_steps(n_classes * shots, batch_size)
    lr = automatic_lr(n_steps, shots, reach)
    assert n_steps >= 1
    assert 0 < lr * reach <= 0.06 + 1e-9
    assert lr * reach * n_steps <= 6 + 1e-9
    # More images never make for less training.
    assert automatic_steps(n_classes * (shots + 1), batch_size) >= n_steps


def test_the_rule_gives_these_numbers():
    images = (2, 32, 40, 80, 160, 320, 1280, 2000)
    steps = [automatic_steps(n, 32) for n in images]
    assert steps == [40, 40, 40, 60, 100, 200, 200, 315]
    assert automatic_steps(40, 4) == 200
    rates = [automatic_lr(40, shots, 1.0) for shots in (1, 4, 16, 100)]
    assert rates == pytest.approx([0.03, 0.03 * 2**0.5, 0.06, 0.06])
    assert automatic_lr(40, 16, 2.0) == pytest.approx(0.03)
    assert automatic_lr(200, 16, 1.0) == pytest.approx(0.03)
    assert automatic_lr(0, 1, 1.0) == pytest.approx(0.03)
    # The less there is to learn, the slower, down to a third.
    rates = [automatic_lr(40, 1, 1.0, loss) for loss in (0.0, 0.1, 0.25, 0.5, 2.0)]
    assert rates == pytest.approx([0.01, 0.01, 0.015, 0.03, 0.03])


# --- the estimators


@pytest.mark.parametrize("kind", BOTH)
def test_parameters_are_left_as_they_were_given(kind):
    clf = kind()
    assert clf.get_params() == clone(clf).get_params()
    assert (clf.lr, clf.epochs, clf.max_steps) == ("auto", "auto", None)
    with pytest.raises(ValueError, match="lr"):
        kind(lr="fast").fit(["a.jpg", "b.jpg"], [0, 1])
    with pytest.raises(ValueError, match="epochs"):
        kind(epochs="many").fit(["a.jpg", "b.jpg"], [0, 1])


@pytest.mark.parametrize("kind", BOTH)
def test_a_fit_that_is_told_nothing_says_what_it_took(kind, photographs):
    paths, labels = photographs
    clf = kind("tiny", augment=False, random_state=0).fit(paths, labels)
    n_steps = automatic_steps(20, 32)
    reach = 1.0 if kind is CLIPSVDClassifier else 0.5**0.5 * (128 / 3) ** 0.5
    assert clf.n_steps_ == n_steps
    assert clf.n_iter_ <= n_steps
    zero_shot = CLIPZeroShotClassifier("tiny").fit(None, labels)
    loss = log_loss(labels, zero_shot.predict_proba(paths)) / np.log(2)
    assert clf.lr_ == pytest.approx(automatic_lr(n_steps, 10, reach, loss), rel=1e-4)
    assert clf.lr == "auto"
    assert f"learning rate {clf.lr_:.3g}" in clf._repr_html_()
    assert clf.score(paths, labels) == 1.0


def test_the_automatic_fit_is_the_one_with_its_numbers_written_out(small_model, photographs):
    automatic = CLIPSVDClassifier(small_model, random_state=0).fit(*photographs)
    written = CLIPSVDClassifier(
        small_model,
        random_state=0,
        lr=automatic.lr_,
        max_steps=automatic.n_steps_,
    ).fit(*photographs)
    together = automatic.n_iter_
    np.testing.assert_array_equal(automatic.loss_curve_, written.loss_curve_[:together])


def test_an_automatic_fit_ends_where_everything_is_learnt(digits):
    paths, labels = digits
    rows = np.concatenate([np.flatnonzero(labels == c)[:8] for c in np.unique(labels)[:5]])
    clf = CLIPSVDClassifier("tiny", augment=False, batch_size=16, random_state=0)
    clf.fit(paths[rows], labels[rows])
    passes = clf.loss_curve_.reshape(-1, 3).mean(axis=1)
    assert clf.n_iter_ < clf.n_steps_
    assert passes[-1] < LEARNT_LOSS <= passes[:-1].min()
    told = clone(clf).set_params(max_steps=clf.n_steps_).fit(paths[rows], labels[rows])
    assert told.n_iter_ == told.n_steps_ == clf.n_steps_


@pytest.mark.parametrize(
    ("told", "n_steps"),
    [
        ({"epochs": 3}, 9),
        ({"max_steps": 4}, 4),
        ({"epochs": 3, "max_steps": 4}, 4),
        ({"epochs": "auto", "max_steps": 4}, 4),
        ({"epochs": 0}, 0),
    ],
)
@pytest.mark.parametrize("kind", BOTH)
def test_what_is_told_wins(kind, told, n_steps, small_model, photographs):
    clf = kind(small_model, batch_size=8, augment=False, **told).fit(*photographs)
    assert (clf.n_steps_, clf.n_iter_) == (n_steps, n_steps)
    clf.set_params(lr=0.003).fit(*photographs)
    assert clf.lr_ == 0.003


def test_a_search_over_rates_and_lengths(small_model, photographs):
    paths, labels = photographs
    grid = {"lr": ["auto", 0.01], "epochs": ["auto", 1, 2]}
    clf = CLIPSVDClassifier(small_model, augment=False, random_state=0)
    search = GridSearchCV(clf, grid, cv=2, error_score="raise").fit(paths, labels)
    assert len(search.cv_results_["params"]) == 6
    best = search.best_estimator_
    assert best.lr_ == (best.lr if best.lr != "auto" else pytest.approx(best.lr_))


def test_early_stopping_counts_the_images_it_trains_on(small_model, photographs):
    paths, labels = photographs
    clf = CLIPSVDClassifier(
        small_model, early_stopping=True, validation_fraction=0.5, augment=False, random_state=0
    ).fit(paths, labels)
    assert clf.n_steps_ == automatic_steps(10, 32)
    assert clf.n_iter_ <= clf.n_steps_


@pytest.mark.parametrize("kind", BOTH)
def test_adapter_files_hold_what_was_taken(kind, small_model, photographs, tmp_path):
    clf = kind(small_model, max_steps=2, augment=False).fit(*photographs)
    clf.save_adapter(tmp_path / "clf.safetensors")
    loaded = load_adapter(tmp_path / "clf.safetensors", small_model)
    assert (loaded.lr_, loaded.n_steps_) == (clf.lr_, clf.n_steps_)
    assert (loaded.lr, loaded.epochs) == ("auto", "auto")


def test_warm_start_takes_the_same_rule_again(small_model, photographs):
    clf = CLIPSVDClassifier(small_model, max_steps=5, augment=False, warm_start=True)
    first = clf.fit(*photographs)
    lr, loss = first.lr_, first.loss_curve_[0]
    second = clf.fit(*photographs)
    assert second.lr_ == lr
    assert second.loss_curve_[0] < loss


def test_what_is_known_already_is_moved_less(digits):
    paths, labels = digits[0][:96], digits[1][:96]
    clf = CLIPSVDClassifier("tiny", augment=False, warm_start=True, random_state=0)
    zero_shot = CLIPZeroShotClassifier("tiny").fit(None, labels)
    rows = np.linspace(0, 95, 32).astype(int)
    chances = zero_shot.predict_proba(paths[rows])
    loss = log_loss(labels[rows], chances, labels=zero_shot.classes_) / np.log(10)
    n_steps = automatic_steps(96, 32)
    assert loss < 1 / 6  # the tiny model knows digits
    assert clf.fit(paths, labels).lr_ == pytest.approx(automatic_lr(n_steps, 9.6, 1.0, loss))
    # Told wrong words, it has everything to learn; having learnt them, little.
    names = np.unique(labels)
    turned = dict(zip(names, np.roll(names, 1), strict=True))
    clf.set_params(class_names=turned, warm_start=False).fit(paths, labels)
    assert clf.lr_ == pytest.approx(automatic_lr(n_steps, 9.6, 1.0, 1.0))
    again = clf.set_params(warm_start=True).fit(paths, labels)
    assert again.lr_ == pytest.approx(automatic_lr(n_steps, 9.6, 1.0, 0.0))


def test_two_stages_divide_the_automatic_budget(small_model, photographs):
    first = CLIPSVDClassifier(small_model, augment=False, random_state=0)
    clf = TwoStageClassifier(first, share=0.5).fit(*photographs)
    assert clf.classifier_.n_steps_ == round(0.5 * automatic_steps(20, 32))
