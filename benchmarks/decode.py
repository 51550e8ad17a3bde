"""Large photographs as JPEG files: what decoding them smaller saves, and how little it changes.

At 12, 24 and 48 megapixels, saved with quality 92: scikit-learn's two sample photographs, enlarged
and with a grain, as a camera's lens and sensor leave them; a mosaic of the two at their own size,
whose edges are as sharp as a pixel; and five pictures that are as hard as a picture can be (noise,
blocks, stripes and rings of full contrast). Each file is prepared for a model of 224 pixels once as
open_clip does it, every pixel decoded, and once as the package does it to predict, which lets the
JPEG decoder halve an image of which six times the model's side remains. Times are of one thread,
medians; differences are those of the uint8 pixels that the model sees, in levels of 255.
"""

import argparse
import io
import statistics
import time

import numpy as np
from open_clip.transform import PreprocessCfg
from PIL import Image
from sklearn.datasets import load_sample_images

from skclipsvd.images import decode_all
from skclipsvd.images.preprocessing import view_transform

from ._report import table, write

SIZES = {12: (4000, 3000), 24: (6000, 4000), 48: (8000, 6000)}
SIDE = 224


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    rows = []
    for megapixels, size in SIZES.items():
        for name, picture in pictures(*size):
            rows.append({"megapixels": megapixels, "picture": name, **compare(picture, options)})
            print(rows[-1], flush=True)
    print(table(list(rows[0]), [list(row.values()) for row in rows]))
    write("decode", dict(side=SIDE, quality=92, repeats=options.repeats), rows)


def compare(picture, options):
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=92)
    jpeg, preprocess = buffer.getvalue(), PreprocessCfg(size=SIDE)
    whole_transform = view_transform(preprocess)
    sides = {
        "whole": lambda: np.asarray(whole_transform(Image.open(io.BytesIO(jpeg)).convert("RGB"))),
        "smaller": lambda: decode_all([jpeg], preprocess, 1, keep=False)[0].view,
    }
    seconds, views = {side: [] for side in sides}, {}
    for _ in range(options.repeats):
        for side, decode in sides.items():
            start = time.perf_counter()
            views[side] = decode()
            seconds[side].append(time.perf_counter() - start)
    whole, smaller = (statistics.median(times) for times in seconds.values())
    difference = np.abs(np.subtract(*(view.astype(np.int16) for view in views.values())))
    return {
        "whole, ms": round(1000 * whole, 1),
        "smaller, ms": round(1000 * smaller, 1),
        "whole / smaller": round(whole / smaller, 2),
        "largest difference": int(difference.max()),
        "mean difference": round(float(difference.mean()), 3),
    }


def pictures(width, height):
    """Yield names and pictures of the size."""
    rng = np.random.RandomState(0)
    for name, photograph in zip(("temple", "flower"), load_sample_images().images, strict=True):
        enlarged = Image.fromarray(photograph).resize((width, height), Image.Resampling.BICUBIC)
        grain = rng.randint(-6, 7, (height, width, 3), dtype=np.int16)
        yield (
            f"photograph: {name}",
            Image.fromarray(np.clip(np.asarray(enlarged) + grain, 0, 255).astype(np.uint8)),
        )
    one, other = load_sample_images().images
    tile = np.vstack([np.hstack([one, other]), np.hstack([other, one])])
    tiles = np.tile(tile, (-(-height // tile.shape[0]), -(-width // tile.shape[1]), 1))
    yield "photographs, sharp to the pixel", Image.fromarray(tiles[:height, :width])
    yield "colour noise", Image.fromarray(rng.randint(0, 256, (height, width, 3), dtype=np.uint8))
    for side in (5, 20):
        shape = (-(-height // side), -(-width // side), 3)
        blocks = Image.fromarray(255 * rng.randint(0, 2, shape, dtype=np.uint8))
        enlarged = blocks.resize((side * shape[1], side * shape[0]), Image.Resampling.NEAREST)
        yield f"blocks of {side} pixels", enlarged.crop((0, 0, width, height))
    y, x = np.ogrid[:height, :width]
    yield "stripes", grey(np.where((x // 2 + 0 * y) % 2, 255, 0))
    yield "rings", grey(127.5 + 127.5 * np.sin((x**2 + y**2) / 3000.0))


def grey(values):
    return Image.fromarray(values.astype(np.uint8)).convert("RGB")


if __name__ == "__main__":
    main()
