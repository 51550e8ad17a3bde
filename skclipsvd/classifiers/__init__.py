"""The estimators: parameters and their documentation; fit; predict; the report."""

from ._adapter_file import MACHINE_PARAMETERS, read_adapter
from ._base import (
    BaseCLIPClassifier,
    TakesImages,
    UsesBackbone,
    adapter_fingerprint,
    embeddings_and_scores,
    frozen_and_adapted,
    has_several_labels,
    prompts_of,
)
from ._card import model_card
from ._indicator import as_indicator
from ._lora import CLIPLoRAClassifier
from ._so import CLIPSOClassifier
from ._svd import CLIPSVDClassifier
from ._trained import TrainedCLIPClassifier
from ._zero_shot import CLIPZeroShotClassifier

__all__ = [
    "MACHINE_PARAMETERS",
    "BaseCLIPClassifier",
    "CLIPLoRAClassifier",
    "CLIPSOClassifier",
    "CLIPSVDClassifier",
    "CLIPZeroShotClassifier",
    "TrainedCLIPClassifier",
    "TakesImages",
    "UsesBackbone",
    "adapter_fingerprint",
    "as_indicator",
    "embeddings_and_scores",
    "frozen_and_adapted",
    "has_several_labels",
    "model_card",
    "prompts_of",
    "read_adapter",
]
