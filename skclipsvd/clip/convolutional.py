"""Convolutional image towers in the form that computes least, with the same features.

Batch norms apply their running statistics, in training too: each is a factor and a shift per
channel, and goes into the kernel before it. Parallel branches of timm's mobile blocks become one
kernel where none of them is adapted. On a CPU, pixels and all that follows lie channels last.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from timm.layers import BatchNormAct2d, Conv2dSame
from timm.utils import reparameterize_model
from torch import Tensor, nn

from .randomness import seeded
from .skeleton import structural_copy

# Of exactly these types: others, such as standardised kernels, do not scale with their weights.
_CONVOLUTIONS = (nn.Conv2d, Conv2dSame)
_NORMS = (nn.BatchNorm2d, BatchNormAct2d)
# What rounding may do to the features of a deep tower, as a share of their length.
_TOLERANCE = 1e-4
# The C library gives larger blocks back to the system as soon as they are freed. To have them
# mapped and cleared anew costs a small tower as much as its arithmetic.
_LARGEST_KEPT = 32 * 2**20


@dataclass(frozen=True)
class Plan:
    """What can be simplified in a tower.

    Attributes
    ----------
    folds : tuple of (str, str)
        Names of convolutions in the image tower, and of the batch norm behind each.
    n_at_once : int or None
        Images that should pass through it at once when it predicts: 1, 2, 4 or 8. None where it
        does not matter, as on a GPU.
    """

    folds: tuple[tuple[str, str], ...] = ()
    n_at_once: int | None = None


def plan_of(visual: nn.Module, size: tuple[int, int]) -> Plan:
    """Find out, from an image that passes, what can be simplified in a frozen tower.

    Parameters
    ----------
    visual : torch.nn.Module
        An image tower in evaluation mode; it is left as it is.
    size : tuple of int
        Height and width of its images.

    Returns
    -------
    plan : Plan
        An empty one for towers that are not convolutional, and where to fold would change the
        features by more than rounding.
    """
    if not _is_convolutional(visual):
        return Plan()
    device = next(visual.parameters()).device
    pixels = torch.randn((1, 3, *size), generator=torch.Generator().manual_seed(0)).to(device)
    tower = structural_copy(visual)
    with torch.inference_mode():
        plan, expected = _traced(tower, pixels)
        simplify(tower, plan)
        error = (tower(pixels) - expected).norm() / expected.norm()
    return plan if error <= _TOLERANCE else Plan()


def simplify(visual: nn.Module, plan: Plan) -> None:
    """Simplify a private image tower in place.

    Parameters
    ----------
    visual : torch.nn.Module
        A structural copy of the tower that `plan` was made for, adapted or not; the tensors that it
        shares are not changed.
    plan : Plan
        From `plan_of`.
    """
    if not plan.folds:
        return
    with seeded(0, torch.device("cpu")):  # new kernels are drawn before they are overwritten
        _merge_branches(visual)
    modules = dict(visual.named_modules())
    for convolution, norm in plan.folds:
        if convolution in modules and norm in modules:
            _fold(modules[convolution], modules[norm])
            place, _, name = norm.rpartition(".")
            setattr(modules[place], name, getattr(modules[norm], "act", nn.Identity()))
    if next(visual.parameters()).device.type == "cpu":
        visual.register_forward_pre_hook(_channels_last)


def _is_convolutional(visual: nn.Module) -> bool:
    kinds = [type(module) for module in visual.modules()]
    n_convolutions = sum(issubclass(kind, nn.Conv2d) for kind in kinds)
    return n_convolutions > sum(issubclass(kind, nn.Linear) for kind in kinds)


def _traced(visual: nn.Module, pixels: Tensor) -> tuple[Plan, Tensor]:
    """Let pixels pass through a private tower, and see which norm gets what a convolution gives."""
    given: dict[int, tuple[str, Tensor]] = {}  # the tensors too, so that no number is used twice
    folds: list[tuple[str, str]] = []
    largest, hooks = 1, []

    def note(name: str, module: nn.Module) -> None:
        def before(module: nn.Module, args: tuple[Any, ...]) -> None:
            if isinstance(module, _NORMS) and _only_scales(module) and id(args[0]) in given:
                folds.append((given[id(args[0])][0], name))

        def after(module: nn.Module, args: tuple[Any, ...], out: Any) -> None:
            nonlocal largest
            if isinstance(out, Tensor):
                largest = max(largest, out.nbytes)
                if type(module) in _CONVOLUTIONS:
                    given[id(out)] = name, out

        hooks.append(module.register_forward_pre_hook(before))
        hooks.append(module.register_forward_hook(after))

    for name, module in visual.named_modules():
        note(name, module)
    features = visual(pixels)
    for hook in hooks:
        hook.remove()
    if pixels.device.type != "cpu":
        return Plan(tuple(folds)), features
    n_at_once = max(n for n in (1, 2, 4, 8) if n == 1 or n * largest <= _LARGEST_KEPT)
    return Plan(tuple(folds), n_at_once), features


def _only_scales(norm: nn.BatchNorm2d) -> bool:
    """Whether a norm, and no kind of its own, applies running statistics and drops nothing out."""
    drops = not isinstance(getattr(norm, "drop", nn.Identity()), nn.Identity)
    is_running = norm.running_mean is not None and norm.running_var is not None
    return type(norm) in _NORMS and is_running and not drops


def _merge_branches(module: nn.Module) -> None:
    """Let timm make one kernel of parallel branches, where none of them is adapted."""
    for name, child in list(module.named_children()):
        if any(map(_is_adapted, child.modules())):
            _merge_branches(child)
        else:
            alone = nn.Sequential(child)
            reparameterize_model(alone, inplace=True)
            setattr(module, name, alone[0])


def _is_adapted(module: nn.Module) -> bool:
    """Whether a layer has numbers to train, or a hook rebuilds its kernel before each use."""
    is_rebuilt = isinstance(module, nn.Conv2d) and _frozen_kernel(module) is None
    return is_rebuilt or hasattr(module, "adaptation")


def _frozen_kernel(convolution: nn.Conv2d) -> Tensor | None:
    return dict(convolution.named_parameters(recurse=False)).get("weight")


@torch.no_grad()
def _fold(convolution: nn.Conv2d, norm: nn.BatchNorm2d) -> None:
    """Put a norm's factor and shift into a private convolution; its tensors are replaced."""
    mean, variance = norm.running_mean, norm.running_var
    assert mean is not None  # it only scales
    assert variance is not None
    gain = (variance + norm.eps).rsqrt()
    if norm.weight is not None:
        gain = gain * norm.weight
    if convolution.bias is not None:
        mean = mean - convolution.bias
    shift = -mean * gain if norm.bias is None else norm.bias - mean * gain
    convolution.bias = nn.Parameter(shift, requires_grad=False)
    factor, kernel = gain.view(-1, 1, 1, 1), _frozen_kernel(convolution)
    if kernel is not None:
        convolution.weight = nn.Parameter(kernel * factor, requires_grad=False)
        return

    def scale(module: nn.Module, _: object) -> None:
        assert isinstance(module, nn.Conv2d)
        module.weight = module.weight * factor

    convolution.register_forward_pre_hook(scale)  # behind the one that rebuilds it


def _channels_last(_: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
    pixels, *others = args
    return (pixels.contiguous(memory_format=torch.channels_last), *others)
