"""Captions of the painter's pictures, and which captions are true of which pictures."""

import numpy as np
import torch
from tiny_bank import SHAPES
from tiny_pictures import COLOURS, FIELD, FIELDS, NAMES, PLACES, TEXTURES

WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
TEMPLATES = (
    "a photo of a {}.", "a photo of a {}", "a photo of the {}.", "{}", "a {}", "{}.", "the {}",
    "an image of a {}", "a picture of a {}.", "a drawing of a {}.", "a drawing of the {}",
    "a handwritten {}", "a handwritten {}.", "a photo of a handwritten {}.", "a sketch of a {}.",
    "a blurry photo of a {}.", "a bad photo of a {}.", "a close-up photo of a {}.",
    "a black and white photo of a {}.", "a photo of one {}.", "this is a {}.",
    "a low resolution photo of a {}.", "a pixelated photo of a {}.", "a scan of a {}.", "an {}",
)  # fmt: skip
DIGIT_TEMPLATES = (
    "a photo of the digit {}.", "a photo of the number {}.", "the digit {}", "the number {}",
    'a photo of the number: "{}".', "a handwritten digit {}.", "the handwritten digit {}",
    "an image of the digit {}.", "digit {}", "number {}", "a drawing of the digit {}",
    "a picture of the number {}.", "a photo of the handwritten digit {}.",
)  # fmt: skip
LETTER_TEMPLATES = (
    "a photo of the letter {}.", "the letter {}", "a handwritten letter {}.",
    "the handwritten letter {}", "an image of the letter {}.", "letter {}",
    "a drawing of the letter {}", "a picture of the letter {}.", "a photo of the character {}.",
    "the character {}", "a scan of the letter {}.",
)  # fmt: skip
PICTURE_TEMPLATES = (
    "{}", "{}.", "a photo of {}.", "an image of {}", "a picture of {}.", "a drawing of {}",
    "a photo of {}",
)  # fmt: skip
_COUNTS = ("zero", "one", "two", "three", "four")
_PLACE_WORDS = {
    "left": "on the left",
    "right": "on the right",
    "top": "at the top",
    "bottom": "at the bottom",
}
_COLOURS, _PLACES = tuple(COLOURS), tuple(PLACES)
# Glyphs that differ in nothing but their name must not be held against each other.
LOOKALIKES = ("0o", "1il", "5s", "2z", "9gq", "6b", "uv")


class Captioner:
    """Writes captions, choosing at random among ways to say it.

    Parameters
    ----------
    seed : int
        Seeds the choices.
    """

    def __init__(self, seed=0):
        self.random = np.random.default_rng(seed)

    def _pick(self, options):
        return options[int(self.random.integers(len(options)))]

    def _coin(self, chance):
        return bool(self.random.random() < chance)

    def class_texts(self):
        """One text for each of NAMES, all made with the same template."""
        template = self._pick(TEMPLATES) if self._coin(0.75) else TEMPLATES[0]
        numerals, lettered = self._coin(0.2), self._coin(0.75)
        named = self._coin(0.2)
        digits = [(NAMES[i] if numerals else word) for i, word in enumerate(WORDS)]
        letters = list(NAMES[10:])
        special = self._coin(0.3)
        if special:
            chosen = self._pick(DIGIT_TEMPLATES), self._pick(LETTER_TEMPLATES)
        else:
            chosen = template, template
            digits = [f"digit {d}" for d in digits] if named else digits
            letters = [f"letter {c}" for c in letters] if lettered else letters
        return [chosen[0].format(d) for d in digits] + [chosen[1].format(c) for c in letters]

    def caption(self, row):
        """A caption of one picture, and the attributes it states (-1 where it says nothing).

        Parameters
        ----------
        row : sequence of int
            Attributes in the order of FIELDS.
        """
        stated = [-1] * len(FIELDS)
        stated[0] = int(row[0])

        def said(name):
            stated[FIELD[name]] = int(row[FIELD[name]])
            return stated[FIELD[name]]

        write = (self._glyph, self._shape, self._count, self._pair, self._texture)[stated[0]]
        text = write(row, said).replace("a orange", "an orange").replace("a arrow", "an arrow")
        return self._pick(PICTURE_TEMPLATES).format(text), stated

    def _glyph(self, row, said):
        name = said("name")
        text = self._pick((WORDS[name], "digit " + WORDS[name], NAMES[name])) if name < 10 else ""
        if name >= 10:
            case = ("", "capital ", "lowercase ")[said("case")] if self._coin(0.4) else ""
            text = f"{case}letter {NAMES[name]}"
        if self._coin(0.8):
            text = f"{_COLOURS[said('ink')]} {text}"
        if self._coin(0.4):
            text = f"{text} on a {_COLOURS[said('ground')]} background"
        return "a " + text

    def _shape(self, row, said):
        text = SHAPES[said("name")]
        if self._coin(0.8):
            text = f"{_COLOURS[said('ink')]} {text}"
        if self._coin(0.3):
            text = ("small ", "large ")[said("size")] + text
        if self._coin(0.5) and _PLACES[row[FIELD["place"]]] in _PLACE_WORDS:
            text = f"{text} {_PLACE_WORDS[_PLACES[said('place')]]}"
        if self._coin(0.3):
            text = f"{text} on a {_COLOURS[said('ground')]} background"
        return "a " + text

    def _count(self, row, said):
        shape = SHAPES[said("name")]
        plural = shape + ("es" if shape.endswith("ss") else "s")
        colour = _COLOURS[said("ink")] + " " if self._coin(0.7) else ""
        return f"{_COUNTS[said('count')]} {colour}{plural}"

    def _pair(self, row, said):
        first = f"a {_COLOURS[said('ink')]} {SHAPES[said('name')]}"
        second = f"a {_COLOURS[said('ink2')]} {SHAPES[said('name2')]}"
        if self._coin(0.3):
            return f"{first} and {second}"
        relation = said("relation")
        if self._coin(0.5):
            return f"{first} {('left of', 'above')[relation]} {second}"
        return f"{second} {('right of', 'below')[relation]} {first}"

    def _texture(self, row, said):
        text = TEXTURES[said("name")]
        if self._coin(0.6):
            colours = [_COLOURS[said("ink")], _COLOURS[said("ground")]]
            return f"{text} in {colours[0]} and {colours[1]}"
        return text


def truth(attributes, stated):
    """Which caption is true of which picture.

    Parameters
    ----------
    attributes : int64 tensor of shape (n_pictures, n_fields)
    stated : int64 tensor of shape (n_captions, n_fields)

    Returns
    -------
    bool tensor of shape (n_pictures, n_captions)
    """
    return ((stated[None] == -1) | (attributes[:, None] == stated[None])).all(-1)


def lookalike_mask():
    """For each of NAMES, the other names that a picture of it may as well show."""
    mask = torch.zeros(len(NAMES), len(NAMES), dtype=torch.bool)
    for group in LOOKALIKES:
        at = torch.tensor([NAMES.index(c) for c in group])
        mask[at[:, None], at[None]] = True
    return mask & ~torch.eye(len(NAMES), dtype=torch.bool)


def vocabulary():
    """Texts that together hold every word that `Captioner` can write."""
    words = [*WORDS, *NAMES, *SHAPES, *TEXTURES, *_COLOURS, *_COUNTS, *_PLACE_WORDS.values()]
    words += [s + ("es" if s.endswith("ss") else "s") for s in SHAPES]
    words += [
        "digit number letter capital lowercase small large on a background",
        "and in left right of above below",
    ]
    frames = TEMPLATES + DIGIT_TEMPLATES + LETTER_TEMPLATES + PICTURE_TEMPLATES
    return [frame.format("x") for frame in frames] + words
