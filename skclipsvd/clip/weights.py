"""Names, tags, checkpoints and the hub -> a model with its weights, or one clear error."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import torch
from open_clip import factory
from open_clip.model import CLIP, set_model_preprocess_cfg
from open_clip.pretrained import get_pretrained_cfg
from open_clip.tokenizer import HFTokenizer
from open_clip.transform import PreprocessCfg
from safetensors import safe_open
from torch import Tensor, nn

from ..caching.files import stamp
from ..caching.memory import is_out_of_memory
from ..exceptions import RandomWeightsWarning, warn
from ..progress import note
from .advice import (
    THREE_WAYS,
    instead_of_name,
    instead_of_repository,
    tags_there_are,
    unpinned,
    without_program,
)
from .hub import Repository, UnavailableError, causes, quiet, split_revision, weight_files
from .local_config import check_names_no_code, check_transformers_config, read_config
from .randomness import seeded
from .tags import (
    Source,
    clean_name,
    is_tag,
    settings,
    source_named,
    tag_of_copy,
    warn_of_tags,
)
from .towers import CLIPModel

Tokenize = Callable[[list[str]], Tensor]

_TINY = Path(__file__).parents[1] / "models" / "tiny.safetensors"
_RANDOM_SEED = 0
_CHECKPOINT_SUFFIXES = (".pt", ".pth", ".bin", ".ckpt", ".safetensors", ".npz", ".npy")
# Beyond what users of this library can run; against sizes that are made to exhaust the memory.
_MAX_MODEL_BYTES = 32 * 2**30
_CONFIG = "open_clip_config.json"
# What transformers' tokenisers are made of; a repository has a few of them. Never its code.
_TOKENISER_FILES = (
    "tokenizer_config.json",
    "tokenizer.json",
    "config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.txt",
    "vocab.json",
    "merges.txt",
    "spiece.model",
    "sentencepiece.bpe.model",
    "tokenizer.model",
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
    with _fetching(model_name, None):
        found = _find(model_name, None)
        return _on_meta(found, _text_tower(found), model_name)


@dataclass(frozen=True)
class _Found:
    """A model whose configuration lies on this disk and was checked.

    Attributes
    ----------
    name : str
        What open_clip is asked for: a name that it knows, or ``"local-dir:FOLDER"``.
    model_cfg : dict
        The checked configuration.
    folder : Path or None
        Where it came from; None for a name that open_clip knows.
    repository : Repository or None
        Of the hub, where it came from there.
    """

    name: str
    model_cfg: dict[str, Any]
    folder: Path | None = None
    repository: Repository | None = None

    @property
    def pinned(self) -> Repository | None:
        """The repository, where the user named one state of it."""
        pinned = self.repository is not None and self.repository.is_pinned
        return self.repository if pinned else None


def _find(model_name: str, pretrained: str | None) -> _Found:
    """Find a model's configuration; what a folder or a repository says is checked first."""
    schema, identifier = factory.parse_model_name(model_name)
    if schema is None:
        _check_names(model_name, pretrained)
        return _Found(clean_name(model_name), factory.get_model_config(clean_name(model_name)))
    if schema == "local-dir":
        _check_local_dir(identifier, pretrained)
        folder = _local_folder(identifier)
        config = read_config(folder / _CONFIG, folder)
        return _Found(f"local-dir:{folder}", config["model_cfg"], folder)
    name, revision = split_revision(identifier)
    repository = Repository(name, revision)
    file = repository.file(_CONFIG)
    config = read_config(file, None)
    return _Found(f"local-dir:{file.parent}", config["model_cfg"], file.parent, repository)


def _local_folder(identifier: str) -> Path:
    return Path(os.path.expanduser(identifier))


def _on_meta(found: _Found, options: dict[str, Any], model_name: str) -> nn.Module:
    with _building(model_name, None), torch.device("meta"):
        return open_clip.create_model(
            found.name, load_weights=False, pretrained_text=False, device="meta", **options
        )


def _text_tower(found: _Found) -> dict[str, Any]:
    """Let a Hugging Face text tower be built from a checked file, with no word to the hub."""
    text = found.model_cfg["text_cfg"]
    name = text.get("hf_model_name")
    if not name:
        return {}
    _need_transformers()
    if found.repository is None and found.folder is not None and Path(name).exists():
        return {}
    if found.pinned is not None and name != found.pinned.name:
        raise ValueError(unpinned("the configuration of its text tower", name))
    file = _repository(name, found).file("config.json")
    check_transformers_config(file)
    return {"text_cfg": {**text, "hf_model_name": str(file.parent), "hf_model_pretrained": False}}


def _tokeniser(found: _Found, folder: Path | None) -> Tokenize:
    """Build a tokeniser from checked files; whatever they say, none of their code is run."""
    if folder is None:
        return open_clip.get_tokenizer(found.name)
    text = found.model_cfg["text_cfg"]
    return HFTokenizer(
        str(folder),
        context_length=text.get("context_length", 77),
        tokenizer_mode=text.get("tokenizer_mode"),
        **{**text.get("tokenizer_kwargs", {}), "trust_remote_code": False},
    )


def _tokeniser_folder(found: _Found) -> Path | None:
    """Find the files of a Hugging Face tokeniser and check them; None for open_clip's own."""
    name = found.model_cfg["text_cfg"].get("hf_tokenizer_name")
    if not name:
        return None
    _need_transformers()
    if found.folder is not None and found.repository is None:
        return found.folder  # wherever the files came from, they are here
    repository = _repository(name, found)
    if found.pinned is not None and name != found.pinned.name:
        repository = found.pinned
        if repository.find(_TOKENISER_FILES[0]) is None:
            raise ValueError(unpinned("its tokeniser", name))
    files = [file for file in map(repository.find, _TOKENISER_FILES) if file is not None]
    if not files:
        raise UnavailableError(f"hf-hub:{repository.name} has no tokeniser.")
    for file in files:
        if file.name in ("config.json", "tokenizer_config.json"):
            check_names_no_code(file)
    return files[0].parent


def _repository(name: str, found: _Found) -> Repository:
    if found.repository is not None and found.repository.name == name:
        return found.repository
    return Repository(name)


def _need_transformers() -> None:
    try:
        import transformers  # noqa: F401
    except ImportError as error:
        raise ImportError(
            "the text tower or its tokeniser is a Hugging Face model; install transformers with "
            f"`pip install 'skclipsvd[hf]'` ({error})."
        ) from error


def is_published(model_name: str | None, pretrained: str | None) -> bool:
    """Whether a backbone is one that open_clip or this package publishes, by name and tag alone.

    Parameters
    ----------
    model_name : str or None
        None asks about the tag alone.
    pretrained : str or None
        None asks for random weights.

    Returns
    -------
    published : bool
        False for a folder, a repository, a file and whatever is not known.
    """
    own_weights = model_name in (None, "tiny")  # which do not look at the tag
    if not own_weights and clean_name(str(model_name)) not in open_clip.list_models():
        return False
    if pretrained is None:
        return True
    if own_weights:
        return any(tag == pretrained for _, tag in open_clip.list_pretrained())
    return is_tag(str(model_name), pretrained)


def source_of(model_name: str, pretrained: str | None) -> tuple:
    """What makes two requests ask for the same weights; a file that changed is another one."""
    if model_name == "tiny":
        return ("tiny",)
    schema, identifier = factory.parse_model_name(model_name)
    if schema == "local-dir":
        folder = _local_folder(identifier)
        files = sorted(p for p in folder.glob("*") if p.is_file()) if folder.is_dir() else []
        stamps = tuple((p.name, *stamp(p.stat())) for p in files)
        return (schema, str(folder.absolute()), stamps, pretrained is None)
    tag, path = source_named(model_name, pretrained)
    if path is not None and os.path.isfile(path):
        return (model_name, tag, os.path.abspath(path), *stamp(os.stat(path)))
    return (model_name, pretrained)


def build_model(model_name: str, pretrained: str | None) -> tuple[CLIPModel, Tokenize]:
    """Build a model with its weights on the CPU, and its tokeniser; errors as `load_backbone`."""
    if model_name == "tiny":
        return _build_tiny()
    with _fetching(model_name, pretrained):
        return _build(_find(model_name, pretrained), model_name, pretrained)


def _build(found: _Found, model_name: str, pretrained: str | None) -> tuple[CLIPModel, Tokenize]:
    options, tokeniser_folder = _text_tower(found), _tokeniser_folder(found)
    source, path = Source(None, None), None
    if found.folder is not None:  # a folder and a repository bring their own weights
        _check_size(_on_meta(found, options, model_name), model_name)
    else:
        source = _settled(found.name, pretrained)
        path = source.path
    if found.repository is not None:
        found.repository.first(weight_files())
    elif path is None and source.tag is not None:
        name, filename = os.path.split(get_pretrained_cfg(found.name, source.tag)["hf_hub"])
        path = str(Repository(name).first(weight_files(filename)))
    stated = {} if source.tag is None else settings(found.name, source.tag)
    wants_random = path is None and not _holds_weights(found)
    if wants_random:
        warn(
            f"pretrained=None: {model_name!r} starts from random weights (seed {_RANDOM_SEED}) and "
            "knows nothing yet; pass a pretrained tag or a checkpoint to get a trained CLIP.",
            RandomWeightsWarning,
        )
    note("weights: %s", "random" if wants_random else path or f"in {found.folder}")
    with _building(model_name, pretrained):
        model = open_clip.create_model(
            found.name,
            pretrained=path,
            # open_clip 3 only warns where the weights were trained with QuickGELU and the
            # configuration has another activation, and then computes something else. Of a file
            # it knows neither activation nor pre-processing.
            force_quick_gelu=stated.pop("quick_gelu", False),
            force_preprocess_cfg=stated,
            pretrained_text=False,
            require_pretrained=not wants_random,
            weights_only=True,
            **options,
        )
        tokenize = _tokeniser(found, tokeniser_folder)
    if source.path is not None and source.tag is None:
        warn_of_tags(found.name, source.path)
    return model, tokenize


def _settled(model_name: str, pretrained: str | None) -> Source:
    """Return where the weights come from; of a file also the tag whose settings it is used with."""
    source = source_named(model_name, pretrained)
    if source.path is None or source.tag is not None:
        return source
    return Source(tag_of_copy(model_name, source.path), source.path)


def _check_size(structure: nn.Module, model_name: str) -> None:
    n_bytes = 4 * sum(parameter.numel() for parameter in structure.parameters())
    if n_bytes > _MAX_MODEL_BYTES:
        raise ValueError(
            f"model_name={model_name!r}: open_clip_config.json describes a model of "
            f"{n_bytes / 2**30:,.0f} GiB; more than {_MAX_MODEL_BYTES / 2**30:.0f} GiB is refused."
        )


def _build_tiny() -> tuple[CLIPModel, Tokenize]:
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


def _holds_weights(found: _Found) -> bool:
    return found.folder is not None and _checkpoint_in(found.folder) is not None


def _checkpoint_in(folder: Path) -> str | None:
    with quiet():
        # Private: only open_clip knows which of a folder's files it will load.
        return factory._find_checkpoint_in_dir(folder)


def _check_names(model_name: str, pretrained: str | None) -> None:
    if clean_name(model_name) not in open_clip.list_models():
        instead = instead_of_name(model_name, ["tiny", *open_clip.list_models()])
        raise ValueError(
            f"model_name={model_name!r} is not known to open_clip {open_clip.__version__}; "
            f"{instead}see open_clip.list_models(), or use 'local-dir:PATH' or 'hf-hub:ID'."
        )
    tag, path = source_named(model_name, pretrained)
    if pretrained is None or (path is None and tag is not None):
        return
    if path is not None and os.path.isfile(path):
        return
    before, _, after = pretrained.partition(":")
    if path is None and os.path.isfile(os.path.expanduser(after)):
        raise ValueError(
            f"pretrained={pretrained!r}: {before!r} is no tag of {model_name!r}, whose tags are "
            f"{tags_there_are(model_name)}. Write TAG:PATH, or the path alone."
        )
    if path or os.sep in pretrained or Path(pretrained).suffix in _CHECKPOINT_SUFFIXES:
        raise FileNotFoundError(f"pretrained={pretrained!r}: there is no such file. {THREE_WAYS}")
    raise ValueError(
        f"pretrained={pretrained!r} is neither a file nor a tag of {model_name!r}, whose tags are "
        f"{tags_there_are(model_name)}."
    )


def _check_local_dir(identifier: str, pretrained: str | None) -> None:
    folder = _local_folder(identifier)
    if not (folder / "open_clip_config.json").is_file():
        raise FileNotFoundError(
            f"model_name='local-dir:{identifier}': {folder / 'open_clip_config.json'} is not "
            "there. The folder needs it (with 'model_cfg' and 'preprocess_cfg') and the weights, "
            "as open_clip.push_to_hf_hub writes them."
        )
    if pretrained is not None and _checkpoint_in(folder) is None:
        raise FileNotFoundError(
            f"model_name='local-dir:{identifier}': no weights (*.safetensors, *.bin, *.pth) beside "
            f"open_clip_config.json. {THREE_WAYS}"
        )


@contextlib.contextmanager
def _fetching(model_name: str, pretrained: str | None) -> Iterator[None]:
    """Say which model could not be had, or did not fit into memory."""
    asked = f"model_name={model_name!r}, pretrained={pretrained!r}"
    try:
        yield
    except UnavailableError as error:
        instead = instead_of_repository(model_name.removeprefix("hf-hub:"))
        raise FileNotFoundError(f"{asked}: {error} {instead}{THREE_WAYS}") from None
    except ImportError as error:
        raise ImportError(f"{asked}: {error}") from None
    except Exception as error:
        if not any(map(is_out_of_memory, causes(error))):
            raise
        raise MemoryError(
            f"{asked}: out of memory: the model was not loaded. Free some (close other programs, "
            "skclipsvd.clear_caches()), or choose a smaller model; its weights are not at fault."
        ) from error


@contextlib.contextmanager
def _building(model_name: str, pretrained: str | None) -> Iterator[None]:
    """Let open_clip build in silence from a fixed seed; say what is wrong with the files."""
    try:
        with quiet(), _fixed_seed():
            yield
    except Exception as error:
        if any(map(is_out_of_memory, causes(error))):
            raise
        asked = f"model_name={model_name!r}, pretrained={pretrained!r}"
        advice = without_program(_checkpoint_file(model_name, pretrained), str(error))
        if advice is not None:
            raise ValueError(f"{asked}: {advice}") from None
        reason = " ".join(str(error).split())[:400] or type(error).__name__
        raise ValueError(
            f"{asked}: the checkpoint or configuration is damaged, not made of plain weights, or "
            f"of another architecture ({reason})."
        ) from error


def _checkpoint_file(model_name: str, pretrained: str | None) -> Path:
    """Return the file that open_clip reads for a model; a stand-in where that is not known."""
    schema, identifier = factory.parse_model_name(model_name)
    if schema == "local-dir":
        return Path(_checkpoint_in(_local_folder(identifier)) or identifier)
    path = source_named(model_name, pretrained).path if schema is None else None
    return Path(path or "archive.pt")


def _fixed_seed() -> contextlib.AbstractContextManager[None]:
    """Draw initial weights from a fixed seed and leave the caller's random state as it was."""
    return seeded(_RANDOM_SEED, torch.device("cpu"))
