"""The papers' experiments: four protocols, every method of this package, results that last.

``python -m skclipsvd.experiments --help`` is the same as a command. Names are imported when they
are first used, so that the command answers ``--help`` at once.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .data import open_data, open_folder
    from .markdown import tables
    from .methods import METHODS, CLIPSOClassifier
    from .plots import plot_shots
    from .proker import ProKeRClassifier
    from .protocols import base_to_novel, cross_dataset, domain_generalisation, few_shot
    from .results import read_results
    from .tip_adapter import TipAdapterFClassifier
    from .two_stage import TwoStageClassifier
else:  # a type checker would take every name for one that is there

    def __getattr__(name: str) -> Any:
        if name not in _MODULES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        globals()[name] = getattr(import_module(f".{_MODULES[name]}", __name__), name)
        return globals()[name]


__all__ = [
    "few_shot",
    "base_to_novel",
    "cross_dataset",
    "domain_generalisation",
    "open_data",
    "open_folder",
    "METHODS",
    "TwoStageClassifier",
    "CLIPSOClassifier",
    "ProKeRClassifier",
    "TipAdapterFClassifier",
    "read_results",
    "tables",
    "plot_shots",
]

# Where each name is defined. A test compares this with `__all__`, and with the imports above.
_MODULES = {
    "few_shot": "protocols",
    "base_to_novel": "protocols",
    "cross_dataset": "protocols",
    "domain_generalisation": "protocols",
    "open_data": "data",
    "open_folder": "data",
    "METHODS": "methods",
    "TwoStageClassifier": "two_stage",
    "CLIPSOClassifier": "methods",
    "ProKeRClassifier": "proker",
    "TipAdapterFClassifier": "tip_adapter",
    "read_results": "results",
    "tables": "markdown",
    "plot_shots": "plots",
}


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
