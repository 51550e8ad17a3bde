"""Files: what is saved comes back the same, and nothing else is believed."""

import pickle
import warnings
from pathlib import Path

import joblib
import numpy as np
import open_clip
import pytest
import skops.io
import torch
from safetensors.numpy import save_file
from sklearn.exceptions import InconsistentVersionWarning

from skclipsvd import CLIPLoRAClassifier, CLIPSVDClassifier, CLIPZeroShotClassifier, load_adapter
from skclipsvd.clip import load_backbone


@pytest.fixture(params=[CLIPSVDClassifier, CLIPLoRAClassifier, CLIPZeroShotClassifier])
def fitted(request, small_model, photographs):
    settings = {}
    if request.param is not CLIPZeroShotClassifier:
        settings = dict(max_steps=2, lr=0.01, random_state=0, layers=range(3))
    return request.param(small_model, **settings).fit(*photographs)


SETTINGS = dict(
    max_steps=2,
    lr=0.01,
    random_state=0,
    layers=range(3),
    towers=["image"],
    class_names={"flower": ["a flower", "a bloom"], "temple": "a temple"},
    class_weight={"flower": 2.0, "temple": np.float32(0.5)},
    early_stopping=True,
    validation_fraction=0.2,
    verbose=0,
)


@pytest.mark.parametrize("kind", [CLIPSVDClassifier, CLIPLoRAClassifier, CLIPZeroShotClassifier])
def test_every_way_of_saving_keeps_everything(kind, small_model, photographs, tmp_path):
    known = kind(small_model).get_params()
    chosen = {name: value for name, value in SETTINGS.items() if name in known}
    fitted = kind(small_model, templates=("a {}.", "one {}."), **chosen).fit(*photographs)
    fitted.save_adapter(tmp_path / "fitted.safetensors")
    joblib.dump(fitted, tmp_path / "fitted.joblib")
    skops.io.dump(fitted, tmp_path / "fitted.skops")
    untrusted = skops.io.get_untrusted_types(file=tmp_path / "fitted.skops")
    for copy in (
        pickle.loads(pickle.dumps(fitted)),
        joblib.load(tmp_path / "fitted.joblib"),
        skops.io.load(tmp_path / "fitted.skops", trusted=untrusted),
        load_adapter(tmp_path / "fitted.safetensors", small_model),
    ):
        assert vars(copy).keys() == vars(fitted).keys()
        for name, value in vars(fitted).items():
            same(getattr(copy, name), value)


def same(copy, value):
    """Equal and of the same type, all the way down; numbers of numpy may come back as Python's."""
    value = value.item() if isinstance(value, np.generic) else value
    copy = copy.item() if isinstance(copy, np.generic) else copy
    assert type(copy) is type(value)
    if isinstance(value, dict):
        assert copy.keys() == value.keys()
        for key in value:
            same(copy[key], value[key])
    elif isinstance(value, np.ndarray):
        assert copy.dtype == value.dtype
        np.testing.assert_array_equal(copy, value)
    else:
        assert copy == value


def test_what_an_adapter_file_cannot_hold_is_said_when_saving(fitted, tmp_path):
    fitted.notes_ = "mine"
    with pytest.raises(ValueError, match=r"notes_.*joblib\.dump"):
        fitted.save_adapter(tmp_path / "a.safetensors")
    del fitted.notes_
    if not isinstance(fitted, CLIPZeroShotClassifier):
        fitted.random_state = np.random.RandomState(0)
        with pytest.raises(ValueError, match=r"random_state.*joblib\.dump"):
            fitted.save_adapter(tmp_path / "a.safetensors")
    assert not any(tmp_path.iterdir())


def test_every_way_of_saving_gives_the_same_answers(fitted, small_model, photographs, tmp_path):
    paths, _ = photographs
    expected = fitted.predict_proba(paths)
    joblib.dump(fitted, tmp_path / "fitted.joblib")
    fitted.save_adapter(tmp_path / "fitted.safetensors")
    skops.io.dump(fitted, tmp_path / "fitted.skops")
    untrusted = skops.io.get_untrusted_types(file=tmp_path / "fitted.skops")
    copies = [
        pickle.loads(pickle.dumps(fitted)),
        joblib.load(tmp_path / "fitted.joblib"),
        skops.io.load(tmp_path / "fitted.skops", trusted=untrusted),
        load_adapter(tmp_path / "fitted.safetensors", small_model),
    ]
    assert set(untrusted) <= {f"skclipsvd.classifiers.{type(fitted).__name__}", "builtins.range"}
    for copy in copies:
        assert type(copy) is type(fitted)
        np.testing.assert_array_equal(copy.predict_proba(paths), expected)
        np.testing.assert_array_equal(copy.predict(paths), fitted.predict(paths))


@pytest.mark.parametrize(
    "labels", [["b", "a"] * 10, [3, -1] * 10, [True, False] * 10, np.array(["x", "y"] * 10, object)]
)
def test_adapter_files_keep_labels_of_every_kind(small_model, photographs, labels, tmp_path):
    clf = CLIPZeroShotClassifier(small_model, class_names={x: f"thing {x}" for x in labels})
    clf.fit(photographs[0], labels).save_adapter(tmp_path / "a.safetensors")
    loaded = load_adapter(tmp_path / "a.safetensors", small_model)
    assert loaded.classes_.tolist() == clf.classes_.tolist()
    assert loaded.classes_.dtype == clf.classes_.dtype
    assert loaded.class_names == clf.class_names


def test_where_it_runs_is_not_saved(fitted, small_model, tmp_path):
    fitted.set_params(device="cpu", n_jobs=2).save_adapter(tmp_path / "a.safetensors")
    loaded = load_adapter(tmp_path / "a.safetensors", small_model)
    assert loaded.get_params()["device"] == "auto"
    assert loaded.get_params()["n_jobs"] is None


def test_merged_model_needs_nothing_of_ours(fitted, photographs, small_model):
    from open_clip.transform import image_transform_v2
    from PIL import Image

    paths, _ = photographs
    backbone = load_backbone(small_model, None, torch.device("cpu"))
    merged = fitted.merged_model()
    assert type(merged) is type(backbone.model)
    assert {type(m) for m in merged.modules()} == {type(m) for m in backbone.model.modules()}
    plain = open_clip.create_model(small_model)
    plain.load_state_dict(fitted.merged_state_dict())
    plain.eval()
    transform = image_transform_v2(backbone.preprocess, is_train=False)
    images = torch.stack([transform(Image.open(path)) for path in paths[:16]])
    tokens = open_clip.SimpleTokenizer()([f"a photo of a {c}." for c in fitted.classes_])
    with torch.no_grad():
        expected = plain.get_logits(images, tokens)[0].softmax(dim=1)
    np.testing.assert_allclose(fitted.predict_proba(paths[:16]), expected, atol=1e-6)
    before = fitted.predict_proba(paths)
    with torch.no_grad():
        for parameter in merged.parameters():
            parameter.zero_()
    np.testing.assert_array_equal(fitted.predict_proba(paths), before)


@pytest.mark.parametrize("damaged", ["numbers", "text features"])
def test_numbers_of_a_file_that_are_not_finite_are_refused(
    fitted, photographs, tmp_path, damaged, fresh_caches
):
    """What joblib reads is checked by nobody before it is used."""
    if damaged == "text features":
        fitted.text_features_[0, 0] = np.nan
    elif isinstance(fitted, CLIPZeroShotClassifier):
        return
    else:
        trained = vars(fitted).get("singular_values_") or fitted.factors_
        trained[min(trained)][0] = np.nan
    joblib.dump(fitted, tmp_path / "fitted.joblib")
    copy = joblib.load(tmp_path / "fitted.joblib")
    for answer in (copy.predict, copy.predict_proba, copy.decision_function):
        with pytest.raises(ValueError, match="no finite scores: the file that they came from is"):
            answer(photographs[0][:2])


def test_a_file_that_is_no_adapter(tmp_path):
    with pytest.raises(FileNotFoundError, match="no such adapter file"):
        load_adapter(tmp_path / "nowhere.safetensors")
    (tmp_path / "text.safetensors").write_text("hello")
    with pytest.raises(ValueError, match="damaged or not a safetensors file"):
        load_adapter(tmp_path / "text.safetensors")
    save_file({"x": np.zeros(3, np.float32)}, tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match="not an adapter of skclipsvd"):
        load_adapter(tmp_path / "other.safetensors")


def test_an_adapter_in_the_home_folder(fitted, tmp_path, monkeypatch):
    (tmp_path / "home").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("USERPROFILE", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    fitted.save_adapter("~/a.safetensors")
    assert [path.name for path in (tmp_path / "home").iterdir()] == ["a.safetensors"]
    assert not (tmp_path / "~").exists()
    assert load_adapter("~/a.safetensors", fitted.model_name).classes_.tolist() == list(
        fitted.classes_
    )


def test_an_interrupted_save_leaves_the_old_file_whole(fitted, tmp_path, monkeypatch):
    path = tmp_path / "a.safetensors"
    fitted.save_adapter(path)
    content = path.read_bytes()

    def interrupted(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr("os.replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        fitted.save_adapter(path)
    assert path.read_bytes() == content
    assert list(tmp_path.iterdir()) == [path]


def test_labels_that_json_cannot_hold(small_model, photographs, tmp_path):
    from fractions import Fraction

    labels = np.array([Fraction(1, 2), Fraction(1, 3)] * 10, dtype=object)
    clf = CLIPZeroShotClassifier(small_model)
    clf.fit(None, ["a", "b"])
    clf.classes_ = labels[:2]
    with pytest.raises(ValueError, match=r"use joblib\.dump"):
        clf.save_adapter(tmp_path / "a.safetensors")


FIXTURES = sorted((Path(__file__).parent / "fixtures").glob("*/*.npy"))


@pytest.mark.parametrize("expected", FIXTURES, ids=lambda p: f"{p.parent.name}-{p.stem}")
@pytest.mark.parametrize("kind", ["joblib", "safetensors"])
def test_files_of_old_releases_still_load(expected, kind, digits):
    file = expected.with_suffix(f".{kind}")
    if kind == "safetensors":
        clf = load_adapter(file)
    else:
        with warnings.catch_warnings():  # the files know one version of scikit-learn
            warnings.simplefilter("ignore", InconsistentVersionWarning)
            clf = joblib.load(file)
    answer = clf.predict_proba(digits[0][-20:])
    np.testing.assert_allclose(answer, np.load(expected), atol=1e-4)


def test_there_are_old_files_of_every_kind():
    assert {path.stem for path in FIXTURES} >= {"svd", "lora", "zero_shot"}


def test_a_pickle_of_a_version_with_fewer_parameters(fitted, photographs):
    """What it does not hold has its default."""
    expected = fitted.predict_proba(photographs[0])
    default = type(fitted)().get_params()
    for name in {"verbose", "checkpoint_dir"} & default.keys():
        del vars(fitted)[name]
    copy = pickle.loads(pickle.dumps(fitted))
    np.testing.assert_array_equal(copy.predict_proba(photographs[0]), expected)
    assert copy.verbose == 0
    assert getattr(copy, "checkpoint_dir", None) is None
    assert copy.get_params().keys() == default.keys()
