"""Warnings of this package, under one parent, so that they can be silenced or raised together."""


class SkclipsvdWarning(UserWarning):
    """The parent of every warning that skclipsvd gives."""


class BitDepthWarning(SkclipsvdWarning):
    """Integer pixels whose bit depth was read from their largest value, file by file."""


class AmbiguousCheckpointWarning(SkclipsvdWarning):
    """A checkpoint file that may want another activation or pre-processing than it is given."""
