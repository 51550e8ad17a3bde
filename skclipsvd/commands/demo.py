"""The library in a minute: ``skclipsvd demo``."""

from __future__ import annotations

import io
import time
from typing import Any

import joblib
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from ..classifiers import CLIPSVDClassifier
from ..datasets import load_handwritten_digits
from ..model_selection import sample_shots

_SHOTS = 16
_TILE, _CAPTION = 96, 34


def run(output: str, seed: int) -> None:
    """Run the demo.

    Parameters
    ----------
    output : str
        Picture to write.
    seed : int
        Which 16 images per class are learnt from.
    """
    started = time.perf_counter()
    paths, labels = (np.array(column) for column in load_handwritten_digits())
    train = sample_shots(labels, _SHOTS, random_state=seed)
    test = np.setdiff1d(np.arange(len(labels)), train)
    print(f"{len(paths)} real handwritten digits; {len(train)} to learn from, {len(test)} to test.")

    settings: dict[str, Any] = dict(model_name="tiny", augment=False, random_state=seed, verbose=1)
    zero_shot = CLIPSVDClassifier(**settings, max_steps=0).fit(paths[train], labels[train])
    print(f"zero-shot accuracy            {zero_shot.score(paths[test], labels[test]):7.1%}")

    adapted = CLIPSVDClassifier(**settings)
    adapted.fit(paths[train], labels[train])
    predicted = adapted.predict(paths[test])
    print(f"accuracy after {_SHOTS} per class   {np.mean(predicted == labels[test]):7.1%}")
    report(adapted, time.perf_counter() - started)
    draw_sheet(paths[test], labels[test], predicted, seed).save(output)
    print(f"some test images with predicted and true labels: {output}")


def report(clf: CLIPSVDClassifier, seconds: float) -> None:
    """Print how many numbers were tuned, in how long, and what a saved classifier takes."""
    file = io.BytesIO()
    joblib.dump(clf, file)
    print(
        f"tuned {clf.n_parameters_tuned_:,} of {clf.n_parameters_:,} parameters in {seconds:.0f} s"
    )
    print(f"saved classifier: {len(file.getvalue()) / 1024:.0f} KiB")


def draw_sheet(
    paths: NDArray,
    labels: NDArray,
    predicted: NDArray,
    seed: int,
    columns: int = 8,
    rows: int = 4,
) -> Image.Image:
    """Draw some test images; wrong predictions are red."""
    chosen = np.random.RandomState(seed).choice(len(paths), columns * rows, replace=False)
    sheet = Image.new(
        "RGB", (columns * (_TILE + 8) + 8, rows * (_TILE + _CAPTION + 8) + 8), "white"
    )
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(size=13)
    for place, i in enumerate(chosen):
        x = 8 + place % columns * (_TILE + 8)
        y = 8 + place // columns * (_TILE + _CAPTION + 8)
        with Image.open(paths[i]) as image:
            sheet.paste(
                image.convert("RGB").resize((_TILE, _TILE), Image.Resampling.NEAREST), (x, y)
            )
        colour = "#1a7f37" if predicted[i] == labels[i] else "#cf222e"
        draw.text((x, y + _TILE + 1), str(predicted[i]), fill=colour, font=font)
        draw.text((x, y + _TILE + 16), f"true: {labels[i]}", fill="#57606a", font=font)
    return sheet
