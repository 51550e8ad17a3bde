"""Read what `save_adapter` wrote."""

from __future__ import annotations

from pathlib import Path

from .classifiers import (
    CLIPLoRAClassifier,
    CLIPSVDClassifier,
    CLIPZeroShotClassifier,
    read_adapter,
)

Classifier = CLIPSVDClassifier | CLIPLoRAClassifier | CLIPZeroShotClassifier

_KINDS: tuple[type[Classifier], ...] = (
    CLIPSVDClassifier,
    CLIPLoRAClassifier,
    CLIPZeroShotClassifier,
)
_CLASSIFIERS = {kind.__name__: kind for kind in _KINDS}


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
        An adapter file.
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
        There is no such file.
    ValueError
        Not an adapter file, a damaged one, one of a newer format, or one that names a folder, a
        repository or a checkpoint as its backbone, which `model_name` or `pretrained` has to name.

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
    path = Path(path).expanduser()
    if not path.is_file():
        raise FileNotFoundError(f"{path}: there is no such adapter file.")
    return read_adapter(path, _CLASSIFIERS, model_name, pretrained)
