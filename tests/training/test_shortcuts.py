"""What a training step leaves out changes no number: texts, tokens and frozen blocks."""

import numpy as np
import open_clip
import pytest
import torch
from helpers import published
from hypothesis import given, settings
from hypothesis import strategies as st
from open_clip.transformer import ResidualAttentionBlock
from test_fidelity import SETTINGS, inputs, private_model

from skclipsvd import CLIPSVDClassifier
from skclipsvd.adaptation import (
    LowRankAdaptation,
    SpectralAdaptation,
    find_targets,
    install,
    merge,
)
from skclipsvd.adaptation.factors import decompose
from skclipsvd.clip import build_prompts, load_backbone
from skclipsvd.training.frozen_blocks import read_only_class_token
from skclipsvd.training.prompt_tree import PromptTree
from skclipsvd.training.text_encoder import text_encoder
from skclipsvd.training.unchanged import SeenPredictions

CPU = torch.device("cpu")
WORDS = st.lists(st.sampled_from(["a", "the", "red", "cat", "cats", "dog", "of"]), max_size=6)
SENTENCES = st.lists(WORDS.map(" ".join), min_size=1, max_size=8, unique=True)


@pytest.fixture(scope="module")
def changed():
    """The tiny model with other singular values: in training form, and merged."""
    backbone = load_backbone("tiny", None, CPU)
    targets = find_targets(backbone.model)
    adaptation = SpectralAdaptation(targets, decompose(backbone, targets))
    torch.manual_seed(0)
    with torch.no_grad():
        for s in adaptation.parameters():
            s.mul_(1 + 0.2 * torch.rand_like(s))
    return backbone, adaptation, merge(backbone.skeleton(), adaptation)


def gradients(adaptation, features, seed=0):
    """Of a random projection of unit features, by matrix."""
    weights = torch.randn(features.shape, generator=torch.Generator().manual_seed(seed))
    loss = (torch.nn.functional.normalize(features, dim=-1) * weights).sum()
    return torch.autograd.grad(loss, adaptation.parameters(), allow_unused=True)


def assert_same_gradients(found, expected):
    for one, other in zip(found, expected, strict=True):
        assert (one is None) == (other is None)
        if one is not None:
            assert (one - other).norm() <= 1e-4 * other.norm() + 1e-6


@settings(max_examples=15, deadline=None)
@given(sentences=SENTENCES)
def test_prompts_that_share_their_beginning_get_the_same_features(changed, sentences):
    backbone, adaptation, merged = changed
    tokens = backbone.tokenize(sentences)
    encode = text_encoder(install(backbone.skeleton(), adaptation), tokens, adaptation)
    features = encode()
    torch.testing.assert_close(features, merged.encode_text(tokens), rtol=1e-4, atol=1e-4)
    distinct = {tuple(row[:i]) for row in tokens.tolist() for i in range(1, row.index(49407) + 2)}
    assert encode.n_tokens == len(distinct)

    plain = install(backbone.skeleton(), adaptation)
    expected = gradients(adaptation, plain.encode_text(tokens))
    assert_same_gradients(gradients(adaptation, features), expected)


def test_other_prompts_can_be_arranged(changed):
    backbone, adaptation, merged = changed
    first, second = backbone.tokenize(["a cat", "a dog"]), backbone.tokenize(["one", "two", "six"])
    encode = text_encoder(install(backbone.skeleton(), adaptation), first, adaptation)
    for tokens in (second, first):
        encode.arrange(tokens)
        torch.testing.assert_close(encode(), merged.encode_text(tokens), rtol=1e-4, atol=1e-4)


def test_a_tree_of_prompts():
    tokens = torch.tensor([[1, 5, 9, 0], [1, 5, 7, 9], [1, 9, 0, 0], [1, 5, 9, 0]])
    tree = PromptTree.of(tokens, tokens.argmax(dim=1))
    beginnings = [(1,), (1, 5), (1, 9), (1, 5, 9), (1, 5, 7), (1, 5, 7, 9)]
    assert sorted(zip(tree.depth.tolist(), tree.token.tolist(), strict=True)) == sorted(
        (len(b) - 1, b[-1]) for b in beginnings
    )
    assert tree.ends[0] == tree.ends[3] != tree.ends[2]
    ends = (tree.depth[tree.ends].tolist(), tree.token[tree.ends].tolist())
    assert ends == ([2, 3, 1, 2], [9, 9, 9, 9])


LETTERS = st.lists(st.lists(st.sampled_from("abc"), max_size=30), min_size=1, max_size=40)


@settings(max_examples=50, deadline=None)
@given(prompts=LETTERS)
def test_every_beginning_sees_what_it_begins_with(prompts):
    """The tree's attention, read back as text: each query with the keys that it is allowed."""
    rows = [[1, *map(ord, prompt), 999] for prompt in prompts]
    tokens = torch.zeros(len(rows), max(map(len, rows)), dtype=torch.long)
    for row, prompt in zip(tokens, rows, strict=True):
        row[: len(prompt)] = torch.tensor(prompt)
    tree = PromptTree.of(tokens, tokens.argmax(dim=1))

    def seen(attention):
        allowed, found = attention.allowed[:, 0].flatten(0, 1), []
        for place in attention.place.tolist():
            keys = attention.keys[place // attention.queries.shape[1]][allowed[place]]
            assert len(keys.unique()) == len(keys)
            found.append(tuple(tree.token[keys[tree.depth[keys].argsort()]].tolist()))
        return found

    assert seen(tree.of_ends) == [tuple(row) for row in rows]
    distinct = {tuple(row[: i + 1]) for row in rows for i in range(len(row))}
    assert len(tree.token) == len(distinct)
    assert set(seen(tree.of_nodes)) == distinct


def test_one_long_name_does_not_lengthen_all():
    names = [*open_clip.IMAGENET_CLASSNAMES[:200], "x " * 60]
    tokens = open_clip.tokenize([f"a photo of a {name}." for name in names])
    tree = PromptTree.of(tokens, tokens.argmax(dim=1))
    assert tree.of_nodes.queries.numel() < 2 * len(tree.token)
    assert tree.of_nodes.keys.numel() < 2.5 * len(tree.token)


def test_the_last_image_block_computes_what_is_read(changed):
    backbone, adaptation, merged = changed
    lean, plain = (install(backbone.skeleton(), adaptation) for _ in range(2))
    read_only_class_token(lean)
    pixels = torch.randn(5, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    shapes = []
    hook = lean.visual.ln_post.register_forward_hook(lambda *a: shapes.append(a[2].shape))
    features = lean.encode_image(pixels)
    hook.remove()
    assert shapes == [(5, 1, 128)]
    torch.testing.assert_close(features, merged.encode_image(pixels), rtol=1e-4, atol=1e-4)
    expected = gradients(adaptation, plain.encode_image(pixels))
    assert_same_gradients(gradients(adaptation, features), expected)


def test_remembered_blocks_train_as_published(photographs):
    """Only the last block of each tower, against a re-implementation that remembers nothing."""
    paths, labels = photographs
    clf = CLIPSVDClassifier(
        "tiny", max_steps=50, lr=5e-4, augment=False, layers=[-1], batch_size=len(paths)
    ).fit(paths, labels)
    model, transform = private_model("tiny")
    images, tokens = inputs(transform, paths, clf.classes_)
    targets = torch.from_numpy(np.searchsorted(clf.classes_, labels))
    everything = published.singular_values(published.factorise(model))
    last = {name: s for name, s in everything.items() if name.startswith(("image.5.", "text.2."))}
    losses = published.optimise(model, last.values(), images, tokens, targets, **SETTINGS)
    assert clf.singular_values_.keys() == last.keys()
    np.testing.assert_allclose(clf.loss_curve_, losses, rtol=1e-4)
    for name, values in last.items():
        error = (torch.from_numpy(clf.singular_values_[name]) - values).norm() / values.norm()
        assert error <= 1e-4, name


def counted_blocks(monkeypatch, fit):
    """How many times an image or text passes through each of the model's own blocks."""
    rows = []
    original = ResidualAttentionBlock.forward

    def forward(self, x, *args, **kwargs):
        rows.append(len(x))
        return original(self, x, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(ResidualAttentionBlock, "forward", forward)
        fit()
    return sum(rows)


def test_images_pass_frozen_blocks_once(monkeypatch, photographs):
    paths, labels = photographs
    # After the fit, images that nearly changed their class are looked at: how many depends.
    monkeypatch.setattr(SeenPredictions, "unchanged", lambda *_: None)

    def fitter(epochs, **parameters):
        clf = CLIPSVDClassifier(
            "tiny", epochs=epochs, layers=[-1], batch_size=4, random_state=0, **parameters
        )
        return lambda: clf.fit(paths, labels)

    def more(**parameters):
        few, many = (counted_blocks(monkeypatch, fitter(n, **parameters)) for n in (2, 5))
        return many - few

    assert more(augment=False) == 0
    assert more(augment=True) == 3 * len(paths) * 5  # five frozen blocks of the image tower


def test_a_validation_part_is_not_taken_for_the_training_part(photographs):
    paths, labels = photographs
    clf = CLIPSVDClassifier(
        "tiny", epochs=3, lr=0.05, augment=False, layers=[-1], batch_size=4, random_state=0
    )
    clf.fit(paths, labels, X_val=paths[::2], y_val=labels[::2])
    assert clf.validation_scores_[-1] == pytest.approx(clf.score(paths[::2], labels[::2]))
    flipped = np.where(labels == labels[0], labels[-1], labels[0])
    clf.fit(paths, labels, X_val=paths[1:], y_val=flipped[1:])
    assert clf.validation_scores_[-1] == pytest.approx(clf.score(paths[1:], flipped[1:]))


def test_dropout_is_drawn_for_every_prompt_of_its_own():
    backbone = load_backbone("tiny", None, CPU)
    prompts = build_prompts([["cat"], ["dog"]], "a photo of a {}.", backbone.tokenize)
    tokens = {}
    for dropout in (0.0, 0.25):
        targets, rng = find_targets(backbone.model)[:3], np.random.RandomState(0)
        adaptation = LowRankAdaptation.start(targets, 2, 1.0, dropout, rng, CPU)
        model = install(backbone.skeleton(), adaptation)
        tokens[dropout] = text_encoder(model, prompts.tokens, adaptation).n_tokens
    longest = int((open_clip.tokenize(["a photo of a cat."]) > 0).sum())
    assert tokens == {0.0: longest + 3, 0.25: 2 * longest}
