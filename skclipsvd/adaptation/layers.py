"""How an adaptation gets into a model: installed to be trained, merged to predict."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .base import Adaptation, join, row_blocks
from .targets import Target


@torch.no_grad()
def merge(skeleton: nn.Module, adaptation: Adaptation) -> nn.Module:
    """Replace the adapted tensors of `skeleton` by plain ones: a model like any other.

    Parameters
    ----------
    skeleton : torch.nn.Module
        A private structural copy; it is changed in place, the tensors it shared are not.
    adaptation : Adaptation
        Whose weights to put in.

    Returns
    -------
    skeleton : torch.nn.Module
        The same object.

    Examples
    --------
    >>> import torch
    >>> from skclipsvd.adaptation import SpectralAdaptation, find_targets, merge
    >>> from skclipsvd.adaptation.factors import decompose
    >>> from skclipsvd.clip import load_backbone
    >>> backbone = load_backbone("tiny", None, torch.device("cpu"))
    >>> targets = find_targets(backbone.model)
    >>> adaptation = SpectralAdaptation(targets, decompose(backbone, targets))
    >>> model = merge(backbone.skeleton(), adaptation)
    >>> name = targets[0].tensor
    >>> bool((model.get_parameter(name) == backbone.model.get_parameter(name)).all())
    True
    """
    for name, targets in adaptation.by_tensor().items():
        module, attribute = _locate(skeleton, name)
        adapted = adaptation.tensor(getattr(module, attribute), targets)
        setattr(module, attribute, nn.Parameter(adapted, requires_grad=False))
    return skeleton


def install(skeleton: nn.Module, adaptation: Adaptation) -> nn.Module:
    """Put the training form of `adaptation` into `skeleton`.

    Linear layers and multi-head attention compute in the form that is cheapest; a tensor used in
    any other way is rebuilt before every use.

    Parameters
    ----------
    skeleton : torch.nn.Module
        A private structural copy; it is changed in place, the tensors it shared are not.
    adaptation : Adaptation
        The numbers to train.

    Returns
    -------
    skeleton : torch.nn.Module
        The same object.

    Examples
    --------
    >>> import torch
    >>> from skclipsvd.adaptation import SpectralAdaptation, find_targets, install
    >>> from skclipsvd.adaptation.factors import decompose
    >>> from skclipsvd.clip import load_backbone
    >>> backbone = load_backbone("tiny", None, torch.device("cpu"))
    >>> targets = find_targets(backbone.model)
    >>> adaptation = SpectralAdaptation(targets, decompose(backbone, targets))
    >>> model = install(backbone.skeleton(), adaptation)
    >>> model.encode_image(torch.zeros(1, 3, 32, 32)).sum().backward()
    >>> adaptation.parameters()[0].grad.shape  # of the first matrix's singular values
    torch.Size([128])
    """
    groups = adaptation.by_tensor()
    for path, module in list(skeleton.named_modules()):
        touched = [name for name in groups if name.rpartition(".")[0] == path]
        if type(module) is nn.MultiheadAttention and (
            touched or f"{path}.out_proj.weight" in groups
        ):
            targets = [t for name in touched for t in groups[name]]
            _replace(skeleton, path, AdaptedAttention(module, targets, adaptation))
        elif isinstance(module, nn.Linear) and touched:
            _replace(skeleton, path, AdaptedLinear.of(module, groups[touched[0]], adaptation))
        else:
            for name in touched:
                _rebuild_before_use(module, name.rpartition(".")[2], groups[name], adaptation)
    return skeleton


class AdaptedLinear(nn.Module):
    """A linear layer in row blocks, some adapted and some frozen.

    Parameters
    ----------
    blocks : sequence of (weight, bias, target)
        Frozen rows of shape (rows, in), their bias or None, and their target or None.
    adaptation : Adaptation or None
        The numbers to train; None where all rows are frozen.
    """

    def __init__(
        self,
        blocks: Sequence[tuple[Tensor, Tensor | None, Target | None]],
        adaptation: Adaptation | None,
    ):
        super().__init__()
        self.blocks, self.adaptation = tuple(blocks), adaptation
        # open_clip asks a tower's first block for its dtype at every call. It looks for this name
        # first; without it, `weight` would be rebuilt just to read its dtype.
        self.int8_original_dtype = self.blocks[0][0].dtype

    @classmethod
    def of(
        cls, linear: nn.Linear, targets: Sequence[Target], adaptation: Adaptation
    ) -> AdaptedLinear:
        """Build it from a whole layer and the targets among its rows."""
        weight, bias = linear.weight, linear.bias
        return cls(
            [
                (weight[slice(*rows)], None if bias is None else bias[slice(*rows)], target)
                for rows, target in row_blocks(len(weight), targets)
            ],
            adaptation,
        )

    @property
    def weight(self) -> Tensor:
        """The adapted weight, for models that read it instead of calling the layer."""
        return join(
            [
                frozen
                if target is None or self.adaptation is None
                else self.adaptation.weight(target, frozen)
                for frozen, _, target in self.blocks
            ],
            dim=0,
        )

    @property
    def bias(self) -> Tensor | None:
        """The frozen bias."""
        biases = [bias for _, bias, _ in self.blocks if bias is not None]  # all of them, or none
        return join(biases, dim=0) if biases else None

    def forward(self, x: Tensor) -> Tensor:
        """Apply the adapted layer to an input of shape (..., in)."""
        return join(
            [
                F.linear(x, weight, bias)
                if target is None or self.adaptation is None
                else self.adaptation.linear(target, x, weight, bias)
                for weight, bias, target in self.blocks
            ],
            dim=-1,
        )


class AdaptedAttention(nn.Module):
    """Attention like `torch.nn.MultiheadAttention`, with adapted projections.

    Its `out_proj` is the original layer; adapt it like any other. What happens between the
    projections is `attend`, which may be replaced.
    """

    q: AdaptedLinear
    k: AdaptedLinear
    v: AdaptedLinear

    def __init__(
        self,
        attention: nn.MultiheadAttention,
        targets: Sequence[Target],
        adaptation: Adaptation | None,
    ):
        super().__init__()
        self.n_heads, self.batch_first = attention.num_heads, attention.batch_first
        self.out_proj = attention.out_proj
        self.attend = attend
        stacked = attention.in_proj_weight is not None
        width = attention.embed_dim
        for i, role in enumerate("qkv"):
            rows = slice(i * width, (i + 1) * width)
            weight = (
                attention.in_proj_weight[rows]
                if stacked
                else getattr(attention, f"{role}_proj_weight")
            )
            bias = None if attention.in_proj_bias is None else attention.in_proj_bias[rows]
            target = next((t for t in targets if t.matrix == role), None)
            setattr(self, role, AdaptedLinear([(weight, bias, target)], adaptation))

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        need_weights: bool = False,
        attn_mask: Tensor | None = None,
    ) -> tuple[Tensor, None]:
        """Attend; the weights are never returned."""
        if need_weights:
            raise NotImplementedError("adapted attention does not return its weights")
        q, k, v = (
            project(x if self.batch_first else x.transpose(0, 1))
            for project, x in ((self.q, query), (self.k, key), (self.v, value))
        )
        y = self.out_proj(self.attend(q, k, v, self.n_heads, attn_mask))
        return (y if self.batch_first else y.transpose(0, 1)), None


def attend(q: Tensor, k: Tensor, v: Tensor, n_heads: int, mask: Tensor | None) -> Tensor:
    """Mix values (batch, tokens, width), as `torch.nn.MultiheadAttention` does when projected."""
    q, k, v = (x.unflatten(-1, (n_heads, -1)).transpose(1, 2) for x in (q, k, v))
    if mask is not None and mask.dtype == torch.bool:
        mask = ~mask  # True forbids there, allows here
    if mask is not None and mask.ndim == 3:
        mask = mask.unflatten(0, (-1, n_heads))
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2).flatten(2)


def _rebuild_before_use(
    module: nn.Module, attribute: str, targets: Sequence[Target], adaptation: Adaptation
) -> None:
    """Let `module` find the adapted tensor under the old name whenever it is called."""
    # Private: it takes the parameter out and hands it over, so that another can have its name.
    frozen = module._parameters.pop(attribute)
    assert frozen is not None  # it is a target's

    def rebuild(module: nn.Module, _: object) -> None:
        setattr(module, attribute, adaptation.tensor(frozen, targets))

    module.register_forward_pre_hook(rebuild)


def _locate(model: nn.Module, name: str) -> tuple[nn.Module, str]:
    path, _, attribute = name.rpartition(".")
    return model.get_submodule(path), attribute


def _replace(model: nn.Module, path: str, module: nn.Module) -> None:
    parent, attribute = _locate(model, path)
    setattr(parent, attribute, module)
