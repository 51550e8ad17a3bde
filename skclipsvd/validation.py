"""scikit-learn's check of parameters, without losing what a type checker knows of a method."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

# Private; nothing public reads `_parameter_constraints`.
from sklearn.base import _fit_context

Method = TypeVar("Method", bound=Callable[..., Any])


def fit_context(*, prefer_skip_nested_validation: bool) -> Callable[[Method], Method]:
    """Check the parameters before a fit; its signature and its return type stay known.

    Parameters
    ----------
    prefer_skip_nested_validation : bool
        Whether estimators inside are spared the check of their own.

    Returns
    -------
    decorator : callable
    """
    return _fit_context(prefer_skip_nested_validation=prefer_skip_nested_validation)
