"""Does it compute what the paper and open_clip compute?"""

from unittest.mock import patch

import numpy as np
import open_clip
import pytest
import torch
from helpers import published
from hypothesis import given, settings
from hypothesis import strategies as st
from open_clip.transform import image_transform_v2
from PIL import Image
from torch.nn import functional as F

from skclipsvd import CLIPLoRAClassifier, CLIPSVDClassifier, CLIPZeroShotClassifier
from skclipsvd.adaptation import SpectralAdaptation, Target
from skclipsvd.adaptation.factors import Factors
from skclipsvd.clip import load_backbone

TEMPLATE = "a photo of a {}."
SETTINGS = {"steps": 50, "lr": 5e-4, "weight_decay": 0.01}


def private_model(name):
    """A model of the test's own, and open_clip's own preprocessing for it."""
    backbone = load_backbone(name, None, torch.device("cpu"))
    model = open_clip.CLIP(**config_of(name))
    model.load_state_dict(backbone.model.state_dict())
    model.eval()
    return model, image_transform_v2(backbone.preprocess, is_train=False)


def config_of(name):
    import json
    from pathlib import Path

    import skclipsvd

    if name == "tiny":
        path = Path(skclipsvd.__file__).parent / "models" / "tiny.json"
    else:
        path = Path(name.removeprefix("local-dir:")) / "open_clip_config.json"
    return json.loads(path.read_text())["model_cfg"]


def inputs(transform, paths, classes):
    images = torch.stack([transform(Image.open(path)) for path in paths])
    tokens = open_clip.SimpleTokenizer()([TEMPLATE.format(name) for name in classes])
    return images, tokens


@pytest.fixture(params=["small", "tiny"])
def model_name(request, small_model):
    return small_model if request.param == "small" else "tiny"


def test_fifty_steps_equal_the_published_update(model_name, photographs):
    paths, labels = photographs
    clf = CLIPSVDClassifier(
        model_name, max_steps=50, lr=5e-4, augment=False, batch_size=len(paths), random_state=0
    ).fit(paths, labels)

    model, transform = private_model(model_name)
    images, tokens = inputs(transform, paths, clf.classes_)
    targets = torch.from_numpy(np.searchsorted(clf.classes_, labels))
    expected = published.singular_values(published.factorise(model))
    before = {name: values.detach().clone() for name, values in expected.items()}
    losses = published.optimise(model, expected.values(), images, tokens, targets, **SETTINGS)

    assert clf.singular_values_.keys() == expected.keys()
    np.testing.assert_allclose(clf.loss_curve_, losses, rtol=1e-4)
    for name, values in expected.items():
        assert (values - before[name]).norm() > 0, name
        assert_close(clf.singular_values_[name], values, name)
    assert_same_scores(clf, model, paths, images, tokens)


def test_fifty_steps_equal_the_published_lora(model_name, photographs):
    paths, labels = photographs
    start = CLIPLoRAClassifier(model_name, max_steps=0, random_state=0).fit(paths, labels)
    clf = CLIPLoRAClassifier(
        model_name,
        max_steps=50,
        lr=5e-4,
        dropout=0.0,
        augment=False,
        batch_size=len(paths),
        random_state=0,
    ).fit(paths, labels)

    model, transform = private_model(model_name)
    images, tokens = inputs(transform, paths, clf.classes_)
    targets = torch.from_numpy(np.searchsorted(clf.classes_, labels))
    starts = {
        name.removesuffix("/a"): torch.from_numpy(values)
        for name, values in start.factors_.items()
        if name.endswith("/a")
    }
    layers = published.add_lora(model, starts, rank=2, alpha=1)
    parameters = [p for layer in layers.values() for p in (layer.a, layer.b)]
    losses = published.optimise(model, parameters, images, tokens, targets, **SETTINGS)

    np.testing.assert_allclose(clf.loss_curve_, losses, rtol=1e-4)
    assert {name.partition("/")[0] for name in clf.factors_} == {*layers, "scale"}
    for name, layer in layers.items():
        assert layer.b.norm() > 0
        product = torch.from_numpy(clf.factors_[f"{name}/b"] @ clf.factors_[f"{name}/a"])
        assert_close(product, layer.b @ layer.a, name)
    assert_same_scores(clf, model, paths, images, tokens)


def test_lora_starts_as_zero_shot_and_its_a_as_published(model_name, photographs):
    paths, labels = photographs
    zero_shot = CLIPZeroShotClassifier(model_name).fit(paths, labels)
    clf = CLIPLoRAClassifier(model_name, max_steps=0, random_state=0).fit(paths, labels)
    np.testing.assert_array_equal(clf.decision_function(paths), zero_shot.decision_function(paths))
    a = clf.factors_["image.0.q/a"]
    bound = a.shape[1] ** -0.5
    assert a.shape[0] == 2
    assert 0.9 * bound < np.abs(a).max() <= bound
    assert not clf.factors_["image.0.q/b"].any()
    again = CLIPLoRAClassifier(model_name, max_steps=0, random_state=0).fit(paths, labels)
    np.testing.assert_array_equal(again.factors_["image.0.q/a"], a)


def assert_close(ours, theirs, name):
    """To 1e-4 relative, per matrix."""
    error = (torch.as_tensor(ours) - theirs).norm() / theirs.norm()
    assert error <= 1e-4, (name, float(error))


@torch.no_grad()
def assert_same_scores(clf, model, paths, images, tokens):
    """Merged prediction gives the scores of the unmerged, trained model."""
    image_features = torch.nn.functional.normalize(model.encode_image(images), dim=-1)
    text_features = torch.nn.functional.normalize(model.encode_text(tokens), dim=-1)
    theirs = (model.logit_scale.exp() * image_features @ text_features.T).numpy()
    difference = clf.decision_function(paths) - (theirs[:, 1] - theirs[:, 0])
    assert np.abs(difference).max() <= 1e-4 * np.abs(theirs).max()


def test_zero_steps_are_open_clips_own_zero_shot_exactly(model_name, digits):
    paths, labels = digits[0][:32], digits[1][:32]
    clf = CLIPSVDClassifier(model_name, max_steps=0).fit(paths, labels)

    model, transform = private_model(model_name)
    images, tokens = inputs(transform, paths, clf.classes_)
    with torch.no_grad():
        expected, _ = model.get_logits(images, tokens)
    np.testing.assert_array_equal(clf.decision_function(paths), expected.numpy())
    assert clf.n_iter_ == 0
    assert clf.loss_curve_.shape == (0,)


def test_several_templates_are_open_clips_own_ensemble(small_model, digits):
    paths, labels = digits[0][:20], digits[1][:20]
    templates = ["a photo of a {}.", "a drawing of the {}.", "{}"]
    clf = CLIPSVDClassifier(small_model, max_steps=0, templates=templates).fit(paths, labels)
    model, _ = private_model(small_model)
    expected = open_clip.build_zero_shot_classifier(
        model, open_clip.SimpleTokenizer(), list(clf.classes_), [t.format for t in templates]
    )
    np.testing.assert_allclose(clf.text_features_, expected.T.numpy(), atol=1e-6)


@pytest.mark.parametrize("n_tokens_factor", [0.5, 4])
def test_factored_and_rebuilt_forms_agree(small_model, n_tokens_factor):
    from skclipsvd.adaptation import SpectralAdaptation, find_targets
    from skclipsvd.adaptation.factors import decompose
    from skclipsvd.adaptation.spectral import rebuilding_is_cheaper

    backbone = load_backbone(small_model, None, torch.device("cpu"))
    target = next(t for t in find_targets(backbone.model) if t.name == "image.1.v")
    n_tokens = int(n_tokens_factor * target.rank)
    assert rebuilding_is_cheaper(target, n_tokens) == (n_tokens > 2 * target.rank)
    frozen = backbone.model.state_dict()[target.tensor][slice(*target.rows)]
    adaptation = SpectralAdaptation([target], decompose(backbone, [target]))
    with torch.no_grad():
        adaptation.s["image.1.v"].mul_(1.5)
    x = torch.randn(n_tokens, target.shape[1], generator=torch.Generator().manual_seed(0))
    gradients, outputs = [], []
    for form in (
        lambda: adaptation.linear(target, x, frozen, None),
        lambda: x @ adaptation.weight(target, frozen).T,
    ):
        adaptation.s["image.1.v"].grad = None
        outputs.append(form())
        outputs[-1].square().sum().backward()
        gradients.append(adaptation.s["image.1.v"].grad.clone())
    torch.testing.assert_close(outputs[0], outputs[1], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-4, atol=1e-4)


@settings(max_examples=40, deadline=None)
@given(
    batch=st.lists(st.integers(1, 5), min_size=1, max_size=3),
    n_out=st.integers(1, 12),
    n_in=st.integers(1, 12),
    with_bias=st.booleans(),
    asked=st.booleans(),
    seed=st.integers(0, 99),
)
def test_a_factored_product_and_its_gradients(batch, n_out, n_in, with_bias, asked, seed):
    """Against autograd on the dense matrix in float64; in bfloat16 as close as that can be."""
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(n_out, n_in, generator=generator)
    bias = torch.randn(n_out, generator=generator) if with_bias else None
    target = Target("image.0.fc", "image", 0, "mlp", "w", (0, n_out), (n_out, n_in))
    factors = Factors(*torch.linalg.svd(weight, full_matrices=False))
    x = torch.randn(*batch, n_in, generator=generator)
    start = factors.s * torch.rand(factors.s.shape, generator=generator)

    s = start.double().requires_grad_()
    exact_x = x.double().requires_grad_(asked)
    dense = (factors.u.double() * s) @ factors.vh.double()
    exact = F.linear(exact_x, dense, None if bias is None else bias.double())
    along = torch.randn(exact.shape, generator=generator)
    (exact * along).sum().backward()

    for dtype, error in ((torch.float32, 1e-5), (torch.bfloat16, 0.03)):
        adaptation = SpectralAdaptation(
            [target], {target.name: factors}, {target.name: start.numpy()}
        )
        adaptation.cast(dtype)
        own_x = x.clone().requires_grad_(asked)
        with patch("skclipsvd.adaptation.spectral.rebuilding_is_cheaper", lambda *_: False):
            y = adaptation.linear(target, own_x, weight, bias)
        assert y.dtype == dtype
        (y.float() * along).sum().backward()
        (own_s,) = adaptation.parameters()
        assert own_s.grad.dtype == torch.float32
        for own, other, scale in (
            (y, exact, factors.s.norm() * x.norm() + (0 if bias is None else bias.norm())),
            (own_s.grad, s.grad, along.norm() * x.norm()),
            (own_x.grad, exact_x.grad, factors.s.norm() * along.norm()),
        ):
            assert (own is None) == (other is None)
            if own is not None:
                assert (own.double() - other).norm() <= error * scale
