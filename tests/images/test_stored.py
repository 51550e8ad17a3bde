"""Images inside somebody else's data set, and streams: asked for when needed, a few at a time."""

import weakref
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.model_selection import cross_val_score
from torch.utils.data import DataLoader, Subset
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2

from skclipsvd import CLIPEncoder, CLIPSVDClassifier, CLIPZeroShotClassifier, prediction_table
from skclipsvd.datasets import load_folder
from skclipsvd.images import as_items

# Not "datasets" alone: a folder of the tests has that name, too.
pytest.importorskip("datasets.features")
from datasets import ClassLabel, DatasetDict, Features
from datasets import Dataset as HuggingFace
from datasets import Image as ImageFeature

CLASSES = ("flower", "temple")


@pytest.fixture(scope="module")
def root(tmp_path_factory, photographs):
    """One folder for each of two classes, ten real photographs in each."""
    folder = tmp_path_factory.mktemp("photos")
    for i, (path, label) in enumerate(zip(*photographs, strict=True)):
        (folder / label).mkdir(exist_ok=True)
        Image.open(path).save(folder / label / f"{i:02d}.png")
    return folder


@pytest.fixture(scope="module")
def split(root):
    return load_folder(root).splits["all"]


@pytest.fixture(scope="module")
def clf(split):
    return CLIPSVDClassifier("tiny", max_steps=2, augment=False, random_state=0).fit(
        split.paths, split.labels
    )


@pytest.fixture(scope="module")
def answers(clf, split):
    return clf.predict_proba(split.paths)


def hugging_face(images, targets):
    features = Features({"image": ImageFeature(), "label": ClassLabel(names=list(CLASSES))})
    return HuggingFace.from_dict({"image": images, "label": targets.tolist()}, features=features)


class Alive:
    """How many of the objects shown to it are still there, at most."""

    def __init__(self):
        self.seen, self.most = [], 0

    def add(self, thing):
        self.seen.append(weakref.ref(thing))
        self.most = max(self.most, sum(reference() is not None for reference in self.seen))


class Pictures(torch.utils.data.Dataset):
    """(image, label) made on demand, which remembers who asked, and how many are alive."""

    def __init__(self, split):
        self.split = split
        self.asked, self.inside, self.at_once = [], 0, 0
        self.alive = Alive()

    def __len__(self):
        return len(self.split)

    def __getitem__(self, i):
        self.inside += 1
        self.at_once = max(self.at_once, self.inside)
        self.asked.append(i)
        with Image.open(self.split.paths[i]) as image:
            image.load()
        self.alive.add(image)
        self.inside -= 1
        return image, int(self.split.targets[i])


def test_a_split_is_the_sequence_of_its_paths(clf, split, answers):
    assert list(split) == split.paths
    assert split[2:4] == split.paths[2:4]
    np.testing.assert_array_equal(clf.predict_proba(split), answers)
    estimator = CLIPZeroShotClassifier("tiny")
    scores = cross_val_score(estimator, split, split.labels, cv=2, error_score="raise")
    np.testing.assert_array_equal(
        scores, cross_val_score(estimator, split.paths, split.labels, cv=2)
    )


@pytest.mark.parametrize("kept", ["paths", "bytes"])
@pytest.mark.parametrize("form", ["data set", "column", "torch", "chosen"])
def test_hugging_face_data_answer_as_their_files(clf, split, answers, kept, form):
    images = split.paths
    if kept == "bytes":
        images = [{"bytes": Path(path).read_bytes(), "path": None} for path in images]
    data = hugging_face(images, split.targets)
    X = {
        "data set": data,
        "column": data["image"],
        "torch": data.with_format("torch")["image"],
        "chosen": data.select(range(len(split))),
    }[form]
    np.testing.assert_array_equal(clf.predict_proba(X), answers)


def test_hugging_face_data_are_trained_on_as_their_files(clf, split):
    data = hugging_face(split.paths, split.targets)
    labels = np.array(data.features["label"].names)[data["label"]]
    other = CLIPSVDClassifier("tiny", max_steps=2, augment=False, random_state=0).fit(data, labels)
    for name, values in clf.singular_values_.items():
        np.testing.assert_array_equal(other.singular_values_[name], values)


def test_hugging_face_data_are_never_decoded_as_a_whole(clf, split, monkeypatch):
    asked = []
    original = ImageFeature.decode_example
    monkeypatch.setattr(
        ImageFeature, "decode_example", lambda *a, **k: asked.append(1) or original(*a, **k)
    )
    clf.predict(hugging_face(split.paths, split.targets)["image"])
    assert not asked  # the files are asked for, and decoded here


def test_a_transform_of_hugging_face_data_is_done(clf, split):
    data = hugging_face(split.paths, split.targets)

    def turned(batch):
        return {**batch, "image": [image.rotate(90) for image in batch["image"]]}

    by_hand = clf.predict_proba([Image.open(path).rotate(90) for path in split])
    np.testing.assert_array_equal(clf.predict_proba(data.with_transform(turned)), by_hand)


@pytest.mark.usefixtures("fresh_caches")
def test_a_data_set_of_pairs_is_asked_a_few_at_a_time(split):
    data = Pictures(split)
    clf = CLIPSVDClassifier("tiny", max_steps=2, augment=False, random_state=0, batch_size=4)
    clf.set_params(n_jobs=2, batch_size=32).fit(data, split.labels)
    fitted = data.alive.most
    clf.set_params(batch_size=4)
    np.testing.assert_array_equal(clf.predict_proba(data), clf.predict_proba(split))
    assert data.at_once == 1, "it was asked from two threads at once"
    assert fitted <= 4
    assert data.alive.most <= 4
    assert set(data.asked) == set(range(len(split)))


def test_a_data_set_of_torchvision(clf, root, split, answers):
    assert as_items(ImageFolder(root)) == split.paths
    np.testing.assert_array_equal(clf.predict_proba(ImageFolder(root)), answers)
    chosen = [3, 1, 12]
    np.testing.assert_array_equal(
        clf.predict_proba(Subset(ImageFolder(root), chosen)), answers[chosen]
    )
    grey = ImageFolder(root, transform=v2.Grayscale())
    by_hand = clf.predict_proba([Image.open(path).convert("L") for path in split])
    np.testing.assert_array_equal(clf.predict_proba(grey), by_hand)
    scores = cross_val_score(
        CLIPZeroShotClassifier("tiny"), grey, split.labels, cv=2, error_score="raise"
    )
    assert len(scores) == 2


def test_generators_are_read_in_parts(clf, split, answers):
    alive = Alive()

    def pictures():
        for path in split:
            image = Image.open(path)
            alive.add(image)
            yield image
            del image

    small = clf.set_params(batch_size=8)
    np.testing.assert_array_equal(small.predict_proba(pictures()), answers)
    assert alive.most <= 8 + 2
    np.testing.assert_array_equal(small.predict(iter(split)), small.predict(split))
    np.testing.assert_array_equal(small.transform(iter(split)), small.transform(split))
    np.testing.assert_array_equal(
        small.decision_function((p, 0) for p in map(Image.open, split)),
        small.decision_function(split),
    )
    encoder = CLIPEncoder("tiny", batch_size=8).fit(split)
    np.testing.assert_array_equal(encoder.transform(iter(split)), encoder.transform(split))


def test_a_bad_image_of_a_generator_is_found(clf, split):
    clf.set_params(batch_size=8)
    paths = [*split.paths[:10], "nowhere.png"]
    with pytest.raises(FileNotFoundError, match=r"X\[2\]") as caught:
        clf.predict(iter(paths))
    assert caught.value.__notes__ == ["X is a stream: its rows are counted from image 8 on."]
    with pytest.raises(ValueError, match="X has no images"):
        clf.predict(iter([]))


def test_missing_and_broken_images_of_a_data_set_are_named(clf, split, tmp_path):
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no image")
    images = [split[0], str(tmp_path / "gone.png"), str(broken)]
    data = hugging_face(images, split.targets[:3])
    with pytest.raises(ValueError, match="cannot be decoded") as caught:
        clf.predict(data)
    assert "X[1] = <Dataset[1]>: no such file" in str(caught.value)
    assert "X[2] = <Dataset[2]>" in str(caught.value)
    rows = prediction_table(clf, data, on_error="report")
    assert rows["error"].notna().tolist() == [False, True, True]

    class Raises(Pictures):
        def __getitem__(self, i):
            if i == 5:
                raise RuntimeError("the archive is damaged")
            return super().__getitem__(i)

    with pytest.raises(ValueError, match=r"X\[5\] = <Raises\[5\]>: the archive is damaged"):
        clf.predict(Raises(split))


def to_tensor(dtype):
    return v2.Compose([v2.ToImage(), v2.ToDtype(dtype, scale=True), v2.ToPureTensor()])


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_the_line_for_tensors_gives_the_pictures(clf, root, split, dtype):
    folder = ImageFolder(root, transform=to_tensor(dtype))
    with pytest.raises(ValueError, match=r"X\[0\] is a tensor of shape") as caught:
        clf.predict(folder)
    line = str(caught.value).rpartition(": ")[2].rstrip(".")
    pixels = [eval(line, {"tensor": tensor}) for tensor, _ in folder]
    np.testing.assert_array_equal(clf.predict(pixels), clf.predict(split))

    batch = torch.stack([tensor[:, :32, :32] for tensor, _ in folder])
    with pytest.raises(ValueError, match="X is a tensor of shape") as caught:
        clf.predict(batch)
    line = str(caught.value).rpartition(": ")[2].rstrip(".")
    expected = [np.asarray(Image.open(path))[:32, :32] for path in split]
    np.testing.assert_array_equal(eval(line, {"X": batch}), expected)


def some(root, split):
    data = hugging_face(split.paths, split.targets)
    pair = data.rename_column("image", "left").add_column("right", split.paths)
    return {
        "parts": (DatasetDict(train=data, test=data), "pass one of its entries: X['train'], X['t"),
        "labels": (data["label"], "X[0] is a int"),
        "no images": (data.remove_columns("image"), "no column of images"),
        "two columns": (
            pair.cast_column("right", ImageFeature()),
            "the columns of images ['left', 'right']",
        ),
        "streamed": (data.to_iterable_dataset(), "(row['image'] for row in X)"),
        "loader": (DataLoader(ImageFolder(root)), "X.dataset"),
        "generator": ((path for path in split), "Pass list(X)"),
        "pairs": (ImageFolder(root).samples, "X, y = zip(*X)"),
        "set": (set(split), "sorted(X)"),
        "number": (5, "a data set with len(X) and X[i]; got int"),
        "http": (["https://x.org/a.jpg"], "requests.get(url, timeout=60).content"),
        "s3": (["s3://bucket/a.jpg"], "fsspec.open(url).open().read()"),
        "file": (["file:///a.jpg"], "pass the path in it"),
    }


KINDS = ("parts", "labels", "no images", "two columns", "streamed", "loader", "generator", "pairs")


@pytest.mark.parametrize("kind", [*KINDS, "set", "number", "http", "s3", "file"])
def test_what_is_no_sequence_of_images_is_refused_with_what_to_write(root, split, kind):
    X, said = some(root, split)[kind]
    with pytest.raises((TypeError, ValueError)) as caught:
        CLIPSVDClassifier("no such model").fit(X, split.labels)  # before any model is looked for
    assert said in str(caught.value)
