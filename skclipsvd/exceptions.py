"""Warnings of this package, under one parent, so that they can be silenced or raised together."""

from __future__ import annotations

import contextlib
import inspect
import warnings
from pathlib import Path

import joblib
import sklearn
from sklearn.exceptions import ConvergenceWarning

__all__ = [
    "SkclipsvdWarning",
    "AmbiguousCheckpointWarning",
    "BareLabelWarning",
    "BitDepthWarning",
    "CheckpointWarning",
    "ConflictingLabelsWarning",
    "ConstantLabelWarning",
    "CutPromptWarning",
    "ForkedProcessWarning",
    "IndistinctClassesWarning",
    "NotConvergedWarning",
    "RandomWeightsWarning",
    "RepeatedImagesWarning",
    "SkippedFilesWarning",
    "SlowPrecisionWarning",
    "UnchangedPredictionsWarning",
]

# Nobody reads a warning that points into these.
_NOT_THE_USERS = (
    *(str(Path(file).parent) for file in (__file__, sklearn.__file__, joblib.__file__)),
    contextlib.__file__,  # a decorator's frame
)


class SkclipsvdWarning(UserWarning):
    """The parent of every warning that skclipsvd gives.

    Examples
    --------
    >>> import warnings
    >>> from skclipsvd.exceptions import SkclipsvdWarning
    >>> warnings.filterwarnings("error", category=SkclipsvdWarning)  # doctest: +SKIP
    """


class BareLabelWarning(SkclipsvdWarning):
    """The labels are bare numbers or booleans, and no `class_names` say what they mean to CLIP."""


class BitDepthWarning(SkclipsvdWarning):
    """Integer pixels whose bit depth was read from their largest value, file by file."""


class AmbiguousCheckpointWarning(SkclipsvdWarning):
    """A checkpoint file that may want another activation or pre-processing than it is given."""


class CheckpointWarning(SkclipsvdWarning):
    """A checkpoint that could not be written, or one that could not be read and is not used."""


class UnchangedPredictionsWarning(SkclipsvdWarning):
    """A fit after which its training images are predicted as before, wrong ones included."""


class ConflictingLabelsWarning(SkclipsvdWarning):
    """One picture is trained on with several labels, perhaps under several names."""


class ConstantLabelWarning(SkclipsvdWarning):
    """Several labels per image, some of which all training images have, or none."""


class CutPromptWarning(SkclipsvdWarning):
    """Prompts are longer than the text tower reads; their last words are lost."""


class ForkedProcessWarning(SkclipsvdWarning):
    """A process that was forked off another one computes with one thread, so as not to hang."""


class IndistinctClassesWarning(SkclipsvdWarning):
    """The prompts of some classes are the same to the model, which cannot tell them apart."""


class NotConvergedWarning(SkclipsvdWarning, ConvergenceWarning):
    """Training reached `max_iter` before `tol`; also scikit-learn's own ``ConvergenceWarning``."""


class RandomWeightsWarning(SkclipsvdWarning):
    """``pretrained=None``: the model starts from random weights."""


class RepeatedImagesWarning(SkclipsvdWarning):
    """An experiment draws more shots than a class has images, so that some are repeated."""


class SkippedFilesWarning(SkclipsvdWarning):
    """Files or folders inside class folders that were not taken for images."""


class SlowPrecisionWarning(SkclipsvdWarning):
    """The processor computes many times more slowly in `precision` than in float32."""


def warn(message: str, category: type[SkclipsvdWarning]) -> None:
    """Give a warning that points at the user's own line that led to it."""
    level, frame = 1, inspect.currentframe()
    while frame is not None and frame.f_code.co_filename.startswith(_NOT_THE_USERS):
        level, frame = level + 1, frame.f_back
    warnings.warn(message, category, stacklevel=level)
