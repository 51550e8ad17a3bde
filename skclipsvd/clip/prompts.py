"""Class names x templates -> tokens -> text features."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from .towers import CLIPModel

# Words for each label.
ClassNames = Mapping[Any, str | Sequence[str]]
# Prompts per call of the text tower when nothing is trained: bounds the memory at 1,000 classes.
_CHUNK = 256


@dataclass(frozen=True, eq=False)
class Prompts:
    """The distinct prompts of all classes, tokenised once.

    Attributes
    ----------
    tokens : int64 Tensor of shape (n_prompts, context_length)
        Distinct rows.
    prompt : int64 Tensor of shape (n_pairs,)
        Row of `tokens`, for every pair of a class and one of its prompts, classes in order.
    owner : int64 Tensor of shape (n_pairs,)
        The class of that pair.
    n_classes : int
    """

    tokens: Tensor
    prompt: Tensor
    owner: Tensor
    n_classes: int

    def to(self, device: torch.device) -> Prompts:
        """Copy to another device."""
        return Prompts(
            tokens=self.tokens.to(device),
            prompt=self.prompt.to(device),
            owner=self.owner.to(device),
            n_classes=self.n_classes,
        )

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


def class_texts(classes: Iterable[Any], class_names: ClassNames | None) -> list[list[str]]:
    """Find the words for each class.

    Parameters
    ----------
    classes : sequence
        The labels.
    class_names : mapping of label to str or list of str, optional
        Their words. None takes each label's own text, with spaces for underscores.

    Returns
    -------
    texts : list of list of str
        One or more per class.

    Raises
    ------
    ValueError
        A label without words.
    """
    labels = [label.item() if isinstance(label, np.generic) else label for label in classes]
    if class_names is None:
        return [[str(label).replace("_", " ")] for label in labels]
    missing = [label for label in labels if label not in class_names]
    if missing:
        raise ValueError(
            f"class_names has no entry for the label(s) {missing[:10]!r}; it needs one for each of "
            f"the {len(labels)} labels in y (its keys are {list(class_names)[:10]!r})."
        )
    texts = [[v] if isinstance(v := class_names[label], str) else list(v) for label in labels]
    for label, words in zip(labels, texts, strict=True):
        if not words or not all(isinstance(word, str) and word.strip() for word in words):
            raise ValueError(
                f"class_names[{label!r}] must be a text or a non-empty list of texts, got "
                f"{class_names[label]!r}."
            )
    return texts


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
    templates = [templates] if isinstance(templates, str) else list(templates)
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
