"""A logistic regression on the adapted embeddings, that answers beside the class texts."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from torch import nn

from ..progress import phase
from ..training import SeveralLabels
from ._outcome import FitOutcome

# Fitted attributes: a vector and a number per class.
HEAD_ARRAYS = ("head_coef_", "head_intercept_")
# Inverse strength of the penalty, for embeddings of unit length. benchmarks/heads.py chose it.
_C = 10.0
_MAX_ITER = 1000
# Its share of the answer is the loss before the first step over a guess's, within these: where the
# texts know the classes it has half, and most where they know nothing.
_WEIGHTS = (0.5, 0.8)


def fit_head(outcome: FitOutcome, model: nn.Module, ignorance: float) -> dict[str, Any]:
    """Fit a logistic regression on what a fit's model sees of its training images.

    Parameters
    ----------
    outcome : FitOutcome
        The training, at its end.
    model : torch.nn.Module
        The merged model that is kept.
    ignorance : float
        The loss before the first step over that of a guess.

    Returns
    -------
    fitted : dict of str to value
        Float32 arrays ``"head_coef_"`` of shape (n_classes, n_features) and ``"head_intercept_"``
        of shape (n_classes,): ``embedding @ coef.T + intercept`` are log-probabilities but for a
        constant. And ``"head_weight_"``, its share of the answer.

    Raises
    ------
    FloatingPointError
        The model gives no finite embedding of an image.
    """
    task = outcome.task
    n_images = len(task.labels)
    with phase(f"fitting the head to {n_images} embeddings", n_images, "image") as bar:
        embeddings = outcome.embeddings(model, bar.advance).astype(np.float64)
        weights = np.ones(n_images) if task.weights is None else task.weights
        if isinstance(task.objective, SeveralLabels):
            found = _of_labels(
                embeddings, task.labels, task.objective.weighed(task.labels, weights)
            )
        else:
            found = _of_classes(embeddings, task.labels, weights, task.prompts.n_classes)
    # Contiguous, as they come back from a file: else scores would differ in their last bits.
    arrays = (np.ascontiguousarray(array, dtype=np.float32) for array in found)
    share = float(np.clip(ignorance, *_WEIGHTS))
    return {**dict(zip(HEAD_ARRAYS, arrays, strict=True)), "head_weight_": share}


def _of_classes(
    embeddings: NDArray, labels: NDArray, weights: NDArray, n_classes: int
) -> tuple[NDArray, NDArray]:
    """Fit one regression of all classes, of which each image shows one."""
    regression = LogisticRegression(C=_C, max_iter=_MAX_ITER)
    # In three parts each: scikit-learn takes few images of many classes for a mistake.
    parts = 3 if len(labels) < 2 * n_classes else 1
    rows = np.tile(np.arange(len(labels)), parts)
    regression.fit(embeddings[rows], labels[rows], weights[rows] / parts)
    coef, intercept = regression.coef_, regression.intercept_
    if len(coef) == 1:  # of two classes, scikit-learn gives the second one's lead
        coef, intercept = np.vstack([-coef, coef]) / 2, np.append(-intercept, intercept) / 2
    return coef, intercept


def _of_labels(embeddings: NDArray, targets: NDArray, weights: NDArray) -> tuple[NDArray, NDArray]:
    """Fit one regression for each label; one that all or no images have gets its frequency."""
    having = (weights * targets).sum(axis=0)
    intercept = np.log(having + 0.5) - np.log(weights.sum(axis=0) - having + 0.5)
    coef = np.zeros((targets.shape[1], embeddings.shape[1]))
    for label in np.flatnonzero(targets.min(axis=0) < targets.max(axis=0)):
        regression = LogisticRegression(C=_C, max_iter=_MAX_ITER)
        regression.fit(embeddings, targets[:, label], weights[:, label])
        coef[label], intercept[label] = regression.coef_[0], regression.intercept_[0]
    return coef, intercept
