"""Pictures of a classifier and its results, as scikit-learn's Display classes.

``Display.from_...`` computes and draws; the numbers stay on the display, whose `plot` draws them
again. Matplotlib is imported when something is drawn.
"""

from ._confusion import ConfusionDisplay
from ._curves import FewShotCurveDisplay, FitCurveDisplay
from ._embedding import EmbeddingDisplay
from ._figures import COLOURS, MARKERS
from ._head_map import HeadChangeDisplay
from ._predictions import HeatMapDisplay, PredictionSheetDisplay
from ._spectrum import SpectrumDisplay
from ._strength import StrengthCurveDisplay

__all__ = [
    "ConfusionDisplay",
    "SpectrumDisplay",
    "HeadChangeDisplay",
    "HeatMapDisplay",
    "FitCurveDisplay",
    "FewShotCurveDisplay",
    "StrengthCurveDisplay",
    "EmbeddingDisplay",
    "PredictionSheetDisplay",
    "COLOURS",
    "MARKERS",
]
