"""Damaged, shared and emptied caches; files that change between the look at them and the read."""

import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

import skclipsvd
import skclipsvd.images.decoding as decoding
from skclipsvd import CLIPSVDClassifier, CLIPZeroShotClassifier, load_adapter
from skclipsvd.images import formats
from tests.helpers.operations import contents, leftovers, nothing_is_left, same

FAST = dict(max_steps=1, lr=0.01, augment=False, random_state=0, device="cpu")


def empty(file, good, _):
    file.write_bytes(b"")


def truncate(file, good, turn):
    file.write_bytes(good[: len(good) * turn // 20])


def flip_a_bit(file, good, turn):
    data = bytearray(good)
    data[(turn * 7919) % len(data)] ^= 1 << turn % 8
    file.write_bytes(data)


def zeros(file, good, turn):
    start = len(good) * turn // 20
    file.write_bytes(good[:start] + bytes(len(good) - start))


def another(file, good, turn):
    others = [f for f in sorted(file.parent.parent.rglob(f"*{file.suffix}")) if f != file]
    file.write_bytes(others[turn % len(others)].read_bytes())


def a_folder(file, good, _):
    file.unlink()
    file.mkdir()


def a_pipe(file, good, _):
    file.unlink()
    os.mkfifo(file)


def a_dead_link(file, good, _):
    file.unlink()
    file.symlink_to(file.parent / "nowhere")


DAMAGES = [empty, truncate, flip_a_bit, zeros, another, a_folder, a_pipe, a_dead_link]


def damage_and_fit(cold_fit, folder, damage, suffix, n_turns):
    answer = cold_fit()
    files = sorted(folder.rglob(f"*{suffix}"))
    made = contents(folder)
    for turn in range(n_turns):
        file = files[turn % len(files)]
        damage(file, made[str(file)], turn)
        with nothing_is_left():
            same(cold_fit(), answer)
        assert not leftovers(folder)
        if damage is a_folder:
            file.rmdir()
            cold_fit()
        elif damage is a_dead_link:
            (file.parent / "nowhere").unlink()
            file.unlink()
            cold_fit()
        assert contents(folder).keys() == made.keys()
        same(cold_fit(), answer)


@pytest.mark.parametrize("suffix", [".safetensors", ".npz"])
@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_cache_changes_no_answer(cold_fit, disk, damage, suffix, record_property):
    damage_and_fit(cold_fit, disk.folder, damage, suffix, 1)
    record_property("damages of cached files", 1)


@pytest.mark.slow
@pytest.mark.parametrize("suffix", [".safetensors", ".npz"])
@pytest.mark.parametrize("damage", [truncate, flip_a_bit, zeros, another])
def test_no_damage_to_a_cache_changes_an_answer(cold_fit, disk, damage, suffix, record_property):
    damage_and_fit(cold_fit, disk.folder, damage, suffix, 20)
    record_property("damages of cached files", 20)


COLD_START = """
import hashlib, sys
import numpy as np
from skclipsvd import CLIPSVDClassifier
from skclipsvd.adaptation import factors

factors.MIN_RANK_ON_DISK = 32
model, *paths = sys.argv[1:]
clf = CLIPSVDClassifier(model, max_steps=2, lr=0.01, augment=False, random_state=0, device="cpu")
clf.fit(paths, np.arange(len(paths)) % 2)
print(hashlib.sha256(clf.predict_proba(paths).tobytes()).hexdigest())
"""


@pytest.mark.slow
@pytest.mark.parametrize("n_processes", [2, 4])
def test_processes_that_start_on_an_empty_cache_agree(
    small_model, photographs, tmp_path, n_processes
):
    folders = {"SKCLIPSVD_CACHE": tmp_path / "a", "SKCLIPSVD_IMAGE_CACHE": tmp_path / "b"}
    environment = os.environ | {name: str(path) for name, path in folders.items()}
    environment |= {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    command = [sys.executable, "-c", COLD_START, small_model, *photographs[0][:8]]
    started = [
        subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
        for _ in range(n_processes)
    ]
    answers = {process.communicate(timeout=500)[0] for process in started}
    assert [process.returncode for process in started] == [0] * n_processes
    assert len(answers) == 1
    assert not leftovers(tmp_path)
    again = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert {again.stdout} == answers


@pytest.mark.parametrize("n_threads", [4])
def test_caches_may_be_cleared_while_others_predict(
    small_model, photographs, fresh_caches, n_threads
):
    paths, labels = (column[::4] for column in photographs)
    pair = [
        CLIPSVDClassifier(small_model, **FAST | {"lr": lr}).fit(paths, labels) for lr in (1e-2, 1)
    ]
    expected = [clf.predict_proba(paths) for clf in pair]
    done = threading.Event()

    def clear():
        while not done.wait(0.002):
            skclipsvd.clear_caches()

    with nothing_is_left():
        clearing = threading.Thread(target=clear)
        clearing.start()
        try:
            with ThreadPoolExecutor(n_threads) as pool:
                found = list(pool.map(lambda turn: pair[turn % 2].predict_proba(paths), range(40)))
        finally:
            done.set()
            clearing.join()
    for turn, probabilities in enumerate(found):
        same(probabilities, expected[turn % 2])


# --- files that change between the look at them and the read


def vanishes(path):
    path.unlink()


def shrinks(path):
    os.truncate(path, path.stat().st_size // 2)


def is_emptied(path):
    os.truncate(path, 0)


def becomes_a_folder(path):
    path.unlink()
    path.mkdir()


def becomes_a_pipe(path):
    path.unlink()
    os.mkfifo(path)


CHANGES = {
    vanishes: "vanished",
    shrinks: "truncated|cannot be decoded",
    is_emptied: "is empty",
    becomes_a_folder: "is a folder|Is a directory",
    becomes_a_pipe: "is a pipe",
}


@pytest.fixture
def pictures(tmp_path, photographs):
    """Copies that a test may destroy."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    for i, path in enumerate(photographs[0][::4]):
        (folder / f"{i}.jpg").write_bytes(Path(path).read_bytes())
    return sorted(folder.iterdir())


def change_after_the_look(monkeypatch, path, change):
    """Let a file change just before it is read, once."""
    original, turns = decoding.open_rgb, [None]

    def changed(item, *args, **kwargs):
        if item == str(path) and turns:
            turns.pop()
            change(path)
        return original(item, *args, **kwargs)

    monkeypatch.setattr(decoding, "open_rgb", changed)


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("method", ["fit", "predict"])
def test_an_image_that_changes_meanwhile_is_named(
    small_model, pictures, monkeypatch, fresh_caches, change, method, record_property
):
    X, y = [str(path) for path in pictures], ["a", "b", "a", "b", "a"]
    clf = CLIPSVDClassifier(small_model, **FAST).fit(X, y)
    before = clf.predict_proba(X)
    skclipsvd.clear_caches()
    good = pictures[3].read_bytes()
    change_after_the_look(monkeypatch, pictures[3], change)
    with nothing_is_left(), pytest.raises(ValueError, match=rf"X\[3\].*({CHANGES[change]})"):
        clf.fit(X, y) if method == "fit" else clf.predict(X)
    if pictures[3].is_dir():
        pictures[3].rmdir()
    pictures[3].unlink(missing_ok=True)
    pictures[3].write_bytes(good)
    same(clf.predict_proba(X), before)
    record_property("files that change between the look and the read", 1)


def test_an_image_that_is_another_meanwhile_is_that_one(
    small_model, pictures, monkeypatch, fresh_caches, record_property
):
    X = [str(path) for path in pictures]
    clf = CLIPZeroShotClassifier(small_model).fit(None, ["a", "b"])
    answers = clf.predict_proba(X)

    def is_replaced(path):
        os.replace(pictures[0], path)

    skclipsvd.clear_caches()
    change_after_the_look(monkeypatch, pictures[3], is_replaced)
    same(clf.predict_proba(X[3:4]), answers[:1])
    same(clf.predict_proba(X[3:4]), answers[:1])
    record_property("files that change between the look and the read", 1)


def test_a_file_that_is_cut_off_while_it_is_decoded_ends_no_process(
    tmp_path, monkeypatch, fresh_caches, record_property
):
    """Pillow maps plain bitmaps into memory where it knows their names."""
    path = tmp_path / "plain.bmp"
    Image.fromarray(np.full((2000, 2000, 3), 9, np.uint8)).convert("L").save(path)
    original = ImageOps.exif_transpose  # which comes when the pixels are there

    def cut_off(image, **options):
        os.truncate(path, 100)
        return original(image, **options)

    monkeypatch.setattr(ImageOps, "exif_transpose", cut_off)
    assert (np.asarray(formats.open_rgb(str(path))) == 9).all()
    record_property("files that change between the look and the read", 1)


@pytest.mark.parametrize("change", [vanishes, shrinks, is_emptied, becomes_a_folder])
def test_an_adapter_that_changes_meanwhile_is_an_error(
    small_model, tmp_path, monkeypatch, change, record_property
):
    path = tmp_path / "a.safetensors"
    clf = CLIPZeroShotClassifier(small_model).fit(None, ["a", "b"])
    clf.save_adapter(path)
    original = Path.is_file

    def is_file(self):
        answer = original(self)
        if self == path:
            change(path)
        return answer

    with monkeypatch.context() as patch, nothing_is_left():
        patch.setattr(Path, "is_file", is_file)
        with pytest.raises((ValueError, FileNotFoundError), match=r"a\.safetensors"):
            load_adapter(path, small_model)
    if path.is_dir():
        path.rmdir()
    clf.save_adapter(path)
    assert load_adapter(path, small_model).classes_.tolist() == ["a", "b"]
    record_property("files that change between the look and the read", 1)
