"""From an image's features to the scores of the classes: to predict, and inside an ONNX graph."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn


class Scores(nn.Module):
    """Scores of unit image features: ``scale * cos(image, class text) + bias``.

    Where there is a head, the mean of that and of ``features @ coef.T + intercept``.

    Parameters
    ----------
    text_features : float32 array of shape (n_classes, n_features)
        Of unit length.
    scale, bias : float
        The fitted classifier's.
    head : tuple of float32 arrays, optional
        Coefficients of shape (n_classes, n_features) and intercepts of shape (n_classes,).
    """

    text_features: Tensor
    coef: Tensor
    intercept: Tensor

    def __init__(
        self,
        text_features: NDArray[np.float32],
        scale: float,
        bias: float,
        head: tuple[NDArray[np.float32], NDArray[np.float32]] | None = None,
    ):
        super().__init__()
        self.register_buffer("text_features", torch.from_numpy(text_features))
        self.scale, self.bias = scale, bias
        self.has_head = head is not None
        if head is not None:
            for name, array in zip(("coef", "intercept"), head, strict=True):
                self.register_buffer(name, torch.from_numpy(array))

    def forward(self, features: Tensor) -> Tensor:
        """Score float32 features of shape (n_images, n_features), whatever model they are of."""
        n_of_texts, n_of_images = self.text_features.shape[1], features.shape[1]
        if n_of_images != n_of_texts:
            raise ValueError(
                f"the class texts have {n_of_texts} features, the images {n_of_images}: they are "
                "of another model. Fit again."
            )
        of_texts = self.scale * features @ self.text_features.T + self.bias
        if not self.has_head:
            return of_texts
        return (of_texts + (features @ self.coef.T + self.intercept)) / 2
