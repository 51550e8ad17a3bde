"""What the user meant to say and the model does not read: bare numbers, lost words, equal classes.

Nothing here changes a prompt; it warns, or refuses classes that are all the same to the model.
"""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from ..exceptions import BareLabelWarning, CutPromptWarning, IndistinctClassesWarning, warn
from .prompts import DEFAULT_TEMPLATE, Prompts, as_list, label_text

Tokenize = Callable[..., Tensor]
_NUMERAL = re.compile(r"[-+]?\d+(?:[.,]\d+)?(?:e[-+]?\d+)?|true|false|nan", re.IGNORECASE)
_NAMED_AT_MOST = 3
_SHOWN_CHARACTERS = 60


def warn_of_bare_labels(labels: Sequence[Any], templates: str | Sequence[str]) -> None:
    """Warn where prompts are made of labels that are bare numbers or booleans.

    Numerals that are text (``"3"``) count as words where a template of the user's own surrounds
    them: whoever writes both can mean "the digit 3". With the default template they are taken for
    codes, such as names of folders.

    Parameters
    ----------
    labels : sequence
        The classes, without words of their own.
    templates : str or sequence of str
        As the user passed them.
    """
    if all(isinstance(label, str) for label in labels):
        if as_list(templates) != [DEFAULT_TEMPLATE]:
            return
        kind = "numbers written as text"
    elif all(isinstance(label, bool) for label in labels):
        kind = "booleans"
    else:
        kind = "numbers"
    if not all(_NUMERAL.fullmatch(label_text(label).strip()) for label in labels):
        return
    example = as_list(templates)[0].replace("{}", label_text(labels[0]))
    entries = ", ".join(f"{label!r}: '...'" for label in labels[:_NAMED_AT_MOST])
    more = ", ..." if len(labels) > _NAMED_AT_MOST else ""
    advice = f"Say what they are: class_names={{{entries}{more}}}."
    if not isinstance(labels[0], str) and [float(x) for x in labels] == list(range(len(labels))):
        advice += (
            " If scikit-learn has numbered your labels (LabelEncoder, VotingClassifier, "
            "StackingClassifier, BaggingClassifier): class_names=dict(enumerate(np.unique(y))), "
            "with y as it was before."
        )
    if len(labels) == 2:
        advice += (
            " OneVsRestClassifier, OneVsOneClassifier and OutputCodeClassifier number the labels "
            "differently for each of their classifiers, so that no words fit; this classifier "
            "takes all classes at once without them."
        )
    warn(
        f"The labels are {kind}, and CLIP reads {example!r}: it does not know what they mean. "
        f"{advice}",
        BareLabelWarning,
    )


def check_prompts(labels: Sequence[Any], prompts: Prompts, tokenize: Tokenize) -> None:
    """Warn of words that are cut off, and of classes that have the same tokens.

    Parameters
    ----------
    labels : sequence of length n_classes
        For messages.
    prompts : Prompts
        From `build_prompts`.
    tokenize : callable
        The same as there; takes ``context_length``.

    Raises
    ------
    ValueError
        All classes have the same tokens.
    """
    lost = _lost_words(prompts, tokenize)
    _check_distinct(labels, prompts, lost)
    if not lost:
        return
    # Each lost piece once, with the first label that it belongs to.
    owners = {
        int(row): int(owner) for row, owner in zip(prompts.prompt, prompts.owner, strict=True)
    }
    named = [f"{_shown(labels[owners[row]])}: {_shown(words)}" for row, words in lost.items()]
    more = f"; and {len(named) - _NAMED_AT_MOST} more" if len(named) > _NAMED_AT_MOST else ""
    warn(
        f"{len(lost)} of {len(prompts.sentences)} prompts are longer than the "
        f"{prompts.tokens.shape[1]} tokens that this model reads, and their ends are lost. "
        f"Label and lost words: {'; '.join(named[:_NAMED_AT_MOST])}{more}. Shorten class_names or "
        "templates.",
        CutPromptWarning,
    )


def _check_distinct(labels: Sequence[Any], prompts: Prompts, lost: dict[int, str]) -> None:
    groups = [group for group in _equal_classes(prompts) if len(group) > 1]
    if not groups:
        return
    rows: dict[int, list[int]] = defaultdict(list)
    for row, owner in zip(prompts.prompt.tolist(), prompts.owner.tolist(), strict=True):
        rows[owner].append(row)
    described = []
    for group in groups[:_NAMED_AT_MOST]:
        names = ", ".join(_shown(labels[i]) for i in group[:_NAMED_AT_MOST])
        if len(group) > _NAMED_AT_MOST:
            names += f" and {len(group) - _NAMED_AT_MOST} more"
        cut = [_shown(lost[row]) for i in group for row in rows[i] if row in lost]
        loss = f", cut off: {'; '.join(cut[:_NAMED_AT_MOST])}" if cut else ""
        described.append(f"{names} ({_shown(prompts.sentences[rows[group[0]][0]])}{loss})")
    more = f"; and {len(groups) - _NAMED_AT_MOST} more" if len(groups) > _NAMED_AT_MOST else ""
    problem = f"{'; '.join(described)}{more}"
    advice = (
        "Tokenisers fold case, spaces and Unicode forms and cut long texts: give each class words "
        "of its own in class_names"
    )
    if len(groups) == 1 and len(groups[0]) == prompts.n_classes:
        raise ValueError(
            f"The model reads the same tokens for all {prompts.n_classes} classes: {problem}. "
            f"{advice}, and a template with {{}} within the first {prompts.tokens.shape[1]} tokens."
        )
    warn(
        "The model reads the same tokens for different classes, and can predict only the first "
        f"of them: {problem}. {advice}.",
        IndistinctClassesWarning,
    )


def _equal_classes(prompts: Prompts) -> list[list[int]]:
    """Group the classes by what the model reads of them, each prompt with its share."""
    known: dict[bytes, int] = {}
    tokens = prompts.tokens.cpu().numpy()
    row_id = [known.setdefault(row.tobytes(), len(known)) for row in tokens]
    counts: dict[int, Counter[int]] = defaultdict(Counter)
    for row, owner in zip(prompts.prompt.tolist(), prompts.owner.tolist(), strict=True):
        counts[owner][row_id[row]] += 1
    groups: dict[frozenset[tuple[int, int]], list[int]] = defaultdict(list)
    for owner, count in sorted(counts.items()):
        divisor = math.gcd(*count.values())
        groups[frozenset((row, n // divisor) for row, n in count.items())].append(owner)
    return list(groups.values())


def _lost_words(prompts: Prompts, tokenize: Tokenize) -> dict[int, str]:
    """Return what the model does not read of the prompts that are too long, by row."""
    tokens = prompts.tokens.cpu()
    if tokens.shape[1] < 3:
        return {}
    # Only full rows can be cut: their last but one token is no padding. (The last one may look like
    # padding: for some tokenisers it is the sign that a text ends.)
    padding = tokenize([""])[0, -2]
    full = torch.nonzero(tokens[:, -2] != padding).flatten().tolist()
    if not full:
        return {}
    cut = _are_cut([prompts.sentences[row] for row in full], tokenize, tokens.shape[1])
    return {
        row: _lost_end(prompts.sentences[row], tokenize, tokens.shape[1])
        for row, is_cut in zip(full, cut, strict=True)
        if is_cut
    }


def _are_cut(sentences: list[str], tokenize: Tokenize, length: int) -> list[bool]:
    """Tell which sentences would have other tokens if there were place for one more."""
    longer = tokenize(sentences, context_length=length + 1)[:, :length]
    return (longer != tokenize(sentences)).any(dim=1).tolist()


def _lost_end(sentence: str, tokenize: Tokenize, length: int) -> str:
    """Return the end of a sentence from the first word that is not read whole."""
    fits, too_long = 0, len(sentence)
    while too_long - fits > 1:
        middle = (fits + too_long) // 2
        if _are_cut([sentence[:middle]], tokenize, length)[0]:
            too_long = middle
        else:
            fits = middle
    read = sentence[:fits]
    if not sentence[fits].isspace() and not read.endswith((" ", "\t", "\n")):
        read = re.sub(r"\s\S*$", " ", read)  # the word that is cut in two
    return sentence[len(read) :].strip()


def _shown(label: Any) -> str:
    if not isinstance(label, str) or len(label) <= _SHOWN_CHARACTERS:
        return repr(label)
    return repr(f"{label[:_SHOWN_CHARACTERS].rstrip()}...")
