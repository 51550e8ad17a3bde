"""A fitted classifier part of the way back to the frozen model, or beyond the fit."""

import pickle

import numpy as np
import open_clip
import pytest
import skops.io
import torch
from sklearn.exceptions import NotFittedError
from torch.nn import functional as F

from skclipsvd import CLIPLoRAClassifier, CLIPSVDClassifier, CLIPZeroShotClassifier, load_adapter
from skclipsvd.inspection import head_changes, singular_value_changes

KINDS = {
    "SVD": (CLIPSVDClassifier, dict(lr=0.03)),
    "LoRA": (CLIPLoRAClassifier, dict(lr=0.01, matrices=["q", "v", "o", "mlp"])),
    "SVD and a head": (CLIPSVDClassifier, dict(lr=0.03, head="logistic")),
}
WORDS = dict(
    templates=["a photo of a {}.", "a picture of a {}."],
    class_names={"flower": ["flower", "blossom"], "temple": "temple"},
)


@pytest.fixture(scope="module", params=KINDS)
def fitted(request, small_model, photographs):
    kind, settings = KINDS[request.param]
    clf = kind(small_model, max_steps=6, augment=False, random_state=0, **settings, **WORDS)
    return clf.fit(*photographs)


def learnt(clf):
    return clf.singular_values_ if isinstance(clf, CLIPSVDClassifier) else clf.factors_


def assert_answers_alike(a, b, paths):
    for ask in ("predict", "decision_function", "predict_proba", "transform"):
        np.testing.assert_array_equal(getattr(a, ask)(paths), getattr(b, ask)(paths))


def test_none_of_it_is_zero_shot_to_the_bit(fitted, small_model, photographs):
    paths, labels = photographs
    zero_shot = CLIPZeroShotClassifier(small_model, **WORDS).fit(None, labels)
    assert (fitted.decision_function(paths) != zero_shot.decision_function(paths)).all()
    none = fitted.with_strength(0)
    np.testing.assert_array_equal(none.text_features_, zero_shot.text_features_)
    assert_answers_alike(none, zero_shot, paths)
    expected = zero_shot.merged_state_dict()
    for name, tensor in none.merged_state_dict().items():
        assert torch.equal(tensor, expected[name]), name


def test_all_of_it_is_the_fit_to_the_bit(fitted, photographs):
    whole = fitted.with_strength(1)
    assert learnt(whole).keys() == learnt(fitted).keys()
    for name, values in learnt(fitted).items():
        np.testing.assert_array_equal(learnt(whole)[name], values)
    np.testing.assert_array_equal(whole.text_features_, fitted.text_features_)
    assert_answers_alike(whole, fitted, photographs[0])


@pytest.mark.parametrize("strength", [0.25, np.float32(0.6), 1.7, 2])
def test_every_weight_lies_on_the_line(fitted, small_model, photographs, strength):
    """W + strength (W' - W), whichever numbers are trained; and the texts are of that model."""
    frozen = CLIPZeroShotClassifier(small_model).fit(None, ["a", "b"]).merged_state_dict()
    whole = fitted.merged_state_dict()
    between = fitted.with_strength(strength)
    assert between.strength_ == pytest.approx(float(strength))
    moved = 0
    for name, tensor in between.merged_state_dict().items():
        expected = frozen[name] + float(strength) * (whole[name] - frozen[name])
        torch.testing.assert_close(tensor, expected, atol=2e-6, rtol=1e-5)
        moved += not torch.equal(tensor, frozen[name])
    assert moved >= 10

    words = {"flower": ["flower", "blossom"], "temple": ["temple"]}
    model, tokenize = between.merged_model(), open_clip.SimpleTokenizer()
    for row, label in enumerate(between.classes_):
        texts = [t.replace("{}", w) for w in words[label] for t in WORDS["templates"]]
        with torch.inference_mode():
            units = F.normalize(model.encode_text(tokenize(texts)), dim=-1)
        expected = F.normalize(units.sum(dim=0), dim=0)
        np.testing.assert_allclose(between.text_features_[row], expected, atol=1e-5)
    half = between.decision_function(photographs[0])
    assert (half != fitted.decision_function(photographs[0])).all()


def test_singular_values_are_between_the_frozen_and_the_fitted_ones(small_model, photographs):
    clf = CLIPSVDClassifier(small_model, max_steps=4, lr=0.03, augment=False, random_state=0)
    table = singular_value_changes(clf.fit(*photographs))
    part = singular_value_changes(clf.with_strength(0.6))
    np.testing.assert_array_equal(part.before, table.before)
    expected = table.before + 0.6 * (table.after - table.before)
    np.testing.assert_allclose(part.after, expected, rtol=1e-6, atol=1e-7)
    changes, whole = head_changes(clf.with_strength(0.5)), head_changes(clf)
    assert 0.4 * whole.change.max() < changes.change.max() < 0.6 * whole.change.max()
    assert (head_changes(clf.with_strength(0)).change == 0).all()


def test_a_head_has_its_share_of_the_strength(small_model, photographs):
    """Its own numbers stay: they are the regression that the fit left."""
    paths, labels = photographs
    clf = CLIPSVDClassifier(
        small_model, max_steps=6, lr=0.03, augment=False, head="logistic", random_state=0
    ).fit(paths, labels)
    for strength, share in ((0, 0), (0.6, 0.6 * clf.head_weight_), (9, 1)):
        part = clf.with_strength(strength)
        assert part.head_weight_ == pytest.approx(share)
        embeddings = part.transform(paths)
        of_texts = part.logit_scale_ * embeddings @ part.text_features_.T + part.logit_bias_
        of_head = embeddings @ clf.head_coef_.T + clf.head_intercept_
        expected = (1 - share) * of_texts + share * of_head
        np.testing.assert_allclose(
            part.decision_function(paths), expected[:, 1] - expected[:, 0], atol=1e-3
        )


def test_shares_multiply(fitted, photographs):
    twice = fitted.with_strength(0.5).with_strength(0.5)
    once = fitted.with_strength(0.25)
    assert twice.strength_ == once.strength_ == 0.25
    paths = photographs[0]
    np.testing.assert_allclose(
        twice.decision_function(paths), once.decision_function(paths), atol=1e-3
    )
    back = fitted.with_strength(0.5).with_strength(2)
    np.testing.assert_allclose(
        back.decision_function(paths), fitted.decision_function(paths), atol=1e-3
    )


def test_the_fitted_one_is_left_as_it_is(fitted, photographs):
    before = {name: values.copy() for name, values in learnt(fitted).items()}
    answers = fitted.decision_function(photographs[0])
    part = fitted.with_strength(0.6)
    for name, values in learnt(part).items():
        values += 1
        np.testing.assert_array_equal(learnt(fitted)[name], before[name])
    part.text_features_ += 1
    part.classes_[:] = "x"
    assert not hasattr(fitted, "strength_")
    np.testing.assert_array_equal(fitted.decision_function(photographs[0]), answers)


def test_it_is_kept_in_every_format(fitted, small_model, photographs, tmp_path):
    paths = photographs[0]
    part = fitted.with_strength(0.6)
    part.save_adapter(tmp_path / "part.safetensors")
    skops.io.dump(part, tmp_path / "part.skops")
    kind = f"skclipsvd.classifiers.{type(part).__name__}"
    read = [
        pickle.loads(pickle.dumps(part)),
        load_adapter(tmp_path / "part.safetensors", small_model),
        skops.io.load(tmp_path / "part.skops", trusted=[kind]),
    ]
    for same in read:
        assert same.strength_ == 0.6
        np.testing.assert_array_equal(same.decision_function(paths), part.decision_function(paths))
        # and goes on from there
        np.testing.assert_array_equal(
            same.with_strength(0).text_features_, fitted.with_strength(0).text_features_
        )


def test_other_classes_before_or_after(fitted, photographs):
    classes = {"pagoda": ["pagoda", "temple"], "rose": "a red rose"}
    before = fitted.with_classes(classes).with_strength(0.6)
    after = fitted.with_strength(0.6).with_classes(classes)
    assert before.strength_ == after.strength_ == 0.6
    assert_answers_alike(before, after, photographs[0])


def test_training_goes_on_from_there(fitted, photographs):
    part = fitted.with_strength(0.6)
    numbers = {name: values.copy() for name, values in learnt(part).items()}
    part.set_params(warm_start=True, max_steps=0).fit(*photographs)
    for name, values in learnt(part).items():
        np.testing.assert_array_equal(values, numbers[name])
    assert not hasattr(part, "strength_")  # a fit of its own


def test_the_report_says_so(fitted):
    assert "Strength" not in fitted._repr_html_()
    assert "0.6, where 0 is the frozen model" in fitted.with_strength(0.6)._repr_html_()


@pytest.mark.parametrize("wrong", [-0.1, np.nan, np.inf, "0.5", True, None, [0.5]])
def test_what_is_no_strength(fitted, wrong):
    with pytest.raises(ValueError, match=r"strength=.* must be a finite number of 0 or more"):
        fitted.with_strength(wrong)


def test_a_strength_beyond_all_numbers(fitted):
    for strength in (1e36, 1e300):
        with pytest.raises(ValueError, match="class texts are no longer finite"):
            fitted.with_strength(strength)


def test_nothing_is_computed_with_other_weights_or_before_a_fit(fitted, small_model, tmp_path):
    with pytest.raises(NotFittedError):
        type(fitted)(small_model).with_strength(0.5)
    other = pickle.loads(pickle.dumps(fitted)).set_params(model_name="tiny")
    with pytest.raises(ValueError, match="not the weights that this classifier was fitted on"):
        other.with_strength(0.5)


def test_a_file_with_a_strength_that_cannot_be(fitted, small_model, tmp_path):
    part = fitted.with_strength(0.6)
    part.strength_ = -0.6
    part.save_adapter(tmp_path / "a.safetensors")
    with pytest.raises(ValueError, match="strength_ must not be negative"):
        load_adapter(tmp_path / "a.safetensors", small_model)
