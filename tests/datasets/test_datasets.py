"""The demo data, and readers of other people's folders and lists."""

import json
import os
import re
import stat
import threading
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from skclipsvd import datasets
from skclipsvd.caching.files import cache_dir
from skclipsvd.datasets import (
    Dataset,
    load,
    load_folder,
    load_handwritten_digits,
)
from skclipsvd.datasets.published import LAYOUTS
from skclipsvd.exceptions import SkippedFilesWarning

NAMES = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]

JSON_SETS = {
    "caltech101": ("caltech-101/101_ObjectCategories", "split_zhou_Caltech101.json"),
    "dtd": ("dtd/images", "split_zhou_DescribableTextures.json"),
    "eurosat": ("eurosat/2750", "split_zhou_EuroSAT.json"),
    "food101": ("food-101/images", "split_zhou_Food101.json"),
    "oxford_flowers": ("oxford_flowers/jpg", "split_zhou_OxfordFlowers.json"),
    "oxford_pets": ("oxford_pets/images", "split_zhou_OxfordPets.json"),
    "stanford_cars": ("stanford_cars", "split_zhou_StanfordCars.json"),
    "sun397": ("sun397/SUN397", "split_zhou_SUN397.json"),
    "ucf101": ("ucf101/UCF-101-midframes", "split_zhou_UCF101.json"),
    "btmri": ("BTMRI/BTMRI", "split_BTMRI.json"),
    "busi": ("BUSI/BUSI", "split_BUSI.json"),
    "chmnist": ("CHMNIST/CHMNIST", "split_CHMNIST.json"),
    "covid": ("COVID_19/COVID_19", "split_COVID_19.json"),
    "ctkidney": ("CTKidney/CTKidney", "split_CTKidney.json"),
    "kneexray": ("KneeXray/KneeXray", "split_KneeXray.json"),
    "kvasir": ("Kvasir/Kvasir", "split_Kvasir.json"),
    "lungcolon": ("LungColon/LungColon", "split_LungColon.json"),
    "octmnist": ("OCTMNIST/OCTMNIST", "split_OCTMNIST.json"),
    "retina": ("RETINA/RETINA", "split_RETINA.json"),
}
TEST_SETS = {
    "imagenet_sketch": "imagenet-sketch/images",
    "imagenet_a": "imagenet-adversarial/imagenet-a",
    "imagenet_r": "imagenet-rendition/imagenet-r",
}

# Class names with underscores, spaces, accents and a slash; files nested and in capitals.
ENTRIES = {
    "train": [
        ["a b/größe 1.JPG", 1, "border_collie"],
        ["deep/er/2.jpeg", 0, "Äpfel & Birnen"],
        ["猫/3.PNG", 2, "F/A-18"],
    ],
    "val": [["val 4.png", 0, "Äpfel & Birnen"]],
    "test": [["deep/5.png", 1, "border_collie"], ["猫/6.Jpg", 2, "F/A-18"]],
}


def touch(root, *names):
    for name in names:
        path = Path(root, name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def write_split(folder, images, file, entries=ENTRIES):
    touch(folder / images, *(path for part in entries.values() for path, *_ in part))
    path = Path(folder, *Path(images).parts[:1], file)
    path.write_text(json.dumps(entries, ensure_ascii=False), encoding="utf-8")
    return path


def relative(split, root):
    return [Path(path).relative_to(root).as_posix() for path in split.paths]


# --- handwritten digits


def test_digits_are_the_pixels_of_scikit_learn(tmp_path):
    paths, labels = load_handwritten_digits(cache_dir=tmp_path / "new folder")
    bunch = load_digits()
    assert len(paths) == len(set(paths)) == len(labels) == 1797
    assert labels.tolist() == [NAMES[digit] for digit in bunch.target]
    for path, image in list(zip(paths, bunch.images, strict=True))[::20]:
        with Image.open(path) as opened:
            assert (opened.mode, opened.size, opened.format) == ("L", (8, 8), "PNG")
            expected = [[round(v * 255 / 16) for v in row] for row in image]
            np.testing.assert_array_equal(np.asarray(opened), expected)
    assert load_folder(Path(paths[0]).parents[1]).class_names == tuple(sorted(NAMES))


def test_digits_are_written_once_and_repaired(tmp_path):
    paths, _ = load_handwritten_digits(cache_dir=tmp_path)
    before = {path: os.stat(path).st_mtime_ns for path in paths}
    content = Path(paths[5]).read_bytes()
    os.unlink(paths[3])
    Path(paths[5]).write_bytes(content[:40])
    Path(paths[9]).write_bytes(b"")
    again, _ = load_handwritten_digits(cache_dir=tmp_path)
    assert again == paths
    assert Path(paths[5]).read_bytes() == content
    changed = [i for i, path in enumerate(paths) if os.stat(path).st_mtime_ns != before[path]]
    assert changed == [3, 5, 9]
    assert not list(tmp_path.rglob(".*"))


def test_digits_by_many_at_once(tmp_path):
    results = []
    threads = [
        threading.Thread(target=lambda: results.append(load_handwritten_digits(cache_dir=tmp_path)))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 4
    assert len([p for p in tmp_path.rglob("*") if p.is_file()]) == 1797


def test_digits_where_nothing_can_be_written(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="pass cache_dir=, or set SKCLIPSVD_CACHE"):
        load_handwritten_digits(cache_dir=tmp_path / "file")


def test_complete_digits_are_only_read(tmp_path):
    paths, _ = load_handwritten_digits(cache_dir=tmp_path)
    folders = [path for path in tmp_path.rglob("*") if path.is_dir()]
    for folder in folders:
        folder.chmod(stat.S_IRUSR | stat.S_IXUSR)
    try:
        assert load_handwritten_digits(cache_dir=tmp_path)[0] == paths
    finally:
        for folder in folders:
            folder.chmod(stat.S_IRWXU)


def test_cache_dir(monkeypatch, tmp_path):
    monkeypatch.setenv("SKCLIPSVD_CACHE", str(tmp_path))
    assert cache_dir() == tmp_path
    assert load_handwritten_digits()[0][0].startswith(str(tmp_path))
    monkeypatch.setenv("SKCLIPSVD_CACHE", "")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr("sys.platform", "linux")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_dir() == tmp_path / "xdg" / "skclipsvd"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    assert cache_dir() == tmp_path / ".cache" / "skclipsvd"
    monkeypatch.setattr("sys.platform", "darwin")
    assert cache_dir() == tmp_path / "Library" / "Caches" / "skclipsvd"
    monkeypatch.setattr("sys.platform", "win32")
    monkeypatch.setenv("LOCALAPPDATA", str(tmp_path / "local"))
    assert cache_dir() == tmp_path / "local" / "skclipsvd"
    monkeypatch.delenv("LOCALAPPDATA")
    assert cache_dir() == tmp_path / "AppData" / "Local" / "skclipsvd"
    assert not (tmp_path / "local").exists()


# --- anybody's folder


def test_folder_tree(tmp_path):
    root = tmp_path / "my images"
    touch(root, "cat/b.JPG", "cat/a.jpeg", "cat/deep er/ö.WebP", "Bär/1.Png", "cat/notes.txt")
    touch(root, "cat/.hidden.png", ".git/x.png", "cat/.thumbs/1.png", "readme.md", "empty/x.txt")
    skipped = r"skipped 2 files .*\(2 x \.txt\).*Not classes.*: empty \(1\)"
    with pytest.warns(SkippedFilesWarning, match=skipped):
        dataset = load_folder(root)
    assert isinstance(dataset, Dataset)
    assert dataset.name == "my images"
    assert dataset.class_names == ("Bär", "cat")
    split = dataset.splits["all"]
    assert relative(split, root) == ["Bär/1.Png", "cat/a.jpeg", "cat/b.JPG", "cat/deep er/ö.WebP"]
    assert split.labels.tolist() == ["Bär", "cat", "cat", "cat"]
    assert split.targets.tolist() == [0, 1, 1, 1]
    assert len(split) == 4
    assert repr(split) == "Split(4 images, 2 classes)"


def test_folder_follows_links_but_not_in_circles(tmp_path):
    touch(tmp_path, "root/cat/1.png", "elsewhere/2.png")
    try:
        (tmp_path / "root/dog").symlink_to(tmp_path / "elsewhere")
        (tmp_path / "root/cat/again").symlink_to(tmp_path / "root/cat")
    except OSError:
        pytest.skip("no symbolic links here")
    dataset = load_folder(tmp_path / "root")
    assert relative(dataset.splits["all"], tmp_path / "root") == ["cat/1.png", "dog/2.png"]


def test_folder_errors(tmp_path, monkeypatch):
    with pytest.raises(FileNotFoundError, match="none does not exist; expected the folder"):
        load_folder(tmp_path / "none")
    with pytest.raises(ValueError, match=r"No images in .*one folder per class"):
        load_folder(tmp_path)
    touch(tmp_path, "train/cat/1.png")
    monkeypatch.chdir(tmp_path)
    assert Path(load_folder("train").splits["all"].paths[0]).is_absolute()
    touch(tmp_path, "train/loose.jpg")
    with pytest.raises(ValueError, match=r"loose\.jpg is not in a class folder"):
        load_folder("train")


@pytest.mark.parametrize(
    ("folders", "parts"),
    [
        (("Training", "Testing"), ("train", "test")),
        (("Train", "TEST"), ("train", "test")),
        (("seg_train", "seg_test"), ("train", "test")),
        (("train", "dev"), ("train", "val")),
        (("Validation", "test_set"), ("val", "test")),
        (("training",), ("train",)),
    ],
)
def test_parts_are_no_classes_however_they_are_spelt(tmp_path, folders, parts):
    touch(tmp_path, *(f"{folder}/{name}/1.png" for folder in folders for name in ("dog", "cat")))
    dataset = load_folder(tmp_path)
    assert tuple(dataset.splits) == parts
    assert dataset.class_names == ("cat", "dog")
    for folder, part in zip(folders, parts, strict=True):
        split = dataset.splits[part]
        assert relative(split, tmp_path) == [f"{folder}/cat/1.png", f"{folder}/dog/1.png"]
        assert split.targets.tolist() == [0, 1]


def test_parts_of_a_tree_share_the_numbers_of_their_classes(tmp_path):
    touch(tmp_path, "train/b/1.png", "train/c/1.png", "test/a/1.png", "test/c/1.png")
    dataset = load_folder(tmp_path)
    assert dataset.class_names == ("a", "b", "c")
    assert dataset.splits["test"].targets.tolist() == [0, 2]
    assert dataset.splits["train"].labels.tolist() == ["b", "c"]


def test_what_is_no_part_of_a_tree_is_told(tmp_path):
    touch(tmp_path, "train/a/1.png", "test/a/1.png", "masks/a/1.png")
    with pytest.warns(SkippedFilesWarning, match="the parts of a data set; left out: masks"):
        assert set(load_folder(tmp_path).splits) == {"train", "test"}
    touch(tmp_path, "cover.jpg", "Thumbs.db", ".DS_Store", "notes.txt")
    with pytest.warns(SkippedFilesWarning, match=r"left out: masks, cover\.jpg\.$"):
        dataset = load_folder(tmp_path)
    assert relative(dataset.splits["train"], tmp_path) == ["train/a/1.png"]
    touch(tmp_path / "drug", "test/1.png", "control/1.png")
    assert load_folder(tmp_path / "drug").class_names == ("control", "test")


def test_parts_of_a_tree_errors(tmp_path):
    touch(tmp_path / "twice", "train/a/1.png", "Training/a/1.png")
    with pytest.raises(ValueError, match=r"mean the same part .*load each by itself"):
        load_folder(tmp_path / "twice")
    touch(tmp_path / "case", "train/Cat/1.png", "test/cat/1.png")
    with pytest.raises(ValueError, match=r"has the class folders 'Cat' and 'cat'"):
        load_folder(tmp_path / "case")
    touch(tmp_path / "loose", "train/a/1.png", "test/1.png")
    with pytest.raises(ValueError, match=r"1\.png is not in a class folder"):
        load_folder(tmp_path / "loose")


def test_paths_and_labels_in_one_line(tmp_path):
    touch(tmp_path, "plain/cat/1.png", "plain/dog/1.png", "tree/train/a/1.png", "tree/test/b/1.png")
    paths, labels = load_folder(tmp_path / "plain", return_X_y=True)
    assert [Path(path).parent.name for path in paths] == labels.tolist() == ["cat", "dog"]
    paths, labels = load_folder(tmp_path / "tree", return_X_y=True, part="test")
    assert labels.tolist() == ["b"]
    with pytest.raises(ValueError, match=r"parts train, test; got part=None\. Name one"):
        load_folder(tmp_path / "tree", return_X_y=True)
    with pytest.raises(ValueError, match=r"the part all; got part='test'"):
        load_folder(tmp_path / "plain", return_X_y=True, part="test")
    with pytest.raises(ValueError, match="for return_X_y=True"):
        load_folder(tmp_path / "plain", part="all")


def test_folders_that_all_hold_the_same_folders(tmp_path):
    touch(tmp_path, *(f"site/{s}/{n}/1.png" for s in ("a", "b") for n in ("cat", "dog")))
    with pytest.raises(ValueError, match=r"the same folders, cat, dog, .*load each by itself"):
        load_folder(tmp_path / "site")
    touch(tmp_path, *(f"mixed/{n}/{s}/1.png" for s in ("test", "train") for n in ("cat", "dog")))
    with pytest.raises(ValueError, match=r"Every class folder .* holds the folders test, train"):
        load_folder(tmp_path / "mixed")
    touch(tmp_path, "fine/cat/images/1.png", "fine/dog/images/1.png")
    assert load_folder(tmp_path / "fine").class_names == ("cat", "dog")


def test_every_extension_of_pillow_and_no_folder_of_the_system(tmp_path):
    touch(tmp_path, "cat/a.jfif", "cat/b.JP2", "dog/c.TGA", "dog/d.Jpe")
    touch(tmp_path, "@eaDir/cat/x.png", "__MACOSX/cat/x.png", "cat/@eaDir/x.png", "dog/Thumbs.db")
    dataset = load_folder(tmp_path)
    assert dataset.class_names == ("cat", "dog")
    names = ["cat/a.jfif", "cat/b.JP2", "dog/c.TGA", "dog/d.Jpe"]
    assert relative(dataset.splits["all"], tmp_path) == names


def test_csv_names_file_encoding_and_spellings(tmp_path):
    touch(tmp_path, "a/1.png")
    file = tmp_path / "list.csv"
    for content, message in (
        ("path,label\nö.png,a\n".encode("latin-1"), r"list\.csv is not a CSV file in UTF-8"),
        (b"path;label\n1.png;a\n", "Write commas between them"),
        (b"path,label\na/1.png,cat\na/1.png,Cat \n", "labels 'Cat ' and 'cat'"),
        (b"path,label,split\na/1.png,c,test\na/1.png,c,test \n", "parts 'test' and 'test '"),
    ):
        file.write_bytes(content)
        with pytest.raises(ValueError, match=message):
            load_folder(tmp_path, split=file)
    file.write_bytes(b"path,label\na\\1.png,cat\n")
    if os.sep == "/":
        with pytest.raises(FileNotFoundError, match="backslashes, as on Windows"):
            load_folder(tmp_path, split=file)


@pytest.mark.parametrize("name", ["1.heic", "scan", "1.HEIF", "1.jpg.part"])
def test_a_class_that_is_skipped_as_a_whole_is_told(tmp_path, name):
    """By name, with the number of its files and their extension."""
    touch(tmp_path, "cat/1.png", f"dog/{name}", f"dog/more/{name}")
    kind = re.escape(Path(name).suffix.lower() or "no extension")
    said = rf"skipped 2 files .*\(2 x {kind}\), first .*dog.*Not classes.*: dog \(1\)"
    with pytest.warns(SkippedFilesWarning, match=said):
        assert load_folder(tmp_path).class_names == ("cat",)


@pytest.mark.parametrize("other", ["Train", "train ", "TRAIN", " train"])
def test_parts_of_near_equal_names_in_json_are_refused(tmp_path, other):
    touch(tmp_path, "1.png")
    entries = {part: [["1.png", 0, "a"]] for part in ("train", other)}
    (tmp_path / "split.json").write_text(json.dumps(entries))
    with pytest.raises(ValueError, match=f"the parts 'train' and '{other}'"):
        load_folder(tmp_path, split=tmp_path / "split.json")


def test_json_split(tmp_path):
    file = write_split(tmp_path, "images", "split.JSON")
    dataset = load_folder(tmp_path / "images", split=file)
    assert dataset.class_names == ("Äpfel & Birnen", "border_collie", "F/A-18")
    assert list(dataset.splits) == ["train", "val", "test"]
    train = dataset.splits["train"]
    assert relative(train, tmp_path / "images") == [path for path, *_ in ENTRIES["train"]]
    assert train.targets.tolist() == [1, 0, 2]
    assert train.labels.tolist() == ["border_collie", "Äpfel & Birnen", "F/A-18"]


def test_two_numbers_may_share_a_name(tmp_path):
    entries = {"train": [["1.png", 7, "missile"], ["2.png", 3, "missile"]], "test": []}
    dataset = load_folder(tmp_path, split=write_split(tmp_path, ".", "split.json", entries))
    assert dataset.class_names == ("missile", "missile")
    assert dataset.splits["train"].targets.tolist() == [1, 0]
    assert len(dataset.splits["test"]) == 0


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "not valid JSON"),
        ("[]", "must hold an object"),
        ('{"train": 5}', "'train' in .* must be a list; got int"),
        ('{"train": []}', "lists no images"),
        ('{"train": [["1.png", 0, "a"], ["1.png", 0]]}', r"train\[1\] in .* must be \[path"),
        ('{"train": [["1.png", "x", "a"]]}', r"train\[0\] in .* must be \[path"),
        ('{"train": [["1.png", 0, "a"], ["1.png", 0, "b"]]}', "one name"),
    ],
)
def test_json_errors(tmp_path, content, message):
    touch(tmp_path, "1.png")
    (tmp_path / "split.json").write_text(content)
    with pytest.raises(ValueError, match=message):
        load_folder(tmp_path, split=tmp_path / "split.json")


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_csv(tmp_path, encoding):
    touch(tmp_path, "ä b/1.PNG", "2.png", "3.png")
    file = tmp_path / "list.csv"
    rows = 'path,label,split\nä b/1.PNG,"big, cat",train\n2.png,dog,train\n3.png,dog,test\n'
    file.write_text(rows, encoding=encoding)
    dataset = load_folder(tmp_path, split=str(file))
    assert dataset.class_names == ("big, cat", "dog")
    assert {k: s.labels.tolist() for k, s in dataset.splits.items()} == {
        "train": ["big, cat", "dog"],
        "test": ["dog"],
    }
    file.write_text("label,path\ndog,2.png\n", encoding=encoding)
    assert list(load_folder(tmp_path, split=file).splits) == ["all"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("file,label\n1.png,a\n", r"columns path and label; it has \['file', 'label'\]"),
        ("", "columns path and label"),
        ("path,label\n", "lists no images"),
        ("path,label\n1.png,a\n1.png,\n", "Line 3 of .* has no path or no label"),
    ],
)
def test_csv_errors(tmp_path, content, message):
    touch(tmp_path, "1.png")
    (tmp_path / "list.csv").write_text(content)
    with pytest.raises(ValueError, match=message):
        load_folder(tmp_path, split=tmp_path / "list.csv")


def test_missing_and_unknown_lists(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"list\.csv does not exist"):
        load_folder(tmp_path, split=tmp_path / "list.csv")
    with pytest.raises(ValueError, match=r"\.json or \.csv file"):
        load_folder(tmp_path, split=tmp_path / "list.txt")
    (tmp_path / "list.csv").write_text("path,label\n" + "".join(f"{i}.png,a\n" for i in range(9)))
    with pytest.raises(FileNotFoundError, match=r"9 of the 9 images in .*list\.csv") as e:
        load_folder(tmp_path, split=tmp_path / "list.csv")
    assert "0.png" in str(e.value)
    assert "4.png" in str(e.value)
    assert "5.png" not in str(e.value)


# --- published data sets


@pytest.mark.parametrize("name", JSON_SETS)
def test_published_split_files(tmp_path, name):
    images, file = JSON_SETS[name]
    write_split(tmp_path, images, file)
    dataset = load(name, tmp_path)
    assert dataset.name == name
    assert dataset.class_names == ("Äpfel & Birnen", "border collie", "F/A-18")
    assert {k: relative(s, tmp_path / images) for k, s in dataset.splits.items()} == {
        part: [path for path, *_ in entries] for part, entries in ENTRIES.items()
    }
    assert dataset.splits["test"].labels.tolist() == ["border collie", "F/A-18"]
    os.unlink(tmp_path / images / "deep/5.png")
    with pytest.raises(FileNotFoundError, match=r"1 of the 6 images in .*json.*missing.*"):
        load(name, tmp_path)
    os.unlink(tmp_path / Path(images).parts[0] / file)
    with pytest.raises(FileNotFoundError, match=re.escape(file)):
        load(name, tmp_path)


def test_folder_names_of_clip_lora(tmp_path):
    write_split(tmp_path, "Flower102/jpg", "split_zhou_OxfordFlowers.json")
    assert len(load("oxford_flowers", tmp_path).splits["train"]) == 3


def test_aircraft(tmp_path):
    folder = tmp_path / "fgvc_aircraft"
    touch(folder, "images/0001.jpg", "images/0002.jpg", "images/0003.jpg")
    (folder / "variants.txt").write_text("707-320\nF/A-18\nDC-8 x\n")
    (folder / "images_variant_train.txt").write_text("0002 DC-8 x\n")
    (folder / "images_variant_val.txt").write_text("0001 707-320\n")
    (folder / "images_variant_test.txt").write_text("0003 F/A-18\n0001 707-320\n")
    dataset = load("fgvc_aircraft", tmp_path)
    assert dataset.class_names == ("707-320", "F/A-18", "DC-8 x")
    assert dataset.splits["test"].labels.tolist() == ["F/A-18", "707-320"]
    assert dataset.template == "a photo of a {}, a type of aircraft."
    (folder / "images_variant_val.txt").write_text("0001 747\n")
    with pytest.raises(ValueError, match=r"the class '747' is not in .*variants\.txt"):
        load("fgvc_aircraft", tmp_path)
    os.unlink(folder / "images_variant_val.txt")
    with pytest.raises(FileNotFoundError, match=r"images_variant_val\.txt does not exist"):
        load("fgvc_aircraft", tmp_path)


CLASS_NAMES = "n01 tench\nn02 great white shark\nn03 kite (bird of prey)\n"


def test_imagenet(tmp_path):
    folder = tmp_path / "imagenet"
    touch(folder, "images/train/n01/1.JPEG", "images/train/n02/1.JPEG", "images/train/n03/1.JPEG")
    touch(folder, "images/val/n01/9.JPEG", "images/val/n02/9.JPEG")
    (folder / "classnames.txt").write_text(CLASS_NAMES)
    with pytest.raises(FileNotFoundError, match=r"n03 does not exist.*'kite \(bird of prey\)'"):
        load("imagenet", tmp_path)
    (folder / "images/val/n03").mkdir()
    with pytest.raises(FileNotFoundError, match="n03 has no images"):
        load("imagenet", tmp_path)
    touch(folder, "images/val/n03/9.JPEG")
    dataset = load("imagenet", tmp_path)
    assert list(dataset.splits) == ["train", "test"]
    assert dataset.class_names == ("tench", "great white shark", "kite (bird of prey)")
    assert [len(split) for split in dataset.splits.values()] == [3, 3]
    touch(folder, "images/val/n99/9.JPEG")
    with pytest.raises(ValueError, match="n99 belongs to no class"):
        load("imagenet", tmp_path)


@pytest.mark.parametrize("name", TEST_SETS)
def test_variants_of_imagenet(tmp_path, name):
    folder = tmp_path / TEST_SETS[name]
    touch(folder, "n01/b.jpg", "n01/a.JPEG", "n03/1.jpg", "README.txt")
    (folder.parent / "classnames.txt").write_text(CLASS_NAMES)
    if name == "imagenet_sketch":
        with pytest.raises(FileNotFoundError, match="n02 does not exist"):
            load(name, tmp_path)
        touch(folder, "n02/1.jpg")
    dataset = load(name, tmp_path)
    assert list(dataset.splits) == ["test"]
    names = ["tench", "great white shark", "kite (bird of prey)"]
    assert list(dataset.class_names) == (names if name == "imagenet_sketch" else names[::2])
    assert relative(dataset.splits["test"], folder)[:2] == ["n01/a.JPEG", "n01/b.jpg"]


def test_imagenetv2_folders_are_numbers(tmp_path):
    folder = tmp_path / "imagenetv2"
    names = "".join(f"n{i:02d} class {i}\n" for i in range(11))
    images = folder / "imagenetv2-matched-frequency-format-val"
    touch(images, *(f"{i}/x.jpeg" for i in range(11)))
    (folder / "classnames.txt").write_text(names)
    dataset = load("imagenetv2", tmp_path)
    test = dataset.splits["test"]
    assert test.targets.tolist() == list(range(11))
    assert relative(test, images)[2] == "2/x.jpeg"
    assert test.labels[2] == "class 2"


def test_unknown_name_and_missing_folder(tmp_path):
    with pytest.raises(ValueError, match=r"name='cifar' is unknown; choose one of btmri, busi"):
        load("cifar", tmp_path)
    with pytest.raises(FileNotFoundError, match="folder that holds the folders"):
        load("dtd", tmp_path / "none")
    message = r"dtd does not exist; expected .* images and split_zhou_DescribableTextures\.json"
    with pytest.raises(FileNotFoundError, match=message):
        load("dtd", tmp_path)
    touch(tmp_path, "dtd/split_zhou_DescribableTextures.json")
    with pytest.raises(FileNotFoundError, match="images does not exist"):
        load("dtd", tmp_path)


def test_table_is_complete_and_documented():
    assert len(LAYOUTS) == 25
    assert set(LAYOUTS) == {*JSON_SETS, *TEST_SETS, "fgvc_aircraft", "imagenet", "imagenetv2"}
    rows = {row.split()[0]: row for row in load.__doc__.splitlines() if row.strip()}
    for name, layout in LAYOUTS.items():
        assert layout.folders[0] in rows[name]
        assert layout.listing in rows[name]
        assert layout.template.count("{}") == 1
    assert sorted(datasets.__all__) == datasets.__all__
