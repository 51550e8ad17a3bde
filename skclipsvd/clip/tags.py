"""What open_clip's tags say of their weights: activation and pre-processing, also for a file."""

from __future__ import annotations

import filecmp
import hashlib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlparse

from open_clip.factory import get_model_config
from open_clip.pretrained import (
    get_pretrained_cfg,
    list_pretrained,
    list_pretrained_tags_by_model,
)
from open_clip.transform import PreprocessCfg, merge_preprocess_dict

from ..exceptions import AmbiguousCheckpointWarning, warn
from .hub import Repository, weight_files

# OpenAI's own repositories, which hold the weights in transformers' layout.
_OPENAI = {
    "openai/clip-vit-base-patch32": "ViT-B-32",
    "openai/clip-vit-base-patch16": "ViT-B-16",
    "openai/clip-vit-large-patch14": "ViT-L-14",
    "openai/clip-vit-large-patch14-336": "ViT-L-14-336",
}


class Source(NamedTuple):
    """Where weights come from: one of open_clip's tags, a file, or a file read as a tag says."""

    tag: str | None
    path: str | None


def clean_name(model_name: str) -> str:
    """Write an architecture's name as open_clip's tables do."""
    return model_name.replace("/", "-")


def is_tag(model_name: str, pretrained: str | None) -> bool:
    """Whether `pretrained` is one of open_clip's tags of an architecture."""
    return pretrained is not None and bool(get_pretrained_cfg(clean_name(model_name), pretrained))


def source_named(model_name: str, pretrained: str | None) -> Source:
    """Read the parameter `pretrained` of an architecture: ``TAG``, ``PATH`` or ``TAG:PATH``.

    The path of ``TAG:PATH`` is not checked for a file; ``~`` is expanded in both forms.
    """
    if pretrained is None:
        return Source(None, None)
    if is_tag(model_name, pretrained):
        return Source(pretrained, None)
    if os.path.isfile(alone := os.path.expanduser(pretrained)):
        return Source(None, alone)
    tag, colon, path = pretrained.partition(":")
    if not (colon and path and is_tag(model_name, tag)):
        return Source(None, None)
    return Source(tag, os.path.expanduser(path))


def settings(model_name: str, tag: str | None) -> dict[str, Any]:
    """Return what a load with `tag` uses beside weights; without one, the architecture's own.

    Returns
    -------
    settings : dict
        ``"quick_gelu"`` and the fields of `PreprocessCfg` but the size, which the architecture has.
    """
    of_tag = {} if tag is None else get_pretrained_cfg(clean_name(model_name), tag)
    preprocess = merge_preprocess_dict(PreprocessCfg(), of_tag)
    del preprocess["size"]
    own = (get_model_config(clean_name(model_name)) or {}).get("quick_gelu", False)
    # A configuration with QuickGELU was trained with it, also where its tag does not say so.
    return {"quick_gelu": bool(own or of_tag.get("quick_gelu", False)), **preprocess}


def tag_of_copy(model_name: str, path: str) -> str | None:
    """Return the tag whose downloaded weights a file is a copy of, byte for byte; None if none."""
    for tag in list_pretrained_tags_by_model(clean_name(model_name)):
        entry = get_pretrained_cfg(clean_name(model_name), tag)
        if _is_download(Path(path), entry.get("url", "")):
            return tag
        if any(_same_bytes(path, kept) for kept in _in_hub_cache(entry.get("hf_hub", ""))):
            return tag
    return None


def tags_of_repository(repository: str) -> list[tuple[str, str]]:
    """Return the architectures and tags whose weights a repository of the hub holds."""
    asked = repository.lower()
    if asked in _OPENAI:
        return [(_OPENAI[asked], "openai")]
    return [
        (name, tag)
        for name, tag in list_pretrained()
        if os.path.dirname(get_pretrained_cfg(name, tag).get("hf_hub", "")).lower() == asked
        and not name.endswith("-quickgelu")
    ]


def _in_hub_cache(location: str) -> Iterator[Path]:
    """Find the files on this disk that may be the weights at ``OWNER/NAME/FILE`` of the hub."""
    repository, filename = os.path.split(location)
    if repository:
        yield from filter(None, map(Repository(repository).kept, weight_files(filename)))


def _same_bytes(path: str, kept: Path) -> bool:
    try:
        if os.path.getsize(path) != os.path.getsize(kept):
            return False
        return os.path.samefile(path, kept) or filecmp.cmp(path, kept, shallow=False)
    except OSError:
        return False


def _is_download(path: Path, url: str) -> bool:
    """Whether a file has the name of a release, and the start of its SHA-256 that is in it."""
    name = Path(urlparse(url).path)
    checksum = name.stem.rpartition("-")[2]
    if not url or path.name != name.name or len(checksum) < 8:
        return False
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest().startswith(checksum)


def warn_of_tags(model_name: str, path: str) -> None:
    """Warn where open_clip's tags of an architecture use other settings than a file gets."""
    used = settings(model_name, None)
    alike: list[str] = []
    others: dict[str, list[str]] = {}
    for tag in list_pretrained_tags_by_model(clean_name(model_name)):
        stated = settings(model_name, tag)
        different = "; ".join(
            spelled(name, value) for name, value in stated.items() if value != used[name]
        )
        if different:
            others.setdefault(different, []).append(tag)
        else:
            alike.append(tag)
    if not others:
        return
    by_tags = " | ".join(f"{', '.join(tags)}: {how}" for how, tags in others.items())
    first = next(iter(others.values()))[0]
    else_ = (
        f"If these settings are right, pretrained='{alike[0]}:{path}' says so."
        if alike
        else "If these settings are right, silence AmbiguousCheckpointWarning."
    )
    warn(
        f"model_name={model_name!r}, pretrained={path!r}: a checkpoint file holds weights, not how "
        f"they are used. This one is used with {_spelled_all(used)}. Published weights of this "
        f"architecture want something else, by tag: {by_tags}. If the file is one of these, name "
        f"the tag before the path, such as pretrained='{first}:{path}'. {else_}",
        AmbiguousCheckpointWarning,
    )


def _spelled_all(used: Mapping[str, Any]) -> str:
    shown = ("quick_gelu", "mean", "std", "interpolation", "resize_mode")
    return "; ".join(spelled(name, used[name]) for name in shown)


def spelled(name: str, value: Any) -> str:
    """Write a setting for a message."""
    if name == "quick_gelu":
        return "activation QuickGELU" if value else "activation GELU"
    return f"{name} {value!r}"
