"""From an image's features to the scores of the classes: to predict, and inside an ONNX graph."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn


class TextScores(nn.Module):
    """Scores of unit image features: ``scale * cos(image, class text) + bias``.

    Parameters
    ----------
    text_features : float32 array of shape (n_classes, n_features)
        Of unit length.
    scale, bias : float
        The fitted classifier's.
    """

    text_features: Tensor

    def __init__(self, text_features: NDArray[np.float32], scale: float, bias: float):
        super().__init__()
        self.register_buffer("text_features", torch.from_numpy(text_features))
        self.scale, self.bias = scale, bias

    def forward(self, features: Tensor) -> Tensor:
        """Score float32 features of shape (n_images, n_features), whatever model they are of."""
        n_of_texts, n_of_images = self.text_features.shape[1], features.shape[1]
        if n_of_images != n_of_texts:
            raise ValueError(
                f"the class texts have {n_of_texts} features, the images {n_of_images}: they are "
                "of another model. Fit again."
            )
        return self.scale * features @ self.text_features.T + self.bias
