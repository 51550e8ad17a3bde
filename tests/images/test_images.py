"""Whatever a user calls an image."""

import os
import re
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from open_clip.transform import PreprocessCfg, image_transform_v2
from PIL import Image, ImageOps
from PIL.JpegImagePlugin import JpegImageFile
from sklearn.datasets import load_sample_image
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as tvf

from skclipsvd import CLIPSVDClassifier, CLIPZeroShotClassifier
from skclipsvd.images import (
    Decoded,
    as_items,
    augment,
    decode_all,
    iterate,
    normalise,
    random_crop,
    stack_views,
)
from skclipsvd.images.resizing import resize_together

CONFIG = PreprocessCfg(size=32)
CPU = torch.device("cpu")


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
        decoded["palette"].view, decode_all([page.convert("RGB")], CONFIG, 1)[0].view
    )


def save_large(folder, name, size, **options):
    """A photograph of at least eight megapixels with a camera's grain."""
    picture = Image.fromarray(load_sample_image("china.jpg")).resize(size)
    grain = np.random.RandomState(0).randint(-6, 7, (size[1], size[0], 3))
    path = folder / name
    Image.fromarray(np.clip(np.asarray(picture) + grain, 0, 255).astype(np.uint8)).save(
        path, **options
    )
    return str(path)


def open_clips_own(path, config):
    """The uint8 pixels that open_clip's transform makes of an upright image."""
    image = ImageOps.exif_transpose(Image.open(path)).convert("RGB")
    for step in image_transform_v2(config, is_train=False).transforms[:-2]:
        image = step(image)
    return np.asarray(image).astype(int)


@pytest.fixture
def drafts(monkeypatch):
    """The sizes at which JPEG decoders were asked for an image."""
    asked, original = [], JpegImageFile.draft

    def draft(self, mode, size):
        asked.append(size)
        return original(self, mode, size)

    monkeypatch.setattr(JpegImageFile, "draft", draft)
    return asked


def test_a_large_jpeg_is_decoded_smaller_and_looks_the_same(tmp_path, drafts):
    config = PreprocessCfg(size=224)
    exif = Image.Exif()
    exif[0x0112] = 6
    path = save_large(tmp_path, "large.jpg", (4000, 2800), quality=92, exif=exif)
    (decoded,) = decode_all([path], config, 1, for_crops=True)
    assert drafts == [(2000, 1400)]
    assert np.abs(decoded.view - open_clips_own(path, config)).max() <= 1
    assert decoded.source.shape == (640, 448, 3)


@pytest.mark.parametrize(
    ("name", "size", "side"),
    [
        ("odd.jpg", (4001, 2801), 224),  # half of it would lie half a pixel elsewhere
        ("large.png", (4000, 2800), 224),
        ("not_enough.jpg", (4000, 2800), 336),
        ("small.jpg", (2800, 2000), 32),
    ],
)
def test_other_images_are_open_clips_own_to_the_bit(tmp_path, drafts, name, size, side):
    config = PreprocessCfg(size=side)
    path = save_large(tmp_path, name, size)
    (decoded,) = decode_all([path], config, 1)
    assert not drafts
    np.testing.assert_array_equal(decoded.view, open_clips_own(path, config))


def test_an_open_image_is_decoded_whole(tmp_path, drafts):
    config = PreprocessCfg(size=224)
    path = save_large(tmp_path, "large.jpg", (4000, 2800))
    with Image.open(path) as image:
        (decoded,) = decode_all([image], config, 1)
    assert not drafts
    np.testing.assert_array_equal(decoded.view, open_clips_own(path, config))


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
    ours = normalise(stack_views(decode_all(paths, CONFIG, 2)), CONFIG, CPU)
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


@pytest.mark.parametrize("device", ["cpu", "meta"])  # the latter stands for any other
def test_streaming_keeps_nothing_that_would_flush_the_cache(
    photo, fresh_caches, monkeypatch, device
):
    from skclipsvd.caching.process import IMAGES

    monkeypatch.setattr(IMAGES, "max_bytes", 1000)
    batches = list(iterate([photo] * 5, CONFIG, 1, 2, device=torch.device(device)))
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
    decoded = decode_all([photo] * 4, CONFIG, 1, for_crops=True)
    draws = [augment(decoded, CONFIG, np.random.RandomState(seed), CPU) for seed in (0, 0, 1)]
    assert draws[0].shape == (4, 3, 32, 32)
    assert (draws[0] == draws[1]).all()
    assert (draws[0] != draws[2]).any()
    assert (draws[0][0] != draws[0][1]).any()


def sources_of_many_sizes():
    rng = np.random.RandomState(0)
    sides = [(1, 1), (7, 60), (60, 7), (32, 32), (64, 85), (48, 33), (64, 64), (20, 20)]
    sources = [rng.randint(0, 256, (*shape, 3)).astype(np.uint8) for shape in sides]
    return [Decoded(view=None, source=source) for source in sources]


@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
def test_augmentation_is_a_resized_crop_and_a_flip_in_the_order_of_the_images(interpolation):
    decoded = sources_of_many_sizes()
    config = PreprocessCfg(size=(24, 32), interpolation=interpolation)
    batch = augment(decoded, config, np.random.RandomState(3), CPU)
    rng, flips = np.random.RandomState(3), []
    for image, pixels in zip(decoded, batch, strict=True):
        crop = random_crop(*image.source.shape[:2], rng)
        flips.append(rng.uniform() < 0.5)
        source = torch.from_numpy(image.source).permute(2, 0, 1)
        mode = InterpolationMode(interpolation)
        expected = tvf.resized_crop(source, *crop, [24, 32], mode, antialias=True)
        expected = expected.flip(2) if flips[-1] else expected
        assert (pixels.int() - expected.int()).abs().max() <= 1
    assert len(set(flips)) == 2


@settings(max_examples=60, deadline=None)
@given(
    crops=st.lists(
        st.tuples(st.integers(1, 90), st.integers(1, 90), st.booleans()), min_size=1, max_size=5
    ),
    size=st.tuples(st.integers(1, 48), st.integers(1, 48)),
    mode=st.sampled_from([InterpolationMode.BICUBIC, InterpolationMode.BILINEAR]),
    contrast=st.sampled_from([2, 256]),
    seed=st.integers(0, 10_000),
)
def test_resizing_together_gives_what_torchvision_gives_one_by_one(
    crops, size, mode, contrast, seed
):
    rng = np.random.RandomState(seed)
    step = 255 // (contrast - 1)
    images = [
        (step * rng.randint(0, contrast, (height, width, 3))).astype(np.uint8)
        for height, width, _ in crops
    ]
    mirrored = [mirror for *_, mirror in crops]
    batch = resize_together(images, mirrored, size, mode, CPU)
    assert batch.shape == (len(crops), 3, *size)
    assert batch.dtype == torch.uint8
    for image, mirror, pixels in zip(images, mirrored, batch, strict=True):
        planes = torch.from_numpy(image).permute(2, 0, 1)
        planes = planes.flip(2) if mirror else planes
        expected = tvf.resize(planes, list(size), mode, antialias=True)
        assert (pixels.int() - expected.int()).abs().max() <= 1


def test_crops_that_are_enlarged_together_are_torchvisions_to_the_bit():
    sources = [image.source for image in sources_of_many_sizes()]
    size, mode = (90, 100), InterpolationMode.BICUBIC
    with torch.autocast("cpu", dtype=torch.bfloat16):  # as training may have it
        together = resize_together(sources, [False] * len(sources), size, mode, CPU)
    for source, pixels in zip(sources, together, strict=True):
        expected = tvf.resize(torch.from_numpy(source).permute(2, 0, 1), size, mode, antialias=True)
        assert (pixels == expected).all()


def test_crops_of_the_models_own_size_are_copied_and_mirrored_exactly():
    sources = [image.source for image in sources_of_many_sizes()]
    squares = [source[:32, :32] for source in sources if min(source.shape[:2]) >= 32]
    mirrored = [True, False, True, False]
    batch = resize_together(squares, mirrored, (32, 32), InterpolationMode.BICUBIC, CPU)
    for square, mirror, pixels in zip(squares, mirrored, batch, strict=True):
        expected = square[:, ::-1] if mirror else square
        np.testing.assert_array_equal(pixels.permute(1, 2, 0).numpy(), expected)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
def test_gpu_and_cpu_augment_alike(photo):
    decoded = [*sources_of_many_sizes(), *decode_all([photo] * 8, CONFIG, 1, for_crops=True)]
    cpu, gpu = (
        augment(decoded, CONFIG, np.random.RandomState(0), torch.device(device))
        for device in ("cpu", "cuda")
    )
    assert gpu.device.type == "cuda"
    difference = (gpu.cpu().int() - cpu.int()).abs()
    assert difference.max() <= 1
    assert difference.float().mean() < 1e-3
    there, here = normalise(cpu, CONFIG, gpu.device), normalise(cpu, CONFIG, CPU)
    torch.testing.assert_close(there.cpu(), here)


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
    first = decode_all([str(path)], CONFIG, 1, for_crops=True)[0]
    assert not folder.exists()
    monkeypatch.setenv("SKCLIPSVD_IMAGE_CACHE", str(folder))
    clear_caches()
    decode_all([str(path)], CONFIG, 1)  # the view alone
    clear_caches()
    decode_all([str(path)], CONFIG, 1, for_crops=True)
    (kept,) = folder.rglob("*.npz")

    clear_caches()
    monkeypatch.setattr(
        "skclipsvd.images.decoding.open_rgb",
        lambda item, enough=None: pytest.fail("decoded again"),
    )
    again = decode_all([str(path)], CONFIG, 1, for_crops=True)[0]
    np.testing.assert_array_equal(again.view, first.view)
    np.testing.assert_array_equal(again.source, first.source)

    monkeypatch.undo()
    monkeypatch.setenv("SKCLIPSVD_IMAGE_CACHE", str(folder))
    for damage in (b"", b"not a zip file", kept.read_bytes()[:100]):
        kept.write_bytes(damage)
        clear_caches()
        np.testing.assert_array_equal(decode_all([str(path)], CONFIG, 1)[0].view, first.view)


@pytest.fixture
def pixels():
    return np.random.RandomState(0).randint(0, 256, (3, 20, 30, 3), dtype=np.uint8)


class OffersAnArray:
    """What zarr, xarray, CuPy's host arrays and others have in common."""

    def __init__(self, array):
        self.array = array
        self.shape, self.ndim, self.dtype = array.shape, array.ndim, array.dtype

    def __len__(self):
        return len(self.array)

    def __array__(self, dtype=None, copy=None):
        return np.array(self.array, dtype=dtype)


@pytest.mark.parametrize(
    "wrap",
    [
        torch.from_numpy,
        OffersAnArray,
        lambda x: list(torch.from_numpy(x)),
        lambda x: [OffersAnArray(one) for one in x],
        lambda x: torch.from_numpy(x).requires_grad_(False),
    ],
    ids=["tensor", "__array__", "list of tensors", "list of __array__", "frozen tensor"],
)
def test_what_becomes_an_array_is_one(pixels, wrap):
    expected = decode_all(as_items(pixels), CONFIG, 1)
    for one, other in zip(decode_all(as_items(wrap(pixels)), CONFIG, 1), expected, strict=True):
        np.testing.assert_array_equal(one.view, other.view)


def test_data_sets_of_h5py(pixels, tmp_path):
    h5py = pytest.importorskip("h5py", reason="no wheel of it for every Python")
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file["pixels"], file["one"], file["paths"] = pixels, pixels[0], ["a/1.png", "2.png"]
        expected = decode_all(as_items(pixels), CONFIG, 1)
        for X in (file["pixels"], [file["one"]]):
            for one, other in zip(decode_all(as_items(X), CONFIG, 1), expected, strict=False):
                np.testing.assert_array_equal(one.view, other.view)
        assert as_items(file["paths"].asstr()) == ["a/1.png", "2.png"]
        with pytest.raises(ValueError, match=r"text like a path; .*: pass 'a/1\.png'; X\[1\]"):
            decode_all(as_items(file["paths"]), CONFIG, 1)
        with pytest.raises(
            TypeError, match=r"X is a File; pass one of its entries: X\['one'\], X\['p"
        ):
            as_items(file)


@pytest.mark.parametrize(
    ("X", "message"),
    [
        (torch.zeros(2, 3, 8, 8, dtype=torch.uint8), r"permute\(0, 2, 3, 1\)"),
        (np.zeros((2, 3, 8, 8), np.float32), r"dtype float32.*transpose\(0, 2, 3, 1\)"),
        ([torch.zeros(3, 8, 8, dtype=torch.uint8)], r"X\[0\].*permute\(1, 2, 0\)"),
        (torch.zeros(2, 8, 8, 3, requires_grad=True), r"tensor\.detach\(\)\.cpu\(\)"),
        ([torch.zeros(8, 8, 3, requires_grad=True)], r"X\[0\] is a Tensor.*detach"),
        (torch.zeros(2, 8, 8, 3, dtype=torch.uint8, device="meta"), r"X is a Tensor.*\.cpu\(\)"),
    ],
    ids=["batch", "floats", "one", "gradient", "one with gradient", "of another device"],
)
def test_tensors_that_are_no_images_say_what_to_do(X, message):
    with pytest.raises((TypeError, ValueError), match=message):
        as_items(X)


def test_bytes_in_other_clothes(digits):
    content = Path(digits[0][0]).read_bytes()
    assert as_items([bytearray(content), memoryview(content)]) == [content, content]


@pytest.mark.parametrize("kind", [str, Path])
def test_the_home_folder_is_found(kind, digits, tmp_path, monkeypatch):
    """As every path of this package: in a list, an array, or what fit and predict are given."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    (tmp_path / "one.png").write_bytes(Path(digits[0][1]).read_bytes())
    clf = CLIPZeroShotClassifier("tiny").fit([kind("~/no such file")] * 2, ["zero", "one"])
    assert clf.predict([kind("~/one.png")]).tolist() == ["one"]
    assert as_items(np.array(["~/one.png"])) == [str(tmp_path / "one.png")]
    with pytest.raises(FileNotFoundError, match=re.escape(str(tmp_path / "two.png"))):
        clf.predict([kind("~/two.png")])
    monkeypatch.chdir(tmp_path)
    (tmp_path / "~$1").write_bytes((tmp_path / "one.png").read_bytes())  # nobody's home
    assert clf.predict(["~$1"]).tolist() == ["one"]
