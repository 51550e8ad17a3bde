"""scikit-learn's fit callbacks (1.9 and later), and nothing where it has none."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ..validation import Method

if TYPE_CHECKING:
    from sklearn.callback import CallbackContext

_with_callbacks: Callable[[Any], Any] | None
try:
    from sklearn.callback import CallbackSupportMixin
    from sklearn.callback import with_callbacks as _with_callbacks
except ImportError:  # scikit-learn < 1.9
    _with_callbacks = None

    # A type checker takes the one that it knows for both.
    class CallbackSupportMixin:  # type: ignore[no-redef]
        """Stand in for the mixin that this scikit-learn does not have yet."""


def with_callbacks(method: Method) -> Method:
    """Let scikit-learn set up and tear down callbacks around a fit, where it has any."""
    return method if _with_callbacks is None else _with_callbacks(method)


class FitMonitor:
    """Tell an estimator's callbacks of the epochs of a fit.

    Parameters
    ----------
    estimator : estimator
        Whose fit it is.
    n_epochs : int
        At most so many will come.
    X, y : list, array
        The training data, as scorers want them.
    metadata : dict or None
        Such as ``{"sample_weight": ...}``.
    fitted_attributes : callable
        Returns the attributes that would make the estimator ready to predict right now. It is
        called only where a callback asks for them.
    """

    def __init__(
        self,
        estimator: Any,
        n_epochs: int,
        X: Any,
        y: Any,
        metadata: dict | None,
        fitted_attributes: Callable[[], dict[str, Any]],
    ):
        self._arguments = dict(
            estimator=estimator,
            X=X,
            y=y,
            metadata=metadata,
            reconstruction_attributes=fitted_attributes,
        )
        self._root: CallbackContext | None = None
        self._epoch: CallbackContext | None = None
        # Private in name: scikit-learn's callbacks are made for fits that call it.
        if hasattr(estimator, "_init_callback_context"):
            self._root = estimator._init_callback_context(max_subtasks=n_epochs)
            self._root.call_on_fit_task_begin(**self._arguments)

    def epoch_begins(self) -> None:
        """Open the task of the next epoch."""
        if self._root is not None:
            self._epoch = self._root.subcontext(task_name="epoch")
            self._epoch.call_on_fit_task_begin(**self._arguments)

    def epoch_ended(self) -> bool:
        """Close the epoch's task; True where a callback asks to stop."""
        return self._epoch is not None and self._epoch.call_on_fit_task_end(**self._arguments)

    def fit_ended(self) -> None:
        """Close the task of the whole fit."""
        if self._root is not None:
            self._root.call_on_fit_task_end(**self._arguments)
