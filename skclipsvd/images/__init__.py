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
from .items import ImageLike, Images, Item, Name, as_items
from .preprocessing import normalise, size_of

__all__ = [
    "Decoded",
    "ImageLike",
    "Images",
    "Item",
    "Name",
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
    "size_of",
    "stack_views",
]
