"""A frozen CLIP: loaded once, fingerprinted, shared by every estimator of the process."""

from __future__ import annotations

import copy
import hashlib
import weakref
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import torch
from open_clip.transform import PreprocessCfg
from torch import nn

from ..caching.process import BACKBONES
from ..images import size_of
from ..progress import note, phase
from .convolutional import Plan, plan_of, simplify
from .devices import compute_after_fork
from .identity import Setting, config_of, differences, has_quick_gelu
from .skeleton import structural_copy
from .towers import CLIPModel
from .weights import Tokenize, build_model, source_of

# By merged model, each as long as that is there.
_TO_PREDICT: weakref.WeakKeyDictionary[nn.Module, CLIPModel] = weakref.WeakKeyDictionary()


@dataclass(frozen=True, eq=False)
class Backbone:
    """A frozen CLIP on one device, shared by every estimator of the process.

    Attributes
    ----------
    model : torch.nn.Module
        An open_clip model in evaluation mode, float32, none of whose parameters requires gradients.
        Nobody writes to it, and nobody calls it while swapping tensors: use `skeleton`.
    tokenize : callable
        Maps a list of str to an int64 tensor of shape (n_texts, context_length).
    preprocess : open_clip.transform.PreprocessCfg
        Image size, mean, standard deviation, interpolation and resize mode.
    fingerprint : str
        SHA-256 of the weights' names, shapes and float32 values, and of QuickGELU where it is the
        activation; equal on every device.
    device : torch.device
        Where `model` lies.
    """

    model: CLIPModel
    tokenize: Tokenize
    preprocess: PreprocessCfg
    fingerprint: str
    device: torch.device

    @property
    def n_parameters(self) -> int:
        """How many numbers the frozen model has."""
        return sum(parameter.numel() for parameter in self.model.parameters())

    @property
    def logit_scale(self) -> float:
        """The factor of the cosine similarity, ``exp(model.logit_scale)``."""
        return float(self.model.logit_scale.detach().exp().item())

    @property
    def logit_bias(self) -> float:
        """The constant that SigLIP adds to its scores; 0.0 for every other family."""
        bias = getattr(self.model, "logit_bias", None)
        return 0.0 if bias is None else float(bias.detach().item())

    @cached_property
    def config(self) -> dict[str, Setting]:
        """What the model is beside its weights: pre-processing, activation, heads, pooling, ..."""
        return config_of(self.model, self.tokenize, self.preprocess)

    @cached_property
    def identity(self) -> str:
        """SHA-256 of the weights and of everything beside them; equal on every device."""
        return hashlib.sha256(
            f"{self.fingerprint}{sorted(self.config.items())}".encode()
        ).hexdigest()

    def differences(
        self, fingerprint: str, config: Mapping[str, Setting]
    ) -> tuple[bool, list[str]]:
        """Compare with the fingerprint and the config of the model that was fitted on.

        Parameters
        ----------
        fingerprint : str
        config : mapping of str to plain value
            What it does not say, as in files of 0.1.0, is not compared.

        Returns
        -------
        same_weights : bool
        others : list of str
            What else differs, with both values.
        """
        others = differences(config, self.config)
        if fingerprint == self.fingerprint:
            return True, others
        quick = has_quick_gelu(self.model)
        same = fingerprint == _fingerprint(self.model, quick_gelu=not quick)
        if same and "activation" not in config:
            kinds = ("quick_gelu", "gelu") if quick else ("gelu", "quick_gelu")
            others.append(f"activation is {kinds[0]!r} (fitted with {kinds[1]!r})")
        return same, others

    def skeleton(self) -> CLIPModel:
        """Copy the structure and share every tensor, so that a tensor can be replaced in private.

        ``torch.func.functional_call`` on the shared module would swap tensors in place: two
        threads would see each other's weights.
        """
        return structural_copy(self.model)

    @cached_property
    def plan(self) -> Plan:
        """What can be simplified in a convolutional image tower, with the same features."""
        return plan_of(self.model.visual, size_of(self.preprocess))

    def simplify(self, model: CLIPModel) -> None:
        """Bring a private model's image tower into the form that computes least, in place."""
        simplify(model.visual, self.plan)

    def to_predict(self, model: CLIPModel) -> CLIPModel:
        """Return the form that computes least of this model, frozen or merged; made once of each.

        Transformers are returned as they are.
        """
        if not self.plan.folds:
            return model
        form = _TO_PREDICT.get(model)
        if form is None:
            form = structural_copy(model)
            self.simplify(form)
            _TO_PREDICT[model] = form
        return form


def load_backbone(model_name: str, pretrained: str | None, device: torch.device) -> Backbone:
    """Load a frozen CLIP, or hand out the one that this process already has.

    Parameters
    ----------
    model_name : str
        ``"tiny"``, a name of `open_clip.list_models`, ``"local-dir:PATH"`` or ``"hf-hub:ID"``.
    pretrained : str or None
        A tag of `open_clip.list_pretrained`, the path of a checkpoint file, or ``"TAG:PATH"``: the
        file's weights with the activation and pre-processing of the tag. None asks for random
        weights, drawn from a fixed seed. Ignored for models that bring their own weights:
        ``"tiny"``, ``"local-dir:PATH"`` and ``"hf-hub:ID"``.
    device : torch.device
        Where the model is wanted.

    Returns
    -------
    backbone : Backbone

    Raises
    ------
    ValueError
        Unknown name or tag; a checkpoint that is damaged or of another architecture.
    FileNotFoundError
        The weights are not here and cannot be had.
    """
    compute_after_fork()
    source = source_of(model_name, pretrained)
    if (source, str(device)) in BACKBONES:
        note("model %s: in memory", model_name)

    def make_on_cpu() -> tuple[Backbone, int]:
        with phase(f"loading model {model_name}"):
            model, tokenize = build_model(model_name, pretrained)
            model.eval().requires_grad_(False)
            backbone = Backbone(
                model=model,
                tokenize=tokenize,
                preprocess=PreprocessCfg(**model.visual.preprocess_cfg),
                fingerprint=fingerprint(model),
                device=torch.device("cpu"),
            )
        return backbone, _nbytes(model)

    try:
        on_cpu = BACKBONES.get_or_make((source, "cpu"), make_on_cpu)
    except (FileNotFoundError, ImportError, ValueError) as error:
        if error.__cause__ is not None:  # its message alone does not say it all
            raise
        # The frames of this package say nothing about a name or a file that is wrong.
        raise error.with_traceback(None) from None
    if device.type == "cpu":
        return on_cpu

    def make_on_device() -> tuple[Backbone, int]:
        with phase(f"copying model {model_name} to {device}"):
            model = copy.deepcopy(on_cpu.model).to(device)
        copied = Backbone(model, on_cpu.tokenize, on_cpu.preprocess, on_cpu.fingerprint, device)
        return copied, _nbytes(model)

    return BACKBONES.get_or_make((source, str(device)), make_on_device)


def backbone_in_memory(
    model_name: str, pretrained: str | None, device: torch.device
) -> Backbone | None:
    """Hand out a frozen CLIP only if this process already has it; load nothing.

    Parameters
    ----------
    model_name, pretrained, device
        As for `load_backbone`.

    Returns
    -------
    backbone : Backbone or None
    """
    key = "cpu" if device.type == "cpu" else str(device)
    return BACKBONES.get((source_of(model_name, pretrained), key))


def fingerprint(model: nn.Module) -> str:
    """Hash the weights, so that singular values are never applied to another model's.

    The activation is hashed too where it is QuickGELU: the same weights with GELU are another
    model, and no weight tells them apart.
    """
    return _fingerprint(model, quick_gelu=has_quick_gelu(model))


def _fingerprint(model: nn.Module, *, quick_gelu: bool) -> str:
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        values = tensor.detach().to("cpu", torch.float32).contiguous()
        digest.update(f"{name}{tuple(values.shape)}".encode())
        digest.update(values.numpy().data)
    if quick_gelu:
        digest.update(b"quick_gelu")
    return digest.hexdigest()


def _nbytes(model: nn.Module) -> int:
    return sum(t.numel() * t.element_size() for t in model.state_dict().values())
