"""WordNet's nouns: what Debian's `wordnet-base` holds under /usr/share/wordnet.

The format is described in wndb(5WN). Only what a text tower can learn names from is read: lemmas,
senses in order of frequency, hypernyms, definitions, irregular plurals.
"""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Synset:
    """One meaning: its names, the more general meanings, and its definition."""

    names: tuple[str, ...]
    hypernyms: tuple[int, ...]
    definition: str
    is_instance: bool  # a particular (Paris), not a kind (city)


class Nouns:
    """WordNet's nouns, read from `folder`.

    Attributes
    ----------
    synsets : dict from offset to Synset
        Offsets are those of ImageNet's ids in WordNet 3.0: ``n01440764`` is 1440764.
    senses : dict from str to list of int
        Lower-case words (with spaces) to their synsets, the most frequent first.
    plurals : dict from str to str
        The irregular ones only; see `plural`.
    """

    def __init__(self, folder: Path):
        folder = Path(folder)
        self.synsets = dict(_read_synsets(folder / "data.noun"))
        self.senses = dict(_read_senses(folder / "index.noun"))
        self.plurals = _read_plurals(folder / "noun.exc")

    def ancestors(self, offset: int) -> dict[int, int]:
        """Every more general synset, and `offset` itself, with the steps up to it."""
        distance, frontier = {offset: 0}, [offset]
        while frontier:
            above = {h: distance[o] + 1 for o in frontier for h in self.synsets[o].hypernyms}
            frontier = [o for o in above if o not in distance]
            distance.update((o, above[o]) for o in frontier)
        return distance

    def plural(self, word: str) -> str:
        """Of the last word, by WordNet's exceptions or by the rule of spelling."""
        head, space, last = word.rpartition(" ")
        return head + space + (self.plurals.get(last) or _regular_plural(last))


def _read_synsets(path: Path):
    for line in _lines(path):
        data, _, gloss = line.partition(" | ")
        fields = data.split(" ")
        n_words = int(fields[3], 16)
        names = tuple(w.replace("_", " ") for w in fields[4 : 4 + 2 * n_words : 2])
        pointers = fields[5 + 2 * n_words :]
        pairs = list(zip(pointers[::4], pointers[1::4], strict=False))
        kinds = tuple(int(target) for symbol, target in pairs if symbol == "@")
        particulars = tuple(int(target) for symbol, target in pairs if symbol == "@i")
        # Behind the definition come examples in quotation marks.
        definition = gloss.partition('; "')[0].strip()
        yield int(fields[0]), Synset(names, kinds + particulars, definition, bool(particulars))


def _read_senses(path: Path):
    for line in _lines(path):
        fields = line.split()
        n_senses = int(fields[2])
        yield fields[0].replace("_", " "), [int(offset) for offset in fields[-n_senses:]]


def _read_plurals(path: Path) -> dict[str, str]:
    pairs = (line.split()[:2] for line in _lines(path))
    return {singular: plural for plural, singular in pairs if "_" not in plural}


def _lines(path: Path):
    """Without the licence at the top, whose lines are indented."""
    with open(path, encoding="utf-8") as file:
        yield from (line.rstrip() for line in file if not line.startswith("  "))


def _regular_plural(word: str) -> str:
    if word.endswith(("s", "x", "z", "ch", "sh")):
        return word + "es"
    if word.endswith("y") and word[-2:-1] not in tuple("aeiou"):
        return word[:-1] + "ies"
    return word + "s"
