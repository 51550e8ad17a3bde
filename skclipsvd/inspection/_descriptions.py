"""What the heads that changed most are about, in words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from numbers import Integral

import numpy as np
from numpy.typing import NDArray

from ..adaptation.heads import compare_heads
from ..classifiers import TrainedCLIPClassifier
from ..clip import Backbone
from ..frames import Table, table
from ..images import Images, Item, as_items, check_exist, decoding_threads, iterate, normalise
from ._changes import frozen_and_tuned
from .contributions import Tower, leading_directions, split, splittable_image_tower
from .phrases import as_concepts, embed_phrases
from .pursuit import centred_units, describe_direction, text_span

_N_DIRECTIONS = 3


def describe_heads(
    clf: TrainedCLIPClassifier,
    texts: str | Sequence[str] = "general",
    X: Images | None = None,
    *,
    n_heads: int = 5,
    n_texts: int = 5,
    n_directions: int | None = None,
) -> Table:
    """Describe the image tower's most changed heads by the texts that their outputs resemble.

    With images, by what the adapted heads write for them: TextSpan [1]_ chooses the texts that
    greedily explain most of the outputs' variance. Without, by the weights alone: the leading left
    singular vectors of a head's value-output matrix, through the last norm and the projection, are
    written as sparse non-negative mixtures of texts, in the manner of SITH [2]_.

    The texts are embedded by the frozen text tower: the adapted one was tuned for the class names
    only, and what it makes of other words means nothing. From all text embeddings their
    mean is subtracted, which says only that they are texts.

    Parameters
    ----------
    clf : CLIPSVDClassifier or CLIPLoRAClassifier
        Fitted.
    texts : {"general", "biomedical"} or sequence of str, default="general"
        Phrases to describe heads with: a list of the package, or your own.
    X : sequence of n_images images, optional
        Two or more; the more, and the more like those of the application, the better.
    n_heads : int, default=5
        How many heads to describe, of those that changed, largest change first.
    n_texts : int, default=5
        How many texts for each description.
    n_directions : int, optional
        Without X: how many singular vectors of each head to describe, by default 3.

    Returns
    -------
    descriptions : pandas.DataFrame, or list of dict where pandas is not installed
        One row per text, with columns ``tower``, ``block``, ``head``, ``change`` (as in
        `head_changes`), ``rank`` (1 was chosen first), ``text``, ``explained`` and
        ``description`` (all texts in one line). `explained` is the share that this text and those
        before it explain: of the variance of the head's outputs, or of the singular vector's
        squared length. Without X also ``direction`` (1 is the leading one), ``strength`` (its
        share of the head's squared singular values) and ``weight`` (of the text in the mixture).

    Raises
    ------
    TypeError
        `clf` is not a classifier that is tuned.
    NotFittedError
        `clf` is not fitted.
    ValueError
        No head of the image tower changed, an image tower that cannot be split exactly, an unknown
        list of texts, or numbers out of their range.

    Notes
    -----
    A description is what a head's outputs resemble most among the given texts, with the share that
    it explains beside it; a small share says that the texts do not describe this head.

    References
    ----------
    .. [1] Y. Gandelsman, A. A. Efros, J. Steinhardt, "Interpreting CLIP's Image Representation via
       Text-Based Decomposition", arXiv:2310.05916, 2023.
    .. [2] F. Gentile, N. Dall'Asen, F. Tonini, M. Mancini, L. Vaquero, E. Ricci, "From Weights to
       Concepts: Data-Free Interpretability of CLIP via Singular Vector Decomposition",
       arXiv:2603.24653, 2026.

    Examples
    --------
    >>> from skclipsvd import CLIPSVDClassifier
    >>> from skclipsvd.datasets import load_handwritten_digits
    >>> from skclipsvd.inspection import describe_heads
    >>> paths, labels = load_handwritten_digits()
    >>> clf = CLIPSVDClassifier("tiny", max_steps=2, lr=0.01, augment=False, random_state=0)
    >>> clf = clf.fit(paths[:20], labels[:20])
    >>> found = describe_heads(clf, ["red", "blue", "circle", "square"], n_heads=2, n_texts=2)
    >>> sorted(set(found["direction"]))
    [1, 2, 3]
    """
    for name, value in (("n_heads", n_heads), ("n_texts", n_texts), ("n_directions", n_directions)):
        if name == "n_directions" and value is None:
            continue
        if not isinstance(value, Integral) or isinstance(value, bool) or value < 1:
            raise ValueError(f"{name}={value!r} must be an integer of 1 or more.")
    phrases = as_concepts(texts)
    items = _items(X, n_directions)
    heads, backbone, tower = _changed_heads(clf, n_heads)
    units, mean = centred_units(embed_phrases(phrases, backbone))
    if items is None:
        rows = [
            row
            for head in heads
            for row in _by_weights(tower, head, phrases, units, mean, n_texts, n_directions)
        ]
    else:
        outputs = _outputs(clf, backbone, tower, heads, items)
        rows = [
            row
            for i, head in enumerate(heads)
            for row in _by_outputs(outputs[:, i], head, phrases, units, n_texts)
        ]
    return table({name: [row[name] for row in rows] for name in rows[0]})


def _items(X: Images | None, n_directions: int | None) -> list[Item] | None:
    if X is None:
        return None
    if n_directions is not None:
        raise ValueError(
            "n_directions is for descriptions of the weights; with images (X) every text is a "
            "direction of its own: leave it out, or pass X=None."
        )
    items = as_items(X)
    if len(items) < 2:
        raise ValueError("X has one image; outputs vary over two or more.")
    check_exist(items)
    return items


def _changed_heads(clf: TrainedCLIPClassifier, n_heads: int) -> tuple[list[dict], Backbone, Tower]:
    backbone, adapted = frozen_and_tuned(clf)
    tower = splittable_image_tower(replace(backbone, model=adapted).skeleton())
    changed = [h for h in compare_heads(backbone.model, adapted, "image") if h["change"] > 0]
    if not changed:
        raise ValueError(
            "no head of the image tower changed: fit for one step or more, with 'image' in towers "
            "and one of q, k, v and o in matrices."
        )
    return changed[:n_heads], backbone, tower


def _by_weights(
    tower: Tower,
    head: dict,
    phrases: Sequence[str],
    units: NDArray,
    mean: NDArray,
    n_texts: int,
    n_directions: int | None,
) -> list[dict]:
    directions, values = leading_directions(tower, head["block"], head["head"])
    strengths = values**2 / (values**2).sum()
    rows = []
    for i in range(min(n_directions or _N_DIRECTIONS, len(strengths))):
        chosen = describe_direction(directions[:, i], units, mean, n_texts)
        words = ", ".join(phrases[index] for index, _, _ in chosen)
        rows += [
            {
                **_place(head),
                "direction": i + 1,
                "strength": float(strengths[i]),
                "rank": rank,
                "text": phrases[index],
                "weight": weight,
                "explained": explained,
                "description": f"{_name(head)}, direction {i + 1}: {words}",
            }
            for rank, (index, weight, explained) in enumerate(chosen, start=1)
        ]
    return rows


def _outputs(
    clf: TrainedCLIPClassifier,
    backbone: Backbone,
    tower: Tower,
    heads: Sequence[dict],
    items: Sequence[Item],
) -> NDArray[np.float32]:
    """Compute what heads write for images: (n_images, n_heads, n_features)."""
    wanted = {(h["block"], h["head"]): i for i, h in enumerate(heads)}
    listed = [(wanted.get((c.block, c.head)), i) for i, c in enumerate(tower.components)]
    columns = [i for place, i in sorted(pair for pair in listed if pair[0] is not None)]
    batches, device = [], backbone.device
    for batch in iterate(
        items, backbone.preprocess, decoding_threads(clf.n_jobs), clf.batch_size, device=device
    ):
        pixels = normalise(batch, backbone.preprocess, device)
        batches.append(split(tower, pixels).contributions[:, columns].cpu().numpy())
    return np.concatenate(batches)


def _by_outputs(
    outputs: NDArray, head: dict, phrases: Sequence[str], units: NDArray, n_texts: int
) -> list[dict]:
    chosen = text_span(outputs, units, n_texts)
    words = ", ".join(phrases[index] for index, _ in chosen)
    return [
        {
            **_place(head),
            "rank": rank,
            "text": phrases[index],
            "explained": explained,
            "description": f"{_name(head)}: {words}",
        }
        for rank, (index, explained) in enumerate(chosen, start=1)
    ]


def _place(head: dict) -> dict:
    return {name: head[name] for name in ("tower", "block", "head", "change")}


def _name(head: dict) -> str:
    return f"{head['tower']} block {head['block']}, head {head['head']}"
