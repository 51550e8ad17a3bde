"""An exported file predicts as the classifier does, without torch and without this package."""

import json
import sys

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from helpers.families import FAMILIES, TIMM, write_model
from onnxruntime.quantization import quantize_dynamic
from open_clip.transform import image_transform_v2
from PIL import Image
from sklearn.exceptions import NotFittedError

from skclipsvd import CLIPLoRAClassifier, CLIPSVDClassifier, CLIPZeroShotClassifier
from skclipsvd.clip import load_backbone

CPU = torch.device("cpu")
EFFICIENT = {"vision_cfg": {**TIMM, "timm_model_name": "tf_efficientnet_lite0", "image_size": 64}}
TOWERS = {"EfficientNet": EFFICIENT, **FAMILIES}
# Large inputs or deep towers: seconds each.
SLOW = {"EVA02", "ViTamin", "MobileCLIP"}
# Trained at the rate of the others it is sure of every answer, and nothing could differ.
N_STEPS = {"ViTamin": 0}


def session_of(path):
    return onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])


def described(session):
    known = session.get_modelmeta().custom_metadata_map
    return {name: json.loads(value) for name, value in known.items()}


def pixels_of(model_name, paths):
    """Resize and crop as open_clip does, without its last steps: tensor and normalisation."""
    preprocess = load_backbone(model_name, None, CPU).preprocess
    *steps, _, _ = image_transform_v2(preprocess, is_train=False).transforms
    pictures = []
    for path in paths:
        picture = Image.open(path)
        for step in steps:
            picture = step(picture)
        pictures.append(np.asarray(picture))
    return np.stack(pictures)


def run(session, pixels):
    (probabilities,) = session.run(["probabilities"], {"pixels": pixels})
    return probabilities


@pytest.mark.parametrize("kind", [CLIPSVDClassifier, CLIPLoRAClassifier])
def test_the_tiny_model_predicts_the_same(kind, digits, tmp_path):
    paths, labels = digits[0][:60], digits[1][:60]
    clf = kind("tiny", lr=0.02, max_steps=5, augment=False, random_state=0).fit(paths, labels)
    frozen = CLIPZeroShotClassifier("tiny").fit(None, np.unique(labels))
    clf.export_onnx(tmp_path / "digits.onnx")
    session = session_of(tmp_path / "digits.onnx")
    expected, pixels = clf.predict_proba(digits[0][60:97]), pixels_of("tiny", digits[0][60:97])
    assert np.abs(expected - frozen.predict_proba(digits[0][60:97])).max() > 0.01
    for n in (1, 2, 37):
        found = run(session, pixels[:n])
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, expected[:n], rtol=0, atol=1e-5)
    assert described(session)["classes"] == clf.classes_.tolist()


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[pytest.mark.slow] * (n in SLOW)) for n in TOWERS]
)
def test_every_family_predicts_the_same(name, photographs, tmp_path):
    (tmp_path / "model").mkdir()
    model = write_model(tmp_path / "model", TOWERS[name])
    clf = CLIPSVDClassifier(model, lr=0.02, random_state=0, augment=False, logit_scale=50.0)
    clf.set_params(max_steps=N_STEPS.get(name, 2)).fit(*photographs)
    clf.export_onnx(tmp_path / "kinds.onnx")
    expected = clf.predict_proba(photographs[0])
    assert np.ptp(expected[:, 0]) > 1e-3  # photographs differ
    found = run(session_of(tmp_path / "kinds.onnx"), pixels_of(model, photographs[0]))
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)


def test_a_head_is_inside(photographs, small_model, tmp_path):
    clf = CLIPSVDClassifier(small_model, lr=0.02, max_steps=2, random_state=0, head="logistic")
    clf.set_params(augment=False).fit(*photographs).export_onnx(tmp_path / "a.onnx")
    expected = clf.predict_proba(photographs[0])
    del clf.head_coef_, clf.head_intercept_
    assert np.abs(expected - clf.predict_proba(photographs[0])).max() > 0.01
    found = run(session_of(tmp_path / "a.onnx"), pixels_of(small_model, photographs[0]))
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("kind", ["drawings", "photographs"])
def test_eight_bit_matrices_predict_nearly_the_same(kind, digits, photographs, tmp_path):
    """As the page on saving quantises a file, with a head that is sure of its answers."""
    model, (paths, labels), unseen = "tiny", (digits[0][:60], digits[1][:60]), digits[0][60:160]
    if kind == "photographs":
        (tmp_path / "model").mkdir()
        model, (paths, labels) = write_model(tmp_path / "model", FAMILIES["timm ViT"]), photographs
        unseen = paths
    clf = CLIPSVDClassifier(model, lr=0.02, max_steps=5, augment=False, head="logistic")
    clf.fit(paths, labels).export_onnx(tmp_path / "a.onnx")
    quantize_dynamic(
        tmp_path / "a.onnx", tmp_path / "a.int8.onnx", op_types_to_quantize=["MatMul", "Gemm"]
    )
    expected = clf.predict_proba(unseen)
    found = run(session_of(tmp_path / "a.int8.onnx"), pixels_of(model, unseen))
    assert np.ptp(expected[:, 0]) > 0.1
    assert 1e-5 < np.abs(found - expected).max() < 0.05
    assert (found.argmax(axis=1) == expected.argmax(axis=1)).mean() >= 0.99
    small, large = ((tmp_path / f"a{end}.onnx").stat().st_size for end in (".int8", ""))
    assert small < 0.5 * large


def test_what_a_reader_has_to_know_is_in_the_file(small_model, tmp_path):
    clf = CLIPZeroShotClassifier(small_model, class_names={3: "three", 10: "ten"})
    clf.fit(None, [10, 3]).export_onnx(tmp_path / "a.onnx")
    session = session_of(str(tmp_path / "a.onnx"))
    assert described(session) == {
        "classes": [3, 10],
        "size": [32, 32],
        "resize_mode": "shortest",
        "interpolation": "bicubic",
        "fill_color": 0,
        "several_labels": False,
        "estimator": "CLIPZeroShotClassifier",
        "backbone_fingerprint": clf.backbone_fingerprint_,
    }
    (pixels,), (probabilities,) = session.get_inputs(), session.get_outputs()
    assert (pixels.name, pixels.type) == ("pixels", "tensor(uint8)")
    assert pixels.shape == ["n_images", 32, 32, 3]
    assert probabilities.shape == ["n_images", 2]
    onnx.checker.check_model(str(tmp_path / "a.onnx"), full_check=True)


def test_the_text_tower_is_left_out(small_model, tmp_path):
    clf = CLIPZeroShotClassifier(small_model).fit(None, ["temple", "flower"])
    clf.export_onnx(tmp_path / "a.onnx")
    visual = clf.merged_model().visual
    n_bytes = sum(p.numel() * p.element_size() for p in visual.parameters())
    assert (tmp_path / "a.onnx").stat().st_size < 1.2 * n_bytes + 50_000


def test_exporting_changes_nothing(small_model, photographs, tmp_path):
    """Zero-shot, whose model is the shared one itself."""
    clf = CLIPZeroShotClassifier(small_model).fit(None, ["temple", "flower"])
    before = clf.predict_proba(photographs[0])
    clf.export_onnx(tmp_path / "a.onnx")
    model = load_backbone(small_model, clf.pretrained, CPU).model
    assert not any(parameter.requires_grad for parameter in model.parameters())
    np.testing.assert_array_equal(clf.predict_proba(photographs[0]), before)
    first = (tmp_path / "a.onnx").read_bytes()
    clf.export_onnx(tmp_path / "a.onnx")
    assert (tmp_path / "a.onnx").read_bytes() == first


def test_other_classes_are_exported_too(small_model, photographs, tmp_path):
    clf = CLIPZeroShotClassifier(small_model).fit(None, ["temple", "flower"])
    other = clf.with_classes(["a", "b", "c"])
    other.export_onnx(tmp_path / "a.onnx")
    found = run(session_of(tmp_path / "a.onnx"), pixels_of(small_model, photographs[0]))
    np.testing.assert_allclose(found, other.predict_proba(photographs[0]), rtol=0, atol=1e-5)


# --- what cannot be exported


@pytest.fixture
def clf(small_model):
    return CLIPZeroShotClassifier(small_model).fit(None, ["temple", "flower"])


@pytest.mark.parametrize("missing", ["onnx", "onnxruntime"])
def test_the_extra_is_named(clf, tmp_path, monkeypatch, missing):
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(ImportError, match=r"pip install 'skclipsvd\[onnx\]'"):
        clf.export_onnx(tmp_path / "a.onnx")
    assert not any(tmp_path.iterdir())


def test_before_a_fit(tmp_path):
    with pytest.raises(NotFittedError):
        CLIPZeroShotClassifier("tiny").export_onnx(tmp_path / "a.onnx")


def test_a_folder_is_no_file(clf, tmp_path):
    with pytest.raises(IsADirectoryError, match="is a folder; name a file in it"):
        clf.export_onnx(tmp_path)
    assert not any(tmp_path.iterdir())


def test_a_tower_of_two_gigabytes(clf, tmp_path, monkeypatch):
    numbers = sum(p.numel() for p in clf.merged_model().visual.parameters())
    monkeypatch.setattr(torch.Tensor, "element_size", lambda tensor: 3 * 2**30 // numbers)
    with pytest.raises(ValueError, match=r"its image tower has 3\.0 GiB, and one ONNX file"):
        clf.export_onnx(tmp_path / "a.onnx")
    assert not any(tmp_path.iterdir())


@pytest.fixture
def behind_the_tower(clf):
    """Put a function behind the last norm of the frozen image tower."""
    norm, hooks = load_backbone(clf.model_name, clf.pretrained, CPU).model.visual.ln_post, []
    yield lambda function: hooks.append(norm.register_forward_hook(function))
    for hook in hooks:
        hook.remove()


def has_no_onnx(norm, args, out):
    return torch.special.i0(out)


def of_one_batch(norm, args, out):
    """What a trace takes for a constant: the number of images."""
    return out + int(out.shape[0])


@pytest.mark.parametrize(
    ("function", "said"),
    [(has_no_onnx, "aten::i0"), (of_one_batch, "other probabilities than torch")],
)
def test_a_tower_that_cannot_be_exported(clf, tmp_path, behind_the_tower, function, said):
    behind_the_tower(function)
    with pytest.raises(ValueError, match=f"model_name=.*cannot be written as an ONNX.*{said}"):
        clf.export_onnx(tmp_path / "a.onnx")
    assert not any(tmp_path.iterdir())


def test_numbers_of_another_model_are_called_that(clf, tmp_path):
    clf.text_features_ = np.eye(2, 7, dtype=np.float32)
    with pytest.raises(ValueError, match="the class texts have 7 features, the images 32"):
        clf.export_onnx(tmp_path / "a.onnx")
    assert not any(tmp_path.iterdir())
