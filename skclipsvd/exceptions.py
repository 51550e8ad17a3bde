"""Warnings of this package, under one parent, so that they can be silenced or raised together."""

import inspect
import warnings

# Whose lines are none of the user's: this package's, and those that stand between.
_BETWEEN = frozenset({"skclipsvd", "sklearn", "contextlib", "joblib"})


class SkclipsvdWarning(UserWarning):
    """The parent of every warning that skclipsvd gives."""


class BitDepthWarning(SkclipsvdWarning):
    """Integer pixels whose bit depth was read from their largest value, file by file."""


class AmbiguousCheckpointWarning(SkclipsvdWarning):
    """A checkpoint file that may want another activation or pre-processing than it is given."""


class UnchangedPredictionsWarning(SkclipsvdWarning):
    """A fit after which its training images are predicted as before, wrong ones included."""


class CheckpointWarning(SkclipsvdWarning):
    """A checkpoint that could not be written, or one that could not be read and is not used."""


def warn_user(message: str, category: type[SkclipsvdWarning]) -> None:
    """Warn, and name the line of the user's that led here, however many decorators it passed."""
    frame, level = inspect.currentframe(), 1
    while frame is not None and frame.f_globals.get("__name__", "").split(".")[0] in _BETWEEN:
        frame, level = frame.f_back, level + 1
    warnings.warn(message, category, stacklevel=level)
