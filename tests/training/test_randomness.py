"""Random numbers of a fit are its own: no other thread's, and none of the caller's."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from helpers.families import FAMILIES, VIT, write_model
from hypothesis import given, settings
from hypothesis import strategies as st

from skclipsvd import CLIPLoRAClassifier, CLIPSVDClassifier
from skclipsvd.adaptation import LowRankAdaptation, Target, find_targets
from skclipsvd.clip import load_backbone
from skclipsvd.clip.randomness import seeded
from skclipsvd.training.frozen_blocks import freeze_below

CPU = torch.device("cpu")
SETTINGS = dict(max_steps=4, lr=0.01, augment=False, random_state=0, batch_size=8)


def in_threads(n, call):
    """Call `n` times at once, each in a thread of its own that starts with the others."""
    together = threading.Barrier(n)

    def run(i):
        together.wait()
        return call(i)

    with ThreadPoolExecutor(n) as pool:
        return list(pool.map(run, range(n)))


def towers_that_draw(folder):
    """Folders of models whose image tower drops patches: open_clip's own, and timm's."""
    timm = FAMILIES["timm ViT"]["vision_cfg"]
    for name, vision in (("own", {**VIT, "layers": 3}), ("timm", timm)):
        place = folder / name
        place.mkdir()
        yield write_model(place, {"vision_cfg": {**vision, "patch_dropout": 0.5}})


def numbers(clf):
    state = clf.factors_ if isinstance(clf, CLIPLoRAClassifier) else clf.singular_values_
    return np.concatenate([state[name].ravel() for name in sorted(state)])


def test_fits_with_dropout_in_threads_are_the_fit_alone(small_model, photographs):
    def fit(_=0):
        return numbers(CLIPLoRAClassifier(small_model, **SETTINGS).fit(*photographs))

    alone = fit()
    before = torch.get_rng_state()
    for found in in_threads(3, fit):
        np.testing.assert_array_equal(found, alone)
    assert torch.equal(torch.get_rng_state(), before)


def test_towers_that_draw_numbers_are_the_same_in_threads_too(photographs, tmp_path):
    for name in towers_that_draw(tmp_path):

        def fit(seed, name=name):
            settings = {**SETTINGS, "random_state": seed % 2}
            return numbers(CLIPSVDClassifier(name, **settings).fit(*photographs))

        alone = [fit(0), fit(1)]
        assert (alone[0] != alone[1]).any()
        before = torch.get_rng_state()
        for i, found in enumerate(in_threads(3, fit)):
            np.testing.assert_array_equal(found, alone[i % 2])
        assert torch.equal(torch.get_rng_state(), before)


def test_no_frozen_block_is_remembered_where_a_tower_drops_patches(tmp_path):
    for name in towers_that_draw(tmp_path):
        backbone = load_backbone(name, None, CPU)
        last = max(t.block for t in find_targets(backbone.model) if t.tower == "image")
        targets = [t for t in find_targets(backbone.model) if t.block == last]
        assert freeze_below(backbone.skeleton(), "image", targets) is None


def test_the_callers_generator_is_never_touched_while_a_fit_runs(small_model, photographs):
    before = torch.get_rng_state()
    clf = CLIPLoRAClassifier(small_model, **SETTINGS)
    fit = threading.Thread(target=clf.fit, args=photographs)
    fit.start()
    while fit.is_alive():
        time.sleep(0.001)
        assert torch.equal(torch.get_rng_state(), before)
    assert clf.n_iter_ == 4


def test_what_a_caller_seeds_decides_nothing(small_model, photographs):
    found = []
    for seed in (1, 2):
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            found.append(numbers(CLIPLoRAClassifier(small_model, **SETTINGS).fit(*photographs)))
    np.testing.assert_array_equal(*found)
    other = CLIPLoRAClassifier(small_model, **{**SETTINGS, "random_state": 1}).fit(*photographs)
    assert (numbers(other) != found[0]).any()


def test_checkpointing_drops_the_same_inputs_twice(small_model, photographs):
    """Were the second pass to draw anew, gradients would belong to another loss."""
    settings = {**SETTINGS, "dropout": 0.5, "micro_batch_size": 3}
    plain = CLIPLoRAClassifier(small_model, **settings).fit(*photographs)
    thrifty = CLIPLoRAClassifier(small_model, checkpointing=True, **settings).fit(*photographs)
    np.testing.assert_array_equal(numbers(thrifty), numbers(plain))
    np.testing.assert_array_equal(thrifty.loss_curve_, plain.loss_curve_)


def identity(width, dropout, n_targets=1):
    """An adaptation whose update of ``W = 0`` is the identity, so that it shows what it drops."""
    targets = [
        Target(f"image.{i}.fc", "image", i, "mlp", f"w{i}", (0, width), (width, width))
        for i in range(n_targets)
    ]
    factors = {f"{t.name}/{part}": np.eye(width) for t in targets for part in "ab"}
    adaptation = LowRankAdaptation(targets, factors, 1.0, dropout, CPU)
    adaptation.training = True
    return adaptation, targets


@pytest.mark.parametrize("dropout", [0.1, 0.25, 0.9])
def test_dropout_drops_its_share_and_scales_the_rest(dropout):
    adaptation, (target,) = identity(64, dropout)
    x = torch.ones(500, 64)
    y = adaptation.linear(target, x, torch.zeros(64, 64), None)
    kept = y != 0
    torch.testing.assert_close(y[kept], torch.full_like(y[kept], 1 / (1 - dropout)))
    deviation = (dropout * (1 - dropout) / x.numel()) ** 0.5
    assert abs(1 - kept.double().mean() - dropout) < 4 * deviation
    adaptation.training = False
    torch.testing.assert_close(adaptation.linear(target, x, torch.zeros(64, 64), None), x)


@settings(max_examples=30, deadline=None)
@given(
    shape=st.lists(st.integers(1, 6), min_size=1, max_size=3),
    dropout=st.floats(0.05, 0.95),
    seed=st.integers(0, 2**31 - 1),
)
def test_what_is_dropped_has_no_gradient(shape, dropout, seed):
    adaptation, (target,) = identity(8, dropout)
    adaptation.passes["image"] = (seed, 0, 1)
    x = torch.ones(*shape, 8, requires_grad=True)
    y = adaptation.linear(target, x, torch.zeros(8, 8), None)
    y.sum().backward()
    torch.testing.assert_close(x.grad, y.detach())


def test_every_pass_and_every_matrix_drops_its_own():
    adaptation, targets = identity(64, 0.5, n_targets=2)
    x = torch.ones(20, 64)

    def mask(target, number):
        adaptation.passes["image"] = (0, 0, number)
        return adaptation.linear(target, x, torch.zeros(64, 64), None) != 0

    masks = [mask(target, number) for number in (1, 2) for target in targets]
    for i, one in enumerate(masks):
        for other in masks[:i]:  # independent ones agree in one half
            assert 0.4 < (one == other).double().mean() < 0.6
    assert torch.equal(mask(targets[1], 1), masks[1])


def test_seeded_numbers_are_those_of_the_seed_in_every_thread():
    def draw(i):
        with seeded(i % 2, CPU):
            return [torch.rand(3) for _ in range(200)][-1]

    alone = [draw(0), draw(1)]
    before = torch.get_rng_state()
    for i, found in enumerate(in_threads(4, draw)):
        assert torch.equal(found, alone[i % 2])
    assert torch.equal(torch.get_rng_state(), before)
