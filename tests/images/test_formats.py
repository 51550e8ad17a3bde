"""Strangers' pictures: nothing is run, nothing hangs, and pixels are judged by themselves."""

import os
import random
import signal
import socket
import struct
import zlib
from collections import Counter
from contextlib import nullcontext
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.mutations import no_longer_than, peak_bytes
from open_clip.transform import PreprocessCfg
from PIL import EpsImagePlugin, Image, ImageFile
from sklearn.datasets import load_sample_image

from skclipsvd import clear_caches
from skclipsvd.exceptions import BitDepthWarning
from skclipsvd.image_files import DECODED_FORMATS
from skclipsvd.images import as_items, check_exist, decode_all, identity
from skclipsvd.images.preprocessing import view_transform

CONFIG = PreprocessCfg(size=32)


@pytest.fixture(scope="module")
def photo():
    return Image.fromarray(load_sample_image("flower.jpg")[100:325, 150:450])


def chunk(kind, content):
    checksum = struct.pack(">I", zlib.crc32(kind + content))
    return struct.pack(">I", len(content)) + kind + content + checksum


def png_bomb(width, height):
    """A PNG that says it has this size and holds a line of it."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def with_chunk(photo, kind, content, *, damaged=False):
    file = BytesIO()
    photo.save(file, "PNG")
    data, added = file.getvalue(), chunk(kind, content)
    if damaged:
        added = added[:-1] + bytes([added[-1] ^ 1])
    return data[:33] + added + data[33:]


def test_postscript_is_never_handed_to_another_program(tmp_path, monkeypatch, record_property):
    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", lambda *_, **__: pytest.fail("ran"))
    path = tmp_path / "photo.jpg"
    path.write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\n")
    for item in (str(path), path.read_bytes()):
        with pytest.raises(ValueError, match=r"X\[0\].*PostScript"):
            decode_all([item], CONFIG, 1)
    record_property("kinds of files that are no pictures", 1)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "is empty"),
        (b"no picture", "not an image file"),
        (bytes(4096), "not an image file"),
        (b"%PDF-1.7 and more", "PDF"),
        (b"\xc5\xd0\xd3\xc6 and more", "PostScript"),
        (b"\xd7\xcd\xc6\x9a and more", "WMF"),
        (b"\1\0\0\0 and more", "EMF"),
        (b"\x89HDF\r\n\x1a\n", "HDF5"),
        (b"GRIB and more", "GRIB"),
        (b"PK\3\4 and more", "ZIP"),
        (b"\n <svg xmlns='x'/>", "SVG"),
        (b"<?xml version='1.0'?>", "XML or SVG"),
        (b"<!doctype html>", "web page"),
        (b"<html><body>404", "web page"),
        (b"\x93NUMPY\1\0", "np.load"),
        (b"version https://git-lfs.github.com/spec/v1", "git lfs pull"),
        (b"\0\0\0\x18ftypheic0000", "pillow-heif"),
        (bytes(128) + b"DICM", "pydicom"),
    ],
)
def test_what_is_no_image_is_called_by_its_name(tmp_path, content, said, record_property):
    path = tmp_path / "photo.jpg"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=said):
        decode_all([str(path)], CONFIG, 1)
    record_property("kinds of files that are no pictures", 1)


def bombs():
    tiff = BytesIO()
    Image.new("1", (20_000, 10_000)).save(tiff, "TIFF", compression="group4")
    return {"png": png_bomb(30_000, 30_000), "tiff": tiff.getvalue()}


@pytest.mark.parametrize("kind", ["png", "tiff"])
def test_a_decompression_bomb_is_refused_before_it_is_loaded(kind, monkeypatch, record_property):
    content = bombs()[kind]
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda _: pytest.fail("loaded"))
    with pytest.raises(ValueError, match=r"X\[0\].*raise PIL\.Image\.MAX_IMAGE_PIXELS"):
        decode_all([content], CONFIG, 1)
    record_property("pictures made to take memory or time", 1)


def test_the_limit_of_pixels_is_pillows_own(photo, monkeypatch, fresh_caches):
    file = BytesIO()
    photo.save(file, "WEBP")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10_000)
    with pytest.raises(ValueError, match="67500 pixels"):
        decode_all([file.getvalue()], CONFIG, 1)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 67_500)
    assert decode_all([file.getvalue()], CONFIG, 1)[0].view.shape == (32, 32, 3)


@pytest.mark.parametrize("size", [(20_000, 1), (1, 20_001), (1, 1_000_000)])
def test_a_thin_image_takes_no_more_than_its_middle(size, monkeypatch, record_property):
    resized, original = [], Image.Image.resize

    def resize(self, size, *args, **kwargs):
        resized.append(size)
        return original(self, size, *args, **kwargs)

    monkeypatch.setattr(Image.Image, "resize", resize)
    view = view_transform(PreprocessCfg(size=224))(Image.new("RGB", size, "red"))
    assert view.size == (224, 224)
    assert max(max(s) for s in resized) <= 17 * 224
    assert (np.asarray(view) == (255, 0, 0)).all()
    record_property("pictures made to take memory or time", 1)


@pytest.mark.parametrize("size", [(1000, 20), (20, 1001), (640, 40), (641, 40)])
def test_the_middle_of_a_thin_image_is_open_clips_to_half_a_pixel(size):
    from open_clip.transform import image_transform_v2

    ramp = np.broadcast_to(np.linspace(0, 255, max(size)), (min(size), max(size)))
    ramp = ramp if size[0] > size[1] else ramp.T
    image = Image.fromarray(ramp.round().astype(np.uint8)).convert("RGB")
    ours = np.asarray(view_transform(CONFIG)(image)).astype(int)
    expected = image
    for step in image_transform_v2(CONFIG, is_train=False).transforms[:-2]:
        expected = step(expected)
    difference = np.abs(ours - np.asarray(expected)).max()
    assert difference <= 1
    if max(size) <= 16 * min(size):
        assert difference == 0


def test_pipes_sockets_and_devices_are_refused_by_kind(tmp_path, monkeypatch, record_property):
    monkeypatch.chdir(tmp_path)  # a socket's name is short
    os.mkfifo("pipe.jpg")
    server = socket.socket(socket.AF_UNIX)
    server.bind("socket.jpg")
    items = ["pipe.jpg", "socket.jpg", "/dev/zero", str(tmp_path)]
    signal.alarm(20)  # reading the pipe would wait for ever
    try:
        with pytest.raises(ValueError, match=r"4 image\(s\)") as caught:
            check_exist(items)
    finally:
        signal.alarm(0)
        server.close()
    for i, kind in enumerate(("is a pipe", "is a socket", "is a device", "is a folder")):
        assert f"X[{i}] = {items[i]!r}: {kind}" in str(caught.value)
    record_property("kinds of files that are no pictures", len(items))


def test_a_huge_file_is_not_read(tmp_path, record_property):
    path = tmp_path / "huge.tif"
    with path.open("wb") as file:
        file.truncate(3 * 2**30)  # takes no space
    with pytest.raises(ValueError, match=r"X\[0\].*3\.0 GiB"):
        decode_all([str(path)], CONFIG, 1)
    record_property("pictures made to take memory or time", 1)


def many_scans(side, n):
    """A progressive JPEG whose last scan, of a few bytes, stands there `n` times more.

    A decoder goes over all pixels for each.
    """
    file = BytesIO()
    Image.new("L", (side, side), 128).save(file, "JPEG", progressive=True, quality=5)
    data = file.getvalue()
    return data[:-2] + data[data.rindex(b"\xff\xc4") : -2] * n + data[-2:]


@pytest.mark.parametrize("form", ["file", "bytes"])
def test_a_small_file_that_takes_long_is_given_up(
    tmp_path, monkeypatch, fresh_caches, form, record_property
):
    monkeypatch.setenv("SKCLIPSVD_IMAGE_SECONDS", "1")
    paths = []
    for i, n_scans in enumerate((0, 2000)):  # the latter takes five
        paths.append(tmp_path / f"{i}.jpg")
        paths[i].write_bytes(many_scans(2000, n_scans))
    assert paths[1].stat().st_size < 200_000
    items = [str(path) if form == "file" else path.read_bytes() for path in paths]
    with pytest.raises(ValueError, match=r"1 image.*X\[1\].*more than 1 s to decode") as caught:
        decode_all(items, CONFIG, 1)
    assert "SKCLIPSVD_IMAGE_SECONDS" in str(caught.value)
    assert (decode_all(items[:1], CONFIG, 1)[0].view == 128).all()
    record_property("pictures made to take memory or time", 1)


@pytest.mark.parametrize("said", ["a minute", "-1", "0", "nan"])
def test_a_time_that_is_none_is_no_fault_of_the_images(photo, monkeypatch, fresh_caches, said):
    monkeypatch.setenv("SKCLIPSVD_IMAGE_SECONDS", said)
    with pytest.raises(ValueError, match=f"^SKCLIPSVD_IMAGE_SECONDS='{said}': give a number"):
        decode_all([photo], CONFIG, 1)


Image.init()
WRITTEN = sorted(DECODED_FORMATS & Image.SAVE.keys())


def in_format(photo, name):
    """A picture file of a format; None where this Pillow was built without it."""
    image = {"MSP": photo.convert("1"), "XBM": photo.convert("1"), "BLP": photo.convert("P"),
             "SPIDER": photo.convert("F"), "ICO": photo.resize((48, 48)),
             "ICNS": photo.resize((64, 64))}.get(name, photo)  # fmt: skip
    file = BytesIO()
    try:
        image.save(file, name)
    except (OSError, KeyError, ValueError):
        return None
    return file.getvalue()


@pytest.mark.slow
@pytest.mark.parametrize("name", WRITTEN)
@pytest.mark.filterwarnings("ignore")  # of sizes, depths and metadata; and of the format itself
def test_a_damaged_picture_is_shown_or_named(tmp_path, photo, name, record_property, fresh_caches):
    """Bits flipped, cut off, overwritten and longer: forty of every format that Pillow writes."""
    good = in_format(photo, name)
    if good is None:
        pytest.skip(f"Pillow was built without {name}")
    rng, path, peak, counts = random.Random(5), tmp_path / "photo", peak_bytes(), Counter()
    for turn in range(40):
        data = bytearray(good)
        at = rng.randrange(min(len(data), (64, 1000, len(data))[turn % 3]))
        if turn % 4 == 0:
            data[at] ^= 1 << rng.randrange(8)
        elif turn % 4 == 1:
            del data[at:]
        elif turn % 4 == 2:
            data[at : at + 8] = rng.choice([bytes(8), b"\xff" * 8, rng.randbytes(8)])
        else:
            data[at:at] = rng.randbytes(rng.choice([1, 4, 100]))
        path.write_bytes(data)
        with no_longer_than(120):
            try:
                view, said = decode_all([str(path)], CONFIG, 1)[0].view, None
            except ValueError as error:
                said = str(error)
        counts["shown" if said is None else "named"] += 1
        if said is None:
            assert view.shape == (32, 32, 3)
        else:
            assert said.startswith("1 image(s): cannot be decoded. Replace the files or leave")
            assert f"X[0] = {str(path)!r}: " in said
    assert peak_bytes() - peak < 2**30
    record_property("damaged pictures: formats", 1)
    for outcome, count in counts.items():
        record_property(f"damaged pictures: {outcome}", count)


def test_one_lazily_opened_picture_may_stand_in_many_rows(tmp_path, fresh_caches):
    big = Image.fromarray(load_sample_image("china.jpg")).resize((2000, 1500))
    big.save(tmp_path / "photo.jpg")
    expected = decode_all([str(tmp_path / "photo.jpg")], CONFIG, 1)[0].view
    for _ in range(3):
        clear_caches()
        with Image.open(tmp_path / "photo.jpg") as picture:
            decoded = decode_all([picture] * 16, CONFIG, 8)
        for one in decoded:
            np.testing.assert_array_equal(one.view, expected)


@pytest.mark.parametrize(
    ("kind", "content", "damaged"),
    [
        (b"eXIf", b"MM\0*\0\0\xff\xff broken", False),
        (b"eXIf", b"nonsense", False),
        (b"iCCP", b"name\0\x07not zlib", False),
        (b"iCCP", b"name\0\0not zlib", False),
        (b"tEXt", b"a\0b", True),
        (b"pHYs", b"\0", False),
    ],
)
def test_broken_metadata_does_not_condemn_the_pixels(photo, fresh_caches, kind, content, damaged):
    expected = decode_all([photo], CONFIG, 1)[0].view
    broken = with_chunk(photo, kind, content, damaged=damaged)
    np.testing.assert_array_equal(decode_all([broken], CONFIG, 1)[0].view, expected)


@pytest.mark.parametrize("top", [255, 4095])
@pytest.mark.parametrize("dtype", [np.uint16, np.int32])
def test_few_bits_in_a_wide_integer_are_not_darkened(top, dtype, fresh_caches):
    grey = np.linspace(0, 255, 64 * 64).reshape(64, 64).round().astype(np.uint8)
    wide = Image.fromarray((grey.astype(float) * top / 255).round().astype(dtype))
    with pytest.warns(BitDepthWarning, match=str(top)):
        shown = decode_all([wide], CONFIG, 1, for_crops=True)[0].source
    np.testing.assert_array_equal(shown, np.repeat(grey[..., None], 3, axis=2))


@pytest.mark.parametrize("dtype", [np.uint16, np.int32])
def test_sixteen_bits_are_scaled_in_silence(dtype, fresh_caches):
    """A larger value than twelve bits hold leaves nothing to guess."""
    values = np.array([[0, 257, 4096, 32896, 65535]], dtype).repeat(5, axis=0)
    shown = decode_all([Image.fromarray(values)], CONFIG, 1, for_crops=True)[0].source
    assert shown[0, :, 0].tolist() == [0, 1, 16, 128, 255]


@pytest.mark.parametrize("bits", [10, 14])
def test_depths_between_are_the_next_one_that_is_usual(bits, fresh_caches):
    top = 2**bits - 1
    values = np.array([[0, top]], np.uint16).repeat(2, axis=0)
    white = round(top * 255 / (4095 if bits <= 12 else 65535))
    told = pytest.warns(BitDepthWarning, match="4095") if bits <= 12 else nullcontext()
    with told:
        shown = decode_all([Image.fromarray(values)], CONFIG, 1, for_crops=True)[0].source
    assert shown[0, :, 0].tolist() == [0, white]


def test_what_converts_to_arrays_and_hugging_faces_dictionaries_are_taken(tmp_path, photo):
    pixels = np.asarray(photo)
    photo.save(tmp_path / "photo.png")
    path = str(tmp_path / "photo.png")
    kinds = [
        torch.from_numpy(pixels.copy()),
        {"bytes": Path(path).read_bytes(), "path": "elsewhere.png"},
        {"bytes": None, "path": path},
        photo,
    ]
    views = [d.view for d in decode_all(as_items(kinds), CONFIG, 2)]
    assert all((view == views[-1]).all() for view in views)
    stacked = torch.from_numpy(np.stack([pixels, pixels]))
    np.testing.assert_array_equal(np.stack(as_items(stacked)), stacked.numpy())
    with pytest.raises(TypeError, match=r"X is a Tensor.*cpu\(\)"):
        as_items(stacked.float().requires_grad_())
    with pytest.raises(ValueError, match=r"X\[0\].*permute\(1, 2, 0\)"):
        as_items([torch.zeros(3, 8, 8, dtype=torch.uint8)])
    with pytest.raises(ValueError, match=r"X\[1\].*missing"):
        as_items([photo, {"bytes": None, "path": None}])


def test_a_replaced_file_of_equal_size_and_time_is_another_image(tmp_path):
    path, other = tmp_path / "a.bmp", tmp_path / "b.bmp"
    Image.new("RGB", (8, 8), "red").save(path)
    before = path.stat()
    first = identity(str(path))
    Image.new("RGB", (8, 8), "blue").save(other)
    os.replace(other, path)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert path.stat().st_size == before.st_size
    assert identity(str(path)) != first


def test_memory_that_runs_out_does_not_condemn_the_file(photo, monkeypatch, fresh_caches):
    def load(self):
        raise MemoryError

    file = BytesIO()
    photo.save(file, "PNG")
    monkeypatch.setattr(ImageFile.ImageFile, "load", load)
    with pytest.raises(MemoryError, match=r"X\[1\]"):
        decode_all([np.asarray(photo), file.getvalue()], CONFIG, 1)


@pytest.mark.parametrize("error", [TimeoutError, RuntimeError])
def test_what_a_signal_handler_raises_is_not_a_bad_image(tmp_path, error, fresh_caches):
    Image.fromarray(load_sample_image("china.jpg")).resize((4000, 3001)).save(tmp_path / "a.png")

    def handler(*_):
        raise error("time is up")

    before = signal.signal(signal.SIGALRM, handler)
    signal.setitimer(signal.ITIMER_REAL, 0.05)
    try:
        with pytest.raises(error, match=r"^time is up$"):
            decode_all([str(tmp_path / "a.png")] * 3, CONFIG, 1, keep=False)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@pytest.mark.parametrize("damage", ["other shape", "other type", "flipped"])
def test_a_damaged_decoded_image_is_made_again(tmp_path, photo, fresh_caches, monkeypatch, damage):
    monkeypatch.setenv("SKCLIPSVD_IMAGE_CACHE", str(tmp_path / "decoded"))
    photo.save(tmp_path / "a.png")
    path = str(tmp_path / "a.png")
    first = decode_all([path], CONFIG, 1, for_crops=True)[0]
    (kept,) = (tmp_path / "decoded").rglob("*.npz")
    good = kept.read_bytes()
    damaged = [bytearray(good) for _ in range(60)]
    for i, data in enumerate(damaged):
        data[-1 - 11 * i] ^= 0xFF
    if damage == "other shape":
        np.savez(kept, key=kept.stem, view=first.view[:5], source=first.source)
        damaged = [kept.read_bytes()]
    elif damage == "other type":
        np.savez(kept, key=kept.stem, view=first.view.astype(float), source=first.source)
        damaged = [kept.read_bytes()]
    for data in damaged:
        kept.write_bytes(data)
        clear_caches()
        again = decode_all([path], CONFIG, 1, for_crops=True)[0]
        np.testing.assert_array_equal(again.view, first.view)
        np.testing.assert_array_equal(again.source, first.source)


def test_each_path_is_looked_at_once(tmp_path, photo, fresh_caches, monkeypatch):
    photo.save(tmp_path / "a.png")
    path, looked, original = str(tmp_path / "a.png"), [], os.stat

    def watched(target, *args, **kwargs):
        looked.append(target)
        return original(target, *args, **kwargs)

    monkeypatch.setattr(os, "stat", watched)
    decode_all([path], CONFIG, 1)
    assert looked.count(path) == 1


def test_a_folder_that_may_not_be_entered_is_no_missing_file(tmp_path, monkeypatch):
    path = tmp_path / "a.png"
    Image.new("RGB", (8, 8)).save(path)
    stat = os.stat

    def refuse(name, **options):
        if name == str(path):
            raise PermissionError(13, "Permission denied")
        return stat(name, **options)

    monkeypatch.setattr(os, "stat", refuse)  # the tests may run as root, whom nothing is refused
    with pytest.raises(ValueError, match=r"X\[0\] = .*a\.png'?: you may not read"):
        check_exist([str(path)])
