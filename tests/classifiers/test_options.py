"""What people expect of fit: weights, early stopping, warm start, accumulation, other classes."""

import numpy as np
import pytest
import timm
import torch
from helpers.families import FAMILIES, write_model
from sklearn.base import clone

from skclipsvd import CLIPLoRAClassifier, CLIPSVDClassifier, CLIPZeroShotClassifier
from skclipsvd.clip import load_backbone


@pytest.fixture
def classifier(small_model):
    return CLIPSVDClassifier(
        small_model, max_steps=8, lr=0.01, augment=False, batch_size=32, random_state=0
    )


def assert_same_numbers(a, b, exactly=True, atol=1e-5):
    assert a.singular_values_.keys() == b.singular_values_.keys()
    for name, values in a.singular_values_.items():
        if exactly:
            np.testing.assert_array_equal(values, b.singular_values_[name])
        else:
            np.testing.assert_allclose(values, b.singular_values_[name], atol=atol)


def assert_other_numbers(a, b):
    assert any((a.singular_values_[n] != b.singular_values_[n]).any() for n in a.singular_values_)


def test_weight_zero_is_leaving_out(classifier, photographs):
    paths, labels = photographs
    weights = np.ones(20)
    weights[[0, 7, 13]] = 0
    kept = weights > 0
    weighted = clone(classifier).fit(paths, labels, sample_weight=weights)
    assert_same_numbers(weighted, clone(classifier).fit(np.array(paths)[kept], labels[kept]))
    small = clone(classifier).set_params(batch_size=4, augment=True)
    left_out = clone(small).fit(np.array(paths)[kept], labels[kept])
    assert_same_numbers(small.fit(paths, labels, sample_weight=weights), left_out)


def test_a_class_of_weight_zero_is_no_class(classifier, photographs):
    paths, labels = photographs
    labels = np.where(np.arange(20) == 3, "third", labels)
    clf = classifier.fit(paths, labels, sample_weight=labels != "third")
    assert clf.classes_.tolist() == ["flower", "temple"]


def test_weights_are_repetitions(classifier, photographs):
    paths, labels = photographs
    weights = np.random.RandomState(0).randint(1, 4, size=20)
    repeated = np.repeat(np.arange(20), weights)
    classifier.set_params(batch_size=100)
    weighted = clone(classifier).fit(paths, labels, sample_weight=weights)
    assert_same_numbers(
        weighted, clone(classifier).fit([paths[i] for i in repeated], labels[repeated])
    )


def test_scaling_all_weights_changes_nothing(classifier, photographs):
    plain = clone(classifier).fit(*photographs)
    assert_same_numbers(plain, clone(classifier).fit(*photographs, sample_weight=np.full(20, 7.0)))


def test_class_weight_multiplies_sample_weight(classifier, photographs):
    paths, labels = photographs
    by_class = clone(classifier).set_params(class_weight={"temple": 3, "flower": 1})
    by_sample = np.where(labels == "temple", 3.0, 1.0)
    expected = clone(classifier).fit(paths, labels, sample_weight=by_sample)
    assert_same_numbers(by_class.fit(paths, labels), expected)
    assert_other_numbers(by_class, clone(classifier).fit(paths, labels))
    balanced = clone(classifier).set_params(class_weight="balanced")
    assert_same_numbers(balanced.fit(paths, labels), clone(classifier).fit(paths, labels))


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        (np.zeros(20), "zero everywhere"),
        (np.full(20, -1.0), "negative"),
        (np.full(20, np.nan), "NaN"),
        (np.ones(19), r"shape \(19,\), expected \(20,\)"),
        (np.ones((20, 1)), r"shape \(20, 1\)"),
    ],
)
def test_weights_that_make_no_sense(classifier, photographs, weights, message):
    with pytest.raises(ValueError, match=message):
        classifier.fit(*photographs, sample_weight=weights)


@pytest.mark.parametrize("kind", [CLIPSVDClassifier, CLIPLoRAClassifier])
def test_micro_batches_add_up_to_the_batch(small_model, photographs, kind):
    settings = dict(max_steps=6, lr=0.005, batch_size=20, augment=False, random_state=0)
    if kind is CLIPLoRAClassifier:
        settings["dropout"] = 0.0
    whole = kind(small_model, **settings).fit(*photographs)
    parts = kind(small_model, micro_batch_size=7, **settings).fit(*photographs)
    np.testing.assert_allclose(parts.loss_curve_, whole.loss_curve_, rtol=1e-4)
    np.testing.assert_allclose(
        parts.predict_proba(photographs[0]), whole.predict_proba(photographs[0]), atol=1e-3
    )


@pytest.mark.parametrize("share", [0.0, 0.2, 0.5])
def test_label_smoothing_spreads_its_share_of_the_target_over_all_classes(
    classifier, photographs, share
):
    paths, labels = photographs
    start = clone(classifier).set_params(max_steps=0).fit(paths, labels)
    losses = -np.log(start.predict_proba(paths))
    own = losses[np.arange(20), np.searchsorted(start.classes_, labels)]
    expected = (1 - share) * own + share * losses.mean(axis=1)
    smooth = clone(classifier).set_params(label_smoothing=share).fit(paths, labels)
    assert smooth.loss_curve_[0] == pytest.approx(expected.mean(), rel=1e-4)


def test_label_smoothing_keeps_predictions_from_certainty(classifier, photographs):
    classifier.set_params(max_steps=40, lr=0.02)
    plain = clone(classifier).fit(*photographs).predict_proba(photographs[0]).max(axis=1)
    smooth = classifier.set_params(label_smoothing=0.4).fit(*photographs)
    assert smooth.predict_proba(photographs[0]).max(axis=1).mean() < plain.mean() - 0.05


def test_early_stopping_keeps_the_best_epoch(classifier, photographs):
    clf = classifier.set_params(
        max_steps=None, epochs=40, lr=0.3, early_stopping=True, n_iter_no_change=3,
        validation_fraction=0.3,
    )  # fmt: skip
    clf.fit(*photographs)  # a rate that ruins the model
    scores = clf.validation_scores_
    assert 4 <= len(scores) <= 41
    assert clf.n_iter_ == len(scores) - 1
    assert clf.best_validation_score_ == scores.max() == scores[clf.best_epoch_]
    assert clf.best_epoch_ == len(scores) - 1 - 3  # then it waited for a better one


def test_early_stopping_is_never_worse_than_the_start(classifier, photographs):
    paths, labels = photographs
    start = clone(classifier).set_params(max_steps=0).fit(paths, labels)
    validation = paths, start.predict(paths)  # what only the start gets right
    ruined = clone(classifier).set_params(max_steps=12, lr=0.1)
    assert ruined.fit(paths, labels).score(*validation) < 1
    ruined.set_params(early_stopping=True, n_iter_no_change=4)
    ruined.fit(paths, labels, X_val=validation[0], y_val=validation[1])
    assert ruined.score(*validation) == ruined.best_validation_score_ == 1
    assert ruined.best_epoch_ == 0


def test_a_validation_part_alone_only_watches(classifier, photographs):
    paths, labels = photographs
    plain = clone(classifier).fit(paths, labels)
    watched = clone(classifier).fit(paths, labels, X_val=paths[:5], y_val=labels[:5])
    assert_same_numbers(plain, watched)
    assert watched.validation_scores_.shape == (9,)
    assert watched.validation_scores_[-1] == pytest.approx(watched.score(paths[:5], labels[:5]))
    assert not hasattr(watched.fit(paths, labels), "validation_scores_")


def test_validation_parts_that_make_no_sense(classifier, photographs):
    paths, labels = photographs
    with pytest.raises(ValueError, match="belong together"):
        classifier.fit(paths, labels, X_val=paths)
    with pytest.raises(ValueError, match=r"y_val has labels that are not in y: \['tree'\]"):
        classifier.fit(paths, labels, X_val=paths[:2], y_val=["tree", "temple"])
    with pytest.raises(FileNotFoundError, match="nowhere"):
        classifier.fit(paths, labels, X_val=["nowhere.jpg"], y_val=["temple"])
    with pytest.raises(ValueError, match="use more images"):
        classifier.set_params(early_stopping=True).fit(paths[9:12], labels[9:12])


def test_warm_start_goes_on_where_the_last_fit_ended(classifier, photographs):
    classifier.set_params(warm_start=True, max_steps=4).fit(*photographs)
    first = dict(classifier.singular_values_)
    classifier.set_params(max_steps=0).fit(*photographs)
    for name, values in first.items():
        np.testing.assert_array_equal(classifier.singular_values_[name], values)
    classifier.set_params(max_steps=4).fit(*photographs)
    assert classifier.loss_curve_[0] < clone(classifier).fit(*photographs).loss_curve_[0]
    classifier.set_params(warm_start=False, max_steps=4).fit(*photographs)
    for name, values in first.items():
        np.testing.assert_array_equal(classifier.singular_values_[name], values)
    with pytest.raises(ValueError, match=r"not the weights that .* Or use warm_start=False"):
        classifier.set_params(warm_start=True, model_name="tiny").fit(*photographs)


def test_warm_start_of_another_rank_is_refused(small_model, photographs):
    clf = CLIPLoRAClassifier(small_model, max_steps=1, warm_start=True).fit(*photographs)
    with pytest.raises(ValueError, match=r"rank=4, alpha=1\.0 are not those of the last fit"):
        clf.set_params(rank=4).fit(*photographs)


def test_parameters_set_after_fit_do_not_change_what_was_learnt(small_model, photographs):
    clf = CLIPLoRAClassifier(small_model, max_steps=3, lr=0.01, random_state=0).fit(*photographs)
    before = clf.predict_proba(photographs[0])
    clf.set_params(rank=7, alpha=9.0, layers="top", matrices=["o"], templates="{}")
    np.testing.assert_array_equal(clf.predict_proba(photographs[0]), before)


def test_a_dropped_out_fit_is_repeatable_and_leaves_the_generator_alone(small_model, photographs):
    settings = dict(max_steps=3, lr=0.01, random_state=0)
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    first = CLIPLoRAClassifier(small_model, **settings).fit(*photographs)
    np.testing.assert_array_equal(torch.rand(3), expected)
    second = CLIPLoRAClassifier(small_model, **settings).fit(*photographs)
    for name, values in first.factors_.items():
        np.testing.assert_array_equal(values, second.factors_[name])


def test_other_classes_without_training(classifier, photographs):
    paths, labels = photographs
    clf = classifier.fit(paths, labels)
    before = clf.text_features_.copy()
    same = clf.with_classes(["temple", "flower"])
    np.testing.assert_array_equal(same.predict_proba(paths), clf.predict_proba(paths))
    other = clf.with_classes({"rose": "a red rose", "pagoda": ["pagoda", "temple"]})
    assert other.classes_.tolist() == ["pagoda", "rose"]
    assert set(other.predict(paths)) <= {"pagoda", "rose"}
    np.testing.assert_array_equal(other.transform(paths), clf.transform(paths))
    named = clf.with_classes({1: "temple", 0: "flower"})
    np.testing.assert_array_equal(named.text_features_, clf.text_features_)
    assert named.classes_.tolist() == [0, 1]
    templated = clf.with_classes(["temple", "flower"], templates="{}")
    assert (templated.text_features_ != clf.text_features_).any()
    np.testing.assert_array_equal(clf.text_features_, before)
    assert clf.classes_.tolist() == ["flower", "temple"]
    for wrong in ("temple", ["temple"], ["temple", "temple"]):
        with pytest.raises(ValueError, match="two or more distinct labels"):
            clf.with_classes(wrong)


def test_zero_shot_is_the_tuned_classifier_before_training(small_model, photographs):
    paths, labels = photographs
    zero_shot = CLIPZeroShotClassifier(small_model).fit(None, labels)
    tuned = CLIPSVDClassifier(small_model, max_steps=0).fit(paths, labels)
    np.testing.assert_array_equal(zero_shot.predict_proba(paths), tuned.predict_proba(paths))
    np.testing.assert_array_equal(zero_shot.transform(paths), tuned.transform(paths))


@pytest.mark.parametrize("matrices", [["o"], ["q"], ["q", "o"], ["k", "mlp"]])
def test_trained_and_merged_forms_agree_for_any_choice(small_model, photographs, matrices):
    """The last loss of a whole-batch fit is what the merged model scores one step earlier."""
    paths, labels = photographs
    settings = dict(lr=0.01, augment=False, matrices=matrices, random_state=0, batch_size=20)
    clf = CLIPSVDClassifier(small_model, max_steps=3, warm_start=True, **settings)
    clf.fit(paths, labels)
    merged = -np.log(clf.predict_proba(paths)[np.arange(20), (labels == "temple").astype(int)])
    clf.set_params(max_steps=1).fit(paths, labels)
    assert clf.loss_curve_[0] == pytest.approx(merged.mean(), rel=1e-4)


def test_checkpointing_changes_memory_not_numbers(small_model, photographs):
    settings = dict(max_steps=3, lr=0.01, augment=False, random_state=0)
    plain = CLIPSVDClassifier(small_model, **settings).fit(*photographs)
    thrifty = CLIPSVDClassifier(small_model, checkpointing=True, **settings).fit(*photographs)
    assert_same_numbers(plain, thrifty, exactly=False)


@pytest.mark.parametrize("family", ["ModifiedResNet", "timm ViT"])
def test_checkpointing_is_refused_where_a_tower_cannot(photographs, tmp_path, monkeypatch, family):
    """open_clip goes on without it, in silence or with a line in the log."""

    def refuse(trunk, enable=True):
        assert not enable, "gradient checkpointing not supported"  # as twenty of timm's models

    monkeypatch.setattr(timm.models.VisionTransformer, "set_grad_checkpointing", refuse)
    name = write_model(tmp_path, FAMILIES[family])
    clf = CLIPSVDClassifier(name, max_steps=1, checkpointing=True)
    with pytest.raises(ValueError, match="checkpointing=True is not supported by a tower"):
        clf.fit(*photographs)
    assert not hasattr(clf, "classes_")
    if family == "ModifiedResNet":  # frozen, it keeps nothing for a way back
        assert clf.set_params(towers=["text"]).fit(*photographs).n_iter_ == 1


def test_a_step_that_cannot_fit_says_what_to_change(small_model, photographs, monkeypatch):
    import skclipsvd.training.memory_estimate as capacity

    asked = []

    def little(device):
        asked.append(device)
        return 1000

    monkeypatch.setattr(capacity, "available_bytes", little)
    clf = CLIPSVDClassifier(small_model, max_steps=1)
    with pytest.raises(MemoryError, match=r"needs about .* GiB.*micro_batch_size.*checkpointing"):
        clf.fit(*photographs)
    assert asked
    assert not hasattr(clf, "classes_")


def test_an_allocator_that_gives_up_is_explained(small_model, photographs, monkeypatch):
    def full(*args, **kwargs):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")

    monkeypatch.setattr(torch.optim.AdamW, "step", full)
    with pytest.raises(MemoryError, match="Lower micro_batch_size"):
        CLIPSVDClassifier(small_model, max_steps=1).fit(*photographs)


def test_the_estimate_is_what_a_step_keeps(small_model, photographs, monkeypatch):
    """Twice the images, twice the estimate; checkpointing lowers it."""
    import skclipsvd.training.loop as training

    estimates = []
    monkeypatch.setattr(training, "check_capacity", lambda needed, device: estimates.append(needed))
    for settings in ({"micro_batch_size": 5}, {"micro_batch_size": 10}, {"checkpointing": True}):
        clf = CLIPSVDClassifier(small_model, max_steps=1, towers=["image"], **settings)
        clf.fit(*photographs)
    assert estimates[1] == 2 * estimates[0] > 0
    assert estimates[2] < 20 * estimates[0] / 5


@pytest.mark.filterwarnings("ignore::skclipsvd.exceptions.SlowPrecisionWarning")
@pytest.mark.parametrize("estimator", [CLIPSVDClassifier, CLIPLoRAClassifier])
def test_half_precision_is_estimated_to_need_less(estimator, photographs, monkeypatch):
    """Weights that are cast for the products count once, not for every image."""
    import skclipsvd.training.loop as training

    estimates = []
    monkeypatch.setattr(training, "check_capacity", lambda needed, device: estimates.append(needed))
    for precision in ("fp32", "bf16"):
        estimator("tiny", max_steps=1, micro_batch_size=32, precision=precision).fit(*photographs)
    single, half = estimates
    weights = 2 * load_backbone("tiny", None, torch.device("cpu")).n_parameters
    assert half < 0.75 * single + weights


def test_a_scale_of_the_users_own(small_model, photographs):
    paths, labels = photographs
    own = CLIPZeroShotClassifier(small_model, logit_scale=7.0).fit(paths, labels)
    models = CLIPZeroShotClassifier(small_model).fit(paths, labels)
    assert own.logit_scale_ == 7
    np.testing.assert_allclose(
        own.decision_function(paths) / 7,
        models.decision_function(paths) / models.logit_scale_,
        atol=1e-6,
    )


def test_verbose_says_what_a_step_needs_and_shows_a_bar(small_model, photographs, capsys):
    CLIPSVDClassifier(small_model, max_steps=2, verbose=1).fit(*photographs)
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "a step needs about" in shown.err
    assert "2/2" in shown.err
    CLIPSVDClassifier(small_model, max_steps=2).fit(*photographs)
    assert capsys.readouterr() == ("", "")
