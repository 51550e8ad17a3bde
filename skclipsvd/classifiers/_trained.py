"""From images and labels to fitted numbers, for every classifier that trains."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import ClassVar, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import _fit_context
from sklearn.model_selection import train_test_split
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_consistent_length
from torch import Tensor, nn

from ..adaptation import Adaptation, Target, find_targets, merged_once, select_targets
from ..adaptation.targets import MATRICES, TOWERS
from ..clip import Backbone, choose_dtype
from ..images import (
    Item,
    Name,
    as_items,
    augment,
    check_exist,
    decode_all,
    decoding_threads,
    stack_views,
)
from ..training import (
    CallbackSupportMixin,
    EarlyStopping,
    FitMonitor,
    Recipe,
    Task,
    steps_per_epoch,
    train,
    with_callbacks,
)
from ._adapter_file import Saved
from ._base import BaseCLIPClassifier
from ._training_set import mean_one, merge_equal, namer, weigh


class TrainedCLIPClassifier(CallbackSupportMixin, BaseCLIPClassifier):
    """Base of the classifiers that train a few numbers of both towers."""

    _state_attribute: str
    _saved: ClassVar[Mapping[str, Saved]] = {
        **BaseCLIPClassifier._saved,
        "loss_curve_": Saved("array"),
        "n_iter_": Saved("number"),
        "n_parameters_tuned_": Saved("number"),
        "validation_scores_": Saved("array", dtype="float64", optional=True),
        "best_validation_score_": Saved("number", optional=True),
    }

    @abstractmethod
    def _new_adaptation(
        self,
        backbone: Backbone,
        targets: Sequence[Target],
        state: Mapping[str, NDArray] | None,
        rng: np.random.RandomState | None,
    ) -> Adaptation:
        """Build the adaptation of `targets`, before training or from a fitted state."""

    @with_callbacks
    @_fit_context(prefer_skip_nested_validation=True)
    def fit(
        self,
        X: ArrayLike,
        y: ArrayLike,
        sample_weight: ArrayLike | None = None,
        *,
        X_val: ArrayLike | None = None,
        y_val: ArrayLike | None = None,
    ) -> Self:
        """Adapt CLIP to a few labelled images.

        Parameters
        ----------
        X : sequence of n_images images
            Paths (str or Path) in a list, array, Series or one-column frame; or PIL images,
            encoded images (bytes), (height, width, 3) uint8 arrays.
        y : array-like of shape (n_images,)
            Labels of any kind that scikit-learn classifies.
        sample_weight : array-like of shape (n_images,), optional
            Weight of each image in the loss. A weight of zero is the same as leaving it out.
        X_val, y_val : sequence of images and array-like of labels, optional
            Validation part; its accuracy after every epoch is kept in `validation_scores_`. With
            `early_stopping` it takes the place of a part of X.

        Returns
        -------
        self : estimator

        Raises
        ------
        FileNotFoundError
            Paths that do not exist, by index, or weights that cannot be had.
        ValueError
            A parameter out of its range; fewer than two classes; images that cannot be decoded,
            by index and path.
        FloatingPointError
            Training diverged.
        MemoryError
            A training step does not fit; the message says what to change.
        """
        self._check_choices()
        items, y = self._check_data(X, y)
        name = namer(items)
        items, y, weights = weigh(items, y, sample_weight, self.class_weight)
        classes, labels = self._check_classes(y)
        rng = check_random_state(self.random_state)
        validation = self._validation_part(items, classes, labels, weights, X_val, y_val, rng)
        if validation is not None:
            items, labels, weights, *validation = validation
        check_exist(items, name(items))
        if len(items) <= self.batch_size and not self.augment:
            items, labels, weights = merge_equal(items, labels, weights)

        backbone = self._load_backbone()
        targets = select_targets(
            find_targets(backbone.model), self.towers, self.matrices, self.layers
        )
        prompts = self._prompts(classes, backbone)
        # Before the decompositions, which take long: a bad image is to be named first.
        pixels = self._pixels(items, name(items), backbone, rng)
        stopping = self._stopping(validation, name, backbone)
        adaptation = self._start(backbone, targets, rng)
        recipe = self._recipe(len(items), backbone)
        task = Task(
            backbone=backbone,
            prompts=prompts,
            logit_scale=self._logit_scale(backbone),
            pixels=pixels,
            fixed_pixels=not self.augment,
            labels=labels,
            weights=weights,
        )

        def attributes() -> dict:
            return self._fitted_attributes(backbone, adaptation, classes, task)

        monitor = FitMonitor(
            self,
            n_epochs=-(-recipe.n_steps // steps_per_epoch(len(items), recipe.batch_size)),
            X=items,
            y=classes[labels],
            metadata=None if weights is None else {"sample_weight": weights},
            fitted_attributes=attributes,
        )
        losses = train(task, adaptation, recipe, rng, monitor, stopping)

        fitted = attributes()
        fitted.update(loss_curve_=losses, n_iter_=len(losses))
        self._forget()
        if stopping is not None:
            fitted["validation_scores_"] = np.array(stopping.scores)
            fitted["best_validation_score_"] = float(stopping.best[0])
        self.__dict__.update(fitted)
        monitor.fit_ended()
        return self

    def _check_choices(self) -> None:
        for name, allowed in (("towers", TOWERS), ("matrices", MATRICES)):
            chosen = getattr(self, name)
            if not chosen or not set(chosen) <= set(allowed):
                raise ValueError(f"{name}={chosen!r}: choose one or more of {allowed!r}.")

    def _start(
        self, backbone: Backbone, targets: Sequence[Target], rng: np.random.RandomState
    ) -> Adaptation:
        """Build the adaptation to train, from the last fit's numbers where `warm_start` says so."""
        state = getattr(self, self._state_attribute, None) if self.warm_start else None
        if state is not None and backbone.fingerprint != self.backbone_fingerprint_:
            raise ValueError(
                "warm_start=True, but the weights are not those of the last fit. Use the same "
                "model_name and pretrained, or warm_start=False."
            )
        return self._new_adaptation(backbone, targets, state, rng)

    def _validation_part(self, items, classes, labels, weights, X_val, y_val, rng):
        """Check the given validation part, or cut one off; (train ..., items, labels) or None."""
        if X_val is not None or y_val is not None:
            if X_val is None or y_val is None:
                raise ValueError("X_val and y_val belong together; one of them is None.")
            val_items, y_val = as_items(X_val), self._check_labels(y_val)
            check_consistent_length(val_items, y_val)
            unknown = np.setdiff1d(y_val, classes)
            if len(unknown):
                raise ValueError(f"y_val has labels that y has not: {unknown[:10].tolist()!r}.")
            check_exist(val_items, "X_val[{}]".format)
            return items, labels, weights, val_items, np.searchsorted(classes, y_val)
        if not self.early_stopping:
            return None
        rows, val_rows = self._split(labels, len(classes), rng)
        return (
            [items[i] for i in rows],
            labels[rows],
            None if weights is None else mean_one(weights[rows].astype(np.float64)),
            [items[i] for i in val_rows],
            labels[val_rows],
        )

    def _split(self, labels, n_classes, rng):
        n_val = max(n_classes, int(np.ceil(self.validation_fraction * len(labels))))
        if np.bincount(labels).min() < 2 or n_val + n_classes > len(labels):
            raise ValueError(
                f"early_stopping=True cannot cut a validation part of {n_val} off {len(labels)} "
                "images with every class in both; give it more images, or pass X_val and y_val."
            )
        return train_test_split(
            np.arange(len(labels)), test_size=n_val, stratify=labels, random_state=rng
        )

    def _stopping(self, validation, name, backbone: Backbone) -> EarlyStopping | None:
        if validation is None:
            return None
        items, labels = validation
        decoded = decode_all(
            items, backbone.preprocess, decoding_threads(self.n_jobs), name=name(items)
        )
        return EarlyStopping(
            pixels=stack_views(decoded),
            labels=labels,
            patience=int(self.n_iter_no_change) if self.early_stopping else None,
            tol=float(self.tol),
        )

    def _pixels(
        self, items: list[Item], name: Name, backbone: Backbone, rng: np.random.RandomState
    ):
        """Decode all images, and return what hands out their pixels by row number."""
        decoded = decode_all(items, backbone.preprocess, decoding_threads(self.n_jobs), name=name)
        if self.augment:
            return lambda rows: augment(
                [decoded[i] for i in rows], backbone.preprocess, rng, backbone.device
            )
        views: Tensor = stack_views(decoded)
        return lambda rows: views[rows]

    def _recipe(self, n_images: int, backbone: Backbone) -> Recipe:
        steps = self.max_steps
        if steps is None:
            steps = self.epochs * steps_per_epoch(n_images, self.batch_size)
        return Recipe(
            n_steps=int(steps),
            batch_size=int(self.batch_size),
            micro_batch_size=int(self.micro_batch_size or self.batch_size),
            lr=float(self.lr),
            weight_decay=float(self.weight_decay),
            label_smoothing=float(self.label_smoothing),
            dtype=choose_dtype(self.precision, backbone.device),
            checkpointing=bool(self.checkpointing),
            verbose=bool(self.verbose),
        )

    def _fitted_attributes(
        self, backbone: Backbone, adaptation: Adaptation, classes: NDArray, task: Task
    ) -> dict:
        state = adaptation.state()
        model = merged_once(backbone, state, lambda: adaptation)
        return {
            "classes_": classes,
            self._state_attribute: state,
            "text_features_": self._text_features(model, task.prompts, backbone),
            "logit_scale_": task.logit_scale,
            "logit_bias_": backbone.logit_bias,
            "n_parameters_tuned_": sum(p.numel() for p in adaptation.parameters()),
            "n_parameters_": backbone.n_parameters,
            "backbone_fingerprint_": backbone.fingerprint,
        }

    def _forget(self) -> None:
        """Drop what only some fits leave behind, so that no attribute is older than the rest."""
        for name in ("validation_scores_", "best_validation_score_"):
            self.__dict__.pop(name, None)

    def _adapted_model(self, backbone: Backbone) -> nn.Module:
        state = getattr(self, self._state_attribute)
        owners = {name.partition("/")[0] for name in state}
        targets = [t for t in find_targets(backbone.model) if t.name in owners]
        return merged_once(
            backbone, state, lambda: self._new_adaptation(backbone, targets, state, rng=None)
        )
