"""Few-shot sampling and splitting, base and novel classes, duplicates across a split."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from numbers import Integral, Real
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.model_selection import BaseCrossValidator
from sklearn.utils import check_array, check_consistent_length, column_or_1d
from sklearn.utils.multiclass import check_classification_targets

from .frames import Table, table

_Positions = NDArray[np.int64]
RandomState = int | np.random.RandomState | None

__all__ = [
    "FewShotSplit",
    "base_novel_split",
    "find_duplicates",
    "harmonic_mean_score",
    "sample_shots",
]

# As many rows of similarities are held at a time.
_BLOCK = 1024


def sample_shots(
    y: ArrayLike,
    n_shots: int,
    *,
    random_state: RandomState = None,
    groups: ArrayLike | None = None,
    replace: bool = False,
) -> NDArray[np.int64]:
    """Draw the same number of items from every class.

    Parameters
    ----------
    y : array-like of shape (n_samples,)
        The labels.
    n_shots : int
        How many items per class, at least 1.
    random_state : int or RandomState, optional
        The seed, at least 0. Without one, every call draws differently; NumPy's global generator is
        not touched. From a RandomState, one seed is taken.
    groups : array-like of shape (n_samples,), optional
        Which items belong together, for example the images of one patient. The shots of a class
        then come from as many groups as possible.
    replace : bool, default=False
        What to do with a class of fewer than `n_shots` items: an error, or (True) take every item
        once and then repeat them in a new order, again and again.

    Returns
    -------
    indices : ndarray, dtype int64
        The sorted positions in `y`: `n_shots` for every class.

    Raises
    ------
    ValueError
        A class has fewer than `n_shots` items and `replace` is False, or a parameter, `y` or
        `groups` is not as described.

    Notes
    -----
    Each item is given a key, the SHA-256 digest of the seed, its label as text and its rank among
    the items of its class; the items with the lowest keys are drawn. So

    * the draw depends on nothing but the arguments, on any machine, in any version of
      NumPy, whatever was drawn before;
    * the draw of a class does not depend on which other classes there are, nor on how
      the classes are interleaved in `y`;
    * draws are nested: with one seed, the items for 1 shot are among those for 2 shots,
      these among those for 4, and so on.

    Labels with the same text, such as 1 and "1", give the same draw. Published few-shot samples
    depended on hidden random state [1]_, which this avoids.

    References
    ----------
    .. [1] M. Farina, M. Mancini, G. Iacca and E. Ricci (2025). Rethinking Few-Shot
       Adaptation of Vision-Language Models in Two Stages. CVPR. https://arxiv.org/abs/2503.11609

    Examples
    --------
    >>> from skclipsvd.model_selection import sample_shots
    >>> y = ["cat", "dog", "cat", "cat", "dog", "dog", "dog", "cat"]
    >>> sample_shots(y, 1, random_state=1).tolist()
    [6, 7]
    >>> sample_shots(y, 2, random_state=1).tolist()
    [1, 2, 6, 7]
    """
    labels = _labels(y)
    check_count("n_shots", n_shots)
    of: NDArray | None = None
    if groups is not None:
        of = column_or_1d(groups)
        check_consistent_length(labels, of)
    return _draw(labels, np.arange(len(labels)), n_shots, _seed(random_state), of, replace)


class FewShotSplit(BaseCrossValidator):
    """Splitter that trains on a few items per class and tests on the others.

    Parameters
    ----------
    n_shots : int
        How many items of every class to train on, at least 1.
    n_splits : int, default=3
        How many splits, at least 1. Split ``i`` draws with the seed ``random_state + i``, so that
        ``n_splits=3, random_state=1`` are the seeds 1, 2 and 3 over which few-shot results are
        usually averaged.
    test : array-like of int or bool, optional
        The items to test on in every split: positions, or a mask over all items. The shots are
        drawn from the others. By default all that is not drawn is tested on.
    random_state : int or RandomState, optional
        The seed; see `sample_shots`.
    replace : bool, default=False
        Whether to repeat items of a class with fewer than `n_shots`, instead of raising an error;
        see `sample_shots`.

    See Also
    --------
    sample_shots : Draws the items to train on, and documents how.

    Notes
    -----
    If ``groups`` are given, no group is in both parts: items of a group in the test part are never
    drawn when `test` is given, and items of a group that was drawn from are left out of the test
    part otherwise.

    Examples
    --------
    >>> from skclipsvd.model_selection import FewShotSplit
    >>> X = [f"image{i}.png" for i in range(6)]
    >>> y = ["cat", "dog", "cat", "dog", "cat", "dog"]
    >>> for train, test in FewShotSplit(1, n_splits=2, random_state=1).split(X, y):
    ...     print(train, test)
    [1 2] [0 3 4 5]
    [4 5] [0 1 2 3]
    """

    # Ask for groups wherever metadata is routed, as scikit-learn's group splitters do.
    # It takes True as well as the text that the base class has.
    __metadata_request__split = {"groups": True}  # type: ignore[dict-item]

    def __init__(
        self,
        n_shots: int,
        n_splits: int = 3,
        *,
        test: ArrayLike | None = None,
        random_state: RandomState = None,
        replace: bool = False,
    ):
        self.n_shots = n_shots
        self.n_splits = n_splits
        self.test = test
        self.random_state = random_state
        self.replace = replace

    def split(
        self, X: Any, y: ArrayLike | None = None, groups: ArrayLike | None = None
    ) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
        """Generate the positions of the items to train and to test on.

        Parameters
        ----------
        X : sequence of length n_samples
            The items; only their number matters.
        y : array-like of shape (n_samples,)
            The labels.
        groups : array-like of shape (n_samples,), optional
            Which items must not be parted.

        Yields
        ------
        train : ndarray, dtype int64
            Sorted positions, `n_shots` for every class.
        test : ndarray, dtype int64
            Sorted positions.

        Raises
        ------
        ValueError
            There are too few items of a class, or none to test on.

        Examples
        --------
        >>> from skclipsvd.model_selection import FewShotSplit
        >>> y = ["cat", "dog", "cat", "dog", "cat", "dog"]
        >>> train, test = next(FewShotSplit(2, random_state=1).split(y, y))
        >>> len(train), len(test)
        (4, 2)
        """
        y = _labels(y)
        groups = None if groups is None else column_or_1d(groups)
        check_consistent_length(X, y, groups)
        check_count("n_shots", self.n_shots)
        test = None if self.test is None else _positions(self.test, len(y))
        pool = _without(np.arange(len(y)), test, groups)
        absent = np.setdiff1d(y, y[pool]).tolist()
        if absent:
            raise ValueError(
                f"No item of class {absent[0]!r} is left to train on ({len(absent)} such classes): "
                "all are in test, or in its groups."
            )
        seed = _seed(self.random_state)
        for i in range(self.get_n_splits()):
            train = _draw(y, pool, self.n_shots, seed + i, groups, self.replace)
            yield train, self._held_out(test, train, len(y), groups)

    @staticmethod
    def _held_out(
        test: _Positions | None, train: _Positions, n_samples: int, groups: NDArray | None
    ) -> _Positions:
        """Return what is tested on."""
        if test is None:
            test = _without(np.arange(n_samples), train, groups)
        if len(test) == 0:
            raise ValueError(
                "No item is left to test on: lower n_shots, or, if groups are given, make sure "
                "that some are not drawn from."
            )
        return test

    def get_n_splits(self, X: Any = None, y: Any = None, groups: Any = None) -> int:
        """Return the number of splits.

        Parameters
        ----------
        X, y, groups : object, optional
            Not used.

        Returns
        -------
        n_splits : int
            The number of splits.

        Raises
        ------
        ValueError
            `n_splits` is no whole number of at least 1.

        Examples
        --------
        >>> from skclipsvd.model_selection import FewShotSplit
        >>> FewShotSplit(1, n_splits=5).get_n_splits()
        5
        """
        return check_count("n_splits", self.n_splits)


def base_novel_split(y: ArrayLike, *, classes: ArrayLike | None = None) -> tuple[NDArray, NDArray]:
    """Halve the classes into base classes and novel classes.

    The first half of the classes is base; of an odd number, base gets one more. That is the
    protocol of CoCoOp [1]_: train on base classes, test on both separately.

    Parameters
    ----------
    y : array-like of shape (n_samples,)
        The labels.
    classes : array-like of shape (n_classes,), optional
        All the labels in the order to halve, for example the ``class_names`` of a published data
        set, whose numbering is not always alphabetical. By default the sorted labels.

    Returns
    -------
    base : ndarray of shape (ceil(n_classes / 2),)
        The base classes. Select their items with ``np.isin(y, base)``.
    novel : ndarray of shape (floor(n_classes / 2),)
        The novel classes.

    Raises
    ------
    ValueError
        There are fewer than two classes, or labels that are not among `classes`.

    References
    ----------
    .. [1] K. Zhou, J. Yang, C. C. Loy and Z. Liu (2022). Conditional Prompt Learning
       for Vision-Language Models. CVPR. https://arxiv.org/abs/2203.05557

    Examples
    --------
    >>> from skclipsvd.model_selection import base_novel_split
    >>> base, novel = base_novel_split(["dog", "cat", "owl", "cat"])
    >>> base.tolist(), novel.tolist()
    (['cat', 'dog'], ['owl'])
    """
    found = np.unique(_labels(y))
    if classes is None:
        order = found
    else:
        order = column_or_1d(classes)
        order = order[np.sort(np.unique(order, return_index=True)[1])]  # first mentions
        unknown = np.setdiff1d(found, order).tolist()
        if unknown:
            raise ValueError(f"y holds labels that are not among classes, first {unknown[:3]!r}.")
    if len(order) < 2:
        raise ValueError(f"Base and novel classes take at least two classes; got {len(order)}.")
    half = -(-len(order) // 2)
    return order[:half], order[half:]


def harmonic_mean_score(base: float, novel: float) -> float:
    """Return the harmonic mean of the accuracies on base and on novel classes.

    Parameters
    ----------
    base, novel : float
        The two accuracies, at least 0, in the same unit (fractions or percentages).

    Returns
    -------
    score : float
        ``2 * base * novel / (base + novel)``, and 0 if both are 0.

    Raises
    ------
    ValueError
        An accuracy is negative or not finite.

    Examples
    --------
    >>> from skclipsvd.model_selection import harmonic_mean_score
    >>> round(harmonic_mean_score(84.38, 76.29), 2)
    80.13
    """
    for name, value in (("base", base), ("novel", novel)):
        if not (isinstance(value, Real) and np.isfinite(value) and value >= 0):
            raise ValueError(f"{name} must be a finite number of at least 0; got {value!r}.")
    smaller, larger = sorted((base, novel))
    # Divided first: the product of very small numbers would be 0.
    return float(2 * smaller * (larger / (smaller + larger))) if larger else 0.0


def find_duplicates(
    embeddings: ArrayLike, others: ArrayLike | None = None, *, threshold: float = 0.98
) -> Table:
    """Find pairs of images that are equal or nearly so, by their embeddings.

    Pictures of one scene on both sides of a split make a score too good.

    Parameters
    ----------
    embeddings : array-like of shape (n_images, n_features)
        From `CLIPEncoder` or a classifier's `transform`, for example of the training images.
    others : array-like of shape (n_others, n_features), optional
        Of the same encoder, for example of the test images. By default pairs are looked for within
        `embeddings`.
    threshold : float, default=0.98
        The least cosine similarity of a pair, from -1 to 1. Equal pictures have 1, but for
        rounding; what near-equal ones and merely similar ones have differs between encoders, so
        look at the pairs around the threshold.

    Returns
    -------
    pairs : DataFrame, or list of dict without pandas
        One row per pair, the most similar first: "first", a position in `embeddings`; "second", one
        in `others`, or a later one in `embeddings`; and "similarity".

    Raises
    ------
    ValueError
        Not two tables of finite numbers of the same width, a row of zeros, or a `threshold` out of
        its range.

    Examples
    --------
    >>> from skclipsvd.model_selection import find_duplicates
    >>> train, test = [[1.0, 0.0], [0.0, 1.0]], [[0.0, 0.5], [0.7, 0.7]]
    >>> find_duplicates(train, test)
       first  second  similarity
    0      1       0         1.0
    """
    if not -1 <= threshold <= 1:
        raise ValueError(f"threshold={threshold!r} must be from -1 to 1.")
    first = _unit_rows("embeddings", embeddings)
    second = first if others is None else _unit_rows("others", others)
    if first.shape[1] != second.shape[1]:
        raise ValueError(
            f"embeddings have {first.shape[1]} features and others {second.shape[1]}; embed both "
            "with one encoder."
        )
    found: list[NDArray] = []
    for start in range(0, len(first), _BLOCK):
        similarities = first[start : start + _BLOCK] @ second.T
        if others is None:  # each pair once, and none with itself
            similarities[np.tril_indices_from(similarities, start)] = -np.inf
        rows, columns = np.nonzero(similarities >= threshold)
        found.append(np.column_stack([rows + start, columns, similarities[rows, columns]]))
    pairs = np.concatenate(found)
    pairs = pairs[np.argsort(-pairs[:, 2], kind="stable")]
    return table(
        {
            "first": pairs[:, 0].astype(np.int64),
            "second": pairs[:, 1].astype(np.int64),
            "similarity": pairs[:, 2],
        }
    )


def _unit_rows(name: str, embeddings: ArrayLike) -> NDArray[np.float64]:
    checked: NDArray = check_array(embeddings, dtype=np.float64, input_name=name)
    lengths = np.linalg.norm(checked, axis=1, keepdims=True)
    if not lengths.all():
        raise ValueError(f"{name}[{int(np.argmin(lengths))}] is all zeros, which has no direction.")
    return checked / lengths


def _labels(y: ArrayLike | None) -> NDArray:
    """Check the labels."""
    if y is None:
        raise ValueError("y is None; the labels are needed to draw the same number of each.")
    labels: NDArray = column_or_1d(y)
    if len(labels) == 0:
        raise ValueError("y holds no labels.")
    check_classification_targets(labels)
    return labels


def check_count(name: str, value: Any) -> int:
    """Raise ValueError for anything but an int of at least 1."""
    if not isinstance(value, Integral) or isinstance(value, bool) or value < 1:
        raise ValueError(f"{name} must be an int of at least 1; got {value!r}.")
    return int(value)


def _seed(random_state: RandomState) -> int:
    """Turn what scikit-learn calls a random state into a seed."""
    if random_state is None:
        entropy = np.random.SeedSequence().entropy
        assert isinstance(entropy, int)  # as where none is given
        return entropy
    if isinstance(random_state, np.random.RandomState):
        return int(random_state.randint(np.iinfo(np.int32).max))
    if isinstance(random_state, Integral) and random_state >= 0:
        return int(random_state)
    raise ValueError(
        "random_state must be an int of at least 0, a numpy.random.RandomState or None; "
        f"got {random_state!r}."
    )


def _positions(test: ArrayLike, n_samples: int) -> _Positions:
    """Turn a mask or a list of positions into sorted positions."""
    given: NDArray = column_or_1d(test)
    if given.dtype == bool:
        if len(given) != n_samples:
            raise ValueError(f"test is a mask of {len(given)} items, but there are {n_samples}.")
        return np.flatnonzero(given)
    if len(given) and not np.issubdtype(given.dtype, np.integer):
        raise ValueError(f"test must hold positions (int) or a mask (bool); got {given.dtype}.")
    wrong = given[(given < 0) | (given >= n_samples)]
    if len(wrong):
        raise ValueError(f"test holds position {wrong[0]}, but there are {n_samples} items.")
    return np.unique(given).astype(np.int64)


def _without(positions: _Positions, taken: _Positions | None, groups: NDArray | None) -> _Positions:
    """Leave out what is taken and whatever shares a group with it."""
    if taken is None:
        return positions
    if groups is None:
        return np.setdiff1d(positions, taken)
    return positions[~np.isin(groups[positions], groups[taken])]


def _draw(
    y: NDArray, pool: _Positions, n_shots: int, seed: int, groups: NDArray | None, replace: bool
) -> _Positions:
    """Draw from the items at the positions `pool`."""
    classes, codes = np.unique(y[pool], return_inverse=True)
    drawn = []
    for code, label in enumerate(classes.tolist()):
        members = pool[codes == code]
        if len(members) < n_shots and not replace:
            raise ValueError(
                f"Class {label!r} has {len(members)} items to draw from, but n_shots={n_shots}; "
                "pass replace=True to repeat items, or lower n_shots."
            )
        of_group = None if groups is None else groups[members].tolist()
        ranks = _first_ranks(len(members), n_shots, (seed, label), of_group)
        drawn.append(members[ranks])
    return np.sort(np.concatenate(drawn))


def _first_ranks(
    n_members: int, n_shots: int, stem: tuple[int, Any], groups: Sequence[Any] | None
) -> list[int]:
    """Return which items of a class come first, once more in each further round."""
    ranks = []
    for round_ in range(-(-n_shots // n_members)):
        keys = [_key(*stem, round_, rank) for rank in range(n_members)]
        order = sorted(range(n_members), key=keys.__getitem__)
        if groups is not None:
            order = _alternate(order, groups)
        ranks += order
    return ranks[:n_shots]


def _alternate(order: Sequence[int], groups: Sequence[Any]) -> list[int]:
    """Reorder so that every group has its turn before one has its next."""
    turns: dict[int, int] = {}
    seen: dict[Any, int] = {}
    for rank in order:
        turns[rank] = seen[groups[rank]] = seen.get(groups[rank], -1) + 1
    return sorted(order, key=turns.__getitem__)  # sorting is stable


def _key(*parts: Any) -> bytes:
    """Hash numbers and texts into what the draw is sorted by."""
    # The lengths keep ("a", "bc") apart from ("ab", "c").
    text = "".join(f"{len(str(part))}:{part}" for part in parts)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()
