"""The format of adapter files: a fitted classifier as arrays and a JSON header, with no code."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load, save

from ..caching.files import replacing
from ..clip import is_published
from ..labels import plain
from ..validation import check_parameters

if TYPE_CHECKING:
    from ._base import BaseCLIPClassifier

Kind = TypeVar("Kind", bound="BaseCLIPClassifier")

# 1: until 0.1.0, without validation scores and some parameters. 2: everything but heads. 3: with a
# head, which a reader that does not know it must not pass over. 4: of several labels per image.
_FORMATS = (1, 2, 3, 4)
_OF_SEVERAL_LABELS = 4
_KEY = "skclipsvd"
# Over header and arrays, so that a damaged bit is noticed; files of 0.1.0 have none.
_CHECKSUM = "sha256"
_MAX_FILE_BYTES = 4 * 2**30
_MAX_LABEL_BYTES = 2**26
_MAX_RANGE = 100_000
# Where a model runs, and what is written and said on the way, is the reader's affair, not the
# writer's, and changes no number.
MACHINE_PARAMETERS = frozenset({"device", "n_jobs", "verbose", "checkpoint_dir"})


@dataclass(frozen=True)
class Saved:
    """How an adapter file holds one fitted attribute; every class declares its own.

    Attributes
    ----------
    kind : {"labels", "number", "text", "settings", "array", "arrays"}
        ``"settings"`` is a dict of str to plain value, ``"arrays"`` one of str to array.
    dtype : str
        Of arrays.
    optional : bool
        Whether only some fits leave it behind.
    """

    kind: Literal["labels", "number", "text", "settings", "array", "arrays"]
    dtype: str = "float32"
    optional: bool = False


def write_adapter(estimator: BaseCLIPClassifier, path: Path) -> None:
    """Write a fitted classifier to an adapter file, whole or not at all."""
    fitted = {name: value for name, value in vars(estimator).items() if name.endswith("_")}
    undeclared = sorted(fitted.keys() - estimator._saved.keys())
    if undeclared:
        raise ValueError(
            f"an adapter file cannot hold the attribute(s) {', '.join(undeclared)} of this "
            f"{type(estimator).__name__}; use joblib.dump, or delete them."
        )
    arrays: dict[str, NDArray] = {}
    values: dict[str, Any] = {}
    for name, value in fitted.items():
        kind = estimator._saved[name].kind
        if kind == "arrays":
            arrays.update({f"{name}:{key}": array for key, array in value.items()})
        elif kind == "array":
            arrays[name] = value
        elif kind == "labels":
            values[name] = _encode_labels(value)
        elif kind == "settings":
            values[name] = _encode(value)
        else:
            values[name] = plain(value)
    has_head = any(name.startswith("head_") for name in arrays)
    header = {
        "format": _OF_SEVERAL_LABELS if "intercept_" in arrays else 3 if has_head else 2,
        "estimator": type(estimator).__name__,
        "parameters": _encode_parameters(estimator),
        "fitted": values,
    }
    arrays = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    # In the header, not beside it: safetensors writes several entries in any order.
    header[_CHECKSUM] = _checksum(header, arrays)
    content = save(arrays, metadata={_KEY: json.dumps(header)})
    with replacing(path) as temporary:
        temporary.write_bytes(content)


def read_adapter(
    path: Path,
    known: Mapping[str, type[Kind]],
    model_name: str | None,
    pretrained: str | None,
    called: str,
) -> Kind:
    """Read an adapter file of one of the `known` classes; ValueError where it is none.

    `model_name` and `pretrained` take the place of what the file says where they are not None. The
    file alone may name no more than what open_clip or this package publishes. Errors call the file
    as the user `called` it.
    """
    header, arrays = _read(path, called)
    if not isinstance(header, dict):
        raise ValueError(f"{called} is a safetensors file, but not an adapter of skclipsvd.")
    if header.get("format") not in _FORMATS:
        raise ValueError(
            f"{called} has adapter format {header.get('format')!r}; this version reads up to "
            f"{_FORMATS[-1]}. Update skclipsvd."
        )
    try:
        if header["format"] == 1:
            header = _from_format_1(header)
        estimator = _rebuild(header, arrays, known)
    except _MISFITS as error:
        reason = " ".join(str(error).split())[:400]
        raise ValueError(
            f"{called} is damaged: its header and arrays do not fit ({reason})."
        ) from error
    if model_name is not None:
        estimator.model_name = model_name
    if pretrained is not None:
        estimator.pretrained = pretrained
    _check_backbone(estimator, called, model_name, pretrained)
    return estimator


# What reading a header raises that has wrong types, keys, numbers or nesting.
_MISFITS = (
    KeyError,
    IndexError,
    TypeError,
    AttributeError,
    ValueError,
    ArithmeticError,
    RecursionError,
)


def _read(path: Path, called: str) -> tuple[Any, dict[str, NDArray]]:
    """Read header and arrays, and compare their checksum where the file has one."""
    if path.stat().st_size > _MAX_FILE_BYTES:
        raise ValueError(f"{called} is larger than {_MAX_FILE_BYTES // 2**30} GiB; no adapter is.")
    try:
        # All of it at once, not mapped: a file that is cut off meanwhile must not end the process.
        content = path.read_bytes()
        arrays = {name: array.copy() for name, array in load(content).items()}
        header = json.loads(_metadata(content).get(_KEY, "null"))
        said = header.pop(_CHECKSUM, None) if isinstance(header, dict) else None
        is_whole = said in (None, _checksum(header, arrays))
    except (SafetensorError, OSError, *_MISFITS) as error:
        raise ValueError(f"{called} is damaged or not a safetensors file ({error}).") from error
    if not is_whole:
        raise ValueError(
            f"{called} is damaged: its checksum has changed since it was written. Use another "
            "copy, or save the classifier again."
        )
    return header, arrays


def _checksum(header: object, arrays: Mapping[str, NDArray]) -> str:
    digest = hashlib.sha256(json.dumps(header).encode())
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        digest.update(f"{name}{array.dtype.str}{array.shape}".encode("utf-8", "surrogatepass"))
        digest.update(array.tobytes())
    return digest.hexdigest()


def _check_backbone(
    estimator: BaseCLIPClassifier, called: str, model_name: str | None, pretrained: str | None
) -> None:
    """Let a file choose no folder, no repository and no checkpoint that is opened for it."""
    named, tag = estimator.model_name, estimator.pretrained
    is_plain = is_published(named, None)
    parts = []
    if model_name is None and not is_plain:
        parts.append(f"model_name={named[:300]!r}")
    if pretrained is None and tag and not is_published(named if is_plain else None, tag):
        parts.append(f"pretrained={tag[:300]!r}")
    if parts:
        asked = ", ".join(parts)
        raise ValueError(
            f"{called} names the backbone {asked}, and a file is not allowed to choose a folder, a "
            "repository or a checkpoint. If you trust that backbone, name it yourself: "
            f"load_adapter({called!r}, {asked})."
        )


def _metadata(content: bytes) -> dict[str, str]:
    """Read what a safetensors file says beside its arrays, once it is known to be one."""
    n_bytes = int.from_bytes(content[:8], "little")
    return json.loads(content[8 : 8 + n_bytes]).get("__metadata__", {})


def _rebuild(
    header: Mapping[str, Any],
    arrays: Mapping[str, NDArray],
    known: Mapping[str, type[Kind]],
) -> Kind:
    if header["estimator"] not in known:
        raise ValueError(f"unknown estimator {header['estimator']!r}")
    kind = known[header["estimator"]]
    said = header["parameters"].items()
    # A file chooses no folder that a later fit would write to; files of 0.1.0 hold `verbose`.
    chosen = {name: value for name, value in said if name not in MACHINE_PARAMETERS}
    estimator = kind(**{name: _decode(value) for name, value in chosen.items()})
    check_parameters(estimator)
    fitted: dict[str, Any] = {}
    for name, value in header["fitted"].items():
        fitted[name] = _SCALARS[_declared(kind, name).kind](value)
    for name, array in arrays.items():
        attribute, _, key = name.partition(":")
        saved = _declared(kind, attribute)
        if saved.kind != ("arrays" if key else "array"):
            raise ValueError(f"unknown array {name!r}")
        if array.dtype != saved.dtype or not np.isfinite(array).all():
            raise ValueError(f"{name} is not finite {saved.dtype}")
        if key:
            fitted.setdefault(attribute, {})[key] = array
        else:
            fitted[attribute] = array
    missing = [n for n, saved in kind._saved.items() if not saved.optional and n not in fitted]
    if missing:
        raise ValueError(f"{', '.join(missing)} missing")
    if ("intercept_" in fitted) is not (header.get("format") == _OF_SEVERAL_LABELS):
        raise ValueError("its format and its arrays do not agree on several labels per image")
    kind._check_saved(fitted)
    estimator.__dict__.update(fitted)
    return estimator


def _declared(kind: type[BaseCLIPClassifier], name: str) -> Saved:
    if name not in kind._saved:
        raise ValueError(f"unknown attribute {name!r}")
    return kind._saved[name]


def _from_format_1(header: Mapping[str, Any]) -> dict[str, Any]:
    parameters = {name: {"value": value} for name, value in header["parameters"].items()}
    names = header["parameters"].get("class_names")
    if names is not None:
        parameters["class_names"] = {"dict": [[{"value": k}, {"value": v}] for k, v in names]}
    fitted = {
        "classes_": header["classes"],
        "backbone_fingerprint_": header["backbone_fingerprint"],
        **header["scalars"],
    }
    return {"estimator": header["estimator"], "parameters": parameters, "fitted": fitted}


# --- parameters, which keep their types


def _encode_parameters(estimator: BaseCLIPClassifier) -> dict[str, Any]:
    encoded = {}
    for name, value in estimator.get_params(deep=False).items():
        if name in MACHINE_PARAMETERS:
            continue
        try:
            encoded[name] = _encode(value)
        except TypeError as error:
            raise ValueError(
                f"{name}={value!r} cannot be written to an adapter file ({error}); use "
                "joblib.dump, or set_params with a plain value."
            ) from error
    return encoded


def _encode(value: Any) -> dict[str, Any]:
    value = plain(value)
    if value is None or isinstance(value, (str, bool, int, float)):
        return {"value": value}
    if isinstance(value, Mapping):
        return {"dict": [[_encode(k), _encode(v)] for k, v in value.items()]}
    if isinstance(value, range):
        return {"range": [value.start, value.stop, value.step]}
    for kind, name in ((list, "list"), (tuple, "tuple"), (np.ndarray, "array")):
        if isinstance(value, kind):
            return {name: [_encode(element) for element in value]}
    raise TypeError(f"a {type(value).__name__}")


def _decode(encoded: Mapping[str, Any]) -> Any:
    ((kind, value),) = encoded.items()
    if kind == "value":
        return value
    if kind == "dict":
        return {_decode(k): _decode(v) for k, v in value}
    if kind == "range":
        if len(found := range(*value)) > _MAX_RANGE:
            raise ValueError(f"a range of {len(found)} numbers")
        return found
    containers: dict[str, Callable[[list], Any]] = {"list": list, "tuple": tuple, "array": np.array}
    return containers[kind]([_decode(element) for element in value])


# --- labels and numbers


def _encode_labels(classes: NDArray) -> dict[str, Any]:
    dtype = "object" if classes.dtype == object else classes.dtype.str
    return {"dtype": dtype, "values": [_json_label(label) for label in classes.tolist()]}


def _decode_labels(encoded: Mapping[str, Any]) -> NDArray:
    values, dtype = [_label(value) for value in encoded["values"]], np.dtype(encoded["dtype"])
    if dtype.kind not in "OUbiuf" or len(values) * dtype.itemsize > _MAX_LABEL_BYTES:
        raise ValueError(f"labels of type {dtype}")
    classes = np.array(values, dtype=object).astype(dtype)
    read = classes.tolist()
    if read != values or list(map(type, read)) != list(map(type, values)):
        raise ValueError(f"the labels are not of type {dtype}")
    if len(values) < 2 or len(set(values)) != len(values):
        raise ValueError("two or more different labels are needed")
    return classes


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{value!r} is no text")
    return value


def _number(value: Any) -> int | float:
    if type(value) not in (int, float) or not np.isfinite(value):
        raise ValueError(f"{value!r} is no finite number")
    return value


def _decode_settings(encoded: Mapping[str, Any]) -> dict[str, Any]:
    settings = _decode(encoded)
    if not isinstance(settings, dict) or not all(isinstance(name, str) for name in settings):
        raise ValueError("settings are a mapping of names")
    return settings


_SCALARS: dict[str, Callable[[Any], Any]] = {
    "settings": _decode_settings,
    "labels": _decode_labels,
    "text": _text,
    "number": _number,
}


def _json_label(label: Any) -> Any:
    label = plain(label)
    if not isinstance(label, (str, int, float, bool)):
        raise ValueError(
            f"classes_: the label {label!r} ({type(label).__name__}) cannot be written to an "
            "adapter file; use joblib.dump, or labels that are text or numbers."
        )
    return label


def _label(value: Any) -> Any:
    if not isinstance(value, (str, int, float, bool)) or value != value:
        raise ValueError(f"{value!r} is no label")
    return value
