"""SO: tune few entries of the frozen matrices at a time, others from time to time (2504.12436)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from .base import Adaptation, scaled
from .targets import Target

_BETAS, _EPS = (0.9, 0.999), 1e-8


class SparseAdaptation(Adaptation):
    """Sparse updates of frozen matrices: ``W + C``, where C is zero but for few entries.

    Parameters
    ----------
    targets : sequence of Target
        The matrices it changes.
    density : float
        Share of a matrix's entries that a step changes; one at least.
    refresh : int
        Steps after which gradients of other entries are looked at.
    device : torch.device
        Where the changes lie.

    Attributes
    ----------
    seed : int
        Draws which entries; set before the training.
    """

    def __init__(
        self, targets: Sequence[Target], density: float, refresh: int, device: torch.device
    ):
        super().__init__(targets)
        self.density, self.refresh, self.seed = density, refresh, 0
        self.changes = {
            target.name: nn.Parameter(torch.zeros(target.shape, device=device))
            for target in self.targets
        }

    @classmethod
    def restore(
        cls,
        targets: Sequence[Target],
        state: Mapping[str, NDArray],
        density: float,
        refresh: int,
        device: torch.device,
    ) -> Self:
        """Build one from the numbers that `state` returned."""
        adaptation = cls(targets, density, refresh, device)
        for name, change in adaptation.changes.items():
            places = torch.from_numpy(state[f"{name}/at"]).long().to(device)
            change.data.view(-1)[places] = torch.from_numpy(state[f"{name}/by"]).to(device)
        return adaptation

    def parameters(self) -> list[nn.Parameter]:
        """Return the changes, a matrix for each target, most of whose entries stay zero."""
        return list(self.changes.values())

    def cast(self, dtype: torch.dtype) -> None:
        """Do nothing: what is frozen is the model's own."""

    def optimiser(self, weight_decay: float) -> torch.optim.Optimizer:
        """Make the sparse form of Adam; nothing decays, because that would change every entry."""
        return SparseAdam(self.parameters(), self.density, self.refresh, self.seed)

    @property
    def reach(self) -> float:
        """Estimate the largest singular value of a matrix of the density, with ones for entries.

        Those of a random matrix of independent entries lie below the sum of the roots of how many
        are in a row and in a column; one entry alone has 1. The geometric mean over the targets.
        """
        sizes = [
            max(1.0, self.density**0.5 * sum(n**0.5 for n in target.shape))
            for target in self.targets
        ]
        return float(np.exp(np.mean(np.log(sizes))))

    def state(self) -> dict[str, np.ndarray]:
        """Return the entries that moved: ``"<target>/at"``, int32, row by row, and ``"/by"``."""
        state: dict[str, np.ndarray] = {}
        for name, change in self.changes.items():
            flat = change.detach().cpu().numpy().ravel()
            places = np.flatnonzero(flat)
            state[f"{name}/at"], state[f"{name}/by"] = places.astype(np.int32), flat[places]
        return state

    def state_at(self, strength: float) -> dict[str, np.ndarray]:
        """Return `state` with changes that are `strength` times as large."""
        return scaled(self.state(), "by", strength)

    def linear(self, target: Target, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """Compute the product with the changed matrix."""
        return F.linear(x, self.weight(target, weight), bias)

    def weight(self, target: Target, weight: Tensor) -> Tensor:
        """Compute ``W + C``."""
        return weight + self.changes[target.name]


class SparseAdam(torch.optim.Optimizer):
    """Adam on few entries: random ones of the gradient, the largest ones of its running mean.

    In each matrix of d entries, with ``n = max(1, floor(density d))``: of the gradient only n
    entries count, drawn at random and again after every `refresh` steps; of its running mean the n
    largest are kept, and of that of its square the same ones; these n entries are moved as Adam
    moves them.

    Parameters
    ----------
    numbers : sequence of torch.nn.Parameter
        The matrices.
    density : float
        Share of their entries.
    refresh : int
        Steps between draws.
    seed : int
        Of the draws.
    """

    def __init__(
        self, numbers: Sequence[nn.Parameter], density: float, refresh: int, seed: int
    ) -> None:
        super().__init__(numbers, {"lr": 0.0})
        self.density, self.refresh, self.seed = density, refresh, seed
        self._drawn: dict[int, tuple[int, Tensor]] = {}

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> None:  # type: ignore[override]
        # torch returns what `closure` does; the loop has none.
        """Move the entries, and keep what the next step needs of this one."""
        (group,) = self.param_groups
        for index, number in enumerate(group["params"]):
            if number.grad is not None:
                self._move(index, number, number.grad, group["lr"])

    def _move(self, index: int, number: nn.Parameter, dense: Tensor, lr: float) -> None:
        flat, state = number.data.view(-1), self.state[number]
        if not state:
            none = flat.new_zeros(0)
            state.update(n_steps=torch.zeros((), dtype=torch.int64), mean=none, square=none)
            state["at"] = none.long()
        looked_at = self._looked_at(index, int(state["n_steps"]) // self.refresh, flat)
        gradient = dense.view(-1)[looked_at]
        state["n_steps"] += 1
        at, where = torch.unique(torch.cat([state["at"], looked_at]), return_inverse=True)
        both = ((state["mean"], gradient), (state["square"], gradient.square()))
        mean, square = (
            flat.new_zeros(len(at)).index_add_(0, where, torch.cat([b * old, (1 - b) * new]))
            for b, (old, new) in zip(_BETAS, both, strict=True)
        )
        kept = mean.abs().topk(len(looked_at)).indices
        state.update(at=at[kept], mean=mean[kept], square=square[kept])
        corrections = [1 - b ** int(state["n_steps"]) for b in _BETAS]
        size = (state["square"] / corrections[1]).sqrt() + _EPS
        flat[state["at"]] -= lr * state["mean"] / corrections[0] / size

    def _looked_at(self, index: int, draw: int, flat: Tensor) -> Tensor:
        """Draw entries; the same ones for the same matrix and draw, also where a fit goes on."""
        if self._drawn.get(index, (-1,))[0] != draw:
            rng = np.random.default_rng((self.seed, index, draw))
            n = max(1, int(self.density * len(flat)))
            places = rng.choice(len(flat), n, replace=False, shuffle=False)
            self._drawn[index] = draw, torch.from_numpy(places).to(flat.device)
        return self._drawn[index][1]

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take up a state as it is: torch's own method would make float32 of the places."""
        (group,) = self.param_groups
        for i, kept in state_dict["state"].items():
            number = group["params"][i]
            self.state[number] = {name: value.to(number.device) for name, value in kept.items()}
