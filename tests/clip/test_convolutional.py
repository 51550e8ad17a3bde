"""Convolutional image towers: the form that computes least gives the features of the plain one."""

import numpy as np
import pytest
import torch
from helpers.families import FAMILIES, TIMM, write_model
from safetensors.torch import load_file, save_file
from torch import nn

from skclipsvd import CLIPSVDClassifier, CLIPZeroShotClassifier
from skclipsvd.adaptation import SpectralAdaptation, find_targets, install, merge
from skclipsvd.adaptation.factors import decompose
from skclipsvd.clip import load_backbone
from skclipsvd.clip.convolutional import Plan, plan_of

EFFICIENT = {"vision_cfg": {**TIMM, "timm_model_name": "tf_efficientnet_lite0", "image_size": 64}}
TOWERS = {
    "EfficientNet": EFFICIENT,
    "ModifiedResNet": FAMILIES["ModifiedResNet"],
    "MobileCLIP": FAMILIES["MobileCLIP"],
}
# Batch norms with no kernel before them: those of FastViT's two attention blocks.
N_NORMS_LEFT = {"EfficientNet": 0, "ModifiedResNet": 0, "MobileCLIP": 2}
CPU = torch.device("cpu")


def write_tower(folder, config):
    """Write a model whose batch norms have running statistics that matter."""
    name = write_model(folder, config)
    file, generator = folder / "model.safetensors", torch.Generator().manual_seed(0)
    state = load_file(file)
    for norm in [key.removesuffix("running_var") for key in state if key.endswith("running_var")]:
        shape = state[f"{norm}weight"].shape
        state[f"{norm}running_mean"] = 0.1 * torch.randn(shape, generator=generator)
        for part in ("running_var", "weight"):
            state[f"{norm}{part}"] = 0.5 + torch.rand(shape, generator=generator)
    save_file(state, file)
    return name


@pytest.fixture(scope="module", params=TOWERS)
def tower(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("tower")
    return request.param, write_tower(folder, TOWERS[request.param])


@pytest.fixture(scope="module")
def efficient(tmp_path_factory):
    return write_tower(tmp_path_factory.mktemp("tower"), EFFICIENT)


def norms(module):
    return [m for m in module.modules() if isinstance(m, nn.BatchNorm2d)]


def images(backbone, n=3):
    size = np.broadcast_to(backbone.preprocess.size, 2)
    return torch.randn(n, 3, *size, generator=torch.Generator().manual_seed(1))


def relative_error(found, expected):
    return ((found - expected).norm() / expected.norm()).item()


def changed(backbone, matrices):
    """An adaptation that makes a difference."""
    targets = [t for t in find_targets(backbone.model) if t.matrix in matrices]
    adaptation = SpectralAdaptation(targets, decompose(backbone, targets))
    with torch.no_grad():
        for i, s in enumerate(adaptation.parameters()):
            s.mul_(1 + 0.1 * torch.randn(s.shape, generator=torch.Generator().manual_seed(i)))
    return adaptation


def test_what_predicts_has_fewer_parts_and_the_same_features(tower):
    name, model_name = tower
    backbone = load_backbone(model_name, None, CPU)
    before = {key: value.clone() for key, value in backbone.model.state_dict().items()}
    pixels = images(backbone)
    with torch.inference_mode():
        expected = backbone.model.encode_image(pixels)
        form = backbone.to_predict(backbone.model)
        assert relative_error(form.encode_image(pixels), expected) < 1e-5
        assert torch.equal(backbone.model.encode_image(pixels), expected)
    assert norms(backbone.model.visual)
    assert len(norms(form.visual)) == N_NORMS_LEFT[name]
    assert form is backbone.to_predict(backbone.model)
    for key, value in backbone.model.state_dict().items():
        assert torch.equal(value, before[key]), key


@pytest.mark.parametrize("matrices", [("q", "k", "v", "o", "mlp"), ("conv",), ("mlp", "conv")])
def test_adapted_towers_are_simplified_to_train_and_to_predict(tower, matrices):
    backbone = load_backbone(tower[1], None, CPU)
    adaptation = changed(backbone, matrices)
    pixels, merged = images(backbone), merge(backbone.skeleton(), adaptation)
    trained = install(backbone.skeleton(), adaptation)
    n_norms = len(norms(trained.visual))
    backbone.simplify(trained)
    assert len(norms(trained.visual)) < n_norms
    with torch.inference_mode():
        expected = merged.encode_image(pixels)
        assert relative_error(backbone.model.encode_image(pixels), expected) > 1e-4
        found = backbone.to_predict(merged).encode_image(pixels)
        assert relative_error(found, expected) < 1e-5
    found = trained.encode_image(pixels)
    assert relative_error(found.detach(), expected) < 1e-5
    plain = install(backbone.skeleton(), adaptation).encode_image(pixels)
    direction = torch.randn(found.shape, generator=torch.Generator().manual_seed(2))
    gradients, expected = (
        torch.autograd.grad(
            (features * direction).sum(), adaptation.parameters(), allow_unused=True
        )
        for features in (found, plain)
    )
    for name, gradient, exact in zip(adaptation.s, gradients, expected, strict=True):
        assert (gradient is None) == (exact is None) == name.startswith("text."), name
        if gradient is not None:
            assert relative_error(gradient, exact) < 1e-2, name


def test_transformers_are_left_as_they_are(small_model):
    for name in ("tiny", small_model):
        backbone = load_backbone(name, None, CPU)
        assert backbone.plan == Plan()
        assert backbone.to_predict(backbone.model) is backbone.model


class UsedTwice(nn.Module):
    """What its convolution gives is read behind the batch norm and beside it."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)
        self.norm.running_var.fill_(4.0)

    def forward(self, x):
        x = self.conv(x)
        return (x + self.norm(x)).mean(dim=(2, 3))


class Halved(nn.Conv2d):
    """A kernel that is not what its weight says."""

    def forward(self, x):
        return super().forward(x) / (1 + self.weight.abs().mean())


def test_a_tower_that_would_compute_something_else_is_left_alone():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        assert plan_of(UsedTwice().eval(), (8, 8)) == Plan()
        other = nn.Sequential(Halved(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten()).eval()
        assert plan_of(other, (8, 8)).folds == ()
        usual = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten()).eval()
        assert plan_of(usual, (8, 8)) == Plan((("0", "1"),), 8)


def test_few_images_of_a_large_size_pass_at_once():
    tower = nn.Sequential(nn.Conv2d(3, 32, 1), nn.BatchNorm2d(32), nn.Flatten()).eval()
    # 32 channels of 256 x 256 float32 are 8 MiB.
    assert plan_of(tower, (256, 256)).n_at_once == 4
    assert plan_of(tower, (1024, 1024)).n_at_once == 1


def test_the_callers_random_numbers_stay(tower):
    backbone = load_backbone(tower[1], None, CPU)
    state = torch.get_rng_state()
    backbone.simplify(backbone.skeleton())
    assert torch.equal(torch.get_rng_state(), state)


def test_a_row_is_scored_the_same_wherever_it_stands(efficient, photographs):
    paths = list(photographs[0])
    clf = CLIPZeroShotClassifier(efficient).fit(None, ["temple", "flower", "photo"])
    whole = clf.set_params(batch_size=13).decision_function(paths)
    for i in (0, 5, len(paths) - 1):
        np.testing.assert_array_equal(clf.decision_function(paths[i : i + 1])[0], whole[i])
    np.testing.assert_array_equal(clf.set_params(batch_size=4).decision_function(paths), whole)


def test_a_fit_repeats_bit_by_bit_and_no_steps_are_zero_shot(efficient, photographs, fresh_caches):
    paths, labels = photographs
    clf = CLIPSVDClassifier(efficient, max_steps=3, random_state=0).fit(paths, labels)
    again = CLIPSVDClassifier(efficient, max_steps=3, random_state=0).fit(paths, labels)
    np.testing.assert_array_equal(again.loss_curve_, clf.loss_curve_)
    for name, values in clf.singular_values_.items():
        np.testing.assert_array_equal(again.singular_values_[name], values)
    unchanged = CLIPSVDClassifier(efficient, max_steps=0).fit(paths, labels)
    zero_shot = CLIPZeroShotClassifier(efficient).fit(paths, labels)
    np.testing.assert_array_equal(
        unchanged.decision_function(paths), zero_shot.decision_function(paths)
    )


def test_the_model_to_deploy_is_open_clips(tower, photographs):
    """`merged_model` has the batch norms and branches that open_clip's own code reads."""
    paths, labels = photographs
    clf = CLIPSVDClassifier(tower[1], max_steps=1, random_state=0).fit(paths, labels)
    clf.predict(paths)
    plain = load_backbone(tower[1], None, CPU).model
    merged = clf.merged_model()
    assert list(merged.state_dict()) == list(plain.state_dict())
    assert len(norms(merged)) == len(norms(plain))
