"""The distinct beginnings of some prompts, and which of them see which in causal attention."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

# Keys of one attention problem: prompts are put together until they have this many. Measured for
# 300 class names, forward and backward: 24 to 64 cost the same, one prompt each five times that.
_N_KEYS = 48
_NONE = -1


@dataclass(frozen=True, eq=False)
class Attention:
    """Causal attention among the nodes of a tree, as a batch of small dense problems.

    Attributes
    ----------
    queries : int64 Tensor of shape (n_problems, n_queries)
        Which rows of the queries each problem answers; filled up with repetitions.
    keys : int64 Tensor of shape (n_problems, n_keys)
        The nodes that they may look at; filled up with repetitions, which are not allowed.
    allowed : bool Tensor of shape (n_problems, 1, n_queries, n_keys)
        Which query sees which key; the second axis is for the heads.
    place : int64 Tensor of shape (n_rows,)
        Where in the flattened `queries` the answer for each row stands.
    """

    queries: Tensor
    keys: Tensor
    allowed: Tensor
    place: Tensor

    def to(self, device: torch.device) -> Attention:
        """Move it to a device."""
        return Attention(*(part.to(device) for part in vars(self).values()))


@dataclass(frozen=True, eq=False)
class PromptTree:
    """The distinct beginnings of some prompts: the nodes of a tree, a parent before its children.

    Attributes
    ----------
    token : int64 Tensor of shape (n_nodes,)
        Last token of each beginning.
    depth : int64 Tensor of shape (n_nodes,)
        Its position.
    ends : int64 Tensor of shape (n_prompts,)
        The node of each prompt's end-of-text token.
    of_nodes : Attention
        Every node looks at those on the way to it.
    of_ends : Attention
        Every prompt's end does; its rows are prompts.
    """

    token: Tensor
    depth: Tensor
    ends: Tensor
    of_nodes: Attention
    of_ends: Attention

    @classmethod
    def of(cls, tokens: Tensor, ends: Tensor) -> PromptTree:
        """Build the tree of prompts (n_prompts, context_length) that end at positions `ends`."""
        token, depth, paths = _grow(tokens.cpu().numpy(), ends.cpu().numpy())
        last = paths.max(axis=1)
        seen: set[int] = set()
        problems: list[tuple[list[int], list[int], list[int]]] = []
        for prompts in _alike(paths):
            keys = _on_the_way(paths[prompts])
            problems.append((keys, [node for node in keys if node not in seen], prompts))
            seen.update(keys)
        of_keys, of_nodes, of_prompts = (list(column) for column in zip(*problems, strict=True))
        routes, device = _routes(paths, len(token)), tokens.device
        own = np.arange(len(token))
        return cls(
            token=torch.from_numpy(token).to(device),
            depth=torch.from_numpy(depth).to(device),
            ends=torch.from_numpy(last).to(device),
            of_nodes=_attention(of_keys, of_nodes, own, routes, depth).to(device),
            of_ends=_attention(of_keys, of_prompts, last, routes, depth).to(device),
        )


def _grow(rows: NDArray, last: NDArray) -> tuple[NDArray, NDArray, NDArray]:
    """Number the distinct beginnings, shortest first.

    Returns each one's last token and its depth, and each prompt's way through them, of shape
    (n_prompts, length), with `_NONE` behind its end.
    """
    paths = np.full((len(rows), last.max() + 1), _NONE, dtype=np.int64)
    token: list[NDArray] = []
    depth: list[NDArray] = []
    parent = np.zeros(len(rows), dtype=np.int64)
    for position in range(paths.shape[1]):
        going_on = last >= position
        beginnings = np.stack([parent[going_on], rows[going_on, position]])
        new, which = np.unique(beginnings, axis=1, return_inverse=True)
        parent[going_on] = paths[going_on, position] = which.ravel() + sum(map(len, token))
        token.append(new[1])
        depth.append(np.full(new.shape[1], position))
    return np.concatenate(token), np.concatenate(depth), paths


def _alike(paths: NDArray) -> Iterable[list[int]]:
    """Put prompts together that begin alike, until they have enough nodes for one problem."""
    group: list[int] = []
    for prompt in np.lexsort(paths.T[::-1]).tolist():
        if group and len(_on_the_way(paths[[*group, prompt]])) > _N_KEYS:
            yield group
            group = []
        group.append(prompt)
    yield group


def _on_the_way(paths: NDArray) -> list[int]:
    return np.unique(paths[paths != _NONE]).tolist()


def _routes(paths: NDArray, n_nodes: int) -> NDArray:
    """Give each node the nodes on the way to it and itself, (n_nodes, length), by depth."""
    routes = np.full((n_nodes, paths.shape[1]), _NONE)
    for position in range(paths.shape[1]):
        through = paths[paths[:, position] != _NONE]
        routes[through[:, position], : position + 1] = through[:, : position + 1]
    return routes


def _attention(
    keys: Sequence[list[int]],
    queries: Sequence[list[int]],
    node: NDArray,
    routes: NDArray,
    depth: NDArray,
) -> Attention:
    """Lay out problems of uneven size; query ``i`` looks from where ``node[i]`` is."""
    keys, queries = zip(*((k, q) for k, q in zip(keys, queries, strict=True) if q), strict=True)
    looked_at, asked = _filled(keys), _filled(queries)
    real = np.arange(looked_at.shape[1]) < np.array([[len(k)] for k in keys])
    seen = np.take_along_axis(routes[node[asked]], depth[looked_at][:, None, :], axis=2)
    allowed = (seen == looked_at[:, None, :]) & real[:, None, :]
    # A query that fills up stands behind the one that it repeats.
    place = np.unique(asked, return_index=True)[1]
    return Attention(*map(torch.from_numpy, (asked, looked_at, allowed[:, None], place)))


def _filled(lists: Sequence[list[int]]) -> NDArray[np.int64]:
    """Make lists equally long by repeating each one's last entry."""
    longest = max(map(len, lists))
    return np.array([entries + entries[-1:] * (longest - len(entries)) for entries in lists])
