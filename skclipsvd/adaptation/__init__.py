"""Adaptations: each turns a few trained numbers into replacement weights of a frozen CLIP."""

from ._base import Adaptation, merge
from .spectral import SpectralAdaptation
from .targets import Target, find_targets, select_targets

__all__ = [
    "Adaptation",
    "SpectralAdaptation",
    "Target",
    "find_targets",
    "merge",
    "select_targets",
]
