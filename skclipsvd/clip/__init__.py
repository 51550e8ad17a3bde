"""A frozen CLIP: found, loaded, shared, run."""

from .backbone import Backbone, backbone_in_memory, fingerprint, load_backbone
from .devices import autocast, choose_device, choose_dtype, warn_if_slow
from .embedding import embed, unit_image_features
from .identity import Setting
from .prompt_checks import check_prompts, warn_of_bare_labels
from .prompts import ClassNames, Prompts, build_prompts, class_texts, encode_exactly
from .weights import build_structure, is_published

__all__ = [
    "Backbone",
    "ClassNames",
    "Prompts",
    "Setting",
    "autocast",
    "backbone_in_memory",
    "build_prompts",
    "build_structure",
    "check_prompts",
    "choose_device",
    "choose_dtype",
    "class_texts",
    "embed",
    "encode_exactly",
    "fingerprint",
    "is_published",
    "load_backbone",
    "unit_image_features",
    "warn_if_slow",
    "warn_of_bare_labels",
]
