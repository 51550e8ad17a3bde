"""How a fit ended: its attributes, whether they can be used, whether anything changed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from ..clip import autocast, unit_image_features
from ..images import normalise, size_of
from ..progress import note, phase
from ..training import EarlyStopping, Recipe, Task, TrainingState


@dataclass(frozen=True)
class FitOutcome:
    """How a fit's training ended.

    Attributes
    ----------
    task : Task
        What was to be learnt.
    recipe : Recipe
        How.
    state : TrainingState
        At its end.
    stopping : EarlyStopping or None
        What watched a validation part.
    """

    task: Task
    recipe: Recipe
    state: TrainingState
    stopping: EarlyStopping | None

    def attributes(self) -> dict[str, Any]:
        """Return the fitted attributes that tell how the training went."""
        told: dict[str, Any] = {
            "loss_curve_": np.array(self.state.losses, dtype=np.float32),
            "n_iter_": len(self.state.losses),
        }
        if self.stopping is not None:
            assert self.stopping.best is not None  # the start counts as an epoch
            told["validation_scores_"] = np.array(self.stopping.scores)
            told["best_validation_score_"] = float(self.stopping.best[0])
            told["best_epoch_"] = len(self.stopping.scores) - 1 - self.stopping.waited
        return told

    def check_finite(self, text_features: NDArray, learnt: Mapping[str, NDArray]) -> None:
        """Refuse numbers that are not finite, or give class texts that are not.

        Parameters
        ----------
        text_features : float32 array of shape (n_classes, n_features)
            The class texts.
        learnt : mapping of str to array
            The numbers that were trained.

        Raises
        ------
        FloatingPointError
            Something is not finite.
        """
        if not all(np.isfinite(array).all() for array in (text_features, *learnt.values())):
            raise self._diverged()

    def embeddings(
        self, model: nn.Module, some_are_done: Callable[[int], object]
    ) -> NDArray[np.float32]:
        """Embed the training images as they are seen in predictions.

        Parameters
        ----------
        model : torch.nn.Module
            The merged model of what is kept.
        some_are_done : callable
            Told how many images are done.

        Returns
        -------
        embeddings : float32 array of shape (n_images, n_features)
            Of unit length.

        Raises
        ------
        FloatingPointError
            One is not finite.
        """
        recipe = self.recipe
        found = self.task.embeddings(model, recipe.dtype, recipe.micro_batch_size, some_are_done)
        if not np.isfinite(found).all():
            raise self._diverged()
        return found

    def unchanged(
        self, before: Callable[[], nn.Module], after: nn.Module, text_features: NDArray
    ) -> str | None:
        """Say in words that every training image is predicted as before; None where one is not.

        Parameters
        ----------
        before : callable
            Returns the merged model of the start.
        after : torch.nn.Module
            The merged model of what is kept.
        text_features : float32 array of shape (n_classes, n_features)
            The class texts of what is kept.

        Raises
        ------
        FloatingPointError
            What is kept gives no finite answer about an image.
        """
        seen, dtype = self.state.seen, self.recipe.dtype
        is_settled = self.task.fixed_pixels and not self._keeps_best and seen.changed_on_the_way()
        if is_settled or not self.state.losses:
            self._check_image(after)
            return None
        with phase("comparing predictions with those before the fit"):
            text = torch.from_numpy(text_features).to(self.task.backbone.device)
            try:
                found = seen.unchanged(self.task, before(), after, text, dtype)
            except FloatingPointError as error:
                raise self._diverged() from error
        if found is None:
            return None
        if not found.n_wrong:
            note("no prediction changed: the training images that were checked were right before")
            return None
        which = "its" if found.n_looked_at == len(self.task.labels) else "the most doubtful"
        return (
            f"fit changed none of the predictions for {which} {found.n_looked_at} training images "
            f"(still wrong: {found.n_wrong}); {self._advice()}."
        )

    def _check_image(self, model: nn.Module) -> None:
        """Refuse numbers that give no answer about a black image."""
        backbone = self.task.backbone
        black = torch.zeros((1, 3, *size_of(backbone.preprocess)), dtype=torch.uint8)
        with (
            phase("checking that its answers are finite"),
            torch.inference_mode(),
            autocast(backbone.device, self.recipe.dtype),
        ):
            pixels = normalise(black, backbone.preprocess, backbone.device)
            if not unit_image_features(model, pixels).isfinite().all():
                raise self._diverged()

    def _diverged(self) -> FloatingPointError:
        return FloatingPointError(
            "training diverged in its last step: what it learnt gives no finite answers. Lower "
            f"lr (it was {self.recipe.lr:.3g}) or weight_decay ({self.recipe.weight_decay:g}), "
            "or use precision='fp32'. The estimator is as it was before."
        )

    @property
    def _keeps_best(self) -> bool:
        """Whether the best epoch is kept, not the last one."""
        return self.stopping is not None and self.stopping.patience is not None

    def _advice(self) -> str:
        if self._keeps_best and self.stopping is not None and self.stopping.kept_the_start:
            return (
                "early_stopping kept the start, because no epoch was better on the validation "
                f"part: change lr (it is {self.recipe.lr:.3g}), or validate on more images"
            )
        return (
            f"raise lr (it is {self.recipe.lr:.3g}) or train for more steps with max_steps or "
            f"epochs (it took {len(self.state.losses)})"
        )
