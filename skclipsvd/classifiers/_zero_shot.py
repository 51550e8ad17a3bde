"""Zero-shot CLIP: parameters and their documentation; nothing is trained."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

from numpy.typing import ArrayLike
from sklearn.utils import Tags
from torch import nn

from ..caching.memory import explained_out_of_memory
from ..clip import Backbone, ClassNames
from ..constraints import MODEL_CONSTRAINTS, PROMPT_CONSTRAINTS
from ..images import Images
from ..progress import shown
from ..validation import fit_context
from ._base import BaseCLIPClassifier


class CLIPZeroShotClassifier(BaseCLIPClassifier):
    """CLIP as it is: images are compared with the class texts, and nothing is trained.

    Parameters
    ----------
    model_name : str, default="ViT-B-16"
        As for `CLIPSVDClassifier`.
    pretrained : str or None, default="openai"
        As for `CLIPSVDClassifier`.
    templates : str or list of str, default="a photo of a {}."
        Prompts with ``{}`` for the class text; several are averaged as unit vectors.
    class_names : mapping of label to str or list of str, or list of these, optional
        Words for each label; a list has them in the order of the sorted labels. By default the
        label itself, with spaces instead of underscores: labels that are numbers or booleans need
        words.
    logit_scale : float, optional
        Factor of the cosine similarity. By default the model's own.
    batch_size : int, default=32
        Images per step of prediction.
    precision : {"auto", "fp32", "bf16", "fp16"}, default="auto"
        Number format of the matrix products: half precision on a GPU, float32 elsewhere.
    device : str, default="auto"
        A torch device. ``"auto"`` takes a GPU if there is one.
    n_jobs : int, optional
        Threads that read and decode images. By default as many as torch computes with.
    verbose : int, default=0
        1 shows progress in lines and a bar, 0 nothing.

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
        The labels, sorted.
    text_features_ : float32 ndarray of shape (n_classes, n_features)
        Unit-length embedding of each class's prompts.
    logit_scale_ : float
        Factor of the cosine similarity.
    logit_bias_ : float
        What SigLIP adds to every score; 0.0 for other families.
    n_parameters_ : int
        How many numbers the frozen backbone has.
    backbone_fingerprint_ : str
        SHA-256 of the frozen weights.
    backbone_config_ : dict of str to plain value
        What the frozen model is beside its weights, compared as they are: pre-processing of images
        and texts, activation, attention heads, pooling.

    Examples
    --------
    >>> from skclipsvd import CLIPZeroShotClassifier
    >>> from skclipsvd.datasets import load_handwritten_digits
    >>> paths, labels = load_handwritten_digits()
    >>> clf = CLIPZeroShotClassifier("tiny").fit(None, sorted(set(labels)))
    >>> clf.predict_proba(paths[:3]).shape
    (3, 10)
    """

    # Where pickles and skops files find it, whatever file it is in.
    __module__ = "skclipsvd.classifiers"

    _parameter_constraints: dict = {**MODEL_CONSTRAINTS, **PROMPT_CONSTRAINTS}

    def __init__(
        self,
        model_name: str = "ViT-B-16",
        pretrained: str | None = "openai",
        *,
        templates: str | Sequence[str] = "a photo of a {}.",
        class_names: ClassNames | None = None,
        logit_scale: float | None = None,
        batch_size: int = 32,
        precision: str = "auto",
        device: str = "auto",
        n_jobs: int | None = None,
        verbose: int = 0,
    ) -> None:
        self.model_name = model_name
        self.pretrained = pretrained
        self.templates = templates
        self.class_names = class_names
        self.logit_scale = logit_scale
        self.batch_size = batch_size
        self.precision = precision
        self.device = device
        self.n_jobs = n_jobs
        self.verbose = verbose

    @fit_context(prefer_skip_nested_validation=True)
    @explained_out_of_memory()
    def fit(self, X: Images | None, y: ArrayLike) -> Self:
        """Learn which classes there are.

        Parameters
        ----------
        X : sequence of n_images images, or None
            Not looked at beyond its length, so that this estimator takes the place of one that
            trains; None where there are no images.
        y : array-like of shape (n_images,)
            Labels; each needs to occur once.

        Returns
        -------
        self : CLIPZeroShotClassifier
            This object, fitted.

        Raises
        ------
        FileNotFoundError
            Weights that cannot be had.
        ValueError
            A parameter out of its range; fewer than two classes, or none that the model can tell
            apart; labels that are missing, by index.

        Warns
        -----
        BareLabelWarning
            Labels are numbers or booleans, and no `class_names` say what they mean.
        CutPromptWarning, IndistinctClassesWarning
            The model does not read all of a prompt, or the same of two classes.

        Examples
        --------
        >>> from skclipsvd import CLIPZeroShotClassifier
        >>> CLIPZeroShotClassifier("tiny").fit(None, ["cat", "dog", "cat"]).classes_.tolist()
        ['cat', 'dog']
        """
        labels = self._check_labels(y) if X is None else self._check_data(X, y)[1]
        if labels.columns is not None:
            raise ValueError(
                f"y is of shape {labels.values.shape}: several labels per image. Which scores mean "
                "that an image has a label, only images can tell, and zero-shot learns nothing "
                "from them. Use CLIPSVDClassifier(max_steps=0), which sets one intercept per "
                "label by the images and trains nothing; or fit(None, labels) and rank images by "
                "decision_function."
            )
        classes = self._check_classes(labels)
        with shown(self.verbose):
            backbone = self._load_backbone()
            prompts = self._checked_prompts(classes, backbone)
            text_features = self._text_features(backbone.model, prompts, backbone)
        self._replace_fitted(
            {
                "classes_": classes,
                "text_features_": text_features,
                "logit_scale_": self._logit_scale(backbone),
                "logit_bias_": backbone.logit_bias,
                "n_parameters_": backbone.n_parameters,
                "backbone_fingerprint_": backbone.fingerprint,
                "backbone_config_": dict(backbone.config),
            }
        )
        return self

    def __sklearn_tags__(self) -> Tags:
        """Promise no accuracy on the training data: nothing is learnt from it."""
        tags = super().__sklearn_tags__()
        assert tags.classifier_tags is not None  # it is a classifier
        tags.classifier_tags.poor_score = True
        return tags

    def _adapted_model(self, backbone: Backbone) -> nn.Module:
        return backbone.model
