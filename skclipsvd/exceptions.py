"""Warnings of this package, under one parent, so that they can be silenced or raised together."""


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
