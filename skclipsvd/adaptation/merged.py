"""Merged models, each made once per backbone, numbers and device."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray
from torch import nn

from ..caching.process import MERGED
from ..clip import Backbone
from ..progress import phase
from .base import Adaptation
from .layers import merge


def merged_once(
    backbone: Backbone, state: Mapping[str, NDArray], build: Callable[[], Adaptation]
) -> nn.Module:
    """Merge an adaptation into a private copy of the backbone, once per state and device.

    Parameters
    ----------
    backbone : Backbone
        The frozen model.
    state : mapping of str to array
        The adaptation's numbers; equal numbers share one merged model, which lives about as long
        as the last of them.
    build : callable
        Returns the adaptation, where it has not been merged yet.

    Returns
    -------
    model : torch.nn.Module
    """

    def make() -> tuple[nn.Module, int]:
        adaptation = build()
        with phase("merging the weights"):
            model = merge(backbone.skeleton(), adaptation)
        replaced = sum(model.get_parameter(name).nbytes for name in adaptation.by_tensor())
        return model, replaced

    key = (backbone.identity, str(backbone.device), state_digest(state))
    return MERGED.get_or_make(key, make, owner=next(iter(state.values()), None))


def state_digest(state: Mapping[str, NDArray]) -> str:
    """Hash an adaptation's numbers: equal numbers, and only those, give the same digest."""
    digest = hashlib.sha256()
    for name in sorted(state):
        digest.update(f"{name}{np.shape(state[name])}".encode())
        digest.update(np.ascontiguousarray(state[name]).data)
    return digest.hexdigest()
