"""What a fit changed: singular values, and heads."""

from __future__ import annotations

import numpy as np
from torch import nn

from ..adaptation import find_targets
from ..adaptation.factors import decompose
from ..adaptation.heads import compare_heads, relative_change
from ..adaptation.targets import TOWERS
from ..classifiers import CLIPSVDClassifier, TrainedCLIPClassifier, frozen_and_adapted
from ..clip import Backbone
from ..frames import Table, table


def singular_value_changes(clf: CLIPSVDClassifier) -> Table:
    """List every trained singular value beside the frozen one.

    Parameters
    ----------
    clf : CLIPSVDClassifier
        Fitted.

    Returns
    -------
    changes : pandas.DataFrame, or list of dict where pandas is not installed
        One row per singular value, in the order of the model, with columns ``tower``, ``block``,
        ``matrix`` (``"q"``, ``"k"``, ``"v"``, ``"o"``, ``"fc"``, ``"proj"``, ...), ``index`` (0 is
        the largest frozen one), ``before``, ``after`` and ``relative_change``, which is ``(after
        - before) / before``; where `before` is zero it is 0.0 or infinite.

    Raises
    ------
    TypeError
        `clf` has no trained singular values.
    NotFittedError
        `clf` is not fitted.
    ValueError
        The frozen weights are not those that it was fitted on.

    References
    ----------
    .. [1] T. Koleilat, H. Rivaz, Y. Xiao, "Singular Value Few-shot Adaptation of Vision-Language
       Models", arXiv:2509.03740, 2025.

    Examples
    --------
    >>> from skclipsvd import CLIPSVDClassifier
    >>> from skclipsvd.datasets import load_handwritten_digits
    >>> from skclipsvd.inspection import singular_value_changes
    >>> paths, labels = load_handwritten_digits()
    >>> clf = CLIPSVDClassifier("tiny", max_steps=1, lr=0.01, augment=False)
    >>> changes = singular_value_changes(clf.fit(paths[:20], labels[:20]))
    >>> len(changes) == clf.n_parameters_tuned_
    True
    """
    if not isinstance(clf, CLIPSVDClassifier):
        raise TypeError(
            f"clf is a {type(clf).__name__}, which trains no singular values; "
            "singular_value_changes needs a CLIPSVDClassifier. head_changes(clf) compares the "
            "weights of every classifier that is tuned."
        )
    backbone, _ = frozen_and_adapted(clf)
    targets = [t for t in find_targets(backbone.model) if t.name in clf.singular_values_]
    factors = decompose(backbone, targets)
    sizes = [t.rank for t in targets]
    before = np.concatenate([factors[t.name].s.cpu().numpy() for t in targets])
    after = np.concatenate([clf.singular_values_[t.name] for t in targets])
    return table(
        {
            "tower": np.repeat([t.tower for t in targets], sizes).tolist(),
            "block": np.repeat([t.block for t in targets], sizes),
            "matrix": np.repeat([t.name.split(".", 2)[2] for t in targets], sizes).tolist(),
            "index": np.concatenate([np.arange(size) for size in sizes]),
            "before": before,
            "after": after,
            "relative_change": relative_change(after - before, before),
        }
    )


def head_changes(clf: TrainedCLIPClassifier, *, tower: str | None = None) -> Table:
    """Rank the attention heads by how much the fit changed them.

    A head enters a model through two products only: what it writes for what it reads, ``W_o[:,
    head] @ W_v[head]``, and what it looks at, ``W_q[head].T @ W_k[head]``. The change of each is
    the Frobenius norm of its difference divided by that of the frozen product, from the head's own
    rows and columns. Biases and norms are frozen and not part of either. Singular values belong to
    whole matrices: no part of a spectrum is a head's own.

    Parameters
    ----------
    clf : CLIPSVDClassifier or CLIPLoRAClassifier
        Fitted.
    tower : {"image", "text"}, optional
        Whose heads. By default those of every tower that has heads.

    Returns
    -------
    changes : pandas.DataFrame, or list of dict where pandas is not installed
        One row per head, largest change first, with columns ``tower``, ``block``, ``head``,
        ``value_output``, ``query_key`` and ``change``, the larger of the two.

    Raises
    ------
    TypeError
        `clf` is not a classifier that is tuned.
    NotFittedError
        `clf` is not fitted.
    ValueError
        A tower that has no separable heads (ResNet, ConvNeXt), no tower that has any, or frozen
        weights that are not those that `clf` was fitted on.

    References
    ----------
    .. [1] T. Koleilat, H. Rivaz, Y. Xiao, "Singular Value Few-shot Adaptation of Vision-Language
       Models", arXiv:2509.03740, 2025.
    .. [2] N. Elhage et al., "A Mathematical Framework for Transformer Circuits", 2021.

    Examples
    --------
    >>> from skclipsvd import CLIPSVDClassifier
    >>> from skclipsvd.datasets import load_handwritten_digits
    >>> from skclipsvd.inspection import head_changes
    >>> paths, labels = load_handwritten_digits()
    >>> clf = CLIPSVDClassifier("tiny", max_steps=1, lr=0.01, augment=False)
    >>> changes = head_changes(clf.fit(paths[:20], labels[:20]), tower="image")
    >>> len(changes)  # six blocks of four heads
    24
    """
    records = ranked_heads(clf, tower)
    return table({name: [record[name] for record in records] for name in records[0]})


def ranked_heads(clf: TrainedCLIPClassifier, tower: str | None) -> list[dict]:
    """Compute the rows of `head_changes`."""
    if tower not in (None, *TOWERS):
        raise ValueError(f"tower={tower!r}: choose 'image', 'text' or None for both.")
    backbone, adapted = frozen_and_tuned(clf)
    return compare_heads(backbone.model, adapted, tower)


def frozen_and_tuned(clf: TrainedCLIPClassifier) -> tuple[Backbone, nn.Module]:
    """Return what `frozen_and_adapted` does, of a classifier that changes weights.

    Raises
    ------
    TypeError
        It is none.
    NotFittedError, ValueError
        As there.
    """
    if not isinstance(clf, TrainedCLIPClassifier):
        raise TypeError(
            f"clf is a {type(clf).__name__}, which changes no weights; pass a fitted "
            "CLIPSVDClassifier or CLIPLoRAClassifier."
        )
    return frozen_and_adapted(clf)
