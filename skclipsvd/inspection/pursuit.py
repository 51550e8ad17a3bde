"""Greedy descriptions of vectors by vectors of texts: plain linear algebra, no models."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import nnls

# How much a text gains by being like those that were chosen before it.
_COHERENCE = 0.3
_TINY = 1e-9


def centred_units(texts: NDArray) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Subtract the mean text, which says only "this is a text", and scale to unit length.

    Parameters
    ----------
    texts : array of shape (n_texts, n_features)

    Returns
    -------
    units : array of shape (n_texts, n_features)
        Zero where a text is the mean.
    mean : array of shape (n_features,)
    """
    texts = np.asarray(texts, dtype=np.float64)
    mean = texts.mean(axis=0)
    return _unit(texts - mean), mean


def text_span(outputs: NDArray, texts: NDArray, n_texts: int) -> list[tuple[int, float]]:
    """Span the outputs of a head by a few texts (TextSpan, arXiv 2310.05916).

    The texts are first projected on what the outputs span, so that a text which lies mostly
    elsewhere counts little. In each step the text with the largest squared inner products is
    chosen, and its direction is taken out of outputs and texts.

    Parameters
    ----------
    outputs : array of shape (n_images, n_features)
        They are centred here.
    texts : array of shape (n_texts, n_features)
        Centred, unit length.
    n_texts : int
        How many to choose.

    Returns
    -------
    chosen : list of (index, explained)
        `explained` is the share of the outputs' variance that this text and those before it
        explain. Fewer than `n_texts` where nothing is left to explain.
    """
    outputs = np.asarray(outputs, dtype=np.float64)
    outputs = outputs - outputs.mean(axis=0)
    u, s, vt = np.linalg.svd(outputs, full_matrices=False)
    kept = s > _TINY * max(s[0], np.finfo(float).tiny)
    outputs, texts = u[:, kept] * s[kept], texts @ vt[kept].T
    total = (outputs**2).sum()
    chosen: list[tuple[int, float]] = []
    explained = 0.0
    for _ in range(n_texts):
        gains = ((outputs @ texts.T) ** 2).sum(axis=0)
        best = int(gains.argmax())
        if gains[best] <= _TINY * total:
            break
        direction = _unit(texts[best])
        along = outputs @ direction
        explained += (along**2).sum() / total
        chosen.append((best, float(explained)))
        outputs = outputs - np.outer(along, direction)
        texts = texts - np.outer(texts @ direction, direction)
    return chosen


def describe_direction(
    direction: NDArray, texts: NDArray, mean: NDArray, n_texts: int
) -> list[tuple[int, float, float]]:
    """Write a direction as a sparse non-negative mixture of texts, whichever way it points.

    Non-negative orthogonal matching pursuit with a bonus for texts that are like those chosen
    before (in the manner of SITH, arXiv 2603.24653). A singular vector has no sign of its own: the
    one that the texts explain better is taken. What points along the mean text is left out.

    Parameters
    ----------
    direction : array of shape (n_features,)
    texts : array of shape (n_texts, n_features)
        Centred, unit length.
    mean : array of shape (n_features,)
        What was subtracted.
    n_texts : int
        How many to choose.

    Returns
    -------
    chosen : list of (index, weight, explained)
        In the order of choice; `explained` is the share of the direction's squared length that this
        text and those before it explain.
    """
    direction = _unit(np.asarray(direction, dtype=np.float64))
    along_mean = _unit(mean)
    target = direction - (direction @ along_mean) * along_mean
    both = [_pursue(sign * target, texts, n_texts) for sign in (1, -1)]
    return max(both, key=lambda chosen: chosen[-1][2] if chosen else 0.0)


def _pursue(target: NDArray, texts: NDArray, n_texts: int) -> list[tuple[int, float, float]]:
    chosen: list[int] = []
    explained: list[float] = []
    weights, residual = np.empty(0), target
    for _ in range(n_texts):
        gains = texts @ _unit(residual)
        scores = gains.copy()
        if chosen:
            scores += _COHERENCE * (texts @ texts[chosen].T).mean(axis=1)
        scores[gains <= _TINY] = -np.inf
        scores[chosen] = -np.inf
        best = int(scores.argmax())
        if np.isneginf(scores[best]):
            break
        chosen.append(best)
        weights = nnls(texts[chosen].T, target)[0]
        residual = target - weights @ texts[chosen]
        explained.append(float(target @ target - residual @ residual))
    rows = zip(chosen, weights, explained, strict=True)
    return [(index, float(weight), share) for index, weight, share in rows if weight > 0]


def _unit(vectors: NDArray) -> NDArray[np.float64]:
    """Scale to unit length along the last axis; zero stays zero."""
    norms = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return np.divide(vectors, norms, out=np.zeros_like(vectors), where=norms > _TINY)
