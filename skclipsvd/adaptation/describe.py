"""Say which matrices of a model can be adapted."""

from __future__ import annotations

from collections.abc import Sequence

from ..clip import build_structure
from ..frames import Table, table
from .targets import MATRICES, TOWERS, find_targets


def describe_targets(
    model_name: str, *, towers: Sequence[str] = TOWERS, matrices: Sequence[str] = MATRICES
) -> Table:
    """List the matrices of a model that can be adapted, without loading its weights.

    Parameters
    ----------
    model_name : str
        ``"tiny"``, a name of `open_clip.list_models`, ``"local-dir:PATH"`` or ``"hf-hub:ID"``.
    towers : sequence of {"image", "text"}, default=("image", "text")
        Towers to list.
    matrices : sequence of str, default=("q", "k", "v", "o", "mlp", "conv")
        Groups to list. Classifiers adapt all but ``"conv"`` unless told otherwise.

    Returns
    -------
    targets : pandas.DataFrame, or list of dict where pandas is not installed
        One row per matrix, image tower first, each from its input to its output, with columns
        ``tower``, ``block`` (int), ``role`` (``"q"``, ``"fc"``, ...), ``group`` (what `matrices`
        selects it by), ``shape`` (tuple of int: outputs, inputs), ``rank`` (int: how many singular
        values) and ``parameters`` (int: how many weights).

    Raises
    ------
    ValueError
        There is no such model, tower or group.

    Examples
    --------
    >>> from skclipsvd import describe_targets
    >>> targets = describe_targets("tiny", towers=["text"], matrices=["q", "v"])
    >>> targets[["block", "role", "shape", "rank", "parameters"]]
       block role       shape  rank  parameters
    0      0    q  (128, 128)   128       16384
    1      0    v  (128, 128)   128       16384
    2      1    q  (128, 128)   128       16384
    3      1    v  (128, 128)   128       16384
    4      2    q  (128, 128)   128       16384
    5      2    v  (128, 128)   128       16384
    >>> int(targets["rank"].sum())
    768
    """
    _check_choice("towers", towers, TOWERS)
    _check_choice("matrices", matrices, MATRICES)
    targets = [
        target
        for target in find_targets(build_structure(model_name))
        if target.tower in towers and target.matrix in matrices
    ]
    return table(
        {
            "tower": [target.tower for target in targets],
            "block": [target.block for target in targets],
            "role": [target.name.split(".", 2)[2] for target in targets],
            "group": [target.matrix for target in targets],
            "shape": [target.shape for target in targets],
            "rank": [target.rank for target in targets],
            "parameters": [target.shape[0] * target.shape[1] for target in targets],
        }
    )


def _check_choice(name: str, chosen: Sequence[str], possible: Sequence[str]) -> None:
    if isinstance(chosen, str):
        raise ValueError(f"{name}={chosen!r} must be a sequence, such as [{chosen!r}].")
    unknown = [value for value in chosen if value not in possible]
    if unknown:
        raise ValueError(f"{name} has {unknown[0]!r}; choose of {', '.join(possible)}.")
