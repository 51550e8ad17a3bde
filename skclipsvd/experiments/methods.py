"""The methods that are compared, as estimators that one loop can fit and ask."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, Self

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, clone
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

from ..classifiers import (
    MACHINE_PARAMETERS,
    CLIPLoRAClassifier,
    CLIPSOClassifier,
    CLIPSVDClassifier,
    CLIPZeroShotClassifier,
    TrainedCLIPClassifier,
)
from ..encoder import CLIPEncoder
from ..validation import check_parameters
from .proker import ProKeRClassifier
from .tip_adapter import TipAdapterFClassifier
from .two_stage import TwoStageClassifier

# Inverse regularisation of the linear probe. One number for everything, as the other methods have:
# the 0.316 of OpenAI's published probe on embeddings of length about 10, which is 31.6 on these, of
# length 1. The papers' linear probing searched it for each data set on validation images.
PROBE_C = 31.6


class Estimator(Protocol):
    """What every method is: an estimator that can be fitted and asked."""

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """Return what it was built with."""

    def fit(self, X: Any, y: Any) -> Self:
        """Learn."""

    def predict(self, X: Any) -> NDArray:
        """Return a label per image."""


class NamesClasses(Estimator, Protocol):
    """One that can be told other classes by their names."""

    def with_classes(
        self,
        classes: Mapping[Any, str | Sequence[str]],
        *,
        templates: str | Sequence[str] | None = None,
    ) -> Estimator:
        """Return one for other classes, without training."""


class Scores(Estimator, Protocol):
    """One that scores every class."""

    def decision_function(self, X: Any) -> NDArray:
        """Return a column per class; one in all for two classes."""


@dataclass(frozen=True)
class Method:
    """A way to classify images with a CLIP.

    Attributes
    ----------
    label : str
        Its name in tables.
    takes : frozenset of str
        The parameters that it understands.
    build : callable
        Makes an estimator of such parameters.
    learns : bool
        Whether it looks at the training images.
    accepts_new_classes : bool
        Whether it can predict classes that it was not trained on, by their names.
    """

    label: str
    takes: frozenset[str]
    build: Callable[..., Estimator]
    learns: bool = True
    accepts_new_classes: bool = True


def _linear_probe(C: float = PROBE_C, **model: Any) -> Estimator:
    # scikit-learn's own, started from nothing: the "linear probing" of the papers' tables knows no
    # class texts. CosineClassifier started from them is the second stage of two-stage-*.
    return make_pipeline(CLIPEncoder(**model), LogisticRegression(C=C, max_iter=10_000))


def _two_stage(classifier: type[TrainedCLIPClassifier]) -> Callable[..., Estimator]:
    def build(share: float = 0.6, head_alpha: float = 0.1, **parameters: Any) -> TwoStageClassifier:
        return TwoStageClassifier(classifier(**parameters), share=share, alpha=head_alpha)

    return build


def _proker(**model: Any) -> Estimator:
    return ProKeRClassifier(CLIPZeroShotClassifier(**model))


def _tip_adapter_f(
    augment: bool = True,
    cache_alpha: float | Literal["auto"] = "auto",
    cache_beta: float | Literal["auto"] = "auto",
    **model: Any,
) -> Estimator:
    return TipAdapterFClassifier(
        CLIPZeroShotClassifier(**model), alpha=cache_alpha, beta=cache_beta, augment=augment
    )


def _names(estimator: type[BaseEstimator], *more: str) -> frozenset[str]:
    # The protocols decide the class names and seeds.
    own = set(estimator().get_params(deep=False)) - {"class_names", "random_state", "classifier"}
    return frozenset({*own, *more})


METHODS = {
    "zero-shot": Method(
        "zero-shot CLIP", _names(CLIPZeroShotClassifier), CLIPZeroShotClassifier, learns=False
    ),
    "linear-probe": Method(
        "linear probe", _names(CLIPEncoder, "C"), _linear_probe, accepts_new_classes=False
    ),
    "proker": Method("ProKeR", _names(CLIPZeroShotClassifier), _proker, accepts_new_classes=False),
    "tip-adapter-f": Method(
        "Tip-Adapter-F",
        # Its other parameters have names that mean something else of the methods beside it.
        _names(CLIPZeroShotClassifier, "augment", "cache_alpha", "cache_beta"),
        _tip_adapter_f,
        accepts_new_classes=False,
    ),
    "so": Method("SO", _names(CLIPSOClassifier, "steps_per_shot"), CLIPSOClassifier),
    "lora": Method("CLIP-LoRA", _names(CLIPLoRAClassifier, "steps_per_shot"), CLIPLoRAClassifier),
    "svd": Method("CLIP-SVD", _names(CLIPSVDClassifier, "steps_per_shot"), CLIPSVDClassifier),
    "two-stage-lora": Method(
        "CLIP-LoRA, two stages",
        _names(CLIPLoRAClassifier, "steps_per_shot", "share", "head_alpha"),
        _two_stage(CLIPLoRAClassifier),
    ),
    "two-stage-svd": Method(
        "CLIP-SVD, two stages",
        _names(CLIPSVDClassifier, "steps_per_shot", "share", "head_alpha"),
        _two_stage(CLIPSVDClassifier),
    ),
}

_LENGTHS = ("epochs", "max_steps", "steps_per_shot")
# Where and how loudly a method runs, and what a result names beside its setting.
_NO_SETTING = MACHINE_PARAMETERS | {"random_state", "class_names", "model_name", "pretrained"}


def make_estimator(
    method: str,
    setting: Mapping[str, Any],
    overrides: Mapping[str, Any],
    *,
    n_shots: int,
    class_names: Mapping[int, str],
    template: str,
) -> Estimator:
    """Build the estimator of a run; its random state is set when it is fitted.

    Parameters
    ----------
    method : str
        A name of `METHODS`.
    setting, overrides : mapping
        Parameters; those that the method does not take are left out, and what `overrides` says
        about the length of the training replaces all that `setting` says about it.
    n_shots : int
        Images per class, which ``steps_per_shot`` is multiplied with.
    class_names : mapping of int to str
        Words for the classes that are trained on.
    template : str
        The prompt, unless `overrides` has ``templates``.

    Returns
    -------
    estimator : estimator
    """
    takes = METHODS[method].takes
    if any(name in overrides for name in _LENGTHS):
        setting = {name: value for name, value in setting.items() if name not in _LENGTHS}
    chosen = {"templates": template, **setting, **overrides}
    chosen = {name: value for name, value in chosen.items() if name in takes}
    if (per_shot := chosen.pop("steps_per_shot", None)) is not None:
        chosen["max_steps"] = per_shot * n_shots
    if "templates" in takes:
        chosen["class_names"] = dict(class_names)
    estimator = METHODS[method].build(**chosen)
    for part in (estimator, *estimator.get_params().values()):
        if isinstance(part, BaseEstimator):
            check_parameters(part)
    return estimator


def check_overrides(overrides: Mapping[str, Any], methods: Iterable[str]) -> None:
    """Raise TypeError for a parameter that none of the methods takes."""
    known = frozenset().union(*(METHODS[method].takes for method in methods))
    unknown = sorted(set(overrides) - known)
    if unknown:
        raise TypeError(
            f"{unknown[0]!r} is no parameter of {', '.join(methods)}; there are "
            f"{', '.join(sorted(known))}."
        )
    lengths = [name for name in _LENGTHS if name in overrides]
    if len(lengths) > 1:
        raise ValueError(f"{' and '.join(lengths)} exclude each other; pass one of them.")


def describe(method: str, overrides: Mapping[str, Any]) -> str:
    """Name the parameters that decide a result and were not left to the setting."""
    takes = METHODS[method].takes - _NO_SETTING
    chosen = sorted(set(overrides) & takes)
    return ", ".join(f"{name}={overrides[name]}" for name in chosen)


def seeded(estimator: Estimator, seed: int) -> Estimator:
    """Copy an unfitted estimator with a random state."""
    copied = clone(estimator)
    names = ("random_state", "classifier__random_state")
    return copied.set_params(**{n: seed for n in names if n in copied.get_params()})


def settings_hash(estimator: Estimator) -> str:
    """Identify the parameters that decide a result."""
    plain = {
        name: value if not isinstance(value, np.ndarray) else value.tolist()
        for name, value in estimator.get_params().items()
        if name.split("__")[-1] not in _NO_SETTING and not _is_nested(value)
    }
    text = json.dumps([type(estimator).__name__, plain], sort_keys=True, default=repr)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _is_nested(value: Any) -> bool:
    """Whether a parameter is an estimator, or a pipeline's list of them."""
    if isinstance(value, list) and value and isinstance(value[0], tuple):
        return True
    return isinstance(value, BaseEstimator)
