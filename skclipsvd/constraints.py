"""What scikit-learn checks of parameters that several estimators share; imports nothing heavy."""

from __future__ import annotations

import os
from collections.abc import Mapping
from numbers import Integral, Real

import numpy as np

from .validation import Interval, StrOptions

MODEL_CONSTRAINTS: dict = {
    "model_name": [str],
    "pretrained": [str, None],
    "batch_size": [Interval(Integral, 1, None, closed="left")],
    "precision": [StrOptions({"auto", "fp32", "bf16", "fp16"})],
    "device": [str],
    "n_jobs": [Integral, None],
    "verbose": ["verbose"],
}
PROMPT_CONSTRAINTS: dict = {
    "templates": [str, list, tuple],
    "class_names": [Mapping, list, tuple, np.ndarray, None],
    "logit_scale": [Interval(Real, 0, None, closed="neither"), None],
}
_POSITIVE = Interval(Integral, 1, None, closed="left")
_NOT_NEGATIVE = Interval(Integral, 0, None, closed="left")
TUNING_CONSTRAINTS: dict = {
    **MODEL_CONSTRAINTS,
    **PROMPT_CONSTRAINTS,
    "towers": [list, tuple],
    "matrices": [list, tuple],
    "head": [StrOptions({"logistic"}), None],
    "layers": [StrOptions({"all", "bottom", "middle", "top"}), list, tuple, np.ndarray, range],
    "epochs": [_NOT_NEGATIVE, StrOptions({"auto"})],
    "max_steps": [_NOT_NEGATIVE, None],
    "lr": [Interval(Real, 0, None, closed="neither"), StrOptions({"auto"})],
    "weight_decay": [Interval(Real, 0, None, closed="left")],
    "micro_batch_size": [_POSITIVE, None],
    "checkpointing": ["boolean"],
    "augment": ["boolean"],
    "label_smoothing": [Interval(Real, 0, 1, closed="left")],
    "class_weight": [dict, StrOptions({"balanced"}), None],
    "early_stopping": ["boolean"],
    "validation_fraction": [Interval(Real, 0, 1, closed="neither")],
    "n_iter_no_change": [_POSITIVE],
    "tol": [Interval(Real, 0, None, closed="left")],
    "warm_start": ["boolean"],
    "random_state": ["random_state"],
    "checkpoint_dir": [str, os.PathLike, None],
}


def check_top_k(top_k: int, n_classes: int | None = None) -> None:
    """Raise ValueError where not so many labels can be listed; None where that is not known yet."""
    allowed = "at least 1" if n_classes is None else f"from 1 to {n_classes}, the classes"
    if top_k < 1 or (n_classes is not None and top_k > n_classes):
        raise ValueError(f"top_k must be {allowed}; got {top_k}.")
