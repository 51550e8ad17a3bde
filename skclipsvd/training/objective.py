"""What the scores of an image say: which one class it shows, or which of several labels it has."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import expit, softmax
from torch import Tensor
from torch.nn import functional as F

# Halvings of the interval in which an intercept lies; float64 has no more digits.
_HALVINGS = 80


class Objective(ABC):
    """What scores of shape (n_images, n_classes) say, and how wrong they are."""

    def shifted(self, scores: Tensor) -> Tensor:
        """Return scores from the scaled similarities of images and texts."""
        return scores

    def fitted(self) -> dict[str, Any]:
        """Return the fitted attributes that it was calibrated to."""
        return {}

    @abstractmethod
    def losses(
        self, scores: Tensor, targets: Tensor, smoothing: float = 0.0, reduction: str = "none"
    ) -> Tensor:
        """Return the loss of each image, or with ``reduction="sum"`` that of all."""

    @abstractmethod
    def loss_of_a_guess(self, n_classes: int) -> float:
        """Return the mean loss of what knows nothing of an image."""

    @abstractmethod
    def learnt_loss(self, of_one_class: float) -> float:
        """Return the loss that says as much as this one does where an image shows one class."""

    @abstractmethod
    def predicted(self, scores: Tensor) -> Tensor:
        """Return what is predicted of each image, in the form of its target."""

    @abstractmethod
    def right(self, scores: Tensor, targets: Tensor) -> Tensor:
        """Tell of each image whether it is predicted right, in every label."""

    @abstractmethod
    def margins(self, scores: Tensor, targets: Tensor) -> Tensor:
        """Return how far each image is, in either direction, from being predicted otherwise."""

    @abstractmethod
    def images_per_class(self, targets: NDArray, n_classes: int) -> float:
        """Count the images that show a class, on average."""

    @abstractmethod
    def answers(self, scores: NDArray, classes: NDArray) -> NDArray:
        """Return what `predict` returns."""

    @abstractmethod
    def decisions(self, scores: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return what `decision_function` returns."""

    @abstractmethod
    def probabilities(self, scores: NDArray) -> NDArray[np.float64]:
        """Return what `predict_proba` returns."""

    @abstractmethod
    def activation(self, scores: Tensor) -> Tensor:
        """Return the same of a tensor, in its own number format."""


class OneClass(Objective):
    """Every image shows one class: softmax and cross-entropy. Targets are indices."""

    def losses(
        self, scores: Tensor, targets: Tensor, smoothing: float = 0.0, reduction: str = "none"
    ) -> Tensor:
        """Return minus the logarithm of the probability of each image's class."""
        return F.cross_entropy(scores, targets, reduction=reduction, label_smoothing=smoothing)

    def loss_of_a_guess(self, n_classes: int) -> float:
        """Return the loss of equal probabilities."""
        return math.log(n_classes)

    def learnt_loss(self, of_one_class: float) -> float:
        """Return it as it is."""
        return of_one_class

    def predicted(self, scores: Tensor) -> Tensor:
        """Return the index of the highest score."""
        return scores.argmax(dim=1)

    def right(self, scores: Tensor, targets: Tensor) -> Tensor:
        """Tell whether the highest score is that of the class."""
        return self.predicted(scores) == targets

    def margins(self, scores: Tensor, targets: Tensor) -> Tensor:
        """Return how far the right class is ahead of all others."""
        best, predicted = scores.topk(2, dim=1)
        right = scores.gather(1, targets[:, None])[:, 0]
        other = torch.where(predicted[:, 0] == targets, best[:, 1], best[:, 0])
        return (right - other).float()

    def images_per_class(self, targets: NDArray, n_classes: int) -> float:
        """Count the images that show a class, on average."""
        return len(targets) / n_classes

    def answers(self, scores: NDArray, classes: NDArray) -> NDArray:
        """Return the class of the highest score."""
        return classes[scores.argmax(axis=1)]

    def decisions(self, scores: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the scores; of two classes, the second one's lead."""
        return scores[:, 1] - scores[:, 0] if scores.shape[1] == 2 else scores

    def probabilities(self, scores: NDArray) -> NDArray[np.float64]:
        """Return the softmax."""
        return softmax(scores.astype(np.float64), axis=1)

    def activation(self, scores: Tensor) -> Tensor:
        """Return the softmax."""
        return scores.softmax(dim=1)


@dataclass(frozen=True, eq=False)
class SeveralLabels(Objective):
    """An image has any number of labels: a sigmoid and binary cross-entropy for each.

    Targets are float32 of shape (n_images, n_labels), 0 and 1. The loss of an image is the sum over
    its labels, the negative log-likelihood of its row.

    Attributes
    ----------
    intercept : float32 array of shape (n_labels,)
        What is added to each label's scaled similarity: an image is given the labels whose sums
        are positive.
    weights : float32 array of shape (2, n_labels) or None
        Of an image without and with a label, in the loss.
    guess : float
        The mean loss of each label's share of the images, where that is known.
    """

    intercept: NDArray[np.float32]
    weights: NDArray[np.float32] | None = None
    guess: float = math.nan

    @classmethod
    def calibrated(
        cls, similarities: NDArray, targets: NDArray, of_images: NDArray, of_labels: NDArray
    ) -> SeveralLabels:
        """Choose the intercepts by images: at them, mean probabilities are observed frequencies.

        That is the maximum of the likelihood, as in a logistic regression whose slopes are given.
        Half an image with and half a one without the label are added to the frequencies, so that
        a label that all or no images have gets a finite one too.

        Parameters
        ----------
        similarities : float array of shape (n_images, n_labels)
            Scaled cosines of images and texts, before training.
        targets : array of shape (n_images, n_labels)
            0 and 1.
        of_images : array of shape (n_images,)
            Weights of the images.
        of_labels : float array of shape (2, n_labels)
            Weights of an image without and with each label, multiplied by those of the images.
        """
        weights = of_images[:, None] * _of_each(of_labels, targets)
        factor = of_images.sum() * targets.shape[1] / weights.sum()
        weights, of_labels = factor * weights, factor * of_labels
        sums = np.maximum(weights.sum(axis=0), np.finfo(np.float64).tiny)
        shares = ((weights * targets).sum(axis=0) + 0.5) / (sums + 1)
        intercept = _intercepts(similarities.astype(np.float64), weights / sums, shares)
        entropies = -(shares * np.log(shares) + (1 - shares) * np.log1p(-shares))
        mean = sums / sums.sum() * len(sums)
        return cls(
            intercept.astype(np.float32),
            of_labels.astype(np.float32),
            float((mean * entropies).sum()),
        )

    def weighed(self, targets: NDArray, of_images: NDArray) -> NDArray:
        """Return the weight of each image for each label in the loss.

        Parameters
        ----------
        targets : array of shape (n_images, n_labels)
            0 and 1.
        of_images : array of shape (n_images,)
            Weights of the images.

        Returns
        -------
        weights : array of shape (n_images, n_labels)
        """
        assert self.weights is not None  # it is trained
        return of_images[:, None] * _of_each(self.weights, targets)

    def shifted(self, scores: Tensor) -> Tensor:
        """Add the intercepts."""
        return scores + torch.from_numpy(self.intercept).to(scores.device)

    def fitted(self) -> dict[str, Any]:
        """Return the intercepts, which hold what SigLIP adds to every score."""
        return {"intercept_": self.intercept, "logit_bias_": 0.0}

    def losses(
        self, scores: Tensor, targets: Tensor, smoothing: float = 0.0, reduction: str = "none"
    ) -> Tensor:
        """Return the sum of the labels' binary cross-entropies."""
        smoothed = targets * (1 - smoothing) + smoothing / 2
        losses = F.binary_cross_entropy_with_logits(scores, smoothed, reduction="none")
        if self.weights is not None:
            without, having = torch.from_numpy(self.weights).to(scores.device)
            losses = losses * torch.where(targets > 0, having, without)
        return losses.sum() if reduction == "sum" else losses.sum(dim=1)

    def loss_of_a_guess(self, n_classes: int) -> float:
        """Return the loss of each label's share of the images."""
        return self.guess

    def learnt_loss(self, of_one_class: float) -> float:
        """Return the same share of a guess's loss as among ten classes.

        Where labels are rare a guess is nearly right, and its loss small.
        """
        return of_one_class * self.guess / math.log(10)

    def predicted(self, scores: Tensor) -> Tensor:
        """Return 1 where a score is positive and 0 elsewhere."""
        return (scores > 0).long()

    def right(self, scores: Tensor, targets: Tensor) -> Tensor:
        """Tell whether all labels are right."""
        return ((scores > 0) == (targets > 0)).all(dim=1)

    def margins(self, scores: Tensor, targets: Tensor) -> Tensor:
        """Return the distance from zero of the label that is nearest to it."""
        return scores.abs().amin(dim=1).float()

    def images_per_class(self, targets: NDArray, n_classes: int) -> float:
        """Count the images that have a label, on average."""
        return float(targets.sum()) / n_classes

    def answers(self, scores: NDArray, classes: NDArray) -> NDArray:
        """Return an indicator of 0 and 1, a column for each label."""
        return (scores > 0).astype(np.int64)

    def decisions(self, scores: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the scores."""
        return scores

    def probabilities(self, scores: NDArray) -> NDArray[np.float64]:
        """Return each label's own sigmoid."""
        return expit(scores.astype(np.float64))

    def activation(self, scores: Tensor) -> Tensor:
        """Return each label's own sigmoid."""
        return scores.sigmoid()


def _of_each(of_labels: NDArray, targets: NDArray) -> NDArray:
    """Return the weight of each image for each label, of shape (n_images, n_labels)."""
    return np.where(targets > 0, of_labels[1], of_labels[0])


def _intercepts(
    similarities: NDArray[np.float64], weights: NDArray, shares: NDArray
) -> NDArray[np.float64]:
    """Solve ``sum_i weights_i sigmoid(similarity_i + intercept) = share``, label by label."""
    # Were all similarities the lowest or the highest, these would be the solutions.
    of_all = np.log(shares) - np.log1p(-shares)
    low, high = of_all - similarities.max(axis=0), of_all - similarities.min(axis=0)
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        is_low = (weights * expit(similarities + middle)).sum(axis=0) < shares
        low, high = np.where(is_low, middle, low), np.where(is_low, high, middle)
    return (low + high) / 2
