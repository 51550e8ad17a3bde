"""Phrases to describe heads with: the lists of the package, and embeddings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from importlib.resources import files

import numpy as np
from numpy.typing import NDArray

from ..clip import Backbone, build_prompts, encode_exactly
from .contributions import cut_to_longest_prompt, is_plain_text, splittable_text_tower


def load_concepts(name: str) -> list[str]:
    """Read one of the package's lists of concepts.

    Parameters
    ----------
    name : {"general", "biomedical"}
        Everyday pictures, or medical and biological ones.

    Returns
    -------
    concepts : list of str
        Noun phrases.

    Raises
    ------
    ValueError
        There is no list of that name.

    Examples
    --------
    >>> from skclipsvd.inspection import load_concepts
    >>> load_concepts("general")[:3]
    ['red', 'orange', 'yellow']
    """
    lists = {f.name.removesuffix(".txt"): f for f in (files(__package__) / "concepts").iterdir()}
    if name not in lists:
        raise ValueError(
            f"texts={name!r}: there is no such list; choose one of {sorted(lists)!r}, or pass a "
            "list of phrases."
        )
    lines = (line.strip() for line in lists[name].read_text(encoding="utf-8").splitlines())
    return [line for line in lines if line and not line.startswith("#")]


def as_concepts(texts: str | Sequence[str]) -> list[str]:
    """Turn the name of a list, or phrases, into distinct phrases in their first order."""
    phrases = load_concepts(texts) if isinstance(texts, str) else list(texts)
    for index, phrase in enumerate(phrases):
        if not isinstance(phrase, str) or not phrase.strip():
            raise ValueError(f"texts[{index}] = {phrase!r} is no phrase; pass non-empty strings.")
    phrases = list(dict.fromkeys(phrases))
    if len(phrases) < 2:
        raise ValueError(
            f"texts has {len(phrases)} distinct phrase(s); two or more are needed to tell heads "
            "apart."
        )
    return phrases


def embed_phrases(phrases: Sequence[str], backbone: Backbone) -> NDArray[np.float32]:
    """Embed phrases with the frozen text tower: (n_texts, n_features), unit length."""
    prompts = build_prompts([[phrase] for phrase in phrases], "{}", backbone.tokenize)
    prompts = prompts.to(backbone.device)
    model = backbone.skeleton()
    if is_plain_text(model):
        tokens = cut_to_longest_prompt(model, splittable_text_tower(model), prompts.tokens)
        prompts = replace(prompts, tokens=tokens)
    return encode_exactly(model, prompts).cpu().numpy()
