"""The built-in demo data, and readers for data sets that are already on the disk."""

from ._digits import load_handwritten_digits
from ._folder import load_folder
from .base import Dataset, Split, list_images
from .published import load

__all__ = [
    "Dataset",
    "Split",
    "list_images",
    "load",
    "load_folder",
    "load_handwritten_digits",
]
