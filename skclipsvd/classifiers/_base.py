"""What every CLIP classifier shares: images in, scores out."""

from __future__ import annotations

import copy
import inspect
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from sklearn.base import (
    BaseEstimator,
    ClassifierMixin,
    ClassNamePrefixFeaturesOutMixin,
    TransformerMixin,
    clone,
)
from sklearn.utils import Tags
from sklearn.utils.validation import check_consistent_length, check_is_fitted, validate_data
from torch import Tensor, nn

from ..adaptation import state_digest
from ..caching.memory import explained_out_of_memory
from ..clip import (
    Backbone,
    ClassNames,
    Prompts,
    Setting,
    autocast,
    build_prompts,
    check_prompts,
    choose_device,
    choose_dtype,
    class_texts,
    embed,
    encode_exactly,
    load_backbone,
    warn_if_slow,
    warn_of_bare_labels,
)
from ..images import (
    Images,
    ImageStream,
    Item,
    answered_in_parts,
    as_items,
    check_exist,
    decoding_threads,
)
from ..labels import check_classes, check_no_missing, plain
from ..progress import phase, shown
from ..training import Objective, OneClass, SeveralLabels
from ..validation import named_by_class
from ._adapter_file import Saved, write_adapter
from ._indicator import Labels, as_indicator, check_columns
from ._onnx import write_onnx
from ._report import FitReportMixin

# Features that were computed in half precision are not quite of unit length.
_UNIT_TOLERANCE = 0.02


class TakesImages(BaseEstimator):
    """What estimators share whose X is images; among the bases, before scikit-learn's mixins."""

    def __sklearn_tags__(self) -> Tags:
        """Tell scikit-learn that X is one column of images, not a table of numbers."""
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array = False
        tags.input_tags.one_d_array = tags.input_tags.string = True
        if tags.transformer_tags is not None:
            tags.transformer_tags.preserves_dtype = []
        return tags


class UsesBackbone(TakesImages):
    """What estimators share that run a CLIP on images: which model, and where."""

    model_name: str
    pretrained: str | None
    batch_size: int
    precision: str
    device: str
    n_jobs: int | None
    verbose: int

    backbone_fingerprint_: str

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Take up a pickle; parameters that its version did not have yet get their defaults."""
        super().__setstate__(state)
        for name, parameter in inspect.signature(type(self)).parameters.items():
            vars(self).setdefault(name, parameter.default)

    def _load_backbone(self) -> Backbone:
        device = choose_device(self.device)
        warn_if_slow(self.precision, device)
        return load_backbone(self.model_name, self.pretrained, device)

    def _check_backbone(self, backbone: Backbone, given: str = "") -> None:
        """Raise ValueError where the model, by what was given, is not the one of `fit`."""
        known = getattr(self, "backbone_config_", {})  # 0.1.0 did not keep it
        same_weights, others = backbone.differences(self.backbone_fingerprint_, known)
        if same_weights and not others:
            return
        given = given or f"model_name={self.model_name!r}, pretrained={self.pretrained!r}"
        kind = "classifier" if isinstance(self, ClassifierMixin) else type(self).__name__
        if not same_weights:
            also = f" Besides, {'; '.join(others)}." if others else ""
            raise ValueError(
                f"{given} are not the weights that this {kind} was fitted on (fingerprint "
                f"{backbone.fingerprint[:12]}, fitted on {self.backbone_fingerprint_[:12]}).{also} "
                "Use the same weights, or fit again."
            )
        raise ValueError(
            f"{given}: the weights are those that this {kind} was fitted on, but not the model: "
            f"{'; '.join(others)}. Say which model it is: pretrained='TAG:PATH' uses a file as "
            "open_clip's tag does, model_name='local-dir:FOLDER' as open_clip_config.json in the "
            "folder does. Or fit again."
        )

    def _embed(
        self,
        model: nn.Module,
        backbone: Backbone,
        items: Sequence[Item],
        head: Callable[[Tensor], Tensor] | None = None,
    ) -> NDArray[np.float32]:
        return embed(
            backbone.to_predict(model),
            items,
            backbone.preprocess,
            device=backbone.device,
            dtype=choose_dtype(self.precision, backbone.device),
            batch_size=self.batch_size,
            n_threads=decoding_threads(self.n_jobs),
            n_at_once=backbone.plan.n_at_once,
            head=head,
        )


class BaseCLIPClassifier(
    FitReportMixin,
    UsesBackbone,
    ClassifierMixin,
    ClassNamePrefixFeaturesOutMixin,
    TransformerMixin,
    BaseEstimator,
):
    """Base of the classifiers that compare images with class texts."""

    templates: str | Sequence[str]
    class_names: ClassNames | None
    logit_scale: float | None

    classes_: NDArray
    text_features_: NDArray[np.float32]
    logit_scale_: float
    logit_bias_: float
    n_parameters_: int
    backbone_fingerprint_: str
    backbone_config_: dict[str, Setting]

    intercept_: NDArray[np.float32]

    _saved: ClassVar[Mapping[str, Saved]] = {
        "classes_": Saved("labels"),
        "text_features_": Saved("array"),
        "logit_scale_": Saved("number"),
        "logit_bias_": Saved("number"),
        "intercept_": Saved("array", optional=True),  # only of several labels per image
        "n_parameters_": Saved("number"),
        "backbone_fingerprint_": Saved("text"),
        "backbone_config_": Saved("settings", optional=True),  # 0.1.0 did not keep it
    }
    # What says nothing of other classes.
    _of_its_classes: ClassVar[Sequence[str]] = ()

    @classmethod
    def _check_saved(cls, fitted: Mapping[str, Any]) -> None:
        """Raise ValueError where attributes from a file do not fit together."""
        features, classes = fitted["text_features_"], fitted["classes_"]
        if features.ndim != 2 or len(features) != len(classes):
            raise ValueError("one text feature per class is needed")
        lengths = np.linalg.norm(features.astype(np.float64), axis=1)
        if not (np.abs(lengths - 1) < _UNIT_TOLERANCE).all():
            raise ValueError("text_features_ must have unit length")
        if "intercept_" in fitted and fitted["intercept_"].shape != classes.shape:
            raise ValueError("one intercept per label is needed")
        if fitted["logit_scale_"] <= 0:
            raise ValueError("logit_scale_ must be positive")
        for name in ("n_parameters_", "n_parameters_tuned_", "n_iter_"):
            if name in fitted and (type(fitted[name]) is not int or fitted[name] < 0):
                raise ValueError(f"{name} must be a whole number")

    @abstractmethod
    def _adapted_model(self, backbone: Backbone) -> nn.Module:
        """Return the open_clip model that predicts, adapted and merged."""

    def _with_head(self, of_texts: Tensor, embeddings: Tensor) -> Tensor:
        """Return the scores of embeddings, from those of the class texts."""
        return of_texts

    def _learnt(self) -> Mapping[str, NDArray]:
        """Return the numbers that `_adapted_model` needs in addition to the backbone's."""
        return {}

    @named_by_class
    def decision_function(self, X: ImageStream) -> NDArray[np.float32]:
        """Score images: ``logit_scale_ * cos(image, class text) + logit_bias_``.

        Where images have several labels, each label's `intercept_` is added. Where there is a
        `head`, the weighted mean of that and of the head's score.

        Parameters
        ----------
        X : sequence of n_images images
            Paths (str or Path), PIL images, encoded images (bytes) or (height, width, 3) uint8
            arrays, as for `fit`; or a generator of them, which is read `batch_size` at a time.

        Returns
        -------
        scores : float32 ndarray of shape (n_images, n_classes), or (n_images,) for two classes
            Columns in the order of `classes_`; for two classes the second one's score minus the
            first one's. Where images have several labels, (n_images, n_labels) also for two.

        Raises
        ------
        NotFittedError
            This classifier is not fitted.
        FileNotFoundError
            Paths that do not exist, by index, or weights that cannot be had.
        TypeError
            What is no image, by index.
        ValueError
            No images; images that cannot be decoded, by index and path; frozen weights that are not
            those of `fit`.

        Examples
        --------
        >>> from skclipsvd import CLIPZeroShotClassifier
        >>> from skclipsvd.datasets import load_handwritten_digits
        >>> paths, _ = load_handwritten_digits()
        >>> clf = CLIPZeroShotClassifier("tiny").fit(None, ["zero", "one", "two"])
        >>> clf.decision_function(paths[:2]).shape
        (2, 3)
        """
        scores = self._scores(X)
        return self._objective.decisions(scores)

    @named_by_class
    def predict(self, X: ImageStream) -> NDArray:
        """Predict the label of the highest score: whose text is most similar to each image.

        Where images have several labels, those whose score is positive.

        Parameters
        ----------
        X : sequence of n_images images
            Paths (str or Path), PIL images, encoded images (bytes) or (height, width, 3) uint8
            arrays, as for `fit`; or a generator of them, which is read `batch_size` at a time.

        Returns
        -------
        labels : ndarray of shape (n_images,)
            Entries of `classes_`, of their dtype. Where images have several labels, an int64
            ndarray of shape (n_images, n_labels) of 0 and 1, columns in the order of `classes_`.

        Raises
        ------
        NotFittedError
            This classifier is not fitted.
        FileNotFoundError
            Paths that do not exist, by index, or weights that cannot be had.
        TypeError
            What is no image, by index.
        ValueError
            No images; images that cannot be decoded, by index and path; frozen weights that are not
            those of `fit`.

        Examples
        --------
        >>> from skclipsvd import CLIPZeroShotClassifier
        >>> from skclipsvd.datasets import load_handwritten_digits
        >>> paths, _ = load_handwritten_digits()
        >>> clf = CLIPZeroShotClassifier("tiny").fit(None, ["zero", "one", "two"])
        >>> clf.predict(paths[:3]).tolist()
        ['zero', 'one', 'two']
        """
        scores = self._scores(X)
        return self._objective.answers(scores, self.classes_)

    @named_by_class
    def predict_proba(self, X: ImageStream) -> NDArray[np.float64]:
        """Predict class probabilities: the softmax of the scores.

        Where images have several labels, each label has a probability of its own, the sigmoid of
        its score.

        Parameters
        ----------
        X : sequence of n_images images
            Paths (str or Path), PIL images, encoded images (bytes) or (height, width, 3) uint8
            arrays, as for `fit`; or a generator of them, which is read `batch_size` at a time.

        Returns
        -------
        probabilities : float64 ndarray of shape (n_images, n_classes)
            Rows that sum to 1, columns in the order of `classes_`. Where images have several
            labels, of shape (n_images, n_labels), and a row has any sum.

        Raises
        ------
        NotFittedError
            This classifier is not fitted.
        FileNotFoundError
            Paths that do not exist, by index, or weights that cannot be had.
        TypeError
            What is no image, by index.
        ValueError
            No images; images that cannot be decoded, by index and path; frozen weights that are not
            those of `fit`.

        Examples
        --------
        >>> from skclipsvd import CLIPZeroShotClassifier
        >>> from skclipsvd.datasets import load_handwritten_digits
        >>> paths, _ = load_handwritten_digits()
        >>> clf = CLIPZeroShotClassifier("tiny").fit(None, ["zero", "one", "two"])
        >>> bool(clf.predict_proba(paths[:1]).max() > 0.9)
        True
        """
        scores = self._scores(X)
        return self._objective.probabilities(scores)

    @explained_out_of_memory()
    def transform(self, X: ImageStream) -> NDArray[np.float32]:
        """Embed images with the adapted image tower.

        Parameters
        ----------
        X : sequence of n_images images
            Paths (str or Path), PIL images, encoded images (bytes) or (height, width, 3) uint8
            arrays, as for `fit`; or a generator of them, which is read `batch_size` at a time.

        Returns
        -------
        embeddings : float32 ndarray of shape (n_images, n_features)
            Of unit length.

        Raises
        ------
        NotFittedError
            This classifier is not fitted.
        FileNotFoundError
            Paths that do not exist, by index, or weights that cannot be had.
        TypeError
            What is no image, by index.
        ValueError
            No images; images that cannot be decoded, by index and path; frozen weights that are not
            those of `fit`.

        Examples
        --------
        >>> from skclipsvd import CLIPZeroShotClassifier
        >>> from skclipsvd.datasets import load_handwritten_digits
        >>> paths, _ = load_handwritten_digits()
        >>> clf = CLIPZeroShotClassifier("tiny").fit(None, ["zero", "one", "two"])
        >>> clf.transform(paths[:2]).shape
        (2, 128)
        """
        with shown(self.verbose):
            if isinstance(X, Iterator):
                self._frozen_and_adapted()  # before the bar of all parts
                return answered_in_parts(X, self.transform, self.batch_size)
            items, backbone, model = self._ready(X)
            return self._embed(model, backbone, items)

    @explained_out_of_memory()
    def with_classes(
        self,
        classes: Sequence[str] | Mapping[Any, str | Sequence[str]],
        *,
        templates: str | Sequence[str] | None = None,
    ) -> Self:
        """Make a classifier for other classes with the same adapted weights, without training.

        Parameters
        ----------
        classes : sequence of labels, or mapping of label to str or list of str
            The new labels, with words for them where a mapping.
        templates : str or list of str, optional
            Other prompts; by default this classifier's.

        Returns
        -------
        classifier : fitted estimator of the same type
            Its `classes_` are sorted; this one is left as it is.

        Raises
        ------
        NotFittedError
            This classifier is not fitted.
        FileNotFoundError
            Weights that cannot be had.
        ValueError
            Fewer than two labels, or the same one twice; classes that the model cannot tell apart;
            a classifier of several labels per image, which needs images; frozen weights that are
            not those of `fit`.

        Examples
        --------
        >>> from skclipsvd import CLIPZeroShotClassifier
        >>> clf = CLIPZeroShotClassifier("tiny").fit(None, ["zero", "one"])
        >>> clf.with_classes(["square", "circle"]).classes_.tolist()
        ['circle', 'square']
        """
        check_is_fitted(self)
        if has_several_labels(self):
            raise ValueError(
                "with_classes is for one label per image. With several, each label needs an "
                "intercept that images set: fit again with max_steps=0 and a y of the new labels, "
                "which trains nothing."
            )
        labels = [plain(label) for label in classes]
        new_classes = np.unique(np.asarray(labels))
        if isinstance(classes, str) or len(labels) < 2 or len(new_classes) != len(labels):
            raise ValueError(
                f"classes={classes if isinstance(classes, str) else labels!r}: pass two or more "
                "distinct labels, or a mapping of labels to texts."
            )
        other = self._copied()
        for name in self._of_its_classes:
            vars(other).pop(name, None)
        other.class_names = classes if isinstance(classes, Mapping) else None
        if templates is not None:
            other.templates = templates
        with shown(self.verbose):
            backbone = other._load_backbone()
            prompts = other._checked_prompts(new_classes, backbone)
            other.classes_ = new_classes
            other.text_features_ = other._text_features(
                other._checked_model(backbone), prompts, backbone
            )
        return other

    @explained_out_of_memory()
    def merged_model(self) -> nn.Module:
        """Build a plain open_clip model with the adapted weights, to deploy without this package.

        Returns
        -------
        model : torch.nn.Module
            A private copy on the CPU, float32, in evaluation mode.

        Raises
        ------
        NotFittedError
            This classifier is not fitted.
        FileNotFoundError
            Weights that cannot be had.
        ValueError
            The frozen weights are not those of `fit`.

        Examples
        --------
        >>> import torch
        >>> from skclipsvd import CLIPZeroShotClassifier
        >>> clf = CLIPZeroShotClassifier("tiny").fit(None, ["zero", "one"])
        >>> model = clf.merged_model()
        >>> model.encode_image(torch.zeros(1, 3, 32, 32)).shape
        torch.Size([1, 128])
        """
        check_is_fitted(self)
        with shown(self.verbose):
            backbone = load_backbone(self.model_name, self.pretrained, torch.device("cpu"))
            return copy.deepcopy(self._checked_model(backbone))

    def merged_state_dict(self) -> dict[str, torch.Tensor]:
        """Return the weights of `merged_model`, to save or to load into open_clip.

        Returns
        -------
        state_dict : dict of str to Tensor
            On the CPU, float32.

        Raises
        ------
        NotFittedError, FileNotFoundError, ValueError
            As for `merged_model`.

        Examples
        --------
        >>> from skclipsvd import CLIPZeroShotClassifier
        >>> clf = CLIPZeroShotClassifier("tiny").fit(None, ["zero", "one"])
        >>> clf.merged_state_dict()["logit_scale"].shape
        torch.Size([])
        """
        return dict(self.merged_model().state_dict())

    def save_adapter(self, path: str | Path) -> None:
        """Write the fitted numbers to a safetensors file that anybody can load without risk.

        It holds no code: arrays, and a JSON header with labels, texts, parameters and the
        fingerprint of the frozen weights. `skclipsvd.load_adapter` reads it.

        Parameters
        ----------
        path : str or Path
            File to write; replaced in one move where it exists.

        Raises
        ------
        NotFittedError
            This classifier is not fitted.
        OSError
            The file cannot be written.
        ValueError
            Labels that JSON cannot hold, a parameter that is not made of plain values, or an
            attribute that this class does not know.

        Examples
        --------
        >>> from pathlib import Path
        >>> from tempfile import TemporaryDirectory
        >>> from skclipsvd import CLIPZeroShotClassifier, load_adapter
        >>> clf = CLIPZeroShotClassifier("tiny").fit(None, ["zero", "one"])
        >>> with TemporaryDirectory() as folder:
        ...     clf.save_adapter(Path(folder) / "digits.safetensors")
        ...     load_adapter(Path(folder) / "digits.safetensors").classes_.tolist()
        ['one', 'zero']
        """
        check_is_fitted(self)
        write_adapter(self, Path(path))

    @explained_out_of_memory()
    def export_onnx(self, path: str | Path) -> None:
        """Write one ONNX file that maps pixels to class probabilities, to predict without torch.

        It holds the image tower with the merged weights, the normalisation of pixels, the class
        texts, `logit_scale_`, `logit_bias_` and the `head` if there is one, in float32. The number
        of images is free. Before the file is written, onnxruntime has to give the probabilities
        that torch gives.

        The input ``"pixels"`` is uint8 of shape (n_images, height, width, 3): RGB images, resized
        and cropped. The output ``"probabilities"`` is float32 of shape (n_images, n_classes). The
        metadata describe the rest, each value as JSON: ``classes`` in the order of the columns,
        ``several_labels``, true where each column is a probability of its own,
        ``size`` (height and width), ``resize_mode``, ``interpolation``, ``fill_color``,
        ``estimator`` and ``backbone_fingerprint``.

        Parameters
        ----------
        path : str or Path
            File to write; replaced in one move where it exists.

        Raises
        ------
        NotFittedError
            This classifier is not fitted.
        ImportError
            onnx or onnxruntime is not installed: ``pip install 'skclipsvd[onnx]'``.
        FileNotFoundError
            Weights that cannot be had.
        OSError
            The file cannot be written.
        ValueError
            The image tower cannot be written as ONNX, or has 2 GiB or more; frozen weights that are
            not those of `fit`.

        Examples
        --------
        >>> from pathlib import Path
        >>> from tempfile import TemporaryDirectory
        >>> import numpy as np
        >>> from onnxruntime import InferenceSession
        >>> from skclipsvd import CLIPZeroShotClassifier
        >>> clf = CLIPZeroShotClassifier("tiny").fit(None, ["zero", "one"])
        >>> with TemporaryDirectory() as folder:
        ...     clf.export_onnx(Path(folder) / "digits.onnx")
        ...     session = InferenceSession(Path(folder) / "digits.onnx")
        >>> session.run(None, {"pixels": np.zeros((5, 32, 32, 3), np.uint8)})[0].shape
        (5, 2)
        """
        check_is_fitted(self)
        with shown(self.verbose):
            write_onnx(self, Path(path))

    @property
    def _n_features_out(self) -> int:
        return self.text_features_.shape[1]

    def _copied(self) -> Self:
        """Return a fitted copy that shares nothing with this one."""
        other = clone(self)
        other.__dict__.update(
            {name: copy.deepcopy(vars(self)[name]) for name in self._saved if name in vars(self)}
        )
        return other

    def _replace_fitted(self, fitted: dict[str, Any]) -> None:
        """Put a fit's attributes in place of the last one's, none of which is left."""
        kept = {name: value for name, value in vars(self).items() if name not in self._saved}
        self.__dict__ = {**kept, **fitted}  # in one move: an interrupt leaves the old or the new

    @property
    def _objective(self) -> Objective:
        """What the scores of this fitted classifier say."""
        return SeveralLabels(self.intercept_) if self._gives_several else OneClass()

    @property
    def _gives_several(self) -> bool:
        """Whether this fitted classifier gives an image any number of labels."""
        return getattr(self, "intercept_", None) is not None

    def _check_labels(self, y: ArrayLike | None, name: str = "y") -> Labels:
        if y is not None:
            if (several := as_indicator(y, name)) is not None:
                return several
            check_no_missing(y, name)
        labels: NDArray = validate_data(self, X="no_validation", y=y)
        check_classes(labels)
        return Labels(labels)

    def _check_data(self, X: Images, y: ArrayLike | None) -> tuple[list[Item], Labels]:
        labels = self._check_labels(y)
        items = as_items(X)
        check_consistent_length(items, labels.values)
        return items, labels

    def _check_classes(self, labels: Labels) -> NDArray:
        if labels.columns is not None:
            return check_columns(labels)
        classes = np.unique(labels.values)
        if len(classes) < 2:
            raise ValueError(
                f"y has one class only ({classes.tolist()[0]!r}); {type(self).__name__} needs two "
                "or more."
            )
        return classes

    def _logit_scale(self, backbone: Backbone) -> float:
        return backbone.logit_scale if self.logit_scale is None else float(self.logit_scale)

    def _prompts(self, classes: NDArray, backbone: Backbone) -> Prompts:
        texts = class_texts(classes, self.class_names)
        return build_prompts(texts, self.templates, backbone.tokenize).to(backbone.device)

    def _checked_prompts(self, classes: NDArray, backbone: Backbone) -> Prompts:
        """Build the prompts of new classes, and say what of them the model does not read."""
        labels = [plain(label) for label in classes]
        if self.class_names is None:
            warn_of_bare_labels(labels, self.templates)
        prompts = self._prompts(classes, backbone)
        check_prompts(labels, prompts, backbone.tokenize)
        return prompts

    def _text_features(
        self, model: nn.Module, prompts: Prompts, backbone: Backbone
    ) -> NDArray[np.float32]:
        dtype = choose_dtype(self.precision, backbone.device)
        with phase("encoding the class texts"), autocast(backbone.device, dtype):
            return encode_exactly(model, prompts).cpu().numpy()

    @explained_out_of_memory()
    def _scores(self, X: ImageStream) -> NDArray[np.float32]:
        with shown(self.verbose):
            if isinstance(X, Iterator):
                self._frozen_and_adapted()  # before the bar of all parts
                return answered_in_parts(X, self._scores, self.batch_size)
            items, backbone, model = self._ready(X)
            found = self._embed(model, backbone, items, head=self._scores_of)
        return _checked_finite(found)

    def _scores_of(self, features: Tensor) -> Tensor:
        """Score images by their features: float32 unit vectors, from whatever model."""
        text_features = torch.from_numpy(self.text_features_).to(features.device)
        if features.shape[1] != text_features.shape[1]:
            raise ValueError(
                f"the class texts have {text_features.shape[1]} features, the images "
                f"{features.shape[1]}: they are of another model. Fit again."
            )
        of_texts = self.logit_scale_ * features @ text_features.T + self.logit_bias_
        return self._with_head(self._objective.shifted(of_texts), features)

    def _frozen_and_adapted(self) -> tuple[Backbone, nn.Module]:
        """Return the shared backbone and the merged model of a fitted classifier."""
        check_is_fitted(self)
        backbone = self._load_backbone()
        return backbone, self._checked_model(backbone)

    def _ready(self, X: Images) -> tuple[list[Item], Backbone, nn.Module]:
        """Check everything that a prediction needs."""
        check_is_fitted(self)
        items = as_items(X)
        check_exist(items)
        return items, *self._frozen_and_adapted()

    def _checked_model(self, backbone: Backbone) -> nn.Module:
        self._check_backbone(backbone)
        return self._adapted_model(backbone)


def frozen_and_adapted(clf: BaseCLIPClassifier) -> tuple[Backbone, nn.Module]:
    """Return the backbone of a fitted classifier and its adapted model, both shared.

    Raises
    ------
    NotFittedError
        `clf` is not fitted.
    ValueError
        The frozen weights are not those that it was fitted on.
    """
    return clf._frozen_and_adapted()


def has_several_labels(clf: Any) -> bool:
    """Whether a fitted estimator is a classifier of this package that gives images several labels.

    Parameters
    ----------
    clf : estimator
        Any.
    """
    return isinstance(clf, BaseCLIPClassifier) and clf._gives_several


def adapter_fingerprint(clf: BaseCLIPClassifier) -> str:
    """Return a digest of what a fitted classifier has learnt, to tell it from any other fit."""
    return state_digest(clf._learnt())


def prompts_of(clf: BaseCLIPClassifier, backbone: Backbone) -> Prompts:
    """Return the prompts of a fitted classifier's classes, on the backbone's device."""
    return clf._prompts(clf.classes_, backbone)


def embeddings_and_scores(
    clf: BaseCLIPClassifier, X: ImageStream
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return the embeddings of images, and their scores for each class, in one pass.

    Raises
    ------
    Exception
        As `BaseCLIPClassifier.predict`.
    """
    embeddings = np.asarray(clf.transform(X))  # a frame, where `set_output` says so
    return embeddings, _checked_finite(clf._scores_of(torch.from_numpy(embeddings)).numpy())


def _checked_finite(scores: NDArray[np.float32]) -> NDArray[np.float32]:
    if not np.isfinite(scores).all():
        raise ValueError(
            "the adapted weights give no finite scores: the file that they came from is "
            "damaged, or precision='fp16' is too narrow for them."
        )
    return scores
