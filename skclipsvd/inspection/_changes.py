"""What a fit changed: singular values, and heads."""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.utils.validation import check_is_fitted
from torch import Tensor, nn

from .._tuned import TunedCLIPClassifier
from ..adaptation import find_targets
from ..adaptation.factors import decompose
from ..adaptation.targets import TOWERS
from ..classifiers import CLIPSVDClassifier
from ._heads import Heads, find_heads, tower_kinds
from ._tables import _table


def singular_value_changes(clf: CLIPSVDClassifier) -> Any:
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
    backbone, _ = _checked(clf)
    targets = [t for t in find_targets(backbone.model) if t.name in clf.singular_values_]
    factors = decompose(backbone, targets)
    sizes = [t.rank for t in targets]
    before = np.concatenate([factors[t.name].s.cpu().numpy() for t in targets])
    after = np.concatenate([clf.singular_values_[t.name] for t in targets])
    return _table(
        {
            "tower": np.repeat([t.tower for t in targets], sizes).tolist(),
            "block": np.repeat([t.block for t in targets], sizes),
            "matrix": np.repeat([t.name.split(".", 2)[2] for t in targets], sizes).tolist(),
            "index": np.concatenate([np.arange(size) for size in sizes]),
            "before": before,
            "after": after,
            "relative_change": _relative(after - before, before),
        }
    )


def head_changes(clf: TunedCLIPClassifier, *, tower: str | None = None) -> Any:
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
    return _table({name: [record[name] for record in records] for name in records[0]})


def ranked_heads(clf: TunedCLIPClassifier, tower: str | None) -> list[dict]:
    """Compute the rows of `head_changes`."""
    if tower not in (None, *TOWERS):
        raise ValueError(f"tower={tower!r}: choose 'image', 'text' or None for both.")
    if not isinstance(clf, TunedCLIPClassifier):
        raise TypeError(
            f"clf is a {type(clf).__name__}, which changes no weights; pass a fitted "
            "CLIPSVDClassifier or CLIPLoRAClassifier."
        )
    backbone, adapted = _checked(clf)
    return compare_heads(backbone.model, adapted, tower)


def compare_heads(frozen: nn.Module, adapted: nn.Module, tower: str | None = None) -> list[dict]:
    """Compare the heads of two models of one architecture, largest change first."""
    blocks = [heads for heads in find_heads(frozen) if tower in (None, heads.tower)]
    if not blocks:
        kinds = tower_kinds(frozen)
        asked = TOWERS if tower is None else (tower,)
        raise ValueError(
            " and ".join(f"the {name} tower ({kinds[name]})" for name in asked)
            + " has no blocks of separable attention heads; singular_value_changes(clf) describes "
            "what changed in any tower."
        )
    records = [record for heads in blocks for record in _compare_block(frozen, adapted, heads)]
    return sorted(records, key=lambda record: -record["change"])


def _compare_block(frozen: nn.Module, adapted: nn.Module, heads: Heads) -> list[dict]:
    q, k, v, o = ([heads.of(model, role) for model in (frozen, adapted)] for role in "qkvo")
    value_output, query_key = _change_of_product(o, v), _change_of_product(q, k)
    return [
        {
            "tower": heads.tower,
            "block": heads.block,
            "head": head,
            "value_output": float(value_output[head]),
            "query_key": float(query_key[head]),
            "change": float(max(value_output[head], query_key[head])),
        }
        for head in range(heads.n_heads)
    ]


def _change_of_product(left: list[Tensor], right: list[Tensor]) -> np.ndarray:
    """Compute ``|L1' R1 - L0' R0| / |L0' R0|`` of shape (n_heads,), without building a product.

    The difference is ``(L1 - L0)' R1 + L0' (R1 - R0)``, in which no two large numbers cancel, and
    the inner product of ``A' B`` and ``C' D`` is that of ``A C'`` and ``B D'``, which are small.
    All are of shape (n_heads, head_width, width).
    """
    (l0, l1), (r0, r1) = left, right
    dl, dr = l1 - l0, r1 - r0
    squared = _inner(dl, r1, dl, r1) + 2 * _inner(dl, r1, l0, dr) + _inner(l0, dr, l0, dr)
    return _relative(np.sqrt(squared.clip(min=0)), np.sqrt(_inner(l0, r0, l0, r0)))


def _inner(a: Tensor, b: Tensor, c: Tensor, d: Tensor) -> np.ndarray:
    """Compute the inner products of ``A' B`` and ``C' D``, of shape (n_heads,)."""
    products = (a @ c.transpose(1, 2)) * (b @ d.transpose(1, 2))
    return products.double().sum(dim=(1, 2)).numpy()


def _relative(difference: np.ndarray, start: np.ndarray) -> np.ndarray:
    """Divide by the start; no change of nothing is 0, a change of nothing is infinite."""
    infinite = np.copysign(np.inf, difference)
    from_zero = np.where(difference == 0, 0.0, infinite).astype(difference.dtype)
    return np.divide(difference, start, out=from_zero, where=start != 0)


def _checked(clf: Any) -> tuple:
    """Return the backbone and the adapted model of a fitted classifier."""
    check_is_fitted(clf)
    backbone = clf._load_backbone()
    return backbone, clf._checked_model(backbone)
