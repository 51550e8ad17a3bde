"""The papers' experiments: four protocols, every method of this package, results that last.

``python -m skclipsvd.experiments --help`` is the same as a command.
"""

from .data import open_data, open_folder
from .methods import METHODS
from .plots import plot_shots
from .protocols import base_to_novel, cross_dataset, domain_generalisation, few_shot
from .results import read_results
from .tables import tables
from .two_stage import TwoStageClassifier

__all__ = [
    "few_shot",
    "base_to_novel",
    "cross_dataset",
    "domain_generalisation",
    "open_data",
    "open_folder",
    "METHODS",
    "TwoStageClassifier",
    "read_results",
    "tables",
    "plot_shots",
]
