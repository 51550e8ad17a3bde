"""What a notebook shows of a fitted classifier: a report below scikit-learn's diagram."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable, Sequence
from html import escape
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator
from sklearn.utils.validation import check_is_fitted
from torch import nn

from ..adaptation.factors import factors_in_memory
from ..adaptation.heads import compare_heads
from ..clip import Backbone, backbone_in_memory, choose_device

_CLASSES_IN_SIGHT = 12
_CLASSES_AT_MOST = 1000
_POINTS_AT_MOST = 400
_N_HEADS = 5
_HEAD_COLUMNS = ("tower", "block", "head", "value and output", "query and key")
# Comparing the heads of a ViT-B/16, of 150 million parameters, takes a core half a second.
_PARAMETERS_AT_MOST = 500_000_000

# Text and lines take the notebook's own colour, and the one other colour stands out from white and
# from black: the report needs not know whether the notebook is light or dark.
_STYLE = """<style>
.skclipsvd-report { color: inherit; font-size: 0.9em; max-width: 46em; margin-top: 0.5em; }
.skclipsvd-report table {
  border-collapse: collapse; table-layout: auto; margin: 0.3em 0; color: inherit;
  font-size: inherit;
}
.skclipsvd-report tr, .skclipsvd-report tr:hover { background: none !important; }
.skclipsvd-report th, .skclipsvd-report td {
  border: none; border-bottom: 1px solid rgba(128, 128, 128, 0.4);
  padding: 0.25em 0.8em 0.25em 0; text-align: left; vertical-align: top;
  overflow-wrap: anywhere; white-space: normal;
}
.skclipsvd-report th { font-weight: 600; white-space: nowrap; }
.skclipsvd-report caption {
  font-weight: 600; text-align: left; padding: 0.3em 0; color: inherit; white-space: nowrap;
}
.skclipsvd-report td.number { text-align: right; font-variant-numeric: tabular-nums; }
.skclipsvd-report summary { cursor: pointer; }
.skclipsvd-report svg { display: block; width: 100%; max-width: 30em; height: auto; }
</style>"""
_LINE = "#3a8bd0"


class FitReportMixin(BaseEstimator):
    """Put a report of the fit below the diagram that scikit-learn draws in a notebook.

    To be named before `sklearn.base.BaseEstimator` among the bases. A pipeline, or anything else
    that draws its parts itself, shows the diagram alone.
    """

    @abstractmethod
    def _frozen_and_adapted(self) -> tuple[Backbone, nn.Module]:
        """Return the shared backbone and the merged model of a fitted classifier."""

    # Private: where scikit-learn draws an estimator has no public place for more.
    def _repr_html_inner(self) -> str:
        return super()._repr_html_inner() + self._fit_report()

    # Of IPython's protocol; scikit-learn's own version does not call `_repr_html_inner`.
    def _repr_mimebundle_(self, **kwargs: Any) -> dict[str, str]:
        bundle = super()._repr_mimebundle_(**kwargs)
        if "text/html" in bundle:  # not where scikit-learn is configured to show text
            bundle["text/html"] += self._fit_report()
        return bundle

    def _fit_report(self) -> str:
        try:
            return fit_report(self, self._frozen_and_adapted)
        except Exception:  # to look at an object in a notebook must never fail
            return ""


def fit_report(estimator: Any, frozen_and_adapted: Callable[[], tuple[Backbone, nn.Module]]) -> str:
    """Describe a fitted classifier in HTML: classes, what was tuned, the loss, the heads.

    Parameters
    ----------
    estimator : classifier of this package
        Fitted.
    frozen_and_adapted : callable
        Returns its backbone and its adapted model; called only where both are in memory.

    Returns
    -------
    html : str
        A fragment that stands alone. Nothing is loaded for it.

    Raises
    ------
    NotFittedError
        The classifier is not fitted.
    """
    check_is_fitted(estimator)
    parts = [
        _STYLE,
        _summary(estimator),
        _loss_curve(estimator),
        _heads(estimator, frozen_and_adapted),
    ]
    return f'<div class="skclipsvd-report">{"".join(parts)}</div>'


# --- the parts


def _summary(estimator: Any) -> str:
    name = "Labels, any per image" if estimator._gives_several else "Classes"
    rows = [(name, _classes(estimator.classes_)), ("Tuned", _tuned(estimator))]
    strength = getattr(estimator, "strength_", None)
    if strength is not None:
        rows.append(("Strength", f"{strength:.3g}, where 0 is the frozen model and 1 the fit"))
    losses: Sequence[float] = getattr(estimator, "loss_curve_", ())
    if len(losses):
        steps = f"{len(losses):,} step{'s' if len(losses) > 1 else ''}"
        lr = getattr(estimator, "lr_", None)
        if lr is not None:
            steps += f", learning rate {lr:.3g} falling to zero"
        rows.append(
            ("Training", f"{steps}; loss {losses[0]:.4g} at first, {losses[-1]:.4g} at last")
        )
    scores = getattr(estimator, "validation_scores_", None)
    if scores is not None:
        start, best = _percent(scores[0]), _percent(max(scores))
        rows.append(("Validation", f"accuracy {start} before training, {best} in the best epoch"))
    return _table([f"<th>{name}</th><td>{html}</td>" for name, html in rows])


def _classes(classes: NDArray) -> str:
    names = [escape(str(label)) for label in classes[:_CLASSES_AT_MOST].tolist()]
    if len(classes) <= _CLASSES_IN_SIGHT:
        return f"{len(classes)}: {', '.join(names)}"
    hidden = ", ".join(names[_CLASSES_IN_SIGHT:])
    if len(classes) > len(names):
        hidden += f", and {len(classes) - len(names):,} more"
    return (
        f"<details><summary>{len(classes):,}: {', '.join(names[:_CLASSES_IN_SIGHT])}, …</summary>"
        f"{hidden}</details>"
    )


def _tuned(estimator: Any) -> str:
    n = estimator.n_parameters_
    tuned = getattr(estimator, "n_parameters_tuned_", None)
    if tuned is None:
        return f"nothing: zero-shot, {n:,} frozen parameters"
    if not len(estimator.loss_curve_):
        return f"nothing: no step was taken; {tuned:,} of {n:,} parameters could have been"
    return f"{tuned:,} of {n:,} parameters ({100 * tuned / n:.2g}\u00a0%)"


def _loss_curve(estimator: Any) -> str:
    losses = np.asarray(getattr(estimator, "loss_curve_", ()), dtype=np.float64)
    if not len(losses) or not np.isfinite(losses).all():
        return ""
    left, right, top, bottom = 52, 412, 12, 120
    steps = _thinned(losses)
    highest = losses.max() or 1.0
    x = left + (right - left) * (steps / max(1, len(losses) - 1))
    y = bottom - (bottom - top) * losses[steps] / highest
    points = " ".join(f"{a:.2f},{b:.2f}" for a, b in zip(x, y, strict=True))
    label = (
        f"Training loss of {len(losses)} steps, {losses[0]:.4g} at first, {losses[-1]:.4g} at last"
    )
    texts = (
        (left - 6, top + 4, "end", f"{highest:.3g}"),
        (left - 6, bottom + 4, "end", "0"),
        (left, bottom + 18, "start", "step 1"),
        (right, bottom + 18, "end", f"{len(losses):,}"),
        ((left + right) / 2, bottom + 18, "middle", "training loss"),
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 420 144" width="420" height="144" '
        f'role="img" aria-label="{label}">'
        f'<path d="M{left} {top}V{bottom}H{right}" fill="none" stroke="currentColor" '
        'stroke-opacity="0.5"/>'
        f'<polyline points="{points}" fill="none" stroke="{_LINE}" stroke-width="1.6" '
        'stroke-linejoin="round"/>'
        f'<circle cx="{x[-1]:.2f}" cy="{y[-1]:.2f}" r="3" fill="{_LINE}"/>'
        + "".join(
            f'<text x="{a:g}" y="{b:g}" text-anchor="{anchor}" font-size="11" '
            f'fill="currentColor">{text}</text>'
            for a, b, anchor, text in texts
        )
        + "</svg>"
    )


def _heads(estimator: Any, frozen_and_adapted: Callable[[], tuple[Backbone, nn.Module]]) -> str:
    if not len(getattr(estimator, "loss_curve_", ())):
        return ""
    why_not = _why_not(estimator)
    if why_not:
        return (
            f"<p>The most changed heads are not shown, because {why_not}; "
            "<code>skclipsvd.inspection.head_changes</code> lists them.</p>"
        )
    try:
        backbone, adapted = frozen_and_adapted()
        ranked = compare_heads(backbone.model, adapted)
    except ValueError:  # no heads, or weights that are others by now
        return "<p>The most changed heads cannot be told for this model.</p>"
    rows = [row for row in ranked[:_N_HEADS] if row["change"]]
    if not rows:
        return "<p>No attention head was changed.</p>"
    header = "".join(f"<th>{name}</th>" for name in _HEAD_COLUMNS)
    lines = [
        f"<td>{row['tower']}</td>"
        + "".join(f'<td class="number">{row[name]}</td>' for name in ("block", "head"))
        + "".join(
            f'<td class="number">{_percent(row[name])}</td>'
            for name in ("value_output", "query_key")
        )
        for row in rows
    ]
    return _table([header, *lines], "Most changed attention heads, relative to the frozen ones")


def _table(rows: Iterable[str], caption: str = "") -> str:
    caption = f"<caption>{caption}</caption>" if caption else ""
    return f"<table>{caption}{''.join(f'<tr>{row}</tr>' for row in rows)}</table>"


# --- what they are made of


def _percent(share: float) -> str:
    return f"{100 * share:.1f}\u00a0%"


def _thinned(losses: NDArray) -> NDArray[np.intp]:
    """Choose the steps to draw: the ends, and the lowest and highest of each of equal parts."""
    n = len(losses)
    if n <= _POINTS_AT_MOST:
        return np.arange(n)
    parts = np.array_split(np.arange(n), _POINTS_AT_MOST // 2 - 1)
    extremes = [part[pick(losses[part])] for part in parts for pick in (np.argmin, np.argmax)]
    return np.unique([0, *extremes, n - 1])


def _why_not(estimator: Any) -> str:
    """Say why comparing heads would take long, where it would."""
    device = choose_device(estimator.device)
    backbone = backbone_in_memory(estimator.model_name, estimator.pretrained, device)
    names = getattr(estimator, "singular_values_", ())
    if backbone is None or not factors_in_memory(backbone, names):
        return "the model is not in this process's memory (it is after a prediction)"
    if backbone.n_parameters > _PARAMETERS_AT_MOST:
        return "the model is large"
    return ""
