"""A logistic regression on the adapted embeddings, whose answer is averaged with the texts'."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from torch import nn

from ..progress import phase
from ._outcome import FitOutcome

# Fitted attributes: a vector and a number per class.
HEAD_ARRAYS = ("head_coef_", "head_intercept_")
# Inverse strength of the penalty, for embeddings of unit length. benchmarks/heads.py chose it.
_C = 10.0
_MAX_ITER = 1000


def fit_head(outcome: FitOutcome, model: nn.Module) -> dict[str, NDArray[np.float32]]:
    """Fit a logistic regression on what a fit's model sees of its training images.

    Parameters
    ----------
    outcome : FitOutcome
        The training, at its end.
    model : torch.nn.Module
        The merged model that is kept.

    Returns
    -------
    fitted : dict of str to float32 array
        ``"head_coef_"`` of shape (n_classes, n_features) and ``"head_intercept_"`` of shape
        (n_classes,): ``embedding @ coef.T + intercept`` are log-probabilities but for a constant.

    Raises
    ------
    FloatingPointError
        The model gives no finite embedding of an image.
    """
    task = outcome.task
    n_images = len(task.labels)
    with phase(f"fitting the head to {n_images} embeddings", n_images, "image") as bar:
        embeddings = outcome.embeddings(model, bar.advance)
        regression = LogisticRegression(C=_C, max_iter=_MAX_ITER)
        regression.fit(embeddings.astype(np.float64), task.labels, sample_weight=task.weights)
    coef, intercept = regression.coef_, regression.intercept_
    if len(coef) == 1:  # of two classes, scikit-learn gives the second one's lead
        coef, intercept = np.vstack([-coef, coef]) / 2, np.append(-intercept, intercept) / 2
    # Contiguous, as they come back from a file: else scores would differ in their last bits.
    arrays = (np.ascontiguousarray(array, dtype=np.float32) for array in (coef, intercept))
    return dict(zip(HEAD_ARRAYS, arrays, strict=True))
