"""A linear classifier with cosine logits, for embeddings that are already computed."""

from __future__ import annotations

from collections.abc import Mapping
from numbers import Integral, Real
from typing import Any, ClassVar, Literal, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import minimize
from scipy.special import expit, log_softmax, softmax
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils import check_array
from sklearn.utils.class_weight import compute_class_weight
from sklearn.utils.multiclass import check_classification_targets

# _check_sample_weight is private: there is no public check of weights.
from sklearn.utils.validation import _check_sample_weight, check_is_fitted, validate_data

from .exceptions import NotConvergedWarning, warn
from .labels import check_no_missing
from .validation import Interval, StrOptions, fit_context

__all__ = ["CosineClassifier"]

_Floats = NDArray[np.float64]


class CosineClassifier(ClassifierMixin, BaseEstimator):
    """Linear classifier with cosine logits, started from texts or from class means.

    The logit of class ``k`` for the embedding ``x`` is::

        logit_scale * cos(x, coef_[k]) + intercept_[k]

    which is how CLIP compares images with texts. Started from text features, the classifier is
    exactly zero-shot CLIP before the first iteration; training then moves the class vectors towards
    the given images, which is the second stage of two-stage few-shot adaptation [1]_. Without texts
    it starts from the class means.

    Training minimises the weighted mean of the cross-entropy plus ::

        alpha * mean_k(1 - cos(coef_[k], start_[k]) + intercept_[k]**2 / 2)

    with L-BFGS over all samples at once, so that nothing is random. The penalty holds the
    classifier to its start, an idea of [2]_ for doing without validation data.

    Parameters
    ----------
    init : array-like of shape (n_classes, n_features) or mapping, optional
        Where the class vectors start: an array of text features, one row for each of the sorted
        labels, or a mapping from label to vector (vectors of other labels are ignored). The length
        of a vector does not matter. By default the mean of the unit-length embeddings of each
        class.
    logit_scale : float, default=100.0
        The factor of the cosine, greater than 0. 100 is the bound that OpenAI's training of CLIP
        puts on it, and where its published models ended; the cosines between images and texts
        differ by a few hundredths, so a much smaller factor leaves all probabilities alike. Use
        ``exp`` of the ``logit_scale`` of other models.
    alpha : float, default=0.1
        The strength of the pull to the start, at least 0. It means the same for any number of
        samples and any scale of the weights.
    fit_intercept : bool, default=True
        Whether to learn a constant per class, which starts at 0. It carries unequal class
        frequencies and weights; directions alone can follow them only in part.
    class_weight : dict or "balanced", optional
        Weight per label, multiplied with the sample weights. "balanced" gives every class the same
        total.
    max_iter : int, default=1000
        The most iterations. 0 keeps the start as it is. Embeddings that can be told apart take a
        few dozen.
    tol : float, default=1e-4
        Training ends when no entry of the gradient is greater.

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
        The sorted labels.
    coef_ : ndarray of shape (n_classes, n_features), dtype float64
        The class vectors, of unit length, also when there are two classes.
    intercept_ : ndarray of shape (n_classes,), dtype float64
        What is added to the logits.
    start_ : ndarray of shape (n_classes, n_features), dtype float64
        The class vectors before training, of unit length.
    n_iter_ : int
        How many iterations were done.
    loss_ : float
        The value that was minimised, at the end.
    n_features_in_ : int
        The number of features.
    feature_names_in_ : ndarray of shape (n_features_in_,), dtype object
        The names of the features, if X had any.

    Notes
    -----
    The order of the samples does not matter, and a sample that weighs 2 is the same as two samples,
    to the last bit. A row of zeros has no direction: its cosine with everything is taken to be 0. A
    class all of whose samples weigh 0 starts opposite to the mean of the others. Everything is
    computed in float64.

    References
    ----------
    .. [1] M. Farina, M. Mancini, G. Iacca and E. Ricci (2025). Rethinking Few-Shot
       Adaptation of Vision-Language Models in Two Stages. CVPR. https://arxiv.org/abs/2503.11609
    .. [2] J. Silva-Rodriguez, S. Hajimiri, I. Ben Ayed and J. Dolz (2024). A Closer
       Look at the Few-Shot Adaptation of Large Vision-Language Models. CVPR.
       https://arxiv.org/abs/2312.12730

    Examples
    --------
    >>> import numpy as np
    >>> from skclipsvd.linear import CosineClassifier
    >>> images = np.array([[2.0, 0.1], [1.0, 0.2], [0.1, 1.0], [0.3, 3.0]])
    >>> labels = ["cat", "cat", "dog", "dog"]
    >>> texts = {"cat": [1.0, 0.8], "dog": [0.7, 1.0]}
    >>> zero_shot = CosineClassifier(init=texts, max_iter=0).fit(images, labels)
    >>> zero_shot.predict([[1.0, 0.9]])
    array(['cat'], dtype='<U3')
    >>> CosineClassifier(init=texts).fit(images, labels).score(images, labels)
    1.0
    """

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        "init": ["array-like", Mapping, None],
        "logit_scale": [Interval(Real, 0, None, closed="neither")],
        "alpha": [Interval(Real, 0, None, closed="left")],
        "fit_intercept": ["boolean"],
        "class_weight": [dict, StrOptions({"balanced"}), None],
        "max_iter": [Interval(Integral, 0, None, closed="left")],
        "tol": [Interval(Real, 0, None, closed="left")],
    }

    def __init__(
        self,
        *,
        init: ArrayLike | Mapping[Any, ArrayLike] | None = None,
        logit_scale: float = 100.0,
        alpha: float = 0.1,
        fit_intercept: bool = True,
        class_weight: Mapping[Any, float] | Literal["balanced"] | None = None,
        max_iter: int = 1000,
        tol: float = 1e-4,
    ):
        self.init = init
        self.logit_scale = logit_scale
        self.alpha = alpha
        self.fit_intercept = fit_intercept
        self.class_weight = class_weight
        self.max_iter = max_iter
        self.tol = tol

    @fit_context(prefer_skip_nested_validation=True)
    def fit(self, X: ArrayLike, y: ArrayLike, sample_weight: ArrayLike | None = None) -> Self:
        """Learn the class vectors.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            The embeddings, finite, of any length.
        y : array-like of shape (n_samples,)
            The labels, of at least two classes.
        sample_weight : array-like of shape (n_samples,), optional
            Weights, at least 0 and not all 0. A weight of 0 is as good as absent.

        Returns
        -------
        self : CosineClassifier
            This object, fitted.

        Raises
        ------
        ValueError
            A parameter, X, y, the weights or the start do not fit together.

        Warns
        -----
        NotConvergedWarning
            `max_iter` was reached before `tol`.

        Examples
        --------
        >>> from skclipsvd import CosineClassifier
        >>> X, y = [[2.0, 0.1], [1.0, 0.2], [0.1, 1.0], [0.3, 3.0]], ["cat", "cat", "dog", "dog"]
        >>> CosineClassifier().fit(X, y, sample_weight=[1, 1, 2, 2]).coef_.shape
        (2, 2)
        """
        if y is not None:
            check_no_missing(y, "y")
        X, y = validate_data(self, X, y, dtype=[np.float64, np.float32])
        check_classification_targets(y)
        classes, y = np.unique(y, return_inverse=True)
        if len(classes) < 2:
            raise ValueError(
                f"y holds one class only, {classes.tolist()[0]!r}; a classifier needs at least two."
            )
        X = _unit_rows(X)
        weights = _sample_weights(X, y, classes, sample_weight, self.class_weight)
        X, y, weights = _merge(X, y, weights)
        start = _starting_vectors(self.init, X, y, weights, classes)

        self.classes_ = classes
        self.start_ = start
        self._train(X, y, weights)
        return self

    def _train(self, X: _Floats, y: NDArray[np.int64], weights: _Floats) -> None:
        """Set the coefficients, the intercepts and how they came about."""
        problem = Objective(X, y, weights, self.start_, self.logit_scale, self.alpha)
        bias = np.zeros((len(self.start_), int(self.fit_intercept)))
        theta = np.hstack([self.start_, bias])
        self.n_iter_, self.loss_ = 0, float(problem(theta.ravel())[0])
        if self.max_iter:
            theta = self._minimise(problem, theta)
        n_features = X.shape[1]
        self.coef_ = _unit_rows(theta[:, :n_features])
        self.intercept_ = problem.bias_unit * theta[:, n_features:].sum(axis=1)

    def _minimise(self, problem: Objective, theta: _Floats) -> _Floats:
        result = minimize(
            problem,
            theta.ravel(),
            jac=True,
            method="L-BFGS-B",
            # Only the gradient decides, as in LogisticRegression; ftol stops what
            # rounding keeps from getting there.
            options={"maxiter": self.max_iter, "gtol": self.tol, "ftol": 64 * np.finfo(float).eps},
        )
        self.n_iter_, self.loss_ = int(result.nit), float(result.fun)
        if result.status == 1:
            warn(
                f"CosineClassifier did not converge in max_iter={self.max_iter} iterations; "
                "raise max_iter or tol, or ignore this if stopping early is the intention.",
                NotConvergedWarning,
            )
        return result.x.reshape(theta.shape)

    def _logits(self, X: ArrayLike) -> _Floats:
        check_is_fitted(self)
        X = validate_data(self, X, dtype=[np.float64, np.float32], reset=False)
        return self.logit_scale * (_unit_rows(X) @ self.coef_.T) + self.intercept_

    def decision_function(self, X: ArrayLike) -> NDArray[np.float64]:
        """Compute the logits.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            The embeddings.

        Returns
        -------
        scores : ndarray of shape (n_samples, n_classes) or (n_samples,), dtype float64
            The logits; with two classes, that of the second minus that of the first.

        Raises
        ------
        NotFittedError
            The classifier is not fitted.
        ValueError
            X is not finite, or has another number of features than in `fit`.

        Examples
        --------
        >>> from skclipsvd import CosineClassifier
        >>> X, y = [[2.0, 0.1], [1.0, 0.2], [0.1, 1.0], [0.3, 3.0]], ["cat", "cat", "dog", "dog"]
        >>> (CosineClassifier().fit(X, y).decision_function(X) > 0).tolist()
        [False, False, True, True]
        """
        logits = self._logits(X)
        return logits[:, 1] - logits[:, 0] if len(self.classes_) == 2 else logits

    def predict(self, X: ArrayLike) -> NDArray:
        """Predict the label with the highest logit.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            The embeddings.

        Returns
        -------
        labels : ndarray of shape (n_samples,)
            Labels out of ``classes_``.

        Raises
        ------
        NotFittedError
            The classifier is not fitted.
        ValueError
            X is not finite, or has another number of features than in `fit`.

        Examples
        --------
        >>> from skclipsvd import CosineClassifier
        >>> X, y = [[2.0, 0.1], [1.0, 0.2], [0.1, 1.0], [0.3, 3.0]], ["cat", "cat", "dog", "dog"]
        >>> CosineClassifier().fit(X, y).predict([[1.0, 0.3]]).tolist()
        ['cat']
        """
        scores = self.decision_function(X)
        index = scores.argmax(axis=1) if scores.ndim == 2 else (scores > 0).astype(int)
        return self.classes_[index]

    def predict_proba(self, X: ArrayLike) -> NDArray[np.float64]:
        """Compute the softmax of the logits.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            The embeddings.

        Returns
        -------
        probabilities : ndarray of shape (n_samples, n_classes), dtype float64
            Rows that sum to 1, columns in the order of ``classes_``.

        Raises
        ------
        NotFittedError
            The classifier is not fitted.
        ValueError
            X is not finite, or has another number of features than in `fit`.

        Examples
        --------
        >>> from skclipsvd import CosineClassifier
        >>> X, y = [[2.0, 0.1], [1.0, 0.2], [0.1, 1.0], [0.3, 3.0]], ["cat", "cat", "dog", "dog"]
        >>> CosineClassifier().fit(X, y).predict_proba([[1.0, 0.3]]).round(3).tolist()
        [[1.0, 0.0]]
        """
        scores = self.decision_function(X)
        if scores.ndim == 2:
            return softmax(scores, axis=1)
        return np.column_stack([expit(-scores), expit(scores)])


class Objective:
    """The objective and its gradient, as a function of one flat array.

    Each class has a row: a vector of any length, of which only the direction counts, and, if there
    is one, the intercept in units of sqrt(scale). The curvature of the loss grows with scale**2
    along a vector and not at all along an intercept; the square root halves that gap, and L-BFGS
    needs several times fewer iterations.
    """

    def __init__(
        self,
        X: _Floats,
        y: NDArray[np.int64],
        weights: _Floats,
        start: _Floats,
        scale: float,
        alpha: float,
    ):
        self.X, self.y = X, y
        self.weights = weights / weights.sum()
        self.start, self.scale, self.pull = start, scale, alpha / len(start)
        self.bias_unit = np.sqrt(scale)

    def __call__(self, flat: _Floats) -> tuple[float, _Floats]:
        n_classes, n_features = self.start.shape
        theta = flat.reshape(n_classes, -1)
        vectors, bias = theta[:, :n_features], theta[:, n_features:]
        lengths = _lengths(vectors)
        units = vectors / lengths

        logits = self.scale * (self.X @ units.T) + self.bias_unit * bias.sum(axis=1)
        log_p = log_softmax(logits, axis=1)
        rows = np.arange(len(self.y))
        penalty = np.sum(1 - (units * self.start).sum(axis=1))
        penalty += np.sum((self.bias_unit * bias) ** 2) / 2
        loss = -self.weights @ log_p[rows, self.y] + self.pull * penalty

        slope = np.exp(log_p)
        slope[rows, self.y] -= 1
        slope *= self.weights[:, None]
        gradient = np.empty_like(theta)
        towards = self.scale * (slope.T @ self.X) - self.pull * self.start
        # Only the part across a vector changes its direction.
        along = (towards * units).sum(axis=1, keepdims=True)
        gradient[:, :n_features] = (towards - along * units) / lengths
        by_bias = slope.sum(axis=0)[:, None] + self.pull * self.bias_unit * bias
        gradient[:, n_features:] = self.bias_unit * by_bias
        return loss, gradient.ravel()


def _lengths(vectors: _Floats) -> _Floats:
    """Return the length of each row as a column, 1 for a row of zeros."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.where(lengths > 0, lengths, 1.0)


def _unit_rows(vectors: ArrayLike) -> _Floats:
    """Scale every row to unit length; a row of zeros stays."""
    given = np.asarray(vectors, dtype=np.float64)
    # The largest entry first: squares of very large or small ones leave the range.
    largest = np.abs(given).max(axis=1, keepdims=True)
    scaled = given / np.where(largest > 0, largest, 1.0)
    return scaled / _lengths(scaled)


def _sample_weights(
    X: _Floats,
    y: NDArray[np.int64],
    classes: NDArray,
    sample_weight: ArrayLike | None,
    class_weight: Mapping[Any, float] | str | None,
) -> _Floats:
    """Multiply the weights of samples and classes."""
    weights = _check_sample_weight(sample_weight, X, dtype=np.float64, ensure_non_negative=True)
    if not weights.any():
        raise ValueError("sample_weight is 0 for every sample; at least one must be greater.")
    if isinstance(class_weight, str):  # "balanced"
        totals = np.bincount(y, weights, minlength=len(classes))
        per_class = weights.sum() / (len(classes) * np.where(totals > 0, totals, 1.0))
    else:
        per_class = compute_class_weight(class_weight, classes=classes, y=classes[y])
    if np.any(per_class < 0) or not np.any(weights * per_class[y]):
        raise ValueError(
            f"class_weight={class_weight!r} must be at least 0 for every class and leave "
            "at least one sample with a weight greater than 0."
        )
    return weights * per_class[y]


def _merge(
    X: _Floats, y: NDArray[np.int64], weights: _Floats
) -> tuple[_Floats, NDArray[np.int64], _Floats]:
    """Sort the samples, make one of equal ones, and leave out those without weight.

    L-BFGS multiplies differences in rounding by many orders of magnitude. So weighted and repeated
    samples have to be the same numbers in the same order from the beginning.
    """
    kept = weights > 0
    rows = np.column_stack([y[kept], X[kept]])
    rows, index = np.unique(rows, axis=0, return_inverse=True)
    sums = np.asarray(np.bincount(index.ravel(), weights[kept]), dtype=np.float64)
    return rows[:, 1:].copy(), rows[:, 0].astype(np.int64), sums


def _starting_vectors(
    init: ArrayLike | Mapping[Any, ArrayLike] | None,
    X: _Floats,
    y: NDArray[np.int64],
    weights: _Floats,
    classes: NDArray,
) -> _Floats:
    """Return unit vectors, one for each class."""
    if init is None:
        return _class_means(X, y, weights, len(classes))
    given: Any = init
    if isinstance(init, Mapping):
        missing = [label for label in classes.tolist() if label not in init]
        if missing:
            raise ValueError(
                f"init has no vector for {len(missing)} of the classes in y, first "
                f"{missing[:3]!r}; its keys are to be the labels."
            )
        given = [init[label] for label in classes.tolist()]
    vectors: _Floats = check_array(given, dtype=np.float64, input_name="init")
    if vectors.shape != (len(classes), X.shape[1]):
        raise ValueError(
            f"init has shape {vectors.shape}, but y holds {len(classes)} classes and X "
            f"{X.shape[1]} features: expected ({len(classes)}, {X.shape[1]}). If y may lack "
            "some classes, pass a mapping from label to vector."
        )
    empty = np.flatnonzero(~vectors.any(axis=1))
    if len(empty):
        raise ValueError(
            f"The init vector of class {classes.tolist()[empty[0]]!r} (row {empty[0]}) is all "
            "zeros, which is no direction to start from."
        )
    return _unit_rows(vectors)


def _class_means(X: _Floats, y: NDArray[np.int64], weights: _Floats, n_classes: int) -> _Floats:
    """Return the direction of the weighted mean of each class."""
    sums = np.zeros((n_classes, X.shape[1]))
    np.add.at(sums, y, weights[:, None] * X)
    absent = np.bincount(y, weights, minlength=n_classes) == 0
    # Nothing is known of a class without weight but that the samples are not of it.
    sums[absent] = -sums.sum(axis=0)
    # Opposite samples cancel out: any direction then serves, but it must be one.
    sums[~sums.any(axis=1)] = 1.0
    return _unit_rows(sums)
