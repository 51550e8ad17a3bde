"""The one training loop, for every adaptation."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm.auto import tqdm

from .adaptation import Adaptation
from .adaptation._base import install
from .backbone import Backbone
from .images import normalise
from .inference import autocast, unit_image_features
from .prompts import Prompts, shorten

_FINAL_LR = 1e-6


@dataclass(frozen=True)
class Recipe:
    """How to train; the defaults that the papers share are in the loop itself.

    Attributes
    ----------
    n_steps : int
        Optimisation steps.
    batch_size : int
        Images per step; a smaller set is one whole batch.
    lr : float
        Learning rate of the first step; it falls to 1e-6 along a cosine.
    weight_decay : float
        Decoupled decay, towards zero.
    dtype : torch.dtype
        Of the matrix products; trained numbers and the loss are float32.
    verbose : bool
        Whether to show a progress bar.
    """

    n_steps: int
    batch_size: int
    lr: float
    weight_decay: float
    dtype: torch.dtype
    verbose: bool


def learning_rate(recipe: Recipe, step: int) -> float:
    """Anneal along a cosine from `recipe.lr`, step by step, to 1e-6 after the last one."""
    final = min(_FINAL_LR, recipe.lr)
    return final + (recipe.lr - final) * (1 + math.cos(math.pi * step / recipe.n_steps)) / 2


def train(
    backbone: Backbone,
    adaptation: Adaptation,
    prompts: Prompts,
    pixels: Callable[[NDArray[np.intp]], Tensor],
    labels: NDArray[np.intp],
    recipe: Recipe,
    rng: np.random.RandomState,
    logit_scale: float,
) -> NDArray[np.float32]:
    """Minimise the cross-entropy of the image-text similarity over the adaptation's numbers.

    Parameters
    ----------
    backbone : Backbone
        The frozen model.
    adaptation : Adaptation
        Its numbers are changed in place.
    prompts : Prompts
        Of all classes, on the backbone's device.
    pixels : callable
        Maps row numbers to a uint8 tensor of shape (batch, 3, height, width).
    labels : int array of shape (n_images,)
        Class index of each row.
    recipe : Recipe
        How to train.
    rng : RandomState
        Decides the order of the images.
    logit_scale : float
        Factor of the cosine similarity.

    Returns
    -------
    losses : float32 array of shape (n_steps,)
        Mean loss of each step's batch, before its update.

    Raises
    ------
    FloatingPointError
        The loss is no longer a finite number.
    """
    model = _training_mode(install(backbone.skeleton(), adaptation))
    text_features = _text_features(model, prompts, adaptation, recipe.dtype)
    targets = torch.from_numpy(labels).to(backbone.device)
    optimiser = torch.optim.AdamW(adaptation.parameters(), weight_decay=recipe.weight_decay)
    scaler = torch.amp.GradScaler(backbone.device.type, enabled=recipe.dtype is torch.float16)
    batches = _batches(len(labels), recipe, rng)
    losses = np.empty(recipe.n_steps, dtype=np.float32)
    bar = tqdm(batches, total=recipe.n_steps, desc="fit", unit="step", disable=not recipe.verbose)
    for step, rows in enumerate(bar):
        optimiser.param_groups[0]["lr"] = learning_rate(recipe, step)
        with autocast(backbone.device, recipe.dtype):
            images = normalise(pixels(rows), backbone.preprocess, backbone.device)
            similarity = unit_image_features(model, images), text_features()
        loss = F.cross_entropy(logit_scale * similarity[0] @ similarity[1].T, targets[rows])
        optimiser.zero_grad(set_to_none=True)
        scaler.scale(loss).backward()
        scaler.step(optimiser)
        scaler.update()
        losses[step] = _finite(loss, step, recipe)
        bar.set_postfix(loss=f"{losses[step]:.4f}", refresh=False)
    return losses


def _training_mode(model: nn.Module) -> nn.Module:
    """Switch dropout on, as published, and keep running statistics frozen: they are shared."""
    model.train()
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.eval()
    return model


def _text_features(
    model: nn.Module, prompts: Prompts, adaptation: Adaptation, dtype: torch.dtype
) -> Callable[[], Tensor]:
    """Encode the prompts anew at each call, or once where nothing in that tower is trained."""
    prompts = shorten(model, prompts)

    def encode() -> Tensor:
        with autocast(prompts.tokens.device, dtype):
            return prompts.class_features(model.encode_text(prompts.tokens))

    if any(target.tower == "text" for target in adaptation.targets):
        return encode
    with torch.no_grad():
        frozen = encode()
    return lambda: frozen


def _batches(n: int, recipe: Recipe, rng: np.random.RandomState):
    """Yield row numbers, epoch after epoch, each epoch in a new order."""
    step = 0
    while step < recipe.n_steps:
        order = rng.permutation(n)
        for start in range(0, n, recipe.batch_size):
            if step == recipe.n_steps:
                return
            yield order[start : start + recipe.batch_size]
            step += 1


def _finite(loss: Tensor, step: int, recipe: Recipe) -> float:
    value = loss.item()
    if not math.isfinite(value):
        raise FloatingPointError(
            f"the loss is {value} at step {step}: training diverged. Lower lr (it is {recipe.lr}) "
            "or use precision='fp32'."
        )
    return value
