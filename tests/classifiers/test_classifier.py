"""CLIPSVDClassifier as a user meets it."""

import subprocess
import sys
import warnings
from pathlib import Path
from types import NoneType

import joblib
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.base import clone

import skclipsvd
from skclipsvd import CLIPLoRAClassifier, CLIPSVDClassifier
from skclipsvd.clip import fingerprint, load_backbone


@pytest.fixture(scope="module")
def fitted(small_model, photographs):
    paths, labels = photographs
    clf = CLIPSVDClassifier(small_model, max_steps=6, lr=0.02, batch_size=8, random_state=0)
    return clf.fit(paths, labels)


def test_shapes_types_and_agreement(fitted, photographs):
    paths, labels = photographs
    scores = fitted.decision_function(paths)
    probabilities = fitted.predict_proba(paths)
    embeddings = fitted.transform(paths)
    assert scores.shape == (20,)
    assert probabilities.shape == (20, 2)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1)
    np.testing.assert_allclose(np.linalg.norm(embeddings, axis=1), 1, rtol=1e-6)
    predicted = fitted.predict(paths)
    assert predicted.dtype == labels.dtype
    np.testing.assert_array_equal(predicted, fitted.classes_[probabilities.argmax(axis=1)])
    np.testing.assert_array_equal(predicted, fitted.classes_[(scores > 0).astype(int)])
    assert fitted.score(paths, labels) == np.mean(predicted == labels)
    similarity = fitted.logit_scale_ * embeddings @ fitted.text_features_.T
    np.testing.assert_allclose(scores, similarity[:, 1] - similarity[:, 0], atol=1e-3)


def test_fitted_state_is_numpy_and_str_only(fitted):
    allowed = (np.ndarray, str, int, float)
    state = {k: v for k, v in vars(fitted).items() if k.endswith("_")}
    assert set(state) == {
        "classes_",
        "singular_values_",
        "text_features_",
        "logit_scale_",
        "logit_bias_",
        "loss_curve_",
        "lr_",
        "n_steps_",
        "n_iter_",
        "n_parameters_tuned_",
        "n_parameters_",
        "backbone_fingerprint_",
        "backbone_config_",
    }
    config = state.pop("backbone_config_")
    assert all(isinstance(v, (str, int, bool, tuple, NoneType)) for v in config.values())
    values = [*state.values(), *state.pop("singular_values_").values()]
    assert all(isinstance(v, (*allowed, dict)) for v in values)
    assert all(v.dtype == np.float32 for v in fitted.singular_values_.values())
    assert fitted.n_parameters_tuned_ == sum(map(len, fitted.singular_values_.values()))
    assert fitted.n_iter_ == len(fitted.loss_curve_) == 6


def test_init_only_assigns_and_clone_keeps_everything():
    given_params = dict(layers=[0, 1], class_names={"a": "b"}, templates=["{}"])
    clf = CLIPSVDClassifier("no such model", **given_params)
    for name, value in given_params.items():
        assert getattr(clf, name) is value
    assert clone(clf).get_params() == clf.get_params()


def test_predictions_do_not_depend_on_neighbours(fitted, photographs):
    paths, _ = photographs
    together = fitted.predict_proba(paths)
    np.testing.assert_array_equal(fitted.predict_proba(paths[::-1])[::-1], together)
    alone = np.concatenate([fitted.predict_proba([path]) for path in paths])
    np.testing.assert_array_equal(alone, together)


def test_same_seed_same_numbers(fitted, photographs):
    again = clone(fitted).fit(*photographs)
    other = clone(fitted).set_params(random_state=1).fit(*photographs)
    for name, values in fitted.singular_values_.items():
        np.testing.assert_array_equal(values, again.singular_values_[name])
    assert any(
        (fitted.singular_values_[name] != other.singular_values_[name]).any()
        for name in fitted.singular_values_
    )


def test_fit_never_touches_the_shared_backbone(fitted, photographs):
    backbone = load_backbone(fitted.model_name, None, torch.device("cpu"))
    clone(fitted).fit(*photographs)
    assert fingerprint(backbone.model) == backbone.fingerprint == fitted.backbone_fingerprint_
    assert not any(p.requires_grad for p in backbone.model.parameters())


def test_dump_is_small_and_predicts_the_same_in_another_process(fitted, photographs, tmp_path):
    paths, _ = photographs
    joblib.dump(fitted, tmp_path / "fitted.joblib")
    assert (tmp_path / "fitted.joblib").stat().st_size < 100_000
    joblib.dump(paths, tmp_path / "paths.joblib")
    code = (
        "import joblib, numpy as np\n"
        "clf, paths = joblib.load('fitted.joblib'), joblib.load('paths.joblib')\n"
        "np.save('answer.npy', clf.predict_proba(paths))\n"
    )
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True, env=_environment())
    answer = np.load(tmp_path / "answer.npy")
    np.testing.assert_allclose(answer, fitted.predict_proba(paths), atol=1e-6)


def _environment():
    import os

    root = str(Path(skclipsvd.__file__).parents[1])
    return {**os.environ, "PYTHONPATH": root, "OMP_NUM_THREADS": str(torch.get_num_threads())}


def test_other_weights_are_refused(fitted, photographs, tmp_path):
    paths, _ = photographs
    other = clone(fitted)
    other.__dict__.update(fitted.__dict__)
    other.set_params(model_name="tiny")
    with pytest.raises(ValueError, match="not the weights that this classifier was fitted on"):
        other.predict(paths)


@pytest.mark.filterwarnings("ignore::skclipsvd.exceptions.BareLabelWarning")
@pytest.mark.parametrize(
    "labels", [["b_b", "a"] * 10, [3, -1] * 10, [True, False] * 10, [2.0, 1.0] * 10]
)
def test_labels_of_any_kind(small_model, photographs, labels):
    clf = CLIPSVDClassifier(small_model, max_steps=0).fit(photographs[0], labels)
    assert list(clf.classes_) == sorted(set(labels))
    assert set(clf.predict(photographs[0])) <= set(labels)


def test_class_names_and_templates_change_the_texts(small_model, photographs):
    paths, labels = photographs
    fit = {"max_steps": 0}
    plain = CLIPSVDClassifier(small_model, **fit).fit(paths, labels)
    named = CLIPSVDClassifier(
        small_model, class_names={"temple": "flower", "flower": "temple"}, **fit
    ).fit(paths, labels)
    np.testing.assert_allclose(named.text_features_, plain.text_features_[::-1], atol=1e-6)
    several = CLIPSVDClassifier(
        small_model, class_names={"temple": ["temple", "pagoda"], "flower": "flower"}, **fit
    ).fit(paths, labels)
    np.testing.assert_allclose(several.text_features_[0], plain.text_features_[0], atol=1e-6)
    assert np.abs(several.text_features_[1] - plain.text_features_[1]).max() > 1e-3
    integers = CLIPSVDClassifier(small_model, class_names={0: "temple", 1: "flower"}, **fit)
    integers.fit(paths, (labels == "flower").astype(int))
    np.testing.assert_allclose(integers.text_features_, plain.text_features_[::-1], atol=1e-6)


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        ({"towers": ["image"]}, {"image"}),
        ({"matrices": ["v"]}, {"v"}),
        ({"matrices": ["mlp"]}, {"fc", "proj"}),
        ({"layers": [0, -1]}, {"0", "2"}),
        ({"layers": "top"}, {"2"}),
        ({"layers": "bottom"}, {"0"}),
        ({"layers": "middle"}, {"1"}),
        ({"layers": range(2)}, {"0", "1"}),
    ],
)
def test_choices_adapt_just_what_was_asked_for(small_model, photographs, choice, expected):
    clf = CLIPSVDClassifier(small_model, max_steps=1, random_state=0, **choice)
    names = [name.split(".") for name in clf.fit(*photographs).singular_values_]
    part = {"towers": 0, "layers": 1, "matrices": 2}[next(iter(choice))]
    assert {name[part] for name in names} == expected


def test_only_the_image_tower_leaves_the_texts_alone(small_model, photographs):
    zero = CLIPSVDClassifier(small_model, max_steps=0).fit(*photographs)
    image = CLIPSVDClassifier(small_model, max_steps=3, towers=["image"]).fit(*photographs)
    np.testing.assert_array_equal(zero.text_features_, image.text_features_)


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"model_name": "ViT-B-61"}, "did you mean"),
        ({"model_name": "ViT-B-16", "pretrained": "opneai"}, "neither a file nor a tag"),
        ({"model_name": "ViT-B-16", "pretrained": "/no/such.pt"}, "there is no such file"),
        ({"model_name": "local-dir:/no/such/folder"}, "open_clip_config.json"),
        ({"towers": ["images"]}, "towers"),
        ({"matrices": []}, "matrices"),
        ({"layers": [17]}, "block 17 does not exist"),
        ({"layers": "upper"}, "layers"),
        ({"lr": 0}, "lr"),
        ({"epochs": -1}, "epochs"),
        ({"batch_size": 0}, "batch_size"),
        ({"precision": "fp8"}, "precision"),
        ({"device": "gpu"}, "device='gpu'"),
        ({"templates": "a photo"}, "exactly one {}"),
        ({"templates": []}, "templates is empty"),
        ({"class_names": {"temple": "temple"}}, r"no entry for the label\(s\) \['flower'\]"),
        ({"class_names": {"temple": "", "flower": "x"}}, "must be a text"),
    ],
)
def test_wrong_parameters_are_named_and_nothing_is_half_fitted(
    small_model, photographs, params, message
):
    clf = CLIPSVDClassifier(**{"model_name": small_model, "max_steps": 1, **params})
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        clf.fit(*photographs)
    assert not any(name.endswith("_") for name in vars(clf))


def test_weights_that_cannot_be_had_are_one_clear_error(photographs):
    with pytest.raises(FileNotFoundError, match="Three ways to provide weights"):
        CLIPSVDClassifier().fit(*photographs)


def test_random_weights_only_when_asked_for_and_with_a_warning(photographs, tmp_path, small_model):
    config = Path(small_model.removeprefix("local-dir:")) / "open_clip_config.json"
    (tmp_path / config.name).write_text(config.read_text())
    name = f"local-dir:{tmp_path}"
    with pytest.raises(FileNotFoundError, match="no weights"):
        CLIPSVDClassifier(name, max_steps=0).fit(*photographs)
    with pytest.warns(UserWarning, match="random weights"):
        first = CLIPSVDClassifier(name, None, max_steps=0).fit(*photographs)
    skclipsvd.clear_caches()
    torch.manual_seed(123)
    with pytest.warns(UserWarning, match="random weights"):
        second = CLIPSVDClassifier(name, None, max_steps=0).fit(*photographs)
    assert first.backbone_fingerprint_ == second.backbone_fingerprint_


def test_a_damaged_checkpoint_is_refused(photographs, small_model, tmp_path):
    folder = Path(small_model.removeprefix("local-dir:"))
    (tmp_path / "open_clip_config.json").write_bytes(
        (folder / "open_clip_config.json").read_bytes()
    )
    weights = (folder / "open_clip_model.safetensors").read_bytes()
    (tmp_path / "open_clip_model.safetensors").write_bytes(weights[: len(weights) // 2])
    with pytest.raises(ValueError, match="damaged"):
        CLIPSVDClassifier(f"local-dir:{tmp_path}", max_steps=0).fit(*photographs)


def test_bad_labels(small_model, photographs):
    paths, labels = photographs
    clf = CLIPSVDClassifier(small_model, max_steps=0)
    with pytest.raises(ValueError, match="one class"):
        clf.fit(paths, ["temple"] * 20)
    with pytest.raises(ValueError, match="inconsistent numbers of samples"):
        clf.fit(paths, labels[:-1])
    with pytest.raises(ValueError, match="Unknown label type"):
        clf.fit(paths, np.linspace(0, 1, 20))
    with pytest.raises(ValueError, match="requires y to be passed"):
        clf.fit(paths, None)


def test_a_diverging_fit_says_so_and_keeps_the_old_state(fitted, photographs):
    clf = clone(fitted).set_params(max_steps=3).fit(*photographs)
    before = clf.singular_values_
    clf.set_params(lr=1e30)
    with pytest.raises(FloatingPointError, match="Lower lr"):
        clf.fit(*photographs)
    assert clf.singular_values_ is before


def test_interrupting_a_fit_leaves_nothing_behind(small_model, photographs, monkeypatch):
    def interrupted(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(torch.optim.AdamW, "step", interrupted)
    clf = CLIPSVDClassifier(small_model, max_steps=3)
    with pytest.raises(KeyboardInterrupt):
        clf.fit(*photographs)
    assert not any(name.endswith("_") for name in vars(clf))
    backbone = load_backbone(small_model, None, torch.device("cpu"))
    assert fingerprint(backbone.model) == backbone.fingerprint


@settings(max_examples=12, deadline=None)
@given(n=st.integers(2, 20), batch_size=st.integers(1, 24), epochs=st.integers(0, 3))
def test_epochs_count_every_image_once(small_model, photographs, n, batch_size, epochs):
    paths, labels = [*photographs[0][:n]], ["a", *(["b"] * (n - 1))]
    clf = CLIPSVDClassifier(
        small_model, epochs=epochs, batch_size=batch_size, layers=[0], matrices=["q"]
    ).fit(paths, labels)
    assert clf.n_iter_ == epochs * -(-n // batch_size)


def test_loss_falls(small_model, photographs):
    clf = CLIPSVDClassifier(small_model, max_steps=40, lr=0.02, augment=False, random_state=0)
    clf.fit(*photographs)
    assert clf.loss_curve_[-5:].mean() < 0.5 * clf.loss_curve_[:2].mean()


@pytest.mark.filterwarnings("ignore::skclipsvd.exceptions.SlowPrecisionWarning")
def test_half_precision_trains_and_predicts_close_to_float32(small_model, photographs):
    paths, labels = photographs
    settings = dict(max_steps=5, lr=0.005, augment=False, random_state=0)
    full = CLIPSVDClassifier(small_model, **settings).fit(paths, labels)
    half = CLIPSVDClassifier(small_model, precision="bf16", **settings).fit(paths, labels)
    for name, values in full.singular_values_.items():
        assert half.singular_values_[name].dtype == np.float32
        np.testing.assert_allclose(half.singular_values_[name], values, atol=0.06)
    np.testing.assert_allclose(half.predict_proba(paths), full.predict_proba(paths), atol=0.15)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
def test_gpu_and_cpu_agree(small_model, photographs):
    paths, labels = photographs
    settings = dict(max_steps=10, lr=0.005, augment=False, random_state=0, precision="fp32")
    cpu = CLIPSVDClassifier(small_model, device="cpu", **settings).fit(paths, labels)
    gpu = CLIPSVDClassifier(small_model, device="cuda", **settings).fit(paths, labels)
    for name, values in cpu.singular_values_.items():
        np.testing.assert_allclose(gpu.singular_values_[name], values, atol=1e-3)
    moved = gpu.set_params(device="cpu")
    np.testing.assert_allclose(moved.predict_proba(paths), cpu.predict_proba(paths), atol=1e-2)


def test_one_image_per_class_is_no_reason_to_warn(small_model, digits):
    paths, labels = digits[0][:30], [f"class {i}" for i in range(30)]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        clf = CLIPSVDClassifier(small_model, max_steps=0).fit(paths, labels)
        skclipsvd.CLIPZeroShotClassifier(small_model).fit(None, labels)
    assert [str(warning.message) for warning in caught] == []
    assert len(clf.classes_) == 30


@pytest.mark.parametrize("problem", ["corrupt", "missing"])
@pytest.mark.parametrize(
    "settings",
    [{}, {"augment": True, "batch_size": 3}, {"early_stopping": True, "validation_fraction": 0.4}],
    ids=["whole batch", "batches", "validation part"],
)
def test_a_bad_image_is_named_by_its_own_row(digits, tmp_path, problem, settings):
    """Whatever a fit leaves out, merges, sorts or splits off before it reads."""
    paths, labels = list(digits[0][:10]), list(digits[1][:10])
    bad = tmp_path / "0.png"  # sorts before the others
    if problem == "corrupt":
        bad.write_bytes(b"no image")
    error = ValueError if problem == "corrupt" else FileNotFoundError
    paths, labels = (
        [*paths, *paths[:3], str(bad), *paths],
        [*labels, *labels[:3], labels[0], *labels],
    )
    weights = np.ones(len(paths))
    weights[:2] = 0
    clf = CLIPSVDClassifier("tiny", max_steps=1, **{"augment": False, **settings})
    with pytest.raises(error, match=r"1 image\(s\).*: X\[13\] = .*0\.png"):
        clf.fit(paths, labels, sample_weight=weights)


def test_a_bad_validation_image_is_named_as_one(digits, tmp_path):
    paths, labels = digits[0][:6], digits[1][:6]
    bad = tmp_path / "bad.png"
    bad.write_bytes(b"no image")
    with pytest.raises(ValueError, match=r"X_val\[1\] = .*bad\.png"):
        CLIPSVDClassifier("tiny", max_steps=1).fit(
            paths, labels, X_val=[paths[0], bad], y_val=labels[:2]
        )


@pytest.mark.parametrize("kind", [CLIPSVDClassifier, CLIPLoRAClassifier])
@pytest.mark.parametrize("method", ["fit", "predict", "predict_proba", "decision_function"])
def test_a_call_without_images_names_the_users_class(kind, method):
    with pytest.raises(TypeError, match=rf"^{kind.__name__}\.{method}\(\): missing .*'X'"):
        getattr(kind("tiny"), method)()
    with pytest.raises(TypeError, match=rf"^{kind.__name__}\.{method}\(\): .*'images'"):
        getattr(kind("tiny"), method)([], images=[])
