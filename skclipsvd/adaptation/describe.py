"""Say which matrices of a model can be adapted."""

from __future__ import annotations

from collections.abc import Sequence

from ..clip import build_structure
from .targets import MATRICES, TOWERS, Target, find_targets

_HEADER = ("tower", "block", "role", "group", "shape", "rank", "parameters")


def describe_targets(
    model_name: str, *, towers: Sequence[str] = TOWERS, matrices: Sequence[str] = MATRICES
) -> None:
    """Print the matrices of a model that can be adapted, without loading its weights.

    Parameters
    ----------
    model_name : str
        ``"tiny"``, a name of `open_clip.list_models`, ``"local-dir:PATH"`` or ``"hf-hub:ID"``.
    towers : sequence of {"image", "text"}, default=("image", "text")
        Towers to print.
    matrices : sequence of str, default=("q", "k", "v", "o", "mlp", "conv")
        Groups to print. Classifiers adapt all but ``"conv"`` unless told otherwise.

    Examples
    --------
    >>> from skclipsvd import describe_targets
    >>> describe_targets("tiny", towers=["text"], matrices=["q", "v"])
    tower  block  role  group  shape      rank  parameters
    text   0      q     q      128 x 128  128   16,384
    text   0      v     v      128 x 128  128   16,384
    text   1      q     q      128 x 128  128   16,384
    text   1      v     v      128 x 128  128   16,384
    text   2      q     q      128 x 128  128   16,384
    text   2      v     v      128 x 128  128   16,384
    6 matrices, 768 singular values
    """
    targets = [
        t
        for t in find_targets(build_structure(model_name))
        if t.tower in towers and t.matrix in matrices
    ]
    rows = [_HEADER, *(_row(target) for target in targets)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        print("  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip())
    values = sum(target.rank for target in targets)
    print(f"{len(targets):,} matrices, {values:,} singular values")


def _row(target: Target) -> tuple[str, ...]:
    n_out, n_in = target.shape
    return (
        target.tower,
        str(target.block),
        target.name.split(".", 2)[2],
        target.matrix,
        f"{n_out} x {n_in}",
        str(target.rank),
        f"{n_out * n_in:,}",
    )
