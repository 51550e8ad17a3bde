"""Whatever a user calls an image."""

import os
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from open_clip.transform import PreprocessCfg, image_transform_v2
from PIL import Image
from sklearn.datasets import load_sample_image

from skclipsvd import CLIPSVDClassifier
from skclipsvd.images import (
    as_items,
    augment,
    decode_all,
    iterate,
    normalise,
    random_crop,
    stack_views,
)

CONFIG = PreprocessCfg(size=32)


@pytest.fixture(scope="module")
def photo():
    return Image.fromarray(load_sample_image("flower.jpg")[100:325, 150:450])


def save_oddities(folder, photo):
    """Ten files that users really have; returns the good ones and the bad ones by kind."""
    good, bad = {}, {"missing": folder / "nowhere.jpg"}
    good["cmyk"] = folder / "cmyk.jpg"
    photo.convert("CMYK").save(good["cmyk"], quality=95)
    good["sixteen bit"] = folder / "sixteen.png"
    Image.fromarray(np.asarray(photo.convert("L")).astype(np.uint16) * 257).save(
        good["sixteen bit"]
    )
    good["palette"] = folder / "palette.png"
    palette = photo.convert("P", palette=Image.Palette.ADAPTIVE, colors=16)
    palette.save(good["palette"], transparency=0)
    good["animated"] = folder / "animated.gif"
    photo.save(good["animated"], save_all=True, append_images=[photo.rotate(90)], duration=50)
    good["rotated"] = folder / "rotated.jpg"
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: show it 90 degrees clockwise
    photo.transpose(Image.Transpose.ROTATE_90).save(good["rotated"], exif=exif, quality=95)
    good["one pixel"] = folder / "one.png"
    Image.new("RGB", (1, 1), (200, 10, 10)).save(good["one pixel"])
    bad["truncated"] = folder / "truncated.jpg"
    file = BytesIO()
    photo.save(file, "JPEG")
    bad["truncated"].write_bytes(file.getvalue()[: file.tell() // 2])
    bad["empty"] = folder / "empty.png"
    bad["empty"].write_bytes(b"")
    bad["text"] = folder / "notes.jpg"
    bad["text"].write_text("not an image")
    return good, bad


def test_odd_files_look_as_a_viewer_would_show_them(tmp_path, photo):
    good, _ = save_oddities(tmp_path, photo)
    reference = decode_all([photo], CONFIG, 1)[0].view.astype(int)
    decoded = dict(zip(good, decode_all([str(p) for p in good.values()], CONFIG, 2), strict=True))
    for kind in ("cmyk", "animated", "rotated"):
        difference = np.abs(decoded[kind].view - reference).mean()
        assert difference < 12, kind
        upside_down = np.abs(decoded[kind].view[::-1] - reference).mean()
        assert upside_down > 2 * difference, kind
    grey = decode_all([photo.convert("L")], CONFIG, 1)[0].view
    np.testing.assert_array_equal(decoded["sixteen bit"].view, grey)
    assert (decoded["one pixel"].view == (200, 10, 10)).all()
    # entry 0 of the palette is transparent: white, as on a page
    shown = Image.open(good["palette"]).convert("RGBA")
    page = Image.new("RGBA", shown.size, "white")
    page.alpha_composite(shown)
    np.testing.assert_array_equal(
        decoded["palette"].source, decode_all([page.convert("RGB")], CONFIG, 1)[0].source
    )


def test_unreadable_files_are_named_before_training_starts(tmp_path, photo, digits, small_model):
    good, bad = save_oddities(tmp_path, photo)
    paths = [*digits[0][:10], *good.values()]
    labels = ["digit"] * 10 + ["odd"] * len(good)
    clf = CLIPSVDClassifier(small_model, max_steps=1)

    with pytest.raises(FileNotFoundError, match=r"X\[16\].*nowhere\.jpg"):
        clf.fit([*paths, bad["missing"]], [*labels, "odd"])
    broken = [bad[kind] for kind in ("truncated", "empty", "text")]
    with pytest.raises(ValueError, match=r"3 image\(s\)") as caught:
        clf.fit([*paths, *broken], [*labels, "odd", "odd", "odd"])
    for index, path in zip((16, 17, 18), broken, strict=True):
        assert f"X[{index}] = {str(path)!r}" in str(caught.value)
    assert not hasattr(clf, "classes_")

    clf.fit(paths, labels)
    assert set(clf.predict(paths)) <= {"digit", "odd"}
    with pytest.raises(ValueError, match=r"X\[1\].*truncated"):
        clf.predict([paths[0], bad["truncated"]])


def test_a_folder_is_no_image(tmp_path):
    with pytest.raises(ValueError, match=r"X\[0\].*is a folder"):
        decode_all(as_items([tmp_path]), CONFIG, 1)


def test_relative_paths_say_where_they_start(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match="relative paths start at"):
        decode_all(["cat.jpg"], CONFIG, 1)


def test_pixels_are_open_clips_own(digits, photo, tmp_path):
    photo.save(tmp_path / "photo.png")
    paths = [str(tmp_path / "photo.png"), *digits[0][:3]]
    theirs = image_transform_v2(CONFIG, is_train=False)
    expected = np.stack([theirs(Image.open(path)).numpy() for path in paths])
    import torch

    ours = normalise(stack_views(decode_all(paths, CONFIG, 2)), CONFIG, torch.device("cpu"))
    np.testing.assert_array_equal(ours.numpy(), expected)


def test_every_kind_of_item_gives_the_same_pixels(tmp_path, photo):
    path = tmp_path / "a photo with spaces.png"
    photo.save(path)
    kinds = [path, str(path), path.read_bytes(), photo, np.asarray(photo)]
    views = [d.view for d in decode_all(as_items(kinds), CONFIG, 2)]
    assert all((view == views[0]).all() for view in views)


def test_each_image_is_decoded_once_and_again_when_it_changes(tmp_path, photo, fresh_caches):
    path = tmp_path / "photo.png"
    photo.save(path)
    first = decode_all([str(path)], CONFIG, 1)[0]
    assert decode_all([str(path)], CONFIG, 1)[0] is first
    photo.rotate(90).save(path)
    os.utime(path, ns=(1, 1))
    assert (decode_all([str(path)], CONFIG, 1)[0].view != first.view).any()


def test_streaming_keeps_nothing_that_would_flush_the_cache(photo, fresh_caches, monkeypatch):
    from skclipsvd._memory import IMAGES

    monkeypatch.setattr(IMAGES, "max_bytes", 1000)
    batches = list(iterate([photo] * 5, CONFIG, 1, 2))
    assert [len(batch) for batch in batches] == [2, 2, 1]
    assert IMAGES.info()["entries"] == 0


@settings(max_examples=50, deadline=None)
@given(height=st.integers(1, 500), width=st.integers(1, 500), seed=st.integers(0, 10_000))
def test_crops_stay_inside_the_image(height, width, seed):
    top, left, h, w = random_crop(height, width, np.random.RandomState(seed))
    assert 0 <= top <= top + h <= height
    assert 0 <= left <= left + w <= width
    assert min(h, w) >= 1


def test_crops_have_the_published_distribution():
    rng = np.random.RandomState(0)
    drawn = np.array([random_crop(300, 300, rng)[2:] for _ in range(4000)], dtype=float)
    area = drawn.prod(axis=1) / 300**2
    aspect = np.log(drawn[:, 1] / drawn[:, 0])
    assert 0.075 < area.min() < 0.1
    assert np.abs(aspect).max() < np.log(4 / 3) + 0.05
    assert abs(aspect.mean()) < 0.02


def test_augmentation_is_repeatable_and_differs_between_draws(photo):
    decoded = decode_all([photo] * 4, CONFIG, 1)
    draws = [augment(decoded, CONFIG, np.random.RandomState(seed)) for seed in (0, 0, 1)]
    assert draws[0].shape == (4, 3, 32, 32)
    assert (draws[0] == draws[1]).all()
    assert (draws[0] != draws[2]).any()
    assert (draws[0][0] != draws[0][1]).any()


@pytest.mark.parametrize(
    ("X", "error", "message"),
    [
        ("cat.jpg", ValueError, "wrap it in a list"),
        (Path("cat.jpg"), ValueError, "wrap it in a list"),
        ([], ValueError, "Found array with 0 sample"),
        (["cat.jpg", None], ValueError, r"X\[1\].*NaN"),
        (["cat.jpg", float("nan")], ValueError, r"X\[1\].*NaN"),
        (["cat.jpg", 3], TypeError, r"X\[1\] is a int"),
        (np.arange(3), TypeError, r"X\[0\] is a int"),
        ((x for x in ["cat.jpg"]), TypeError, "generator"),
        (np.zeros((5, 4)), ValueError, r"shape \(5, 4\).*CosineClassifier"),
        (np.zeros((2, 8, 8, 3)), ValueError, r"uint8 images of shape"),
        (np.array([["a", "b"]]), ValueError, r"shape \(1, 2\)"),
        ([np.zeros((8, 8, 3))], ValueError, r"X\[0\].*uint8"),
        ([np.zeros((8, 8), dtype=np.uint8)], ValueError, r"X\[0\].*\(height, width, 3\)"),
    ],
)
def test_what_is_no_image_is_said_clearly(X, error, message):
    with pytest.raises(error, match=message):
        as_items(X)


def test_every_container_of_paths():
    import pandas as pd
    import polars as pl
    import pyarrow as pa

    paths = ["a.png", "b with space.png", "ü.png"]
    forms = [
        paths,
        tuple(paths),
        [Path(p) for p in paths],
        np.array(paths),
        np.array(paths, dtype=object),
        np.array(paths).reshape(-1, 1),
        np.array(paths, dtype=object).reshape(-1, 1),
        pd.Series(paths, index=[7, 8, 9]),
        pd.Series(paths, dtype="string"),
        pd.DataFrame({"path": paths}),
        pl.Series(paths),
        pl.DataFrame({"path": paths}),
        pa.array(paths),
    ]
    for form in forms:
        assert as_items(form) == paths, type(form)
    with pytest.raises(ValueError, match="the one column"):
        as_items(pd.DataFrame({"path": paths, "age": [1, 2, 3]}))
    with pytest.raises(ValueError, match=r"X\[1\].*NaN"):
        as_items(pd.Series(["a.png", pd.NA], dtype="string"))


def test_a_folder_for_decoded_images_is_used_where_it_is_named(
    photo, tmp_path, fresh_caches, monkeypatch
):
    from skclipsvd import clear_caches

    path, folder = tmp_path / "photo.png", tmp_path / "decoded"
    photo.save(path)
    first = decode_all([str(path)], CONFIG, 1)[0]
    assert not folder.exists()
    monkeypatch.setenv("SKCLIPSVD_IMAGE_CACHE", str(folder))
    clear_caches()
    decode_all([str(path)], CONFIG, 1)
    (kept,) = folder.rglob("*.npz")

    clear_caches()
    monkeypatch.setattr("skclipsvd.images._open", lambda item: pytest.fail("decoded again"))
    again = decode_all([str(path)], CONFIG, 1)[0]
    np.testing.assert_array_equal(again.view, first.view)
    np.testing.assert_array_equal(again.source, first.source)

    monkeypatch.undo()
    monkeypatch.setenv("SKCLIPSVD_IMAGE_CACHE", str(folder))
    for damage in (b"", b"not a zip file", kept.read_bytes()[:100]):
        kept.write_bytes(damage)
        clear_caches()
        np.testing.assert_array_equal(decode_all([str(path)], CONFIG, 1)[0].view, first.view)
