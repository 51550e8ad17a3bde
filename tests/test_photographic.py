"""The tool that builds the photographic backbone: what it reads, and its algebra."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

TOOLS = str(Path(__file__).parents[1] / "tools")

# An excerpt in the format of wndb(5WN), written for this test.
DATA = """\
  1 The licence stands here, indented.
00000010 03 n 01 entity 0 002 ~ 00000020 n 0000 ~ 00000050 n 0000 | whatever there is
00000020 13 n 02 vegetable 0 veggie 0 001 @ 00000010 n 0000 | edible part of a plant; "eat it"
00000030 13 n 01 bell_pepper 0 001 @ 00000020 n 0000 | large mild crisp fruit
00000040 13 n 01 carrot 0 001 @ 00000020 n 0000 | orange root, crisp when raw
00000050 06 n 01 box 0 001 @ 00000010 n 0000 | container with a lid
00000060 06 n 01 carton 0 001 @ 00000050 n 0000 | container made of cardboard
00000070 13 n 01 cardboard 0 001 @ 00000010 n 0000 | stiff material of pulp
00000080 06 n 01 Old_Box 0 001 @i 00000060 n 0000 | a particular container
"""
INDEX = """\
  1 The licence stands here, indented.
bell_pepper n 1 1 @ 1 0 00000030
box n 2 1 @ 2 1 00000050 00000020
cardboard n 1 1 @ 1 0 00000070
carrot n 1 1 @ 1 0 00000040
carton n 1 1 @ 1 0 00000060
vegetable n 1 1 @ 1 0 00000020
"""


@pytest.fixture
def tools(monkeypatch):
    monkeypatch.syspath_prepend(TOOLS)
    yield
    for name in ("wordnet_nouns", "imagenet_concepts", "photographic_algebra"):
        sys.modules.pop(name, None)


@pytest.fixture
def nouns(tools, tmp_path):
    from wordnet_nouns import Nouns

    (tmp_path / "data.noun").write_text(DATA)
    (tmp_path / "index.noun").write_text(INDEX)
    (tmp_path / "noun.exc").write_text("leaves leaf\n")
    return Nouns(tmp_path)


def test_synsets_and_senses_are_read(nouns):
    vegetable = nouns.synsets[20]
    assert vegetable.names == ("vegetable", "veggie")
    assert vegetable.hypernyms == (10,)
    assert vegetable.definition == "edible part of a plant"
    assert nouns.senses["bell pepper"] == [30]
    assert nouns.senses["box"] == [50, 20]
    assert [o for o, s in nouns.synsets.items() if s.is_instance] == [80]


def test_ancestors_come_with_their_distance(nouns):
    assert nouns.ancestors(30) == {30: 0, 20: 1, 10: 2}


@pytest.mark.parametrize(
    ("word", "plural"),
    [
        ("bell pepper", "bell peppers"),
        ("box", "boxes"),
        ("cherry", "cherries"),
        ("toy", "toys"),
        ("bay leaf", "bay leaves"),
    ],
)
def test_plurals(nouns, word, plural):
    assert nouns.plural(word) == plural


def test_words_mean_the_classes_at_below_above_or_beside_them(nouns):
    from imagenet_concepts import Concepts

    pepper, carton = 0, 1
    concepts = Concepts(nouns, [30, 60])
    shares = {word: concepts.of_word(word).toarray()[0] for word in nouns.senses}
    assert shares["bell pepper"].tolist() == [1, 0]
    assert shares["vegetable"].tolist() == [1, 0]
    assert concepts.of_synset(80).toarray().tolist() == [[0, 1]]  # a carton, though not a class
    assert shares["carrot"][pepper] > 0.9  # shares "vegetable" and "crisp" with it
    assert shares["cardboard"][carton] > 0.9  # stands in its definition
    assert shares["box"][carton] > shares["box"][pepper] > 0  # the first sense counts more
    np.testing.assert_allclose([row.sum() for row in shares.values()], 1)


@settings(max_examples=20, deadline=None)
@given(st.integers(2, 9), st.integers(1, 12), st.integers(0, 99))
def test_the_head_keeps_the_centred_logits(n_classes, n_features, seed):
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(TOOLS)
        from photographic_algebra import projection
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(n_classes, n_features, generator=generator)
    bias = torch.randn(n_classes, generator=generator)
    features = torch.randn(5, n_features, generator=generator)
    # The bias may lie outside of what the weights span; a spare feature of 1 would not change that.
    rank = min(n_classes, n_features)
    head_weight, head_bias, classes = projection(weight, bias, rank)
    embeddings = features @ head_weight.T + head_bias
    assert head_weight.shape == (rank + 1, n_features)
    assert (embeddings[:, -1] == 0).all()
    logits = features @ weight.T + bias
    centred = logits - logits.mean(1, keepdim=True)
    seen = centred @ classes @ classes.T
    torch.testing.assert_close(embeddings[:, :rank] @ classes.T, seen, rtol=1e-4, atol=1e-4)
    if n_features >= n_classes:  # then nothing is cut off
        torch.testing.assert_close(seen, centred, rtol=1e-4, atol=1e-4)


def test_texts_of_many_classes_are_shorter_than_of_one(tools):
    from photographic_algebra import text_targets

    classes = torch.eye(8)[:, :8]
    shares = torch.zeros(3, 8)
    shares[0, 3] = 1
    shares[1, :4] = 1 / 4
    shares[2] = 1 / 8
    targets = text_targets(shares, classes)
    torch.testing.assert_close(targets.norm(dim=1), torch.ones(3))
    assert targets[0].tolist() == [0, 0, 0, 1, 0, 0, 0, 0, 0]
    # One class: 1. Four: between their mean, 1/4, and a unit vector, 1/2.
    torch.testing.assert_close(targets[1, :4], torch.full((4,), 4**0.25 / 4))
