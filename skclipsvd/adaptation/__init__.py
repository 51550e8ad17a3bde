"""Adaptations: each turns a few trained numbers into replacement weights of a frozen CLIP."""

from ._base import Adaptation, install, merge
from .lowrank import LowRankAdaptation
from .spectral import SpectralAdaptation
from .targets import Target, find_targets, select_targets

__all__ = [
    "Adaptation",
    "LowRankAdaptation",
    "SpectralAdaptation",
    "Target",
    "find_targets",
    "install",
    "merge",
    "select_targets",
]
