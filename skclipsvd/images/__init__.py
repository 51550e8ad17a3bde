"""Whatever a user calls an image -> pixels -> batches."""

from .augmentation import augment, random_crop
from .decoding import (
    Decoded,
    check_exist,
    content_digest,
    decode_all,
    decoding_threads,
    find_unreadable,
    identity,
    iterate,
    stack_views,
)
from .items import ImageLike, Images, ImageStream, Item, Name, as_items, short
from .preprocessing import normalise, size_of
from .stored import answered_in_parts

__all__ = [
    "Decoded",
    "ImageLike",
    "ImageStream",
    "Images",
    "Item",
    "Name",
    "answered_in_parts",
    "as_items",
    "augment",
    "check_exist",
    "content_digest",
    "decode_all",
    "decoding_threads",
    "find_unreadable",
    "identity",
    "iterate",
    "normalise",
    "random_crop",
    "short",
    "size_of",
    "stack_views",
]
