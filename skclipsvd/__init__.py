"""Few-shot image classification with CLIP, as scikit-learn estimators."""

from ._memory import cache_info, clear_caches
from ._version import __version__
from .classifiers import CLIPSVDClassifier

__all__ = ["CLIPSVDClassifier", "__version__", "cache_info", "clear_caches"]
