"""What makes two fits the same one, so that the second may go on from where the first was cut."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import joblib
import numpy as np
import torch
from numpy.typing import NDArray

from .._version import __version__
from ..clip import Backbone, choose_dtype
from ..images import content_digest, decoding_threads
from ._adapter_file import MACHINE_PARAMETERS
from ._training_set import TrainingSet

if TYPE_CHECKING:
    from ._trained import TrainedCLIPClassifier

_LENGTH = 20


def fit_identity(
    estimator: TrainedCLIPClassifier,
    given: TrainingSet,
    validation: TrainingSet | None,
    backbone: Backbone,
    start: Mapping[str, NDArray] | None,
) -> str:
    """Hash everything that decides what a fit computes.

    Parameters
    ----------
    estimator : TrainedCLIPClassifier
        With its parameters; where it runs does not count, but the kind of device does.
    given, validation : TrainingSet
        The images, by what their files contain, in their order, with labels and weights.
    backbone : Backbone
        The frozen weights.
    start : mapping of str to array or None
        Numbers of the last fit that a warm start goes on from.

    Returns
    -------
    identity : str
        Hexadecimal digits.
    """
    parameters = estimator.get_params(deep=False)
    decides = {
        "versions": (__version__, torch.__version__),
        "estimator": type(estimator).__name__,
        "parameters": {k: v for k, v in parameters.items() if k not in MACHINE_PARAMETERS},
        "device": backbone.device.type,
        "precision": str(choose_dtype(estimator.precision, backbone.device)),
        "model": backbone.identity,
        "start": start,
        "images": _data(given, estimator.n_jobs),
        "validation": None if validation is None else _data(validation, estimator.n_jobs),
    }
    digest: str = joblib.hash(decides, hash_name="sha1")
    return digest[:_LENGTH]


def _data(images: TrainingSet, n_jobs: int | None) -> dict[str, Any]:
    with ThreadPoolExecutor(decoding_threads(n_jobs)) as pool:
        contents = list(pool.map(content_digest, images.items))
    # Not the array: its items are as wide as its longest label, which would enter the hash.
    labels = [repr(label) for label in np.asarray(images.labels).tolist()]
    several = None if images.columns is None else (images.columns.tolist(), images.label_weights)
    return {"contents": contents, "labels": labels, "weights": images.weights, "several": several}
