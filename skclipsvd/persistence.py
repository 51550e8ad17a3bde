"""Read what `save_adapter` wrote, from this disk or from the hub; write it to the hub."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path

from sklearn.utils.validation import check_is_fitted

from ._version import __version__
from .classifiers import (
    CLIPLoRAClassifier,
    CLIPSVDClassifier,
    CLIPZeroShotClassifier,
    model_card,
    read_adapter,
)
from .clip.hub import Repository, check_repository_name, split_revision, upload
from .paths import HUB, adapter_file

Classifier = CLIPSVDClassifier | CLIPLoRAClassifier | CLIPZeroShotClassifier

_KINDS: tuple[type[Classifier], ...] = (
    CLIPSVDClassifier,
    CLIPLoRAClassifier,
    CLIPZeroShotClassifier,
)
_CLASSIFIERS = {kind.__name__: kind for kind in _KINDS}
# The one file of a repository that is ever read.
_FILE = "adapter.safetensors"
# A hundred times what a large fit needs. A file that the user has named on this disk may be larger.
_MAX_DOWNLOAD = 2**30


def load_adapter(
    path: str | Path, model_name: str | None = None, pretrained: str | None = None
) -> Classifier:
    """Read a fitted classifier that `save_adapter` wrote; safe with a stranger's file.

    Nothing in the file is run, and it does not choose what is opened or downloaded: a folder, a
    repository of the hub or a checkpoint file has to be named by the caller. The frozen weights
    are not in the file: they are loaded, and their fingerprint compared, when the classifier first
    predicts.

    Parameters
    ----------
    path : str or Path
        An adapter file, or ``"hf-hub:OWNER/NAME"`` for ``adapter.safetensors`` in a repository of
        the Hugging Face hub, which `push_to_hub` writes; ``"hf-hub:OWNER/NAME@REVISION"`` pins it.
        No other file of the repository is read.
    model_name, pretrained : str, optional
        The backbone, where the file names another one than a name of `open_clip.list_models` with
        one of its tags, or ``"tiny"``; or where it lies elsewhere on this machine. By default what
        the file says.

    Returns
    -------
    classifier : fitted estimator
        Of the type that was saved; `device`, `n_jobs`, `verbose` and `checkpoint_dir` have their
        defaults, whatever the file says.

    Raises
    ------
    FileNotFoundError
        There is no such file or repository, or the hub could not be asked and the file is not in
        its cache on this disk.
    ValueError
        Not an adapter file, a damaged one, one of a newer format, or one that names a folder, a
        repository or a checkpoint as its backbone, which `model_name` or `pretrained` has to name;
        more than 1 GiB in a repository.

    Examples
    --------
    >>> import os, tempfile
    >>> from skclipsvd import CLIPZeroShotClassifier, load_adapter
    >>> clf = CLIPZeroShotClassifier("tiny").fit(None, ["zero", "one"])
    >>> path = os.path.join(tempfile.mkdtemp(), "digits.safetensors")
    >>> clf.save_adapter(path)
    >>> load_adapter(path).classes_.tolist()
    ['one', 'zero']
    """
    if isinstance(path, str) and path.startswith(HUB):
        name, revision = split_revision(path.removeprefix(HUB))
        check_repository_name(name)
        file = Repository(name, revision, max_bytes=_MAX_DOWNLOAD).file(_FILE)
        return read_adapter(file, _CLASSIFIERS, model_name, pretrained, called=path)
    file = adapter_file(path)
    return read_adapter(file, _CLASSIFIERS, model_name, pretrained, called=str(file))


def push_to_hub(
    clf: Classifier,
    repository: str,
    *,
    scores: Mapping[str, float | str] | None = None,
    private: bool = False,
) -> str:
    """Share a fitted classifier as a repository of the Hugging Face hub.

    It writes ``adapter.safetensors``, which `load_adapter` reads, and ``README.md``, a model card
    made from the fit: backbone, classes, what CLIP reads for them, what was tuned, how to load it.
    The images are not in it. The repository is made where there is none; where there is one, both
    files are replaced in one commit. ``hf auth login``, once, or the environment variable
    ``HF_TOKEN`` says who you are.

    Parameters
    ----------
    clf : CLIPSVDClassifier, CLIPLoRAClassifier or CLIPZeroShotClassifier
        Fitted.
    repository : str
        ``"OWNER/NAME"``: your name on the hub, or an organisation's.
    scores : mapping of str to float or str, optional
        What you measured, for the model card: ``{"accuracy on 300 test images": 0.93}``.
    private : bool, default=False
        Whether a repository that is made here is visible to you and its organisation alone.

    Returns
    -------
    url : str
        The repository's page.

    Raises
    ------
    NotFittedError
        `clf` is not fitted.
    TypeError
        `clf` is no classifier that an adapter file holds.
    ValueError
        `repository` is not ``OWNER/NAME``; what `save_adapter` cannot write.
    ConnectionError
        The hub could not be asked, or does not let you write there.

    Examples
    --------
    >>> from skclipsvd import CLIPZeroShotClassifier, push_to_hub
    >>> clf = CLIPZeroShotClassifier("tiny").fit(None, ["zero", "one"])
    >>> push_to_hub(clf, "digits")
    Traceback (most recent call last):
    ...
    ValueError: 'digits' has no owner; write OWNER/NAME.
    """
    if type(clf) not in _KINDS:
        raise TypeError(
            f"clf is a {type(clf).__name__}; push_to_hub takes a fitted {', '.join(_CLASSIFIERS)}."
        )
    check_is_fitted(clf)
    repository = repository.removeprefix(HUB)
    check_repository_name(repository)
    with tempfile.TemporaryDirectory() as folder:
        clf.save_adapter(file := Path(folder) / _FILE)
        content = file.read_bytes()
    card = model_card(clf, repository, scores or {})
    files = {_FILE: content, "README.md": card.encode()}
    message = f"{type(clf).__name__} of {len(clf.classes_)} classes, by skclipsvd {__version__}"
    return upload(repository, files, private=private, message=message)
