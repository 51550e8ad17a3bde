"""From images and labels to fitted numbers, for every classifier that trains."""

from __future__ import annotations

import os
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from numbers import Real
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from sklearn.utils import Tags, check_random_state
from sklearn.utils.validation import check_consistent_length, check_is_fitted
from torch import Tensor, nn

from ..adaptation import Adaptation, Target, find_targets, merged_once, select_targets
from ..adaptation.targets import MATRICES, TOWERS, Layers
from ..caching.memory import explained_out_of_memory
from ..clip import Backbone, choose_device, choose_dtype
from ..exceptions import UnchangedPredictionsWarning, warn
from ..images import (
    Decoded,
    Images,
    as_items,
    augment,
    check_exist,
    decode_all,
    decoding_threads,
    stack_views,
)
from ..labels import plain
from ..paths import writable_folder
from ..progress import note, phase, shown, spoken
from ..training import (
    CallbackSupportMixin,
    Checkpoint,
    EarlyStopping,
    FitMonitor,
    SeveralLabels,
    Task,
    steps_per_epoch,
    train,
    with_callbacks,
)
from ..validation import fit_context, named_by_class
from ._adapter_file import Saved
from ._base import BaseCLIPClassifier, has_several_labels
from ._head import HEAD_ARRAYS, fit_head
from ._identity import fit_identity
from ._indicator import Labels, as_indicator, check_same_columns
from ._outcome import FitOutcome
from ._recipe import RecipeMixin
from ._training_set import TrainingSet


class TrainedCLIPClassifier(CallbackSupportMixin, BaseCLIPClassifier, RecipeMixin):
    """Base of the classifiers that train a few numbers of both towers."""

    towers: Sequence[str]
    matrices: Sequence[str]
    layers: Layers
    head: Literal["logistic"] | None
    augment: bool
    class_weight: Mapping[Any, float] | Literal["balanced"] | None
    early_stopping: bool
    validation_fraction: float
    n_iter_no_change: int
    tol: float
    warm_start: bool
    random_state: int | np.random.RandomState | None
    checkpoint_dir: str | os.PathLike[str] | None

    loss_curve_: NDArray[np.float32]
    lr_: float
    n_steps_: int
    n_iter_: int
    n_parameters_tuned_: int
    validation_scores_: NDArray[np.float64]
    best_validation_score_: float
    best_epoch_: int
    strength_: float
    head_coef_: NDArray[np.float32]
    head_intercept_: NDArray[np.float32]
    head_weight_: float

    _state_attribute: str
    _saved: ClassVar[Mapping[str, Saved]] = {
        **BaseCLIPClassifier._saved,
        "loss_curve_": Saved("array"),
        "n_iter_": Saved("number"),
        # Optional: files of 0.1.0 do not hold them.
        "lr_": Saved("number", optional=True),
        "n_steps_": Saved("number", optional=True),
        "n_parameters_tuned_": Saved("number"),
        "validation_scores_": Saved("array", dtype="float64", optional=True),
        "best_validation_score_": Saved("number", optional=True),
        "best_epoch_": Saved("number", optional=True),
        "strength_": Saved("number", optional=True),  # only where it was made by `with_strength`
        **{name: Saved("array", optional=True) for name in HEAD_ARRAYS},
        "head_weight_": Saved("number", optional=True),
    }
    _of_its_classes = (*HEAD_ARRAYS, "head_weight_")

    @classmethod
    def _check_saved(cls, fitted: Mapping[str, Any]) -> None:
        """Raise ValueError where attributes from a file do not fit together."""
        super()._check_saved(fitted)
        state = fitted[cls._state_attribute]
        n_numbers = sum(array.size for name, array in state.items() if _owners({name: array}))
        if n_numbers != fitted["n_parameters_tuned_"]:
            raise ValueError(
                f"{cls._state_attribute} has {n_numbers} numbers instead of "
                f"{fitted['n_parameters_tuned_']}"
            )
        if fitted.get("strength_", 1) < 0:
            raise ValueError("strength_ must not be negative")
        for name in ("loss_curve_", "validation_scores_"):
            if name in fitted and fitted[name].ndim != 1:
                raise ValueError(f"{name} must have one dimension")
        shapes = [fitted["text_features_"].shape, fitted["classes_"].shape]
        head = [name in fitted for name in cls._of_its_classes]
        if any(head) and not (all(head) and [fitted[n].shape for n in HEAD_ARRAYS] == shapes):
            raise ValueError(f"{', '.join(cls._of_its_classes)} belong together, for every class")
        if not 0 <= fitted.get("head_weight_", 0) <= 1:
            raise ValueError("head_weight_ must be a share")

    @abstractmethod
    def _started(
        self, backbone: Backbone, targets: Sequence[Target], rng: np.random.RandomState
    ) -> Adaptation:
        """Build the adaptation of `targets` that changes nothing yet, to be trained."""

    @abstractmethod
    def _restored(
        self, backbone: Backbone, targets: Sequence[Target], state: Mapping[str, NDArray]
    ) -> Adaptation:
        """Build the adaptation of `targets` that `Adaptation.state` returned `state` of."""

    @named_by_class
    @with_callbacks
    @fit_context(prefer_skip_nested_validation=True)
    @explained_out_of_memory()
    def fit(
        self,
        X: Images,
        y: ArrayLike | None = None,
        sample_weight: ArrayLike | None = None,
        *,
        X_val: Images | None = None,
        y_val: ArrayLike | None = None,
    ) -> Self:
        """Adapt CLIP to a few labelled images.

        Parameters
        ----------
        X : sequence of n_images images
            Paths (str or Path) in a list, array, Series or one-column frame; or PIL images,
            encoded images (bytes), (height, width, 3) uint8 arrays.
        y : array-like of shape (n_images,) or (n_images, n_labels)
            Labels of any kind that scikit-learn classifies; always needed. Where they are bare
            numbers or booleans, `class_names` should say what they mean. Where images have several
            labels: a table with a column for each, 1 where an image has it and 0 where not. The
            columns of a frame are the labels, and what CLIP reads; those of an array are numbered.
        sample_weight : array-like of shape (n_images,), optional
            Weight of each image in the loss, and in the part that `early_stopping` sets aside. A
            weight of zero is the same as leaving it out.
        X_val, y_val : sequence of images and array-like of labels, optional
            Validation part; its accuracy after every epoch is kept in `validation_scores_`, without
            weights: the share of images that are right, in all labels where they have several.
            With `early_stopping` it takes the place of a part of X.

        Returns
        -------
        self : estimator
            This object, fitted.

        Raises
        ------
        FileNotFoundError
            Paths that do not exist, by index, or weights that cannot be had.
        ValueError
            A parameter out of its range; a `checkpoint_dir` that cannot be written to; fewer than
            two classes, or none that the model can tell apart; labels that are missing, by index;
            of several labels, entries other than 0 and 1, by row and column; images that cannot be
            decoded, by index and path.
        FloatingPointError
            Training diverged.
        MemoryError
            A training step does not fit; the message says what to change.

        Warns
        -----
        UnchangedPredictionsWarning
            Training images are predicted as before the fit, wrong ones included. Not where there is
            a `head`.
        ConflictingLabelsWarning
            One picture occurs with different labels.
        ConstantLabelWarning
            Of several labels, some are those of all images or of none.
        CheckpointWarning
            A checkpoint cannot be written, or is damaged and not used.
        BareLabelWarning
            Labels are numbers or booleans, and no `class_names` say what they mean.
        CutPromptWarning, IndistinctClassesWarning
            The model does not read all of a prompt, or the same of two classes.
        SlowPrecisionWarning
            This processor has no fast arithmetic for `precision`.

        Examples
        --------
        >>> from skclipsvd import CLIPSVDClassifier
        >>> from skclipsvd.datasets import load_handwritten_digits
        >>> paths, labels = load_handwritten_digits()
        >>> clf = CLIPSVDClassifier("tiny", max_steps=2, lr=0.01, augment=False, random_state=0)
        >>> clf.fit(paths[:20], labels[:20], X_val=paths[20:30], y_val=labels[20:30]).n_iter_
        2
        >>> clf.validation_scores_.shape  # before training, and after each of two epochs
        (3,)
        """
        self._check_choices()
        folder = None
        if self.checkpoint_dir is not None:
            folder = writable_folder(self.checkpoint_dir, "checkpoint_dir")
        given = TrainingSet.of(*self._check_data(X, y)).weighed(sample_weight, self.class_weight)
        classes = self._check_classes(Labels(given.labels, given.columns))
        validation = self._validation_given(given, classes, X_val, y_val)
        with shown(self.verbose), spoken(f"{type(self).__name__}.fit"):
            self._tell(given, classes, validation)
            backbone = self._load_backbone()
            checkpoint = self._checkpoint(folder, given, validation, backbone)
            with nullcontext() if checkpoint is None else checkpoint.written_on_interrupt():
                unchanged = self._fit(given, validation, classes, backbone, checkpoint)
            if checkpoint is not None:
                checkpoint.remove()
        if unchanged is not None:
            warn(unchanged, UnchangedPredictionsWarning)
        return self

    def _fit(
        self,
        given: TrainingSet,
        validation: TrainingSet | None,
        classes: NDArray,
        backbone: Backbone,
        checkpoint: Checkpoint | None,
    ) -> str | None:
        """Train, and replace what the last fit left; say where that changed no prediction."""
        seed = self.random_state
        rng = check_random_state(seed) if checkpoint is None else checkpoint.random_state(seed)
        training = given
        if validation is None and self.early_stopping:
            training, validation = given.split(self.validation_fraction, rng)
        if len(training) <= self.batch_size and not self.augment:
            training = training.merged()
        # Before the decompositions, which take long: a bad image is to be named first.
        task = self._task(training, classes, backbone, rng)
        stopping = self._stopping(validation, classes, backbone)
        adaptation = self._adaptation_to_train(backbone, rng)
        task = self._calibrated(task, training)
        ignorance = self._ignorance(task)
        recipe = self._recipe(task, adaptation, ignorance)

        def attributes() -> dict[str, Any]:
            with shown(self.verbose):  # nothing where a callback asks in between
                fitted = self._fitted_attributes(backbone, adaptation, classes, task)
            return {**fitted, "lr_": recipe.lr, "n_steps_": recipe.n_steps}

        monitor = FitMonitor(
            self,
            n_epochs=-(-recipe.n_steps // steps_per_epoch(len(training), recipe.batch_size)),
            X=training.items,
            y=training.labels,
            metadata=None if training.weights is None else {"sample_weight": training.weights},
            # Callbacks score a copy of this estimator, with all that the last fit left.
            fitted_attributes=lambda: {**dict.fromkeys(self._saved), **attributes()},
        )
        state = train(task, adaptation, recipe, rng, monitor, stopping, checkpoint)
        outcome = FitOutcome(task, recipe, state, stopping)
        fitted = {**attributes(), **outcome.attributes()}
        learnt, text_features = fitted[self._state_attribute], fitted["text_features_"]
        outcome.check_finite(text_features, learnt)
        model = backbone.to_predict(merged_once(backbone, learnt, lambda: adaptation))
        unchanged = None
        if self.head is None:
            unchanged = outcome.unchanged(lambda: self._start(backbone), model, text_features)
        else:
            fitted.update(fit_head(outcome, model, ignorance))
        self._replace_fitted(fitted)
        monitor.fit_ended()
        return unchanged

    @named_by_class
    def score(self, X: Images, y: ArrayLike, sample_weight: ArrayLike | None = None) -> float:
        """Return the share of images that are predicted right.

        Parameters
        ----------
        X : sequence of n_images images
            As for `predict`.
        y : array-like of shape (n_images,) or (n_images, n_labels)
            True labels. Where images have several, an image is right where all labels are, and a
            frame has the columns of `fit`'s y, in the same order.
        sample_weight : array-like of shape (n_images,), optional
            Weight of each image.

        Returns
        -------
        accuracy : float
            From 0 to 1.

        Raises
        ------
        ValueError
            Columns that are not those of `fit`'s y; and as `predict`.

        Examples
        --------
        >>> from skclipsvd import CLIPSVDClassifier
        >>> from skclipsvd.datasets import load_handwritten_digits
        >>> paths, labels = load_handwritten_digits()
        >>> clf = CLIPSVDClassifier("tiny", max_steps=0).fit(paths[:20], labels[:20])
        >>> clf.score(paths[20:30], labels[20:30]) > 0.8
        True
        """
        check_is_fitted(self)
        if has_several_labels(self) and (labels := as_indicator(y, "y")) is not None:
            check_same_columns(labels, self.classes_, "y")
            y = labels.values
        return float(super().score(X, y, sample_weight))

    def __sklearn_tags__(self) -> Tags:
        """Say that y may be a table of several labels per image."""
        tags = super().__sklearn_tags__()
        assert tags.classifier_tags is not None  # it is a classifier
        tags.classifier_tags.multi_label = True
        return tags

    def _check_choices(self) -> None:
        for name, allowed in (("towers", TOWERS), ("matrices", MATRICES)):
            chosen = getattr(self, name)
            if not chosen or not set(chosen) <= set(allowed):
                raise ValueError(f"{name}={chosen!r}: choose one or more of {allowed!r}.")

    def _tell(self, given: TrainingSet, classes: NDArray, validation: TrainingSet | None) -> None:
        device = choose_device(self.device)
        dtype = str(choose_dtype(self.precision, device)).removeprefix("torch.")
        note("device %s, precision %s", device, dtype)
        kept = ""
        if validation is not None:
            kept = f", and {len(validation)} to validate on"
        elif self.early_stopping:
            kept = f", {given.n_validation(self.validation_fraction)} of them to validate on"
        what = "classes" if given.columns is None else "labels"
        note("%d images of %d %s%s", len(given), len(classes), what, kept)

    def _checkpoint(
        self,
        folder: Path | None,
        given: TrainingSet,
        validation: TrainingSet | None,
        backbone: Backbone,
    ) -> Checkpoint | None:
        """Find the file of this very fit: the same parameters, images, weights and versions."""
        if folder is None:
            return None
        with phase("looking for a checkpoint of this fit") as looking:
            start = getattr(self, self._state_attribute, None) if self.warm_start else None
            identity = fit_identity(self, given, validation, backbone, start)
            checkpoint = Checkpoint(folder, type(self).__name__, identity)
            looking.result = "none" if checkpoint.found is None else str(checkpoint.path)
        return checkpoint

    def _validation_given(
        self,
        given: TrainingSet,
        classes: NDArray,
        X_val: Images | None,
        y_val: ArrayLike | None,
    ) -> TrainingSet | None:
        """Check what to validate on, whether it was passed, will be cut off, or is not wanted."""
        if (X_val is None) != (y_val is None):
            raise ValueError("X_val and y_val belong together; one of them is None.")
        validation = None
        if X_val is not None and y_val is not None:
            validation = TrainingSet.of(
                as_items(X_val), self._check_labels(y_val, "y_val"), "X_val"
            )
            check_consistent_length(validation.items, validation.labels)
            validation.check_known(classes, several=given.columns is not None)
            check_exist(validation.items, validation.name)
        elif self.early_stopping:
            given.check_split(self.validation_fraction)
        check_exist(given.items, given.name)
        return validation

    def _task(
        self,
        training: TrainingSet,
        classes: NDArray,
        backbone: Backbone,
        rng: np.random.RandomState,
    ) -> Task:
        """Decode every image, and put together what is to be learnt."""
        prompts = self._checked_prompts(classes, backbone)
        decoded = self._decoded(training, backbone, for_crops=self.augment)
        training.warn_of_conflicts(decoded)
        stacked = None if self.augment else stack_views(decoded)

        def views(rows: NDArray[np.intp]) -> Tensor:
            return stack_views([decoded[i] for i in rows]) if stacked is None else stacked[rows]

        def crops(rows: NDArray[np.intp]) -> Tensor:
            chosen = [decoded[i] for i in rows]
            return augment(chosen, backbone.preprocess, rng, backbone.device)

        return Task(
            backbone=backbone,
            prompts=prompts,
            logit_scale=self._logit_scale(backbone),
            pixels=crops if self.augment else views,
            views=views,
            fixed_pixels=not self.augment,
            labels=training.encoded(classes),
            weights=training.weights,
        )

    def _calibrated(self, task: Task, training: TrainingSet) -> Task:
        """Where images have several labels, set the intercepts by what the start sees of them."""
        if training.label_weights is None:
            return task
        n_images, dtype = len(training), choose_dtype(self.precision, task.backbone.device)
        model = self._start(task.backbone)
        text = torch.from_numpy(self._text_features(model, task.prompts, task.backbone))
        with phase(f"setting the intercepts by {n_images} images", n_images, "image") as bar:
            at_once = int(self.micro_batch_size or self.batch_size)
            images = task.embeddings(model, dtype, at_once, bar.advance)
            similarities = task.scores(torch.from_numpy(images), text).numpy()
            weights = np.ones(n_images) if training.weights is None else training.weights
            objective = SeveralLabels.calibrated(
                similarities, task.labels, weights, training.label_weights
            )
        return replace(task, objective=objective)

    def _stopping(
        self, validation: TrainingSet | None, classes: NDArray, backbone: Backbone
    ) -> EarlyStopping | None:
        if validation is None:
            return None
        return EarlyStopping(
            pixels=stack_views(self._decoded(validation, backbone, for_crops=False)),
            labels=validation.encoded(classes),
            weights=validation.weights,
            patience=int(self.n_iter_no_change) if self.early_stopping else None,
            tol=float(self.tol),
        )

    def _decoded(
        self, images: TrainingSet, backbone: Backbone, *, for_crops: bool
    ) -> list[Decoded]:
        n_threads, n = decoding_threads(self.n_jobs), len(images)
        with phase(f"decoding {n} images of {images.source}", n, "image") as bar:
            return decode_all(
                images.items,
                backbone.preprocess,
                n_threads,
                for_crops=for_crops,
                name=images.name,
                one_is_done=bar.advance,
            )

    def _adaptation_to_train(self, backbone: Backbone, rng: np.random.RandomState) -> Adaptation:
        """Start an adaptation, or go on with the last fit's where `warm_start` says so."""
        targets = select_targets(
            find_targets(backbone.model), self.towers, self.matrices, self.layers
        )
        state = getattr(self, self._state_attribute, None) if self.warm_start else None
        if state is None:
            return self._started(backbone, targets, rng)
        self._check_resumable(state)
        try:
            self._check_backbone(backbone)
        except ValueError as error:
            raise ValueError(f"warm_start=True, but {error} Or use warm_start=False.") from None
        if {target.name for target in targets} != _owners(state):
            raise ValueError(
                "warm_start=True, but towers, matrices or layers choose other matrices than those "
                "of the last fit. Use the same ones, or warm_start=False."
            )
        return self._restored(backbone, targets, state)

    def _check_resumable(self, state: Mapping[str, NDArray]) -> None:
        """Raise ValueError where the last fit's numbers belong to other parameters than now."""

    @explained_out_of_memory()
    def with_strength(self, strength: float) -> Self:
        """Make a classifier that goes a share of the way from CLIP to this one, without training.

        Every trained number is moved along the straight line from its frozen value to its fitted
        one: singular values to ``s0 + strength (s - s0)``, low-rank updates to ``strength B A``.
        The class texts are encoded anew by the text tower at that strength; a `head` stays as it is
        and has `strength` times its share of the answer. Between 0 and 1, a classifier often keeps
        most of what the fit gained on its own classes and has lost less on everything else, as
        fine-tuned CLIPs do in general [1]_.

        Parameters
        ----------
        strength : float
            0 is CLIP as it was, and 1 is this classifier, both to the last bit. More than 1 goes
            on along the line, further from CLIP than training did: allowed, and rarely good.

        Returns
        -------
        classifier : fitted estimator of the same type
            Its `strength_` says how far it goes from CLIP to what training left. This one is left
            as it is.

        Raises
        ------
        NotFittedError
            This classifier is not fitted.
        FileNotFoundError
            Weights that cannot be had.
        ValueError
            No number of 0 or more, or one so large that the class texts are no longer finite;
            frozen weights that are not those of `fit`.

        See Also
        --------
        skclipsvd.inspection.StrengthCurveDisplay : What each strength is worth.

        References
        ----------
        .. [1] M. Wortsman et al., "Robust fine-tuning of zero-shot models", arXiv:2109.01903, 2021.

        Examples
        --------
        >>> from skclipsvd import CLIPSVDClassifier
        >>> from skclipsvd.datasets import load_handwritten_digits
        >>> paths, labels = load_handwritten_digits()
        >>> clf = CLIPSVDClassifier("tiny", max_steps=2, lr=0.01, augment=False, random_state=0)
        >>> half = clf.fit(paths[:20], labels[:20]).with_strength(0.5)
        >>> half.strength_
        0.5
        """
        check_is_fitted(self)
        is_number = isinstance(strength, Real) and not isinstance(strength, bool)
        if not is_number or not 0 <= strength < np.inf:
            raise ValueError(
                f"strength={plain(strength)!r} must be a finite number of 0 or more: 0 is CLIP as "
                "it was, 1 is the fit."
            )
        other = self._copied()
        other.strength_ = float(strength) * getattr(self, "strength_", 1.0)
        if getattr(self, "head_weight_", None) is not None:
            other.head_weight_ = min(1.0, float(strength) * self.head_weight_)
        if strength != 1:
            with shown(self.verbose):
                backbone = other._load_backbone()
                other._check_backbone(backbone)
                state = self._fitted_adaptation(backbone).state_at(float(strength))
                setattr(other, self._state_attribute, state)
                prompts = other._prompts(other.classes_, backbone)
                model = other._adapted_model(backbone)
                other.text_features_ = other._text_features(model, prompts, backbone)
        if not np.isfinite(other.text_features_).all():
            raise ValueError(
                f"strength={plain(strength)!r} goes so far beyond the fit that the class texts are "
                "no longer finite; use a smaller one."
            )
        return other

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
            "backbone_config_": dict(backbone.config),
            **task.objective.fitted(),
        }

    def _learnt(self) -> Mapping[str, NDArray]:
        return getattr(self, self._state_attribute)

    def _with_head(self, of_texts: Tensor, embeddings: Tensor) -> Tensor:
        if getattr(self, "head_coef_", None) is None:
            return of_texts
        coef, intercept = (torch.from_numpy(getattr(self, n)) for n in HEAD_ARRAYS)
        of_head = embeddings @ coef.to(embeddings.device).T + intercept.to(embeddings.device)
        return (1 - self.head_weight_) * of_texts + self.head_weight_ * of_head

    def _start(self, backbone: Backbone) -> nn.Module:
        """Return the merged model that this fit began with, as it predicts."""
        is_warm = self.warm_start and hasattr(self, self._state_attribute)
        return backbone.to_predict(self._adapted_model(backbone) if is_warm else backbone.model)

    def _adapted_model(self, backbone: Backbone) -> nn.Module:
        return merged_once(backbone, self._learnt(), lambda: self._fitted_adaptation(backbone))

    def _fitted_adaptation(self, backbone: Backbone) -> Adaptation:
        state = self._learnt()
        owners = _owners(state)
        targets = [t for t in find_targets(backbone.model) if t.name in owners]
        if unknown := owners - {target.name for target in targets}:
            raise ValueError(
                f"{self._state_attribute} has numbers for {min(unknown)!r}, which "
                f"model_name={self.model_name!r} does not have."
            )
        return self._restored(backbone, targets, state)


def _owners(state: Mapping[str, NDArray]) -> set[str]:
    """Return the names of the targets that a state's arrays belong to."""
    return {name.partition("/")[0] for name in state if name.count(".") >= 2}
