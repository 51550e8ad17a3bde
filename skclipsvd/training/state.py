"""Everything that the next step of a training depends on, beside the frozen model and the data."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..adaptation import Adaptation
from .checkpoint import Snapshot, random_state_as_json
from .early_stopping import EarlyStopping
from .encoders import Encoders
from .task import Recipe


class TrainingState:
    """Everything that the next step of a training depends on, beside the model and the data.

    Parameters
    ----------
    adaptation : Adaptation
        Whose numbers are trained.
    recipe : Recipe
        How.
    rng : RandomState
        Draws the order of the images, and crops.
    encoders : Encoders
        Both towers, with what they saw and how often they drew random numbers.
    stopping : EarlyStopping or None
        What watches a validation part.

    Attributes
    ----------
    losses : list of float
        Of each step taken.
    order : int array of shape (n_images,)
        Row numbers as the current epoch goes through them.
    first_order : int array of shape (n_images,)
        Those of the first epoch.
    """

    def __init__(
        self,
        adaptation: Adaptation,
        recipe: Recipe,
        rng: np.random.RandomState,
        encoders: Encoders,
        stopping: EarlyStopping | None,
    ):
        device = encoders.task.backbone.device
        self.numbers = adaptation.parameters()
        self.optimiser = adaptation.optimiser(recipe.weight_decay)
        self.scaler = torch.amp.GradScaler(device.type, enabled=recipe.dtype is torch.float16)
        self.rng, self.encoders, self.stopping = rng, encoders, stopping
        self.seen = encoders.seen
        self.losses: list[float] = []
        self.order: NDArray[np.intp] = np.arange(len(self.seen.first))
        self.first_order = self.order

    @property
    def n_bytes(self) -> int:
        """What a snapshot's tensors take."""
        return sum(tensor.nbytes for tensor in self._tensors().values())

    def snapshot(self) -> Snapshot:
        """Copy all of it, at least one step taken."""
        values: dict[str, Any] = {
            "random_state": random_state_as_json(self.rng),
            "scaler": self.scaler.state_dict(),
            "n_passes": self.encoders.n_passes,
            "n_visits": self.seen.n_visits,
        }
        if self.stopping is not None:
            values["stopping"] = self.stopping.values()
        copies = {name: tensor.detach().clone() for name, tensor in self._tensors().items()}
        return Snapshot(copies, copy.deepcopy(values))

    def _tensors(self) -> dict[str, Tensor]:
        tensors: dict[str, Tensor] = {
            f"number/{i}": number for i, number in enumerate(self.numbers)
        }
        for i, moments in self.optimiser.state_dict()["state"].items():
            tensors.update({f"optimiser/{i}/{name}": value for name, value in moments.items()})
        tensors["losses"] = torch.tensor(self.losses, dtype=torch.float64)
        tensors["order"] = torch.from_numpy(self.order.astype(np.int64))
        tensors["first_order"] = torch.from_numpy(self.first_order.astype(np.int64))
        tensors.update({f"seen/{name}": t for name, t in self.seen.tensors().items()})
        if self.stopping is not None:
            best = enumerate(self.stopping.best_state)
            tensors.update({f"best/{i}": number for i, number in best})
        return tensors

    def restore(self, snapshot: Snapshot) -> None:
        """Take up what `snapshot` returned."""
        tensors, values = snapshot.tensors, snapshot.values
        for i, number in enumerate(self.numbers):
            number.data.copy_(tensors[f"number/{i}"])
        self.optimiser.load_state_dict(
            {
                "state": _nested(tensors, "optimiser"),
                "param_groups": self.optimiser.state_dict()["param_groups"],
            }
        )
        self.losses = tensors["losses"].tolist()
        self.order = tensors["order"].numpy().astype(np.intp)
        self.first_order = tensors["first_order"].numpy().astype(np.intp)
        self.encoders.n_passes = values["n_passes"]
        self.rng.set_state(values["random_state"])
        self.scaler.load_state_dict(values["scaler"])
        seen = {n.removeprefix("seen/"): t for n, t in tensors.items() if n.startswith("seen/")}
        self.seen.take_up(seen, values["n_visits"])
        if self.stopping is not None:
            best = [tensors[f"best/{i}"].to(n.device) for i, n in enumerate(self.numbers)]
            self.stopping.take_up(values["stopping"], best)


def _nested(tensors: dict[str, Tensor], prefix: str) -> dict[int, dict[str, Tensor]]:
    """Undo ``prefix/number/name``."""
    nested: dict[int, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        first, _, rest = key.partition("/")
        if first == prefix:
            number, _, name = rest.partition("/")
            nested.setdefault(int(number), {})[name] = tensor
    return nested
