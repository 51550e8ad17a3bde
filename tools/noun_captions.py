"""Phrases about nouns, each with the ImageNet classes that it means: what the text tower learns."""

import random
from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp
from imagenet_concepts import Concepts

TEMPLATES = (
    "a photo of a {}.",
    "a photo of {}.",
    "a photo of the {}.",
    "a photo of an {}.",
    "a picture of a {}.",
    "an image of {}.",
    "a good photo of a {}.",
    "a close-up photo of a {}.",
    "a cropped photo of the {}.",
    "a low resolution photo of a {}.",
    "a blurry photo of the {}.",
    "a bright photo of a {}.",
    "a dark photo of the {}.",
    "a black and white photo of a {}.",
    "a photo of many {}.",
    "a photo of a large {}.",
    "a photo of a small {}.",
    "a centered satellite photo of {}.",
    "a photo of a {} texture.",
    "a photo of a {} on a white background.",
    "a photo of a person wearing a {}.",
    "a photo of something made of {}.",
    "a piece of {}.",
    "this is a {}.",
    "itap of a {}.",
    "the {}",
    "a {}",
    "an {}",
)
_OF_A_KIND = ("a photo of a {}, a type of {}.", "{}, a kind of {}", "a {}, which is a {}.")
_MODIFIERS = (
    *("red", "green", "blue", "yellow", "white", "black", "brown", "grey", "orange", "pink"),
    *("purple", "golden", "silver", "dark", "bright", "big", "small", "large", "little", "long"),
    *("short", "round", "flat", "old", "new", "fresh", "dirty", "clean", "wooden", "plastic"),
    *("metal", "sweet", "ripe", "cut", "whole", "sliced", "empty", "single", "different", "real"),
    *("toy", "wild", "young", "male", "female"),
)
_PHYSICAL = 1930  # WordNet's "physical entity": what a photograph can show
_LONGEST_DEFINITION = 18  # words
# Of the phrases: about the classes' own names, about what lies above them, about other things that
# can be seen, about everything else.
_SHARES = {"class": 0.35, "above": 0.1, "visible": 0.5, "abstract": 0.05}
_TAXONOMY = ("genus ", "family ", "order ", "class ", "phylum ", "subfamily ", "division ")


@dataclass
class _Word:
    text: str
    offset: int  # the sense that definitions are taken from
    row: int


class NounCaptions:
    """Draw phrases.

    Attributes
    ----------
    shares : csr array of shape (n_words, 1000)
        The classes that each word means; `draw` names its rows.
    """

    def __init__(self, concepts: Concepts):
        self.nouns = concepts.nouns
        self.words: dict[str, list[_Word]] = {part: [] for part in _SHARES}
        rows = []
        for text, senses in self.nouns.senses.items():
            if text.startswith(_TAXONOMY) or any(c.isdigit() for c in text) or len(text) < 3:
                continue
            part, offset = self._part(concepts, senses)
            self.words[part].append(_Word(text, offset, len(rows)))
            rows.append(concepts.of_word(text))
        for offset in concepts.classes:  # names are sharper than the words that they consist of
            for name in self.nouns.synsets[offset].names:
                self.words["class"].append(_Word(name, offset, len(rows)))
                rows.append(concepts.of_word(name.lower()))
        self.shares = sp.csr_array(sp.vstack(rows))

    def vocabulary(self) -> list[str]:
        """Texts that together hold every word that `draw` can use."""
        synsets = self.nouns.synsets.values()
        texts = [*TEMPLATES, *_OF_A_KIND, *_MODIFIERS, *self.nouns.senses]
        texts += [self.nouns.plural(word) for word in self.nouns.senses]
        return texts + [text for s in synsets for text in (*s.names, s.definition)]

    def names(self) -> list[str]:
        """Return the word of each row of `shares`."""
        words = [word for part in self.words.values() for word in part]
        return [word.text for word in sorted(words, key=lambda word: word.row)]

    def draw(self, n: int, random_state: random.Random) -> tuple[list[str], np.ndarray]:
        """Return `n` phrases, and the row of `shares` of each."""
        parts = random_state.choices(list(_SHARES), list(_SHARES.values()), k=n)
        words = [random_state.choice(self.words[part]) for part in parts]
        return [self._phrase(w, random_state) for w in words], np.array([w.row for w in words])

    def _part(self, concepts: Concepts, senses: list[int]) -> tuple[str, int]:
        """How much a picture can show of a word, and of which sense."""
        for offset in senses:
            if offset in concepts.classes:
                return "class", offset
        for offset in senses:
            if offset in concepts.below:
                return "above", offset
        for offset in senses:
            if _PHYSICAL in self.nouns.ancestors(offset) and not self._particular(offset):
                return "visible", offset
        return "abstract", senses[0]

    def _particular(self, offset: int) -> bool:
        return self.nouns.synsets[offset].is_instance

    def _phrase(self, word: _Word, random_state: random.Random) -> str:
        synset, text, chance = self.nouns.synsets[word.offset], word.text, random_state.random()
        if chance < 0.1:
            words = synset.definition.split()[:_LONGEST_DEFINITION]
            return random_state.choice(("{}: {}", "{}, {}")).format(text, " ".join(words))
        if chance < 0.2 and synset.hypernyms:
            kind = random_state.choice(self.nouns.synsets[synset.hypernyms[0]].names)
            return random_state.choice(_OF_A_KIND).format(text, kind)
        if chance < 0.35:
            text = self.nouns.plural(text)
        elif chance < 0.5:  # what stands before a noun seldom changes what it is
            text = f"{random_state.choice(_MODIFIERS)} {text}"
        if random_state.random() < 0.25:
            return text
        template = random_state.choice(TEMPLATES if random_state.random() < 0.5 else TEMPLATES[:4])
        return template.format(text)
