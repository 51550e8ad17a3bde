"""What the configuration of a model from elsewhere may say: data, never code, of bounded size."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import timm
from open_clip.hf_configs import arch_dict

# A check returns None where a value is fine, else what is wrong with it: the end of "it ...".
Check = Callable[[Any], str | None]

_MAX_BYTES = 1 << 20
_MAX_POSITIONS_TIMES_WIDTH = 1 << 26  # open_clip computes some position tables in memory
_MAX_POSITIONS = 1 << 14  # attention takes time by their square; the most that is known has 1024
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")
_TIMM_NAME = re.compile(r"[A-Za-z0-9_]+(\.[A-Za-z0-9_]+)?")
# With these transformers loads code, kernels among it, that somebody else wrote.
_NAMES_CODE = ("auto_map", "custom_pipelines", "quantization_config", "trust_remote_code")


def _integer(low: int, high: int) -> Check:
    def check(value: Any) -> str | None:
        right = type(value) is int and low <= value <= high
        return None if right else f"must be a whole number from {low} to {high}"

    return check


def _number(low: float, high: float) -> Check:
    def check(value: Any) -> str | None:
        right = type(value) in (int, float) and low <= value <= high and math.isfinite(value)
        return None if right else f"must be a number from {low:g} to {high:g}"

    return check


def _flag(value: Any) -> str | None:
    return None if type(value) is bool else "must be true or false"


def _one_of(*choices: Any) -> Check:
    def check(value: Any) -> str | None:
        same = any(type(value) is type(choice) and value == choice for choice in choices)
        return None if same else f"must be one of {', '.join(map(repr, choices))}"

    return check


def _or_none(check: Check) -> Check:
    return lambda value: None if value is None else check(value)


def _list_of(check: Check, *lengths: int) -> Check:
    def check_all(value: Any) -> str | None:
        if type(value) is not list or len(value) not in lengths:
            return f"must be a list of {' or '.join(map(str, lengths))}"
        return next((f"has an entry that {wrong}" for v in value if (wrong := check(v))), None)

    return check_all


def _either(first: Check, second: Check) -> Check:
    def check(value: Any) -> str | None:
        wrong = (first(value), second(value))
        return None if None in wrong else " or ".join(filter(None, wrong))

    return check


def _table(allowed: Mapping[str, Check]) -> Check:
    def check(value: Any) -> str | None:
        if type(value) is not dict:
            return "must be a table of keys and values"
        for key, entry in value.items():
            if key not in allowed:
                return f"has the key {key!r}, which is not allowed (only {', '.join(allowed)})"
            if wrong := allowed[key](entry):
                return f"has {key!r}, which {wrong}"
        return None

    return check


def _timm_name(value: Any) -> str | None:
    """Accept a plain name: with a prefix such as 'hf-hub:', timm asks the hub or opens a folder."""
    if type(value) is str and _TIMM_NAME.fullmatch(value) and timm.is_model(value.split(".")[0]):
        return None
    return "must be a plain name of timm.list_models()"


def _text(value: Any) -> str | None:
    right = type(value) is str and len(value) < 4096 and "\0" not in value
    return None if right else "must be a text"


_SIZE = _either(_integer(1, 4096), _list_of(_integer(1, 4096), 2))
_BLOCKS: dict[str, Check] = {
    "mlp_ratio": _number(0.01, 64),
    "ls_init_value": _or_none(_number(-10, 10)),
    "block_type": _or_none(_one_of("default", "custom")),
    "final_ln_after_pool": _flag,
    "output_tokens": _flag,
    "act_kwargs": _or_none(_table({"approximate": _one_of("none", "tanh")})),
    "norm_kwargs": _or_none(_table({"eps": _number(0, 1)})),
    "qk_norm": _flag,
    "scaled_cosine_attn": _flag,
    "scale_heads": _flag,
    "scale_attn_inner": _flag,
    "scale_attn": _flag,
    "scale_fc": _flag,
}
_VISION: dict[str, Check] = {
    **_BLOCKS,
    "layers": _either(_integer(1, 256), _list_of(_integer(1, 256), 4)),
    "width": _integer(1, 16384),
    "head_width": _integer(1, 16384),
    "patch_size": _or_none(_SIZE),
    "image_size": _SIZE,
    "patch_dropout": _number(0, 0.99),
    "attentional_pool": _either(_flag, _one_of("parallel", "cascade")),
    "attn_pooler_queries": _integer(1, 4096),
    "attn_pooler_heads": _integer(1, 1024),
    "no_ln_pre": _flag,
    "pos_embed_type": _one_of("learnable", "sin_cos_2d"),
    "pool_type": _one_of("tok", "avg", "none"),
    "timm_model_name": _or_none(_timm_name),
    "timm_model_pretrained": _flag,  # open_clip sets it itself
    "timm_pool": _or_none(
        _one_of("", "avg", "avgmax", "max", "token", "map", "abs_attn", "rot_attn")
    ),
    "timm_proj": _or_none(_one_of("", "linear", "mlp", "none")),
    "timm_proj_bias": _flag,
    "timm_drop": _number(0, 1),
    "timm_drop_path": _or_none(_number(0, 1)),
}
_TEXT: dict[str, Check] = {
    **_BLOCKS,
    "context_length": _integer(1, 8192),
    "vocab_size": _integer(1, 2_000_000),
    "width": _integer(1, 16384),
    "heads": _integer(1, 1024),
    "layers": _integer(0, 256),
    "embed_cls": _flag,
    "pad_id": _integer(0, 2_000_000),
    "eos_id": _integer(0, 2_000_000),
    "no_causal_mask": _flag,
    "pool_type": _one_of("argmax", "eos", "first", "last", "none"),
    "proj_bias": _flag,
    "proj_type": _or_none(_one_of("linear", "none")),
    "hf_model_name": _or_none(_text),
    "hf_tokenizer_name": _or_none(_text),
    "hf_model_pretrained": _flag,  # open_clip sets it itself
    "hf_proj_type": _or_none(_one_of("linear", "mlp")),
    "hf_pooler_type": _or_none(
        _one_of("mean_pooler", "max_pooler", "cls_pooler", "cls_last_hidden_state_pooler")
    ),
    "tokenizer_mode": _or_none(_one_of("", "clips")),
    # open_clip hands other keywords on to transformers' from_pretrained.
    "tokenizer_kwargs": _table(
        {"clean": _one_of("canonicalize", "lower", "whitespace"), "strip_sep_token": _flag}
    ),
}
_MULTIMODAL: dict[str, Check] = {
    **_TEXT,
    "dim_head": _integer(1, 16384),
    "n_queries": _integer(1, 4096),
    "attn_pooler_heads": _integer(1, 1024),
}
_MODEL: dict[str, Check] = {
    "embed_dim": _integer(1, 65536),
    "vision_cfg": _table(_VISION),
    "text_cfg": _table(_TEXT),
    "multimodal_cfg": _table(_MULTIMODAL),
    "quick_gelu": _flag,
    "custom_text": _flag,
    "init_logit_scale": _number(-100, 100),
    "init_logit_bias": _or_none(_number(-1000, 1000)),
    "nonscalar_logit_scale": _flag,
    "output_dict": _flag,
    "pad_id": _integer(0, 2_000_000),
}
_PREPROCESS: dict[str, Check] = {
    "size": _or_none(_SIZE),
    "mode": _or_none(_one_of("RGB")),
    "mean": _or_none(_list_of(_number(-1000, 1000), 3)),
    "std": _or_none(_list_of(_number(1e-6, 1000), 3)),
    "interpolation": _or_none(_one_of("bicubic", "bilinear", "random")),
    "resize_mode": _or_none(_one_of("shortest", "longest", "squash")),
    "fill_color": _or_none(_integer(0, 255)),
}


def read_config(file: Path, folder: Path | None) -> dict[str, Any]:
    """Read an ``open_clip_config.json`` from elsewhere and check it before anything is built.

    Parameters
    ----------
    file : Path
        The configuration.
    folder : Path or None
        The folder that the model may read; None for a model of the hub, which may name no path.

    Returns
    -------
    config : dict
        With ``"model_cfg"``.

    Raises
    ------
    ValueError
        What is not allowed, by file and key, and what to do.
    """
    config = _read_json(file)
    if type(config.get("model_cfg")) is not dict:
        raise _refused(file, "it is damaged: 'model_cfg' is missing")
    check_model_config(config["model_cfg"], file)
    preprocess = config.get("preprocess_cfg") or {}
    if type(preprocess) is not dict:
        raise _refused(file, "'preprocess_cfg' must be a table of keys and values")
    for key in preprocess.keys() & _PREPROCESS.keys():  # open_clip looks at no others
        if wrong := _PREPROCESS[key](preprocess[key]):
            raise _refused(file, f"'preprocess_cfg' has {key!r}, which {wrong}")
    for key in ("hf_model_name", "hf_tokenizer_name"):
        if name := config["model_cfg"]["text_cfg"].get(key):
            _check_place(name, key, file, folder)
    if folder is not None:
        for place in _folders(config, folder):
            for inside in ("config.json", "tokenizer_config.json"):
                if (place / inside).is_file():
                    check_transformers_config(place / inside)
    return config


def check_model_config(model_cfg: Mapping[str, Any], file: Path) -> None:
    """Refuse a ``model_cfg`` with unknown keys, values of another type, or sizes out of bounds."""
    for key in ("embed_dim", "vision_cfg", "text_cfg"):
        if key not in model_cfg:
            raise _refused(file, f"it is damaged: 'model_cfg' lacks {key!r}")
    if wrong := _table(_MODEL)(model_cfg):
        raise _refused(file, f"'model_cfg' {wrong}")
    vision = model_cfg["vision_cfg"]
    image = max(_pair(vision.get("image_size", 224)))
    patch = min(_pair(vision.get("patch_size") or 16))
    positions = (image / patch) ** 2
    if positions > _MAX_POSITIONS or positions * vision.get("width", 768) > (
        _MAX_POSITIONS_TIMES_WIDTH
    ):
        raise _refused(file, "'image_size', 'patch_size' and 'width' together ask for too much")


def check_transformers_config(file: Path) -> None:
    """Refuse a Hugging Face configuration that names code, or an architecture that is unknown."""
    config = check_names_no_code(file)
    kind = config.get("model_type")
    if file.name == "config.json" and kind is not None and kind not in list(arch_dict):
        raise _refused(file, f"'model_type' must be one of {', '.join(arch_dict)}, not {kind!r}")


def check_names_no_code(file: Path) -> dict[str, Any]:
    """Read a Hugging Face configuration, and refuse it where it names code."""
    config = _read_json(file)
    for path, key, value in _walk(config):
        if key in _NAMES_CODE or ("_implementation" in key and value is not None):
            raise _refused(
                file, f"{path!r} is not allowed: with it transformers can run a stranger's code"
            )
    return config


def _walk(value: Any, path: str = "") -> Iterator[tuple[str, str, Any]]:
    if type(value) is dict:
        for key, entry in value.items():
            yield f"{path}{key}", key, entry
            yield from _walk(entry, f"{path}{key}.")
    elif type(value) is list:
        for entry in value:
            yield from _walk(entry, path)


def _folders(config: Mapping[str, Any], folder: Path) -> set[Path]:
    name = config["model_cfg"]["text_cfg"].get("hf_model_name")
    return {folder, Path(name)} if name and Path(name).is_dir() else {folder}


def _check_place(name: str, key: str, file: Path, folder: Path | None) -> None:
    """Let a Hugging Face name be an ID of the hub, or a path inside the model's own folder."""
    if folder is not None and (Path(name).is_absolute() or Path(name).exists()):
        if Path(name).resolve().is_relative_to(folder.resolve()):
            return
        raise _refused(file, f"{key!r} is a path outside the folder ({name!r})")
    if not _HUB_ID.fullmatch(name) or ".." in name or Path(name).exists():
        raise _refused(file, f"{key!r} must be the ID of a model on the hub, not {name!r}")


def _pair(size: int | list[int]) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else (size[0], size[1])


def _read_json(file: Path) -> dict[str, Any]:
    if file.stat().st_size > _MAX_BYTES:
        raise _refused(file, f"it is larger than {_MAX_BYTES:,} bytes")
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise _refused(file, f"it is damaged, not JSON ({error})") from error
    if type(config) is not dict:
        raise _refused(file, "it is damaged: it must hold a table of keys and values")
    return config


def _refused(file: Path, why: str) -> ValueError:
    return ValueError(
        f"{file}: {why}. Nothing of this model was loaded or run. Mend that entry if you trust "
        "where the file comes from, or use another model."
    )
