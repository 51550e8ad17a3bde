"""What to write instead, where a model cannot be had as it was asked for."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from pathlib import Path

from open_clip.pretrained import list_pretrained_tags_by_model

from .tags import clean_name, tags_of_repository

THREE_WAYS = (
    "Three ways to provide weights: (1) on a machine that reaches the internet, run the same line "
    "once, so that they are kept in the Hugging Face cache (copy that folder, or set HF_HOME); "
    "(2) pretrained='TAG:/path/to/weights.safetensors' with a copy of the tag's file, or "
    "'/path/to/weights.safetensors' with other weights of this architecture; "
    "(3) model_name='local-dir:/path/to/folder' with open_clip_config.json and the weights. "
    "To try the library without any download use model_name='tiny'."
)
# What OpenAI's archives hold beside weights.
_BOOKKEEPING = ("input_resolution", "context_length", "vocab_size")


def tags_there_are(model_name: str) -> str:
    """List open_clip's tags of an architecture."""
    return ", ".join(list_pretrained_tags_by_model(clean_name(model_name))) or "none"


def instead_of_name(model_name: str, known: Sequence[str]) -> str:
    """Say what to write instead of the name of a repository of the hub, or of a misspelt one."""
    asked = clean_name(model_name)
    near = difflib.get_close_matches(asked, known, n=3, cutoff=0.4)
    told = _as_tag(model_name)
    misspelt = difflib.get_close_matches(asked, near, cutoff=0.8)
    if not told and ("/" not in model_name or misspelt):
        return f"did you mean {' or '.join(map(repr, near))}? Else " if near else ""
    told = told or (
        f"this looks like a repository of the hub: model_name='hf-hub:{model_name}' takes one that "
        "has open_clip_config.json. "
    )
    return f"{told}Else "


def instead_of_repository(repository: str) -> str:
    """Name a tag instead of a repository that has no open_clip_config.json."""
    return _as_tag(repository) if repository.startswith("openai/") else ""


def _as_tag(repository: str) -> str:
    """Name open_clip's tag of a repository's weights, where it has one."""
    tags = tags_of_repository(repository)
    named = " or ".join(f"model_name={name!r}, pretrained={tag!r}" for name, tag in tags)
    return f"open_clip has the weights of {repository!r} as {named}. " if named else ""


def unpinned(what: str, name: str) -> str:
    """Say why a named revision is not enough for a model of two repositories."""
    return (
        f"a revision is named, but {what} comes from another repository, {name!r}, which it does "
        "not pin. Leave the revision out, or use a copy of everything as 'local-dir:PATH'."
    )


def without_program(old: Path, error: str) -> str | None:
    """Say how to get plain weights out of a TorchScript archive, or free of what else it held.

    Parameters
    ----------
    old : Path
        The file that could not be used.
    error : str
        What open_clip said of it.

    Returns
    -------
    advice : str or None
        None where the file was no such archive.
    """
    if "TorchScript" in error:
        what = "is a TorchScript archive, which is a program and is not run here"
        read = f"torch.jit.load({str(old)!r}, map_location='cpu').state_dict()"
    elif all(name in error for name in _BOOKKEEPING):
        what = "holds three numbers of a TorchScript archive beside the weights"
        read = f"torch.load({str(old)!r}, map_location='cpu', weights_only=True)"
    else:
        return None
    new = old.with_name(f"{old.stem}-weights.pt")
    return (
        f"this file {what}. Take the weights out, once, on a machine where you trust it: "
        f"`import torch; state = {read}; torch.save({{k: v for k, v in state.items() if k not in "
        f"{_BOOKKEEPING}}}, {str(new)!r})`. Then pass the new file; for OpenAI's weights as "
        "pretrained='openai:PATH', which has their activation."
    )
