"""A bank of shapes to draw with: glyphs of many fonts, and geometric figures, as distance fields.

A distance field (how far to the outline, negative inside) is bent, scaled, thickened and blurred
with a few tensor operations, which a bitmap is not.
"""

from pathlib import Path

import numpy as np
from fontTools.ttLib import TTFont
from PIL import Image, ImageDraw, ImageFont
from scipy.ndimage import distance_transform_edt

CHARACTERS = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
SHAPES = (
    "circle", "square", "triangle", "star", "ring", "cross", "heart", "diamond", "pentagon",
    "crescent", "arrow", "bar",
)  # fmt: skip
SIDE = 48  # pixels of a field
REACH = 6.0  # distances are cut off here, in field pixels
SPAN = 36  # pixels the longer side of a shape takes
_SUPER = 4


def field_of(mask):
    """Distance field of a boolean drawing.

    Parameters
    ----------
    mask : ndarray of bool
        Cropped to the ink.

    Returns
    -------
    field : ndarray of uint8 of shape (SIDE, SIDE)
        Distances from -REACH to REACH, spread over 0 to 255.
    half : tuple of float
        Half width and half height of the ink in field pixels.
    """
    height, width = mask.shape
    scale = SPAN * _SUPER / max(height, width)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    ink = (
        np.asarray(Image.fromarray(mask.astype(np.uint8) * 255).resize(size, Image.BILINEAR)) > 127
    )
    canvas = np.zeros((SIDE * _SUPER,) * 2, dtype=bool)
    top, left = (canvas.shape[0] - ink.shape[0]) // 2, (canvas.shape[1] - ink.shape[1]) // 2
    canvas[top : top + ink.shape[0], left : left + ink.shape[1]] = ink
    distance = (distance_transform_edt(~canvas) - distance_transform_edt(canvas)) / _SUPER
    distance = distance.reshape(SIDE, _SUPER, SIDE, _SUPER).mean(axis=(1, 3))
    field = np.clip((distance + REACH) * (255 / (2 * REACH)), 0, 255).round().astype(np.uint8)
    return field, (ink.shape[1] / _SUPER / 2, ink.shape[0] / _SUPER / 2)


def _crop(mask):
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


def find_fonts(folders):
    """Font files below `folders` that hold all of CHARACTERS, as a list of (family, path)."""
    found = []
    for folder in folders:
        for path in sorted(Path(folder).rglob("*")):
            name = path.name.lower()
            # Web fonts come cut into alphabets and weights: the regular latin file is enough.
            web = name.endswith("-latin-400-normal.woff")
            if not (web or name.endswith((".ttf", ".otf"))) or any(w in name for w in _ODD):
                continue
            with TTFont(path, fontNumber=0, lazy=True) as font:
                known = font.getBestCmap() or {}
                family = (font["name"].getDebugName(1) or path.stem).split(" ")[0]
            if all(ord(c) in known for c in CHARACTERS):
                found.append((family, str(path)))
    return found


# Drawings of keys, outlines and hairlines teach nothing at 32 pixels; slanting is the painter's.
_ODD = (
    "initials", "linlibertine_i", "biolinum_k", "symbol", "italic", "oblique", "-it.", "math",
    "femke", "joscelyn", "hairline", "thin", "ecolier",
)  # fmt: skip


def font_glyphs(path):
    """Masks of CHARACTERS in one font; None where a glyph is blank or all are the same box."""
    font = ImageFont.truetype(path, 128)
    masks = []
    for character in CHARACTERS:
        sheet = Image.new("L", (512, 384), 0)
        ImageDraw.Draw(sheet).text((160, 80), character, font=font, fill=255)
        mask = np.asarray(sheet) > 127
        if mask.sum() < 40:
            return None
        masks.append(_crop(mask))
    digits = {(m.shape, m.tobytes()) for m in masks[:10]}
    return masks if len(digits) == 10 else None


def _polygon(radii, start=-np.pi / 2):
    angle = start + np.arange(len(radii)) * 2 * np.pi / len(radii)
    return np.stack([np.cos(angle) * radii, np.sin(angle) * radii], axis=1)


def shape_mask(name, side=256):
    """A boolean drawing of one of SHAPES, cropped."""
    y, x = (np.mgrid[:side, :side] + 0.5) / side * 2 - 1
    radius = np.hypot(x, y)
    if name == "circle":
        mask = radius < 0.9
    elif name == "ring":
        mask = (radius < 0.9) & (radius > 0.5)
    elif name == "square":
        mask = np.maximum(abs(x), abs(y)) < 0.9
    elif name == "diamond":
        mask = abs(x) / 0.7 + abs(y) < 0.95
    elif name == "cross":
        mask = (np.minimum(abs(x), abs(y)) < 0.28) & (np.maximum(abs(x), abs(y)) < 0.9)
    elif name == "heart":
        a, b = x * 1.25, -y * 1.25 + 0.15
        mask = (a**2 + b**2 - 1) ** 3 - a**2 * b**3 < 0
    elif name == "crescent":
        mask = (radius < 0.9) & (np.hypot(x - 0.45, y) > 0.75)
    elif name == "bar":
        mask = (abs(y) < 0.22) & (abs(x) < 0.9)
    else:
        corners = {
            "triangle": _polygon(np.full(3, 0.95)),
            "pentagon": _polygon(np.full(5, 0.95)),
            "star": _polygon(np.where(np.arange(10) % 2, 0.4, 0.95)),
            "arrow": np.array(
                [
                    (0.95, 0),
                    (0.2, 0.7),
                    (0.2, 0.25),
                    (-0.9, 0.25),
                    (-0.9, -0.25),
                    (0.2, -0.25),
                    (0.2, -0.7),
                ]
            ),
        }[name]
        sheet = Image.new("L", (side, side), 0)
        ImageDraw.Draw(sheet).polygon([tuple((p + 1) * side / 2) for p in corners], fill=255)
        mask = np.asarray(sheet) > 127
    return _crop(mask)


def build_bank(folders):
    """Distance fields of every shape and of every usable font's glyphs.

    Parameters
    ----------
    folders : list of str
        Where to look for fonts.

    Returns
    -------
    dict of ndarray
        ``fields`` (uint8), ``halves`` (half width and height), ``kind`` (index into CHARACTERS, or
        into SHAPES plus ``len(CHARACTERS)``), ``family`` (index into ``families``, -1 for a
        geometric shape).
    """
    fields, halves, kinds, owners, families = [], [], [], [], []

    def keep(mask, kind, family):
        field, half = field_of(mask)
        fields.append(field), halves.append(half), kinds.append(kind), owners.append(family)

    for index, name in enumerate(SHAPES):
        keep(shape_mask(name), len(CHARACTERS) + index, -1)
    for family, path in find_fonts(folders):
        masks = font_glyphs(path)
        if masks is None:
            continue
        if family not in families:
            families.append(family)
        for index, mask in enumerate(masks):
            keep(mask, index, families.index(family))
    return {
        "fields": np.stack(fields),
        "halves": np.array(halves, dtype=np.float32),
        "kind": np.array(kinds),
        "family": np.array(owners),
        "families": np.array(families),
    }
