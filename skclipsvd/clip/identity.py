"""What makes a model beside its weights: how it sees images and texts, and how it computes."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from typing import TypeAlias

from open_clip.transform import PreprocessCfg
from open_clip.transformer import QuickGELU
from torch import Tensor, nn

from ..images.preprocessing import interpolation_of, size_of
from .towers import CLIPModel, is_causal, text_parts

Setting: TypeAlias = str | int | bool | tuple[int, ...] | tuple[float, ...] | None
# Letters of both cases, an accent, signs and spaces: what tokenisers clean in different ways.
_TEXT = "A  Photo-of  an Élan, 1's (red_ink)!"


def config_of(
    model: CLIPModel, tokenize: Callable[[list[str]], Tensor], preprocess: PreprocessCfg
) -> dict[str, Setting]:
    """Describe what no weight tells: two models of the same weights may differ in each of these.

    Returns
    -------
    config : dict of str to plain value
        The image's ``size``, ``mean``, ``std``, ``interpolation``, ``resize_mode`` and
        ``fill_color``; the ``activation``; ``image_heads`` and ``text_heads`` of attention;
        ``image_pooling`` and ``text_pooling``; whether texts are read causally; what the tokeniser
        makes of one text. None where a model has no such thing.
    """
    text, text_pooling, _ = text_parts(model)
    return {
        "size": size_of(preprocess),
        "mean": _floats(preprocess.mean),
        "std": _floats(preprocess.std),
        "interpolation": interpolation_of(preprocess).value,
        "resize_mode": preprocess.resize_mode or "shortest",
        "fill_color": preprocess.fill_color,
        "activation": _activation(model),
        "image_heads": _heads(model, in_image_tower=True),
        "text_heads": _heads(model, in_image_tower=False),
        "image_pooling": _image_pooling(model),
        "text_pooling": text_pooling,
        "causal": is_causal(getattr(text, "attn_mask", None)),
        "tokens": hashlib.sha256(tokenize([_TEXT]).numpy().tobytes()).hexdigest()[:12],
    }


def differences(fitted: Mapping[str, Setting], present: Mapping[str, Setting]) -> list[str]:
    """Say what differs, as far as both know it."""
    return [
        f"{name} is {present[name]!r} (fitted with {_short(value)})"
        for name, value in fitted.items()
        if name in present and present[name] != value
    ]


def _short(value: Setting) -> str:
    """Write what a file says, which may be a stranger's."""
    text = repr(value)
    return text if len(text) <= 100 else f"{text[:100]}..."


def has_quick_gelu(model: nn.Module) -> bool:
    """Whether any part computes with open_clip's QuickGELU."""
    return any(isinstance(module, QuickGELU) for module in model.modules())


def _floats(values: float | tuple[float, ...]) -> tuple[float, ...]:
    return tuple(map(float, (values,) * 3 if isinstance(values, (int, float)) else values))


def _activation(model: nn.Module) -> str | None:
    """Name the kinds of GELU in a model, whichever library wrote them."""
    kinds = set()
    for module in model.modules():
        name = type(module).__name__.lower()
        if "quickgelu" in name:
            kinds.add("quick_gelu")
        elif "gelu" in name:
            tanh = getattr(module, "approximate", "none") == "tanh" or "tanh" in name
            kinds.add("gelu_tanh" if tanh else "gelu")
    return " and ".join(sorted(kinds)) or None


def _heads(model: nn.Module, *, in_image_tower: bool) -> tuple[int, ...]:
    counts = {
        getattr(module, attribute, None)
        for name, module in model.named_modules()
        for attribute in ("num_heads", "num_attention_heads", "n_heads")
        if name.startswith("visual.") is in_image_tower
    }
    return tuple(sorted(count for count in counts if isinstance(count, int)))


def _image_pooling(model: CLIPModel) -> str | None:
    image = model.visual
    for holder, attribute in ((image, "pool_type"), (getattr(image, "trunk", None), "global_pool")):
        found = getattr(holder, attribute, None)
        if isinstance(found, str):
            return found
    return None
