"""Which ImageNet classes a noun means: from WordNet's hierarchy and definitions alone.

Every synset becomes a distribution over the 1,000 classes. One that has classes below it means
those; one below a class means that class; any other is given the classes that its names, definition
and more general meanings share rare words with: carrot has no class, but shares "vegetable" with a
dozen, "cardboard" stands in the definition of carton.
"""

import re
from collections import Counter

import numpy as np
import scipy.sparse as sp
from wordnet_nouns import Nouns

# A synset's description takes in those above it; each step up says less about it.
_FADE = 0.6
# Between similarities: a class half as similar has 2**-4 of the share.
_SHARPNESS = 4
_NEAREST = 30
# Against a less frequent sense, and one without a class at or below it.
_NEXT_SENSE, _WITHOUT_CLASS = 0.5, 0.3
_STOP = frozenset(
    (
        *("a", "an", "and", "are", "as", "at", "by", "for", "from", "in", "is", "it", "its", "of"),
        *("on", "or", "that", "the", "to", "used", "which", "with"),
    )
)


class Concepts:
    """Distributions over ImageNet's classes.

    Parameters
    ----------
    nouns : Nouns
    classes : list of int
        Offset of each class's synset.

    Attributes
    ----------
    below : dict from int to list of int
        Of every synset with classes at or below it, those classes.
    """

    def __init__(self, nouns: Nouns, classes: list[int]):
        self.nouns = nouns
        self.classes = {offset: k for k, offset in enumerate(classes)}
        self.below: dict[int, list[int]] = {}
        for k, offset in enumerate(classes):
            for ancestor in nouns.ancestors(offset):
                self.below.setdefault(ancestor, []).append(k)
        self._row = {offset: i for i, offset in enumerate(nouns.synsets)}
        self._kin = self._kinship(classes)

    def of_synset(self, offset: int) -> sp.csr_array:
        """Shares of the classes: one row that sums to 1."""
        if offset in self.below:
            return self._equal_shares(self.below[offset])
        over = [o for o in self.nouns.ancestors(offset) if o in self.classes]
        if over:
            return self._equal_shares([self.classes[o] for o in over])
        return self._kin[[self._row[offset]]]

    def of_word(self, word: str) -> sp.csr_array:
        """Over all senses of a word, the frequent ones and those with classes counting more."""
        senses = self.nouns.senses[word]
        weights = np.array([self._weight(i, offset) for i, offset in enumerate(senses)])
        rows = sp.vstack([self.of_synset(offset) for offset in senses])
        return sp.csr_array((weights / weights.sum())[None] @ rows)

    def _weight(self, rank: int, offset: int) -> float:
        return _NEXT_SENSE**rank * (1 if offset in self.below else _WITHOUT_CLASS)

    def _equal_shares(self, classes: list[int]) -> sp.csr_array:
        share = np.full(len(classes), 1 / len(classes))
        return sp.csr_array((share, ([0] * len(classes), classes)), shape=(1, len(self.classes)))

    def _kinship(self, classes: list[int]) -> sp.csr_array:
        """Every synset's shares of the classes that are described most like it."""
        documents = self._documents()
        own = documents[[self._row[offset] for offset in classes]]
        nearest = min(_NEAREST, len(classes))
        rows = []
        for start in range(0, documents.shape[0], 4096):
            similar = (documents[start : start + 4096] @ own.T).toarray()
            floor = np.partition(similar, -nearest, axis=1)[:, [-nearest]]
            shares = np.where(similar >= floor, similar + 1e-9, 0) ** _SHARPNESS
            rows.append(sp.csr_array(shares / shares.sum(1, keepdims=True)))
        return sp.csr_array(sp.vstack(rows))

    def _documents(self) -> sp.csr_array:
        """TF-IDF rows of unit length, one per synset in the order of `nouns.synsets`."""
        column: dict[object, int] = {}
        own = {o: _terms(o, s.names, s.definition) for o, s in self.nouns.synsets.items()}
        rows, columns, values = [], [], []
        for offset, row in self._row.items():
            counts: dict[object, float] = {}
            for ancestor, steps in self.nouns.ancestors(offset).items():
                for term, count in own[ancestor].items():
                    counts[term] = max(counts.get(term, 0), count * _FADE**steps)
            rows += [row] * len(counts)
            columns += [column.setdefault(term, len(column)) for term in counts]
            values += list(counts.values())
        table = sp.csr_array((values, (rows, columns)), shape=(len(self._row), len(column)))
        rarity = np.log(table.shape[0] / np.maximum(1, (table > 0).sum(0)))
        table = sp.csr_array(table * rarity[None])
        length = np.maximum(np.sqrt((table * table).sum(1)), 1e-9)
        return sp.csr_array(table / length[:, None])


def _terms(offset: int, names: tuple[str, ...], definition: str) -> Counter:
    """The synset itself (which its descendants share), the words of its names, its definition's."""
    terms: Counter = Counter({offset: 2.0})
    for name in names:
        for word in _words(name):
            terms[word] = 2.0
    for word in _words(definition):
        terms[word] = max(terms[word], 1.0)
    return terms


def _words(text: str) -> list[str]:
    """Lower-case words without a plural's s, and without the words that mean nothing."""
    words = re.findall(r"[a-z]+", text.lower())
    return [w[:-1] if len(w) > 3 and w.endswith("s") else w for w in words if w not in _STOP]
