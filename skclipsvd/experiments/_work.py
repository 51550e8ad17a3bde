"""What the experiments' command does, once it knows what was asked for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ..datasets import Dataset
from .markdown import tables
from .plots import plot_shots
from .protocols import base_to_novel, cross_dataset, domain_generalisation, few_shot
from .results import Row

_PROTOCOLS: dict[str, Callable[..., list[Row]]] = {
    "few-shot": few_shot,
    "base-to-novel": base_to_novel,
    "cross-dataset": cross_dataset,
    "domain-generalisation": domain_generalisation,
}


def run(
    protocol: str,
    data: Sequence[Dataset],
    others: Sequence[Dataset] | None,
    options: dict[str, Any],
) -> None:
    """Run a protocol on each data set, and print the tables.

    Parameters
    ----------
    protocol : str
        Its name.
    data : sequence of Dataset
        Trained on, one after the other.
    others : sequence of Dataset or None
        Tested on as well, where the protocol does that.
    options : dict
        For the protocol.
    """
    tested_on = [] if others is None else [others]
    rows = []
    for dataset in data:
        rows += _PROTOCOLS[protocol](dataset, *tested_on, verbose=1, **options)
    print(tables(rows), end="")


def tabulate(rows: Sequence[Row], out: str | None, plot: str | None) -> None:
    """Print the tables of results, or write them; and draw them where that is wanted.

    Parameters
    ----------
    rows : sequence of dict
        The results.
    out, plot : str or None
        Files: the tables, and the picture.
    """
    text = tables(rows)
    figure = None if plot is None else plot_shots(rows)
    if out is None:
        print(text, end="")
    else:
        Path(out).write_text(text, encoding="utf-8")
    if figure is not None and plot is not None:
        figure.savefig(plot, dpi=150)
