"""CLIP-LoRA: tune low-rank factors beside the frozen matrices (arXiv 2405.18541)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from .base import Adaptation, check_shape, scaled
from .targets import Target


class LowRankAdaptation(Adaptation):
    """Low-rank updates of frozen matrices: ``W + scale * B A``.

    ``A`` starts Kaiming-uniform and ``B`` at zero, so that nothing changes before training.

    Parameters
    ----------
    targets : sequence of Target
        The matrices it changes.
    factors : mapping of str to array-like
        ``"<target name>/a"`` of shape (rank, in) and ``"<target name>/b"`` of shape (out, rank).
    scale : float
        Factor of the update, as published ``alpha / sqrt(rank)``.
    dropout : float
        Probability of dropping an input of ``A``, in training.
    device : torch.device
        Where the factors lie.

    Examples
    --------
    >>> import numpy as np
    >>> import torch
    >>> from skclipsvd.adaptation import LowRankAdaptation, find_targets, select_targets
    >>> from skclipsvd.clip import load_backbone
    >>> backbone = load_backbone("tiny", None, torch.device("cpu"))
    >>> targets = select_targets(find_targets(backbone.model), ["image"], ["v"], "top")
    >>> rng = np.random.RandomState(0)
    >>> adaptation = LowRankAdaptation.start(targets, 2, 0.7, 0.0, rng, backbone.device)
    >>> sorted(adaptation.state())[:2]
    ['image.4.v/a', 'image.4.v/b']
    """

    def __init__(
        self,
        targets: Sequence[Target],
        factors: Mapping[str, NDArray],
        scale: float,
        dropout: float,
        device: torch.device,
    ):
        super().__init__(targets)
        self.scale, self.dropout = scale, dropout
        self._index = {target.name: i for i, target in enumerate(self.targets)}
        self.factors: dict[str, nn.Parameter] = {}
        for target in self.targets:
            rank = len(factors[f"{target.name}/a"])
            shapes = {"a": (rank, target.shape[1]), "b": (target.shape[0], rank)}
            for part, shape in shapes.items():
                name = f"{target.name}/{part}"
                check_shape(name, factors[name], shape)
                values = np.asarray(factors[name], dtype=np.float32)
                self.factors[name] = nn.Parameter(torch.tensor(values, device=device))

    @classmethod
    def start(
        cls,
        targets: Sequence[Target],
        rank: int,
        scale: float,
        dropout: float,
        rng: np.random.RandomState,
        device: torch.device,
    ) -> Self:
        """Begin an adaptation that changes nothing yet: ``A`` is drawn, ``B`` is zero.

        Parameters
        ----------
        targets : sequence of Target
            The matrices it changes.
        rank : int
            Rows of ``A`` and columns of ``B``.
        scale, dropout : float
            As for the class.
        rng : RandomState
            Draws ``A``.
        device : torch.device
            Where the factors lie.

        Returns
        -------
        adaptation : LowRankAdaptation
            To be trained.
        """
        factors: dict[str, NDArray] = {}
        for target in targets:
            n_out, n_in = target.shape
            bound = n_in**-0.5  # Kaiming-uniform with a = sqrt(5), as published
            factors[f"{target.name}/a"] = rng.uniform(-bound, bound, (rank, n_in))
            factors[f"{target.name}/b"] = np.zeros((n_out, rank))
        return cls(targets, factors, scale, dropout, device)

    @classmethod
    def restore(
        cls,
        targets: Sequence[Target],
        state: Mapping[str, NDArray],
        dropout: float,
        device: torch.device,
    ) -> Self:
        """Build one from the numbers that `state` returned.

        Parameters
        ----------
        targets : sequence of Target
            The matrices it changes.
        state : mapping of str to array
            The factors by target name and part, and the ``"scale"``.
        dropout : float
            As for the class.
        device : torch.device
            Where the factors lie.

        Returns
        -------
        adaptation : LowRankAdaptation
            With copies of the numbers.

        Raises
        ------
        ValueError
            Numbers of other shapes than the model's matrices have.
        """
        return cls(targets, state, float(state["scale"][0]), dropout, device)

    @property
    def is_random(self) -> bool:
        """Whether dropout is on."""
        return self.dropout > 0

    def parameters(self) -> list[nn.Parameter]:
        """Return the factors, ``A`` and ``B`` of each target in turn."""
        return list(self.factors.values())

    def cast(self, dtype: torch.dtype) -> None:
        """Do nothing: what is frozen is the model's own."""

    @property
    def reach(self) -> float:
        """Estimate how far a singular value moves where every number of ``B`` changes by 1.

        A column of ones has the length ``sqrt(n_out)``; a row of ``A`` as it is drawn, uniform
        between ``-n_in ** -0.5`` and ``n_in ** -0.5``, has about ``sqrt(1 / 3)``. Their product,
        as the geometric mean over the targets.
        """
        logs = [math.log(target.shape[0] / 3) / 2 for target in self.targets]
        return self.scale * math.exp(sum(logs) / len(logs))

    def state(self) -> dict[str, np.ndarray]:
        """Return a copy of the factors, by target name and part, and the ``"scale"``."""
        state = {name: f.detach().cpu().numpy().copy() for name, f in self.factors.items()}
        return {**state, "scale": np.array([self.scale], dtype=np.float32)}

    def state_at(self, strength: float) -> dict[str, np.ndarray]:
        """Return `state` with ``strength B`` in place of ``B``."""
        return scaled(self.state(), "b", strength)

    def linear(self, target: Target, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """Compute the frozen product plus the low-rank one, with dropout on the latter's input."""
        a, b = self.factors[f"{target.name}/a"], self.factors[f"{target.name}/b"]
        scale = self.scale
        if self.training and self.dropout:
            x_kept, scale = x * self._kept(target, x), scale / (1 - self.dropout)
        else:
            x_kept = x
        return F.linear(x, weight, bias) + F.linear(F.linear(x_kept, a), b) * scale

    def _kept(self, target: Target, x: Tensor) -> Tensor:
        """Draw which inputs stay, from a generator of this pass and target alone."""
        numbers = (*self.passes.get(target.tower, ()), self._index[target.name])
        seed = int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0])
        generator = torch.Generator(x.device).manual_seed(seed)
        kept = torch.empty(x.shape, dtype=torch.bool, device=x.device)
        return kept.bernoulli_(1 - self.dropout, generator=generator)

    def weight(self, target: Target, weight: Tensor) -> Tensor:
        """Compute ``W + scale B A``: exactly `weight` while ``B`` is zero."""
        a, b = self.factors[f"{target.name}/a"], self.factors[f"{target.name}/b"]
        return weight + (b @ a) * self.scale
