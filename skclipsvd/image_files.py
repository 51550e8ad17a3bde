"""Which files are images: the formats that are decoded, and the names that they have.

Imports nothing heavy, so that a folder can be looked at before torch is there.
"""

from __future__ import annotations

import os
from functools import cache

from PIL import Image

# What Pillow, or a plug-in that the user registered (HEIF, JXL), decodes by itself. EPS starts
# Ghostscript; WMF, BUFR, GRIB and HDF5 call handlers; IPTC opens whatever is inside it; MPEG has no
# decoder.
# fmt: off
DECODED_FORMATS = frozenset({
    "AVIF", "BLP", "BMP", "CUR", "DCX", "DDS", "DIB", "FITS", "FLI", "FTEX", "GBR", "GIF",
    "HEIF", "ICNS", "ICO", "IM", "IMT", "JPEG", "JPEG2000", "JXL", "MCIDAS", "MPO", "MSP",
    "PCD", "PCX", "PIXAR", "PNG", "PPM", "PSD", "QOI", "SGI", "SPIDER", "SUN", "TGA",
    "TIFF", "WEBP", "XBM", "XPM", "XVTHUMB",
})
# fmt: on


def is_image(name: str) -> bool:
    """Tell by the name whether a file is an image that Pillow can decode, and not hidden."""
    extension = os.path.splitext(name)[1].lower()
    return not name.startswith(".") and extension in _extensions()


def _extensions() -> frozenset[str]:
    # Plugins, such as pillow-heif's, add to the registry at any time.
    return _decoded_extensions(len(Image.registered_extensions()))


@cache
def _decoded_extensions(_n_registered: int) -> frozenset[str]:
    return frozenset(
        extension.lower()
        for extension, name in Image.registered_extensions().items()
        if name in Image.OPEN and name in DECODED_FORMATS
    )
