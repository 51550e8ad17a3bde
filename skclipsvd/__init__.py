"""Few-shot image classification with CLIP, as scikit-learn estimators.

Names are imported when they are first used: ``import skclipsvd`` costs nothing, and the command
answers ``--help`` without waiting for torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from ._version import __version__

if TYPE_CHECKING:
    from . import datasets as datasets
    from . import exceptions as exceptions
    from . import inspection as inspection
    from . import model_selection as model_selection
    from .adaptation.describe import describe_targets
    from .caching.process import cache_info, clear_caches
    from .classifiers import CLIPLoRAClassifier, CLIPSVDClassifier, CLIPZeroShotClassifier
    from .encoder import CLIPEncoder
    from .linear import CosineClassifier
    from .open_set import OpenSetClassifier
    from .persistence import load_adapter, push_to_hub
    from .predictions import prediction_table
else:  # a type checker would take every name for one that is there

    def __getattr__(name: str) -> Any:
        if name in _MODULES:
            value = getattr(import_module(f".{_MODULES[name]}", __name__), name)
        elif name in _SUBMODULES:
            value = import_module(f".{name}", __name__)
        else:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        globals()[name] = value
        return value


__all__ = [
    "CLIPSVDClassifier",
    "CLIPLoRAClassifier",
    "CLIPZeroShotClassifier",
    "CLIPEncoder",
    "CosineClassifier",
    "OpenSetClassifier",
    "load_adapter",
    "push_to_hub",
    "prediction_table",
    "describe_targets",
    "cache_info",
    "clear_caches",
    "__version__",
]

# Where each name is defined. A test compares this with `__all__`, and with the imports above.
_MODULES = {
    "CLIPSVDClassifier": "classifiers",
    "CLIPLoRAClassifier": "classifiers",
    "CLIPZeroShotClassifier": "classifiers",
    "CLIPEncoder": "encoder",
    "CosineClassifier": "linear",
    "OpenSetClassifier": "open_set",
    "load_adapter": "persistence",
    "push_to_hub": "persistence",
    "prediction_table": "predictions",
    "describe_targets": "adaptation.describe",
    "cache_info": "caching.process",
    "clear_caches": "caching.process",
}
_SUBMODULES = {"datasets", "exceptions", "experiments", "inspection", "model_selection"}


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, *_SUBMODULES})
