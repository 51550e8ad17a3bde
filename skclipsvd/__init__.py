"""Few-shot image classification with CLIP, as scikit-learn estimators."""

from ._version import __version__
from .adaptation.describe import describe_targets
from .caching.process import cache_info, clear_caches
from .classifiers import CLIPLoRAClassifier, CLIPSVDClassifier, CLIPZeroShotClassifier
from .encoder import CLIPEncoder
from .linear import CosineClassifier
from .persistence import load_adapter

__all__ = [
    "CLIPSVDClassifier",
    "CLIPLoRAClassifier",
    "CLIPZeroShotClassifier",
    "CLIPEncoder",
    "CosineClassifier",
    "load_adapter",
    "describe_targets",
    "cache_info",
    "clear_caches",
    "__version__",
]
