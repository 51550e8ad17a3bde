"""scikit-learn's check of parameters, without losing what a type checker knows of a method.

All of it is private there: `_parameter_constraints`, what they are written in and what reads them
have no public names yet (scikit-learn #28963). So it is imported here, and only here.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any, TypeVar, cast

# Private: see above.
from sklearn.base import BaseEstimator, _fit_context
from sklearn.utils._param_validation import (
    Interval,
    StrOptions,
    validate_parameter_constraints,
)

__all__ = [
    "Interval",
    "Method",
    "StrOptions",
    "check_parameters",
    "check_values",
    "fit_context",
    "named_by_class",
]

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


def named_by_class(method: Method) -> Method:
    """Let the error of a call with wrong arguments name the user's class, not the base class.

    Parameters
    ----------
    method : callable
        One that subclasses inherit.

    Returns
    -------
    method : callable
        The same, with the same signature.
    """
    signature = inspect.signature(method)

    @functools.wraps(method)
    def checked(self: object, *args: Any, **kwargs: Any) -> Any:
        try:
            signature.bind(self, *args, **kwargs)
        except TypeError as error:
            raise TypeError(f"{type(self).__name__}.{method.__name__}(): {error}") from None
        return method(self, *args, **kwargs)

    return cast(Method, checked)


def check_values(values: Mapping[str, Any], constraints: dict, owner: str) -> None:
    """Raise ValueError where values of parameters are out of their ranges, without an estimator.

    Parameters
    ----------
    values : mapping of str to Any
        By the names of the parameters; all of them in `constraints`.
    constraints : dict
        As an estimator has them.
    owner : str
        What the message calls the estimator.
    """
    validate_parameter_constraints(constraints, dict(values), caller_name=owner)


def check_parameters(estimator: BaseEstimator) -> None:
    """Raise ValueError where a parameter is out of its range, without a fit."""
    estimator._validate_params()  # private: see above
