"""What an adaptation changed, where, and in words; and pictures of a fit and its results."""

from ._changes import head_changes, singular_value_changes
from ._descriptions import describe_heads
from ._explanations import Explanation, explain_prediction
from .displays import (
    ConfusionDisplay,
    EmbeddingDisplay,
    FewShotCurveDisplay,
    FitCurveDisplay,
    HeadChangeDisplay,
    HeatMapDisplay,
    PredictionSheetDisplay,
    SpectrumDisplay,
    StrengthCurveDisplay,
)
from .phrases import load_concepts

__all__ = [
    "singular_value_changes",
    "head_changes",
    "explain_prediction",
    "Explanation",
    "describe_heads",
    "load_concepts",
    "ConfusionDisplay",
    "SpectrumDisplay",
    "HeadChangeDisplay",
    "HeatMapDisplay",
    "FitCurveDisplay",
    "FewShotCurveDisplay",
    "StrengthCurveDisplay",
    "EmbeddingDisplay",
    "PredictionSheetDisplay",
]
