"""Names, tags, checkpoints and the hub -> a model with its weights, or one clear error."""

from __future__ import annotations

import contextlib
import difflib
import json
import logging
import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import numpy as np
import open_clip
import torch
from open_clip import factory
from open_clip.model import CLIP, set_model_preprocess_cfg
from open_clip.pretrained import get_pretrained_cfg, list_pretrained_tags_by_model
from open_clip.transform import PreprocessCfg
from safetensors import safe_open
from torch import Tensor, nn

from ..caching.files import stamp
from ..caching.memory import is_out_of_memory
from ..exceptions import RandomWeightsWarning, warn
from .local_config import check_transformers_config, read_config
from .randomness import seeded
from .towers import CLIPModel

Tokenize = Callable[[list[str]], Tensor]

_TINY = Path(__file__).parents[1] / "models" / "tiny.safetensors"
_RANDOM_SEED = 0
_HUB_SECONDS = 10
# Beyond what users of this library can run; against sizes that are made to exhaust the memory.
_MAX_MODEL_BYTES = 32 * 2**30
_THREE_WAYS = (
    "Three ways to provide weights: (1) on a machine that reaches the internet, run the same line "
    "once, so that they are kept in the Hugging Face cache (copy that folder, or set HF_HOME); "
    "(2) pretrained='/path/to/weights.safetensors' with a checkpoint of this architecture; "
    "(3) model_name='local-dir:/path/to/folder' with open_clip_config.json and the weights. "
    "To try the library without any download use model_name='tiny'."
)


def build_structure(model_name: str) -> nn.Module:
    """Build a model's structure on the meta device: names and shapes, no weights, no memory.

    Parameters
    ----------
    model_name : str
        As for `load_backbone`.

    Returns
    -------
    model : torch.nn.Module
    """
    if model_name == "tiny":
        with torch.device("meta"):
            return CLIP(**_tiny_config()["model_cfg"])
    schema, identifier = factory.parse_model_name(model_name)
    if schema is None:
        _check_names(model_name, None)
    elif schema == "local-dir":
        _check_local_dir(identifier, None)
    if schema is not None:
        _read_foreign_config(schema, identifier)
    return _on_meta(model_name)


def _on_meta(model_name: str) -> nn.Module:
    try:
        with _quiet_open_clip(), _fixed_seed(), torch.device("meta"):
            return open_clip.create_model(
                model_name, load_weights=False, pretrained_text=False, device="meta"
            )
    except Exception as error:
        raise _explain(error, model_name, None) from error


def source_of(model_name: str, pretrained: str | None) -> tuple:
    """What makes two requests ask for the same weights; a file that changed is another one."""
    if model_name == "tiny":
        return ("tiny",)
    schema, identifier = factory.parse_model_name(model_name)
    if schema == "local-dir":
        folder = Path(identifier)
        files = sorted(p for p in folder.glob("*") if p.is_file()) if folder.is_dir() else []
        stamps = tuple((p.name, *stamp(p.stat())) for p in files)
        return (schema, str(folder.absolute()), stamps, pretrained is None)
    if pretrained is not None and os.path.isfile(pretrained):
        return (model_name, os.path.abspath(pretrained), *stamp(os.stat(pretrained)))
    return (model_name, pretrained)


def build_model(model_name: str, pretrained: str | None) -> tuple[CLIPModel, Tokenize]:
    """Build a model with its weights on the CPU, and its tokeniser; errors as `load_backbone`."""
    if model_name == "tiny":
        return _build_tiny()
    schema, identifier = factory.parse_model_name(model_name)
    if schema is None:
        _check_names(model_name, pretrained)
    elif schema == "local-dir":
        _check_local_dir(identifier, pretrained)
    if schema == "hf-hub" or (schema is None and _is_tag(model_name, pretrained)):
        _check_reachable(model_name, pretrained)
    tokenizer_kwargs = {}
    if schema is not None:
        config = _read_foreign_config(schema, identifier)
        _check_size(_on_meta(model_name), model_name)
        if config["model_cfg"]["text_cfg"].get("hf_tokenizer_name"):
            tokenizer_kwargs = {"trust_remote_code": False}  # wins over what the file says
    wants_random = pretrained is None and not _carries_weights(schema, identifier)
    if wants_random:
        warn(
            f"pretrained=None: {model_name!r} starts from random weights (seed {_RANDOM_SEED}) and "
            "knows nothing yet; pass a pretrained tag or a checkpoint to get a trained CLIP.",
            RandomWeightsWarning,
        )
    try:
        with _quiet_open_clip(), _fixed_seed():
            model = open_clip.create_model(
                model_name,
                pretrained=pretrained if schema is None else None,
                force_quick_gelu=_tag_wants_quick_gelu(model_name, pretrained),
                pretrained_text=False,
                require_pretrained=not wants_random,
                weights_only=True,
            )
            tokenize = open_clip.get_tokenizer(model_name, **tokenizer_kwargs)
    except Exception as error:
        raise _explain(error, model_name, pretrained) from error
    return model, tokenize


def _read_foreign_config(schema: str, identifier: str) -> dict[str, Any]:
    """Check what a folder or a repository says about its model before any of it is believed."""
    if schema == "local-dir":
        folder = Path(identifier)
        config = read_config(folder / "open_clip_config.json", folder)
    else:
        config = read_config(_of_hub(identifier, "open_clip_config.json"), None)
    name = config["model_cfg"]["text_cfg"].get("hf_model_name")
    if name and not Path(name).exists():
        check_transformers_config(_of_hub(name, "config.json"))
    return config


def _of_hub(repository: str, filename: str) -> Path:
    from huggingface_hub import hf_hub_download

    try:
        return Path(hf_hub_download(repository, filename, etag_timeout=_HUB_SECONDS))
    except Exception as error:
        raise FileNotFoundError(
            f"model_name='hf-hub:{repository}': {filename} cannot be had from the hub "
            f"({str(error).splitlines()[0]}). {_THREE_WAYS}"
        ) from error


def _check_size(structure: nn.Module, model_name: str) -> None:
    n_bytes = 4 * sum(parameter.numel() for parameter in structure.parameters())
    if n_bytes > _MAX_MODEL_BYTES:
        raise ValueError(
            f"model_name={model_name!r}: open_clip_config.json describes a model of "
            f"{n_bytes / 2**30:,.0f} GiB; more than {_MAX_MODEL_BYTES / 2**30:.0f} GiB is refused."
        )


def _build_tiny() -> tuple[nn.Module, Any]:
    """Build the embedded model; token rows that its training never touched are drawn, not kept."""
    config = _tiny_config()
    with _fixed_seed():
        model = CLIP(**config["model_cfg"])
    with safe_open(_TINY, framework="pt") as file:
        names = file.keys()
        state = {name: file.get_tensor(name).float() for name in names}
    rows = state.pop("token_rows").long()
    table = 0.02 * np.random.RandomState(0).standard_normal(model.token_embedding.weight.shape)
    state["token_embedding.weight"] = torch.from_numpy(table.astype(np.float32))
    state["token_embedding.weight"][rows] = state.pop("token_row_weights")
    model.load_state_dict(state)
    preprocess = factory.merge_preprocess_dict(PreprocessCfg(), config["preprocess_cfg"])
    set_model_preprocess_cfg(model, preprocess)
    return model, open_clip.SimpleTokenizer(context_length=model.context_length)


def _tiny_config() -> dict[str, Any]:
    return json.loads(_TINY.with_suffix(".json").read_text(encoding="utf-8"))


def _is_tag(model_name: str, pretrained: str | None) -> bool:
    return pretrained is not None and bool(get_pretrained_cfg(_clean(model_name), pretrained))


def _clean(model_name: str) -> str:
    return model_name.replace("/", "-")


def _tag_wants_quick_gelu(model_name: str, pretrained: str | None) -> bool:
    """Whether the tag's weights were trained with QuickGELU.

    open_clip 3 only warns when the configuration has another activation, and then computes
    something else than the published model.
    """
    return _is_tag(model_name, pretrained) and bool(
        get_pretrained_cfg(_clean(model_name), pretrained).get("quick_gelu", False)
    )


def _carries_weights(schema: str | None, identifier: str) -> bool:
    if schema == "local-dir":
        # Private: only open_clip knows which of a folder's files it will load.
        return factory._find_checkpoint_in_dir(Path(identifier)) is not None
    return schema == "hf-hub"


def _check_names(model_name: str, pretrained: str | None) -> None:
    if _clean(model_name) not in open_clip.list_models():
        known = ["tiny", *open_clip.list_models()]
        near = difflib.get_close_matches(model_name, known, n=3, cutoff=0.4)
        raise ValueError(
            f"model_name={model_name!r} is not known to open_clip {open_clip.__version__}; "
            f"{_did_you_mean(near)}see open_clip.list_models(), or use 'local-dir:PATH' or "
            "'hf-hub:ID'."
        )
    if pretrained is None or _is_tag(model_name, pretrained) or os.path.isfile(pretrained):
        return
    if os.sep in pretrained or Path(pretrained).suffix in _CHECKPOINT_SUFFIXES:
        raise FileNotFoundError(f"pretrained={pretrained!r}: there is no such file. {_THREE_WAYS}")
    tags = list_pretrained_tags_by_model(_clean(model_name))
    raise ValueError(
        f"pretrained={pretrained!r} is neither a file nor a tag of {model_name!r}, whose tags are "
        f"{', '.join(tags) or 'none'}."
    )


_CHECKPOINT_SUFFIXES = (".pt", ".pth", ".bin", ".ckpt", ".safetensors", ".npz", ".npy")


def _did_you_mean(near: list[str]) -> str:
    return f"did you mean {' or '.join(map(repr, near))}? Else " if near else ""


def _check_local_dir(identifier: str, pretrained: str | None) -> None:
    folder = Path(identifier)
    if not (folder / "open_clip_config.json").is_file():
        raise FileNotFoundError(
            f"model_name='local-dir:{identifier}': {folder / 'open_clip_config.json'} is not "
            "there. The folder needs it (with 'model_cfg' and 'preprocess_cfg') and the weights, "
            "as open_clip.push_to_hf_hub writes them."
        )
    if pretrained is not None and not _carries_weights("local-dir", identifier):
        raise FileNotFoundError(
            f"model_name='local-dir:{identifier}': no weights (*.safetensors, *.bin, *.pth) beside "
            f"open_clip_config.json. {_THREE_WAYS}"
        )


def _check_reachable(model_name: str, pretrained: str | None) -> None:
    """Say at once that weights cannot be had: the hub's client retries for a minute first."""
    repository, filename = _hub_location(model_name, pretrained)
    if repository is None or _is_cached(repository, filename) or _hub_answers():
        return
    raise FileNotFoundError(
        f"model_name={model_name!r}, pretrained={pretrained!r}: the weights (hf-hub:{repository}) "
        f"are not in the Hugging Face cache, and {_hub_host()} cannot be reached from here. "
        f"{_THREE_WAYS}"
    )


def _hub_location(model_name: str, pretrained: str | None) -> tuple[str | None, str]:
    schema, identifier = factory.parse_model_name(model_name)
    if schema == "hf-hub":
        return identifier, ""
    entry = get_pretrained_cfg(_clean(model_name), pretrained).get("hf_hub", "")
    repository, filename = os.path.split(entry)
    return repository or None, filename


def _is_cached(repository: str, filename: str) -> bool:
    from huggingface_hub import try_to_load_from_cache

    usual = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")
    names = (filename,) if filename else usual
    return any(isinstance(try_to_load_from_cache(repository, name), str) for name in names)


def _hub_host() -> str:
    return urlparse(os.environ.get("HF_ENDPOINT", "https://huggingface.co")).hostname or ""


def _hub_answers() -> bool:
    if os.environ.get("HF_HUB_OFFLINE", "").upper() in {"1", "ON", "YES", "TRUE"}:
        return False
    if any(os.environ.get(name) for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY")):
        return True  # only the proxy can tell
    try:
        socket.create_connection((_hub_host(), 443), timeout=5).close()
    except OSError:
        return False
    return True


def _explain(error: Exception, model_name: str, pretrained: str | None) -> Exception:
    asked = f"model_name={model_name!r}, pretrained={pretrained!r}"
    text = str(error)
    if is_out_of_memory(error):
        return MemoryError(f"{asked}: memory ran out while the model was loaded.")
    if "transformers" in text:
        return ImportError(
            f"{asked}: the text tower is a Hugging Face model; install it with "
            "`pip install 'skclipsvd[hf]'`."
        )
    if isinstance(error, FileNotFoundError) or "download" in text or "hf-hub" in text.lower():
        return FileNotFoundError(f"{asked}: {text.splitlines()[0]} {_THREE_WAYS}")
    if "TorchScript" in text:
        return ValueError(
            f"{asked}: this file is a TorchScript archive, which is a program and is not run here. "
            "Save its state_dict (torch.save(torch.jit.load(path).state_dict(), new_path)) on a "
            "machine where you trust it."
        )
    reason = " ".join(text.split())[:400] or type(error).__name__
    return ValueError(
        f"{asked}: the checkpoint or configuration is damaged, not made of plain weights, or of "
        f"another architecture ({reason})."
    )


@contextlib.contextmanager
def _quiet_open_clip() -> Iterator[None]:
    """Keep open_clip's and the hub's running commentary off the user's screen."""
    previous = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        yield
    finally:
        logging.disable(previous)


def _fixed_seed() -> contextlib.AbstractContextManager[None]:
    """Draw initial weights from a fixed seed and leave the caller's random state as it was."""
    return seeded(_RANDOM_SEED, torch.device("cpu"))
