"""Class names x templates -> tokens -> text features."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ..labels import plain
from .towers import CLIPModel

# Words for each label; a list has them in the order of the sorted labels.
ClassNames = Mapping[Any, str | Sequence[str]] | Sequence[str | Sequence[str]]

DEFAULT_TEMPLATE = "a photo of a {}."
# Prompts per call of the text tower when nothing is trained: bounds the memory at 1,000 classes.
_CHUNK = 256


@dataclass(frozen=True, eq=False)
class Prompts:
    """The distinct prompts of all classes, tokenised once.

    Attributes
    ----------
    tokens : int64 Tensor of shape (n_prompts, context_length)
        Of distinct sentences; whether the rows are distinct too depends on the tokeniser.
    prompt : int64 Tensor of shape (n_pairs,)
        Row of `tokens`, for every pair of a class and one of its prompts, classes in order.
    owner : int64 Tensor of shape (n_pairs,)
        The class of that pair.
    n_classes : int
    sentences : tuple of str
        What the rows of `tokens` were before.
    """

    tokens: Tensor
    prompt: Tensor
    owner: Tensor
    n_classes: int
    sentences: tuple[str, ...]

    def to(self, device: torch.device) -> Prompts:
        """Copy to another device."""
        tokens, prompt, owner = (t.to(device) for t in (self.tokens, self.prompt, self.owner))
        return replace(self, tokens=tokens, prompt=prompt, owner=owner)

    def class_features(self, features: Tensor) -> Tensor:
        """Turn text embeddings of the prompts into one unit vector per class.

        A class with several prompts gets their normalised mean, each prompt counting as a unit
        vector.

        Parameters
        ----------
        features : Tensor of shape (n_prompts, n_features)

        Returns
        -------
        class_features : float32 Tensor of shape (n_classes, n_features)
        """
        unit = F.normalize(features.float(), dim=-1)[self.prompt]
        if len(self.owner) == self.n_classes:
            return unit
        sums = unit.new_zeros(self.n_classes, unit.shape[-1]).index_add(0, self.owner, unit)
        return F.normalize(sums, dim=-1)


def label_text(label: Any) -> str:
    """Return a label's own text, with spaces for underscores and no point in a whole number."""
    if isinstance(label, float) and label.is_integer():
        label = int(label)
    return str(label).replace("_", " ")


def class_texts(classes: Iterable[Any], class_names: ClassNames | None) -> list[list[str]]:
    """Find the words for each class.

    Parameters
    ----------
    classes : sequence
        The labels.
    class_names : mapping of label to str or list of str, or list of these, optional
        Their words, by label or in the order of `classes`. None takes each label's own text.

    Returns
    -------
    texts : list of list of str
        One or more per class.

    Raises
    ------
    ValueError
        A label without words, or a list that is not as long as the labels.
    """
    labels = [plain(label) for label in classes]
    if class_names is None:
        return [[label_text(label)] for label in labels]
    if not isinstance(class_names, Mapping):
        class_names = _by_label(labels, class_names)
    missing = [label for label in labels if label not in class_names]
    if missing:
        keys = [plain(key) for key in class_names]
        raise ValueError(
            f"class_names has no entry for the label(s) {missing[:10]!r}; it needs one for each of "
            f"the {len(labels)} labels in y (its keys are {keys[:10]!r})."
        )
    texts = []
    for label in labels:
        words = class_names[label]
        words = [words] if isinstance(words, str) else words
        is_list = isinstance(words, Iterable) and not isinstance(words, (bytes, Mapping))
        texts.append(list(words) if is_list else [])
        if not texts[-1] or not all(isinstance(w, str) and w.strip() for w in texts[-1]):
            raise ValueError(
                f"class_names[{label!r}] must be a text or a non-empty list of texts, got "
                f"{class_names[label]!r}."
            )
    return texts


def _by_label(
    labels: list[Any], class_names: Sequence[str | Sequence[str]]
) -> dict[Any, str | Sequence[str]]:
    if len(class_names) != len(labels):
        raise ValueError(
            f"class_names is a list of {len(class_names)} for {len(labels)} labels in y, "
            f"{labels[:10]!r}; it needs one text for each, in this order. Pass a mapping from "
            "label to text where y may lack some labels."
        )
    return dict(zip(labels, (plain(words) for words in class_names), strict=True))


def as_list(templates: str | Sequence[str]) -> list[str]:
    """Make a list of one template or several."""
    return [templates] if isinstance(templates, str) else list(templates)


def build_prompts(
    texts: Sequence[Sequence[str]],
    templates: str | Sequence[str],
    tokenize: Callable[[list[str]], Tensor],
) -> Prompts:
    """Put every class text into every template and tokenise what is distinct.

    Parameters
    ----------
    texts : sequence of sequence of str
        From `class_texts`.
    templates : str or sequence of str
        Each with one ``{}`` for the class text.
    tokenize : callable
        The backbone's.

    Returns
    -------
    prompts : Prompts
    """
    templates = as_list(templates)
    if not templates:
        raise ValueError("templates is empty; pass at least one, such as 'a photo of a {}.'.")
    for template in templates:
        if not isinstance(template, str) or template.count("{}") != 1:
            raise ValueError(
                f"templates: {template!r} must be a text with exactly one {{}}, where the class "
                "text goes, such as 'a photo of a {}.'."
            )
    rows: dict[str, int] = {}
    prompt, owner = [], []
    for index, words in enumerate(texts):
        for sentence in (template.replace("{}", word) for word in words for template in templates):
            prompt.append(rows.setdefault(sentence, len(rows)))
            owner.append(index)
    return Prompts(
        tokens=tokenize(list(rows)),
        prompt=torch.tensor(prompt),
        owner=torch.tensor(owner),
        n_classes=len(texts),
        sentences=tuple(rows),
    )


@torch.no_grad()
def encode_exactly(model: CLIPModel, prompts: Prompts) -> Tensor:
    """Encode all prompts as open_clip does, at full context length.

    Returns
    -------
    text_features : float32 Tensor of shape (n_classes, n_features)
        Unit length.
    """
    chunks = [model.encode_text(chunk) for chunk in prompts.tokens.split(_CHUNK)]
    return prompts.class_features(torch.cat(chunks))
