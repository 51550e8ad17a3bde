"""Adaptations: each turns a few trained numbers into replacement weights of a frozen CLIP."""

from .base import Adaptation
from .layers import AdaptedAttention, install, merge
from .lowrank import LowRankAdaptation
from .merged import merged_once, state_digest
from .sparse import SparseAdaptation
from .spectral import SpectralAdaptation
from .targets import Target, find_targets, select_targets

__all__ = [
    "AdaptedAttention",
    "Adaptation",
    "LowRankAdaptation",
    "SparseAdaptation",
    "SpectralAdaptation",
    "Target",
    "find_targets",
    "install",
    "merge",
    "merged_once",
    "select_targets",
    "state_digest",
]
