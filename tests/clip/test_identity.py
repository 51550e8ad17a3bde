"""A model is more than its weights: what was fitted is used with the whole model, or not at all."""

import copy
import json
import os
import pickle
import re
import shutil
from pathlib import Path

import joblib
import numpy as np
import pytest
import skops.io
import torch
from safetensors import safe_open
from safetensors.numpy import save_file as save_arrays
from safetensors.torch import load_file, save_file
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

from skclipsvd import (
    CLIPEncoder,
    CLIPLoRAClassifier,
    CLIPSVDClassifier,
    CLIPZeroShotClassifier,
    load_adapter,
)
from skclipsvd.clip import load_backbone

LABELS = ["temple", "flower"]
CPU = torch.device("cpu")


@pytest.fixture
def folder(small_model, tmp_path):
    """A private copy of the small model's folder."""
    return Path(shutil.copytree(small_model.removeprefix("local-dir:"), tmp_path / "model"))


def change(folder, section, entries):
    """Say something else of the same weights, in the folder's configuration."""
    file = folder / "open_clip_config.json"
    config = json.loads(file.read_text())
    part = config
    for name in section.split("/"):
        part = part.setdefault(name, {})
    part.update(entries)
    file.write_text(json.dumps(config))


def overwrite(path, content, in_place):
    """Write other bytes of the same number, and give the file its old time."""
    status = path.stat()
    assert len(content) == status.st_size
    if in_place:
        path.write_bytes(content)
    else:
        path.with_name("new").write_bytes(content)
        path.with_name("new").replace(path)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert path.stat().st_mtime_ns == status.st_mtime_ns


CHANGES = {
    "mean": ("preprocess_cfg", {"mean": [0.5, 0.5, 0.5]}),
    "std": ("preprocess_cfg", {"std": [0.5, 0.5, 0.5]}),
    "interpolation": ("preprocess_cfg", {"interpolation": "bilinear"}),
    "resize_mode": ("preprocess_cfg", {"resize_mode": "squash"}),
    "fill_color": ("preprocess_cfg", {"fill_color": 255}),
    "activation": ("model_cfg", {"quick_gelu": True}),
    "image_heads": ("model_cfg/vision_cfg", {"head_width": 24}),
    "text_heads": ("model_cfg/text_cfg", {"heads": 4}),
    "image_pooling": ("model_cfg/vision_cfg", {"pool_type": "avg"}),
    "text_pooling": ("model_cfg/text_cfg", {"pool_type": "last"}),
    "causal": ("model_cfg/text_cfg", {"no_causal_mask": True}),
    "tokens": ("model_cfg/text_cfg", {"tokenizer_kwargs": {"clean": "canonicalize"}}),
}


@pytest.mark.parametrize("name", CHANGES)
def test_the_same_weights_as_another_model_are_refused(folder, photographs, name):
    model = f"local-dir:{folder}"
    clf = CLIPZeroShotClassifier(model).fit(None, LABELS)
    encoder = CLIPEncoder(model).fit(photographs[0][:2])
    before = load_backbone(model, None, CPU).config
    change(folder, *CHANGES[name])
    after = load_backbone(model, None, CPU).config
    assert {key for key in before if before[key] != after[key]} == {name}
    said = f"{name} is {after[name]!r} (fitted with {before[name]!r})"
    with pytest.raises(ValueError, match=f"the weights are those.*model: {re.escape(said)}"):
        clf.predict(photographs[0][:2])
    with pytest.raises(ValueError, match=f"CLIPEncoder was fitted on, but not the model: {name}"):
        encoder.transform(photographs[0][:2])
    for refused in (clf.merged_model, lambda: clf.with_classes(["a", "b"])):
        with pytest.raises(ValueError, match=name):
            refused()


@pytest.mark.parametrize("kind", [CLIPSVDClassifier, CLIPLoRAClassifier, CLIPZeroShotClassifier])
def test_every_file_format_keeps_the_model_and_it_is_compared(kind, folder, photographs, tmp_path):
    paths, labels = photographs
    settings = {} if kind is CLIPZeroShotClassifier else dict(max_steps=1, random_state=0)
    fitted = kind(f"local-dir:{folder}", **settings).fit(paths, labels)
    fitted.save_adapter(tmp_path / "a.safetensors")
    joblib.dump(fitted, tmp_path / "a.joblib")
    skops.io.dump(fitted, tmp_path / "a.skops")
    copies = {
        "adapter": load_adapter(tmp_path / "a.safetensors", f"local-dir:{folder}"),
        "joblib": joblib.load(tmp_path / "a.joblib"),
        "pickle": pickle.loads(pickle.dumps(fitted)),
        "skops": skops.io.load(
            tmp_path / "a.skops", trusted=[f"skclipsvd.classifiers.{kind.__name__}"]
        ),
    }
    expected = fitted.predict_proba(paths[:2])
    for loaded in copies.values():
        assert loaded.backbone_config_ == fitted.backbone_config_
        np.testing.assert_array_equal(loaded.predict_proba(paths[:2]), expected)
    change(folder, *CHANGES["mean"])
    for loaded in copies.values():
        with pytest.raises(ValueError, match=r"mean is \(0\.5, 0\.5, 0\.5\) \(fitted with \(0\.48"):
            loaded.predict(paths[:2])


@pytest.mark.parametrize("name", CHANGES)
def test_what_an_old_file_does_not_say_is_not_compared_but_the_activation_is(folder, name):
    clf = CLIPZeroShotClassifier(f"local-dir:{folder}").fit(None, LABELS)
    del clf.backbone_config_  # as in 0.1.0
    change(folder, *CHANGES[name])
    black = [np.zeros((8, 8, 3), np.uint8)]
    if name == "activation":  # it was in the fingerprint already
        with pytest.raises(ValueError, match=r"activation is 'quick_gelu' \(fitted with 'gelu'\)"):
            clf.predict(black)
    else:
        assert clf.predict(black)[0] in LABELS


def test_what_a_newer_file_says_beyond_this_version_is_not_compared(folder, tmp_path):
    clf = CLIPZeroShotClassifier(f"local-dir:{folder}").fit(None, LABELS)
    clf.backbone_config_["colour_space"] = "sRGB"
    clf.save_adapter(tmp_path / "a.safetensors")
    loaded = load_adapter(tmp_path / "a.safetensors", f"local-dir:{folder}")
    assert loaded.predict([np.zeros((8, 8, 3), np.uint8)])[0] in LABELS


def test_other_weights_and_another_model_are_both_said(folder):
    clf = CLIPZeroShotClassifier(f"local-dir:{folder}").fit(None, LABELS)
    shift(folder)
    change(folder, *CHANGES["resize_mode"])
    with pytest.raises(ValueError, match=r"not the weights that.*Besides, resize_mode is 'squash'"):
        clf.predict([np.zeros((8, 8, 3), np.uint8)])


def test_a_warm_start_on_another_model_is_refused(folder, photographs):
    clf = CLIPSVDClassifier(f"local-dir:{folder}", max_steps=1, warm_start=True, random_state=0)
    clf.fit(*photographs)
    learnt = copy.deepcopy(clf.singular_values_)
    change(folder, *CHANGES["std"])
    with pytest.raises(ValueError, match=r"warm_start=True, but .* std is"):
        clf.fit(*photographs)
    np.testing.assert_equal(clf.singular_values_, learnt)


def test_models_of_the_same_weights_share_no_merged_model(small_model, folder, photographs):
    """Equal numbers on equal weights are not the same model where the heads differ."""
    paths, labels = photographs
    change(folder, *CHANGES["image_heads"])
    change(folder, *CHANGES["mean"])
    settings = dict(max_steps=1, random_state=0, towers=["text"], lr=1e-30)
    for model in (small_model, f"local-dir:{folder}"):
        clf = CLIPSVDClassifier(model, **settings).fit(paths, labels)
        unchanged = CLIPEncoder(model).fit_transform(paths[:4])
        np.testing.assert_allclose(clf.transform(paths[:4]), unchanged, atol=1e-5)
        preprocess = clf.merged_model().visual.preprocess_cfg
        assert tuple(preprocess["mean"]) == clf.backbone_config_["mean"]


# --- the encoder


def shift(folder):
    """Put other weights in the place of the folder's."""
    file = folder / "open_clip_model.safetensors"
    save_file({name: tensor + 0.1 for name, tensor in load_file(file).items()}, file)


def test_an_encoder_whose_weights_were_replaced_is_refused(folder, photographs, tmp_path):
    paths, labels = photographs
    model = f"local-dir:{folder}"
    encoder = CLIPEncoder(model).fit(paths[:2])
    pipeline = make_pipeline(CLIPEncoder(model), LogisticRegression()).fit(paths, labels)
    joblib.dump(encoder, tmp_path / "encoder.joblib")
    joblib.dump(pipeline, tmp_path / "pipeline.joblib")
    shift(folder)
    copies = [
        encoder,
        copy.deepcopy(encoder),
        pickle.loads(pickle.dumps(encoder)),
        joblib.load(tmp_path / "encoder.joblib"),
        clone(FrozenEstimator(encoder)),
    ]
    for one in copies:
        with pytest.raises(ValueError, match="not the weights that this CLIPEncoder was fitted on"):
            one.transform(paths[:2])
    for one in (pipeline, joblib.load(tmp_path / "pipeline.joblib")):
        with pytest.raises(ValueError, match="not the weights that this CLIPEncoder was fitted on"):
            one.predict(paths[:2])
    with pytest.raises(NotFittedError):
        clone(encoder).transform(paths[:2])
    assert encoder.fit(paths[:2]).transform(paths[:2]).shape == (2, 32)


def test_an_encoder_whose_classifier_was_fitted_again_is_refused(small_model, photographs):
    paths, labels = photographs
    clf = CLIPSVDClassifier(small_model, max_steps=1, random_state=0).fit(paths, labels)
    encoder = CLIPEncoder(classifier=clf).fit(paths[:2])
    frozen = CLIPEncoder(classifier=FrozenEstimator(clf)).fit(paths[:2])
    clf.set_params(verbose=0).fit(paths, labels)  # the same fit, to the bit
    np.testing.assert_array_equal(encoder.transform(paths[:2]), frozen.transform(paths[:2]))
    clf.set_params(max_steps=3).fit(paths, labels)
    for one in (encoder, frozen, pickle.loads(pickle.dumps(encoder))):
        with pytest.raises(ValueError, match="classifier was fitted again"):
            one.transform(paths[:2])
    other = CLIPZeroShotClassifier(small_model).fit(None, labels)
    with pytest.raises(ValueError, match="or exchanged"):
        encoder.set_params(classifier=other).transform(paths[:2])


def test_an_encoder_on_a_classifier_of_another_model_names_the_classifier(
    small_model, folder, photographs
):
    paths, _ = photographs
    encoder = CLIPEncoder(classifier=CLIPZeroShotClassifier(small_model).fit(None, LABELS))
    encoder.fit(paths[:2])
    change(folder, *CHANGES["mean"])
    other = CLIPZeroShotClassifier(f"local-dir:{folder}").fit(None, LABELS)
    with pytest.raises(ValueError, match=r"^classifier's model: .* mean is"):
        encoder.set_params(classifier=other).transform(paths[:2])


# --- files that were overwritten with equal size and time


@pytest.mark.parametrize("in_place", [True, False])
@pytest.mark.parametrize("name", ["open_clip_model.safetensors", "open_clip_config.json"])
def test_a_folder_overwritten_with_equal_size_and_time_is_another(folder, in_place, name):
    model = f"local-dir:{folder}"
    clf = CLIPZeroShotClassifier(model).fit(None, LABELS)
    content = (folder / name).read_bytes()
    if name.endswith(".json"):
        other = content.replace(b'"shortest"', b'"longest" ')
    else:
        other = content[:-4] + np.float32(7).tobytes()
    assert other != content
    overwrite(folder / name, other, in_place)
    with pytest.raises(ValueError, match=r"fitted (on|with)"):
        clf.predict([np.zeros((8, 8, 3), np.uint8)])


@pytest.mark.parametrize("in_place", [True, False])
def test_an_adapter_overwritten_with_equal_size_and_time_is_another(
    small_model, tmp_path, in_place
):
    path = tmp_path / "a.safetensors"
    clf = CLIPZeroShotClassifier(small_model).fit(None, ["temple", "flower"])
    clf.with_classes(["marble", "garden"]).save_adapter(tmp_path / "b.safetensors")
    clf.save_adapter(path)
    assert load_adapter(path, small_model).classes_.tolist() == ["flower", "temple"]
    overwrite(path, (tmp_path / "b.safetensors").read_bytes(), in_place)
    assert load_adapter(path, small_model).classes_.tolist() == ["garden", "marble"]


# --- what a loaded file may say


@pytest.mark.parametrize(
    "said", [{"value": 3}, {"list": []}, {"dict": [[{"value": 1}, {"value": 1}]]}]
)
def test_a_strangers_description_of_the_model_is_not_believed(small_model, tmp_path, said):
    path = tmp_path / "a.safetensors"
    CLIPZeroShotClassifier(small_model).fit(None, LABELS).save_adapter(path)
    with safe_open(path, framework="numpy") as file:
        header = json.loads(file.metadata()["skclipsvd"])
        arrays = {name: file.get_tensor(name) for name in list(file.keys())}
    header["fitted"]["backbone_config_"] = said
    del header["sha256"]
    save_arrays(arrays, path, metadata={"skclipsvd": json.dumps(header)})
    with pytest.raises(ValueError, match="settings are a mapping of names"):
        load_adapter(path, small_model)
