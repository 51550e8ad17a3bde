"""Adapter files: a fitted classifier as arrays and a JSON header, with no code in it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from ._cache import replacing

if TYPE_CHECKING:
    from ._base import BaseCLIPClassifier

_FORMAT = 1
_KEY = "skclipsvd"
# Where a model runs is the reader's affair, not the writer's.
_NOT_SAVED = frozenset({"device", "n_jobs", "verbose", "random_state", "warm_start"})
_SCALARS = ("logit_scale_", "logit_bias_", "n_parameters_", "n_parameters_tuned_", "n_iter_")
_STATES = ("singular_values_", "factors_")


def write_adapter(estimator: BaseCLIPClassifier, path: Path) -> None:
    """Write a fitted classifier to an adapter file."""
    arrays = {"text_features_": estimator.text_features_}
    for state in _STATES:
        for name, values in getattr(estimator, state, {}).items():
            arrays[f"{state}:{name}"] = values
    if hasattr(estimator, "loss_curve_"):
        arrays["loss_curve_"] = estimator.loss_curve_
    header = {
        "format": _FORMAT,
        "estimator": type(estimator).__name__,
        "parameters": _parameters(estimator),
        "classes": _labels(estimator.classes_),
        "backbone_fingerprint": estimator.backbone_fingerprint_,
        "scalars": {
            name: getattr(estimator, name) for name in _SCALARS if hasattr(estimator, name)
        },
    }
    arrays = {name: np.ascontiguousarray(values) for name, values in arrays.items()}
    with replacing(path) as temporary:
        save_file(arrays, temporary, metadata={_KEY: json.dumps(header)})


def load_adapter(path: str | Path) -> BaseCLIPClassifier:
    """Read a fitted classifier that `save_adapter` wrote; safe with a stranger's file.

    Nothing in the file is run. Its frozen weights are not in it: they are loaded, and their
    fingerprint compared, when the classifier first predicts.

    Parameters
    ----------
    path : str or Path
        An adapter file.

    Returns
    -------
    classifier : fitted estimator
        Of the type that was saved, with ``device="auto"``.

    Raises
    ------
    FileNotFoundError
        There is no such file.
    ValueError
        Not an adapter file, a damaged one, or one of a newer format.

    Examples
    --------
    >>> import os, tempfile
    >>> from skclipsvd import CLIPZeroShotClassifier, load_adapter
    >>> clf = CLIPZeroShotClassifier("tiny").fit(None, ["zero", "one"])
    >>> path = os.path.join(tempfile.mkdtemp(), "digits.safetensors")
    >>> clf.save_adapter(path)
    >>> load_adapter(path).classes_.tolist()
    ['one', 'zero']
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: there is no such adapter file.")
    try:
        with safe_open(path, framework="numpy") as file:
            header = json.loads((file.metadata() or {}).get(_KEY, "null"))
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, json.JSONDecodeError, OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is damaged or no safetensors file ({error}).") from error
    if not isinstance(header, dict):
        raise ValueError(f"{path} is a safetensors file, but no adapter of skclipsvd.")
    if header.get("format") != _FORMAT:
        raise ValueError(
            f"{path} has adapter format {header.get('format')!r}; this version reads {_FORMAT}. "
            "Update skclipsvd."
        )
    try:
        return _rebuild(header, arrays)
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise ValueError(
            f"{path} is damaged: its header and arrays do not fit ({error})."
        ) from error


def _rebuild(header: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> BaseCLIPClassifier:
    from . import classifiers

    known = {"CLIPSVDClassifier", "CLIPLoRAClassifier", "CLIPZeroShotClassifier"}
    if header["estimator"] not in known:
        raise ValueError(f"unknown estimator {header['estimator']!r}")
    parameters = dict(header["parameters"])
    if parameters.get("class_names") is not None:
        parameters["class_names"] = {_label(k): v for k, v in parameters["class_names"]}
    estimator = getattr(classifiers, header["estimator"])(**parameters)
    estimator._validate_params()
    fitted = {
        "classes_": np.array([_label(c) for c in header["classes"]["values"]]).astype(
            header["classes"]["dtype"]
        ),
        "backbone_fingerprint_": str(header["backbone_fingerprint"]),
        **{name: header["scalars"][name] for name in _SCALARS if name in header["scalars"]},
    }
    for name, array in arrays.items():
        if array.dtype != np.float32 or not np.isfinite(array).all():
            raise ValueError(f"{name} is not finite float32")
        attribute, _, key = name.partition(":")
        if attribute not in (*_STATES, "text_features_", "loss_curve_"):
            raise ValueError(f"unknown array {name!r}")
        if key:
            fitted.setdefault(attribute, {})[key] = array
        else:
            fitted[attribute] = array
    if fitted["text_features_"].shape[:1] != fitted["classes_"].shape:
        raise ValueError("one text feature per class is needed")
    estimator.__dict__.update(fitted)
    return estimator


def _parameters(estimator: BaseCLIPClassifier) -> dict[str, Any]:
    parameters = {
        name: _plain(value)
        for name, value in estimator.get_params(deep=False).items()
        if name not in _NOT_SAVED
    }
    if estimator.class_names is not None:
        parameters["class_names"] = [
            [_json_label(label), _plain(words)] for label, words in estimator.class_names.items()
        ]
    if isinstance(parameters.get("class_weight"), dict):
        parameters["class_weight"] = None  # only training reads it, and JSON keys are texts
    return parameters


def _plain(value: Any) -> Any:
    if isinstance(value, (np.ndarray, range, tuple)):
        return [_plain(v) for v in value]
    return value.item() if isinstance(value, np.generic) else value


def _labels(classes: np.ndarray) -> dict[str, Any]:
    dtype = "object" if classes.dtype == object else classes.dtype.str
    return {"dtype": dtype, "values": [_json_label(label) for label in classes.tolist()]}


def _json_label(label: Any) -> Any:
    label = _plain(label)
    if not isinstance(label, (str, int, float, bool)):
        raise ValueError(
            f"classes_: the label {label!r} ({type(label).__name__}) cannot be written to an "
            "adapter file; use joblib.dump, or labels that are text or numbers."
        )
    return label


def _label(value: Any) -> Any:
    if not isinstance(value, (str, int, float, bool)):
        raise ValueError(f"{value!r} is no label")
    return value
