"""Structural copies of a model, which share its tensors."""

from __future__ import annotations

import copy
from collections import OrderedDict
from typing import Any

import torch
from torch import nn

# Private: the tables of a module, which a copy has to share one by one.
_TENSORS = ("_parameters", "_buffers", "_non_persistent_buffers_set")
_TABLES = (dict, OrderedDict, list, set)
_ATOMS = (bool, int, float, str, type(None), type, torch.dtype, torch.device)


def structural_copy(model: nn.Module) -> nn.Module:
    """Copy every module of a model, and share every tensor.

    It gives what `copy.deepcopy` does with all tensors in its memo, twenty times as fast: nearly
    all of a module's state is empty tables of hooks, which need not be looked into.

    Parameters
    ----------
    model : torch.nn.Module
        It is left as it is.

    Returns
    -------
    skeleton : torch.nn.Module
        In which a tensor or a module can be replaced in private.
    """
    memo = {id(tensor): tensor for tensor in [*model.parameters(), *model.buffers()]}
    return _copy(model, memo)


def _copy(module: nn.Module, memo: dict[int, Any]) -> nn.Module:
    if id(module) in memo:
        return memo[id(module)]
    if _copies_itself(type(module)):
        return copy.deepcopy(module, memo)
    twin = memo[id(module)] = object.__new__(type(module))
    state = {}
    for attribute, value in module.__getstate__().items():
        if attribute in _TENSORS:
            value = value.copy()
        elif attribute == "_modules":
            value = {name: None if m is None else _copy(m, memo) for name, m in value.items()}
        elif type(value) in _TABLES and not value:
            value = type(value)()
        elif not isinstance(value, _ATOMS):
            value = copy.deepcopy(value, memo)
        state[attribute] = value
    twin.__setstate__(state)
    return twin


def _copies_itself(kind: type) -> bool:
    """Whether a class says itself how it is copied."""
    return any(
        getattr(kind, name, None) is not getattr(nn.Module, name, None)
        for name in ("__deepcopy__", "__reduce__", "__reduce_ex__", "__getstate__")
    )
