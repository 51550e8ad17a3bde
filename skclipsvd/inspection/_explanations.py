"""Which tower, block and head the adaptation used to change one image's scores."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from ..classifiers import BaseCLIPClassifier, frozen_and_adapted, prompts_of
from ..clip import Backbone, Prompts
from ..frames import Table, table
from ..images import ImageLike, as_items, check_exist, decode_all, normalise, stack_views
from ..labels import plain
from .contributions import (
    Component,
    SplitEmbeddings,
    Tower,
    cut_to_longest_prompt,
    split,
    splittable_image_tower,
    splittable_text_tower,
)

# Prompts per pass: every block's input is kept until the last one is known.
_PROMPTS_PER_PASS = 32


@dataclass(frozen=True, eq=False, repr=False)
class Explanation:
    """What the adaptation did to one image's class scores, component by component.

    A component is what one part of a tower adds to the embedding: a head, an MLP, the output
    biases of one attention layer, the input embedding (of class token and position, or of the
    end-of-text token), or the bias of the last norm and projection.

    Attributes
    ----------
    classes : ndarray of shape (n_classes,)
        The labels.
    scores_before, scores_after : float32 ndarray of shape (n_classes,)
        Scores by the frozen and by the adapted model, ``logit_scale * cos + logit_bias``,
        and a label's intercept where images have several.
    components : pandas.DataFrame, or list of dict where pandas is not installed
        One row per component, image tower first: ``tower``, ``block``, ``head`` (missing where
        there is none) and ``kind`` (``"head"``, ``"mlp"``, ``"bias"`` or ``"embedding"``).
    changes : float32 ndarray of shape (n_components, n_classes)
        How much each component changed each score; a column adds up to ``scores_after -
        scores_before``.
    embedding : float32 ndarray of shape (n_features,)
        The image's embedding by the adapted model, before it is normalised.
    image_contributions : float32 ndarray of shape (n_image_components, n_features)
        What each component of the image tower adds to it; the sum is `embedding`.
    heat_map : float32 ndarray of shape (n_classes, grid_height, grid_width)
        What the image tower's heads read from each patch for each score of the adapted model.
    heat_map_rest : float32 ndarray of shape (n_classes,)
        What no patch has a part in: MLPs, biases, the input embedding, what heads read from the
        class token, and what is added to every score. With the sum of `heat_map` it is
        `scores_after`.

    See Also
    --------
    explain_prediction : Makes one.

    Examples
    --------
    >>> from skclipsvd import CLIPZeroShotClassifier
    >>> from skclipsvd.datasets import load_handwritten_digits
    >>> from skclipsvd.inspection import explain_prediction
    >>> paths, labels = load_handwritten_digits()
    >>> clf = CLIPZeroShotClassifier("tiny").fit(None, labels)
    >>> str(explain_prediction(clf, paths[0]).prediction)
    'zero'
    """

    classes: NDArray
    scores_before: NDArray[np.float32]
    scores_after: NDArray[np.float32]
    components: Table
    changes: NDArray[np.float32]
    embedding: NDArray[np.float32]
    image_contributions: NDArray[np.float32]
    heat_map: NDArray[np.float32]
    heat_map_rest: NDArray[np.float32]

    @property
    def prediction(self) -> Any:
        """The label that the adapted model predicts."""
        return self.classes[self.scores_after.argmax()]

    def table(self, label: Any = None) -> Table:
        """Rank the components by how much they changed one class's score, up or down.

        Parameters
        ----------
        label : object, optional
            One of `classes`; the prediction where None.

        Returns
        -------
        ranked : pandas.DataFrame, or list of dict where pandas is not installed
            The columns of `components`, and ``change``.

        Raises
        ------
        ValueError
            Not one of the classes.

        Examples
        --------
        >>> from skclipsvd import CLIPZeroShotClassifier
        >>> from skclipsvd.datasets import load_handwritten_digits
        >>> from skclipsvd.inspection import explain_prediction
        >>> paths, labels = load_handwritten_digits()
        >>> clf = CLIPZeroShotClassifier("tiny").fit(None, labels)
        >>> explanation = explain_prediction(clf, paths[0])
        >>> ranked = explanation.table("zero")
        >>> float(ranked["change"].abs().max())  # zero-shot nothing changes
        0.0
        """
        column = self.index(label)
        change = self.changes[:, column]
        order = np.argsort(-np.abs(change), kind="stable")
        if isinstance(self.components, list):
            return [{**self.components[i], "change": float(change[i])} for i in order]
        ranked = self.components.assign(change=change)
        return ranked.iloc[order].reset_index(drop=True)

    def index(self, label: Any = None) -> int:
        """Find the column of a label.

        Parameters
        ----------
        label : object, optional
            One of `classes`; the prediction where None.

        Returns
        -------
        column : int
            Its place in `classes`, and the column in `changes`.

        Raises
        ------
        ValueError
            Not one of the classes.

        Examples
        --------
        >>> from skclipsvd import CLIPZeroShotClassifier
        >>> from skclipsvd.datasets import load_handwritten_digits
        >>> from skclipsvd.inspection import explain_prediction
        >>> paths, labels = load_handwritten_digits()
        >>> clf = CLIPZeroShotClassifier("tiny").fit(None, labels)
        >>> explanation = explain_prediction(clf, paths[0])
        >>> clf.classes_.tolist().index("zero") == explanation.index()
        True
        """
        if label is None:
            return int(self.scores_after.argmax())
        found = np.flatnonzero(self.classes == label)
        if len(found) != 1:
            raise ValueError(
                f"label={plain(label)!r} is none of the classes {self.classes.tolist()!r}."
            )
        return int(found[0])

    def __repr__(self) -> str:
        i = self.index()
        scores = f"{self.scores_before[i]:.2f} -> {self.scores_after[i]:.2f}"
        return (
            f"Explanation(prediction={str(self.prediction)!r}, score {scores}, "
            f"{len(self.changes)} components, {len(self.classes)} classes)"
        )


def explain_prediction(clf: BaseCLIPClassifier, image: ImageLike) -> Explanation:
    """Say which heads, MLPs and patches the adaptation used to change an image's scores.

    An embedding is the sum of what the parts of its tower wrote into it, once attention weights and
    the last norm's mean and deviation are taken as they are for this very input. Frozen and adapted
    embeddings are split so, in both towers, and the change of a score is attributed by

        change(image . text) = change(image) . mean(text) + mean(image) . change(text)

    with `image` and `text` the unit vectors, `mean` over before and after. This is exact: nothing
    is left over, and no order of the towers is preferred. A class with several prompts has the
    normalised mean of their unit vectors, which is split likewise.

    A part is credited with the change of what it writes, whether its own weights changed or what it
    reads. The heat map is the part of each score that the heads of the image tower read directly
    from each patch [1]_; what MLPs, biases and the class token add is in no patch.

    Parameters
    ----------
    clf : CLIPSVDClassifier, CLIPLoRAClassifier or CLIPZeroShotClassifier
        Fitted. Zero-shot nothing changes, and the heat map is CLIP's own.
    image : str, Path, bytes, PIL image or uint8 array of shape (height, width, 3)
        One image.

    Returns
    -------
    explanation : Explanation
        Computed in float32, whatever `clf.precision` is.

    Raises
    ------
    TypeError
        `clf` is none of these classifiers, or `image` no image.
    NotFittedError
        `clf` is not fitted.
    ValueError
        A tower that cannot be split exactly, an image that cannot be decoded, or texts that are not
        those that `clf` was fitted with.

    References
    ----------
    .. [1] Y. Gandelsman, A. A. Efros, J. Steinhardt, "Interpreting CLIP's Image Representation via
       Text-Based Decomposition", arXiv:2310.05916, 2023.

    Examples
    --------
    >>> from skclipsvd import CLIPSVDClassifier
    >>> from skclipsvd.datasets import load_handwritten_digits
    >>> from skclipsvd.inspection import explain_prediction
    >>> paths, labels = load_handwritten_digits()
    >>> clf = CLIPSVDClassifier("tiny", max_steps=2, lr=0.01, augment=False)
    >>> explanation = explain_prediction(clf.fit(paths[:20], labels[:20]), paths[30])
    >>> explanation.heat_map.shape  # 10 classes, 4 x 4 patches
    (10, 4, 4)
    >>> moved = explanation.scores_after - explanation.scores_before
    >>> bool(abs(explanation.changes.sum(axis=0) - moved).max() < 1e-3)
    True
    """
    if not isinstance(clf, BaseCLIPClassifier):
        raise TypeError(f"clf is a {type(clf).__name__}; pass a fitted classifier of skclipsvd.")
    backbone, adapted = frozen_and_adapted(clf)
    models = [backbone.skeleton(), replace(backbone, model=adapted).skeleton()]
    image_towers = [splittable_image_tower(model) for model in models]
    text_towers = [splittable_text_tower(model) for model in models]

    pixels = _pixels(image, backbone)
    before, after = (split(tower, pixels, by_source=True) for tower in image_towers)
    units = [F.normalize(part.embedding[0], dim=0) for part in (before, after)]
    prompts = prompts_of(clf, backbone)
    texts = [
        _split_classes(model, tower, prompts, probe=(units[0] + units[1]) / 2)
        for model, tower in zip(models, text_towers, strict=True)
    ]
    _check_texts(clf, texts[1].features)

    scale = clf.logit_scale_
    added = clf.logit_bias_ + getattr(clf, "intercept_", np.zeros(len(clf.classes_)))
    bias = torch.from_numpy(added.astype(np.float32)).to(backbone.device)
    mean_text = (texts[0].features + texts[1].features) / 2
    image_changes = scale * (_unit_parts(after) - _unit_parts(before)) @ mean_text.T
    text_changes = scale * (texts[1].parts - texts[0].parts).T
    scores = [scale * t.features @ unit + bias for t, unit in zip(texts, units, strict=True)]
    heat_map, rest = _heat_map(image_towers[1], after, scale * texts[1].features, bias)
    components = image_towers[1].components + text_towers[1].components
    return Explanation(
        classes=clf.classes_.copy(),
        scores_before=scores[0].cpu().numpy(),
        scores_after=scores[1].cpu().numpy(),
        components=_component_table(components),
        changes=torch.cat([image_changes, text_changes]).cpu().numpy(),
        embedding=after.embedding[0].cpu().numpy(),
        image_contributions=after.contributions[0].cpu().numpy(),
        heat_map=heat_map.unflatten(1, models[1].visual.grid_size).cpu().numpy(),
        heat_map_rest=rest.cpu().numpy(),
    )


@dataclass(frozen=True, eq=False)
class _Classes:
    """Class texts, split.

    Attributes
    ----------
    features : Tensor of shape (n_classes, n_features)
        Unit length.
    parts : Tensor of shape (n_classes, n_components)
        Inner product of each component with the probe; the sum is ``features @ probe``.
    """

    features: Tensor
    parts: Tensor


def _split_classes(model: nn.Module, tower: Tower, prompts: Prompts, probe: Tensor) -> _Classes:
    """Split the class texts along one direction, which takes no memory per class and feature."""
    units, parts = [], []
    for tokens in cut_to_longest_prompt(model, tower, prompts.tokens).split(_PROMPTS_PER_PASS):
        chunk = split(tower, tokens)
        norm = chunk.embedding.norm(dim=-1, keepdim=True)
        units.append(chunk.embedding / norm)
        parts.append(chunk.contributions @ probe / norm)

    def add_up(rows: list[Tensor]) -> Tensor:
        per_pair = torch.cat(rows)[prompts.prompt]
        sums = per_pair.new_zeros(prompts.n_classes, per_pair.shape[1])
        return sums.index_add(0, prompts.owner, per_pair)

    sums = add_up(units)
    norm = sums.norm(dim=-1, keepdim=True)
    return _Classes(sums / norm, add_up(parts) / norm)


def _unit_parts(part: SplitEmbeddings) -> Tensor:
    """Return the components of the unit vector, of shape (n_components, n_features)."""
    return part.contributions[0] / part.embedding[0].norm()


def _heat_map(
    tower: Tower, after: SplitEmbeddings, weights: Tensor, bias: Tensor
) -> tuple[Tensor, Tensor]:
    """Split the scores into patches of shape (n_classes, n_patches) and the rest (n_classes,)."""
    norm = after.embedding[0].norm()
    assert after.by_source is not None  # it was asked for
    sources = weights @ after.by_source[0].T / norm
    others = [i for i, c in enumerate(tower.components) if c.kind != "head"]
    rest = weights @ after.contributions[0, others].sum(dim=0) / norm + sources[:, 0] + bias
    return sources[:, 1:], rest


def _pixels(image: ImageLike, backbone: Backbone) -> Tensor:
    items = as_items([image])
    check_exist(items)
    decoded = decode_all(items, backbone.preprocess, n_threads=1)
    return normalise(stack_views(decoded), backbone.preprocess, backbone.device)


def _check_texts(clf: BaseCLIPClassifier, features: Tensor) -> None:
    """Notice templates and class names that were set after the fit."""
    half = clf.precision in ("fp16", "bf16") or features.device.type == "cuda"
    if np.abs(features.cpu().numpy() - clf.text_features_).max() > (0.05 if half else 1e-3):
        raise ValueError(
            "templates and class_names are not those that clf.text_features_ was computed with. "
            "Set them back, or make a classifier for other texts with clf.with_classes(...)."
        )


def _component_table(components: list[Component]) -> Table:
    columns = zip(*components, strict=True)
    named = zip(Component._fields, map(list, columns), strict=True)
    return table(dict(named))
