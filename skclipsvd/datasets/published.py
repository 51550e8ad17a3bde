"""The data sets of the papers, as they lie on the disk of whoever ran CoOp's code."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from ._folder import read_json_split
from .base import (
    DEFAULT_TEMPLATE,
    Dataset,
    Item,
    Items,
    absolute,
    build_dataset,
    contents,
    require_file,
    require_folder,
    require_images,
    subfolders,
)


def load(name: str, root: str | os.PathLike[str]) -> Dataset:
    """Find the images of a data set on which few-shot methods are compared.

    Folders and split files are named as for CoOp [1]_ and, for the biomedical sets, BiomedCoOp
    [2]_, whose documentation says where to get them. Nothing is downloaded.

    Parameters
    ----------
    name : str
        The name of the data set, in the table below.
    root : str or path-like
        The folder that holds the folders of the data sets.

    Returns
    -------
    dataset : Dataset
        With the splits "train", "val" and "test"; "train" and "test" for imagenet, which is tested
        on its validation images; "test" for the four variants of it. Underscores in class names are
        replaced by spaces. ``template`` is that of the published few-shot experiments.

    Raises
    ------
    FileNotFoundError
        A folder, a file or listed images are missing.
    ValueError
        The name is unknown, or a file is not in the published format.

    Notes
    -----
    Two classes of ImageNet may share a name. ``Split.targets`` tells them apart, ``Split.labels``
    does not.

    What is expected in `root`:

    ================  ==================================  ================================
    name              images                              list
    ================  ==================================  ================================
    caltech101        caltech-101/101_ObjectCategories    split_zhou_Caltech101.json
    dtd               dtd/images                          split_zhou_DescribableTextures.json
    eurosat           eurosat/2750                        split_zhou_EuroSAT.json
    fgvc_aircraft     fgvc_aircraft/images                variants.txt, images_variant_*.txt
    food101           food-101/images                     split_zhou_Food101.json
    imagenet          imagenet/images/{train,val}         classnames.txt
    oxford_flowers    oxford_flowers/jpg                  split_zhou_OxfordFlowers.json
    oxford_pets       oxford_pets/images                  split_zhou_OxfordPets.json
    stanford_cars     stanford_cars                       split_zhou_StanfordCars.json
    sun397            sun397/SUN397                       split_zhou_SUN397.json
    ucf101            ucf101/UCF-101-midframes            split_zhou_UCF101.json
    imagenetv2        imagenetv2/imagenetv2-matched-      classnames.txt
                      frequency-format-val
    imagenet_sketch   imagenet-sketch/images              classnames.txt
    imagenet_a        imagenet-adversarial/imagenet-a     classnames.txt
    imagenet_r        imagenet-rendition/imagenet-r       classnames.txt
    btmri             BTMRI/BTMRI                         split_BTMRI.json
    busi              BUSI/BUSI                           split_BUSI.json
    chmnist           CHMNIST/CHMNIST                     split_CHMNIST.json
    covid             COVID_19/COVID_19                   split_COVID_19.json
    ctkidney          CTKidney/CTKidney                   split_CTKidney.json
    kneexray          KneeXray/KneeXray                   split_KneeXray.json
    kvasir            Kvasir/Kvasir                       split_Kvasir.json
    lungcolon         LungColon/LungColon                 split_LungColon.json
    octmnist          OCTMNIST/OCTMNIST                   split_OCTMNIST.json
    retina            RETINA/RETINA                       split_RETINA.json
    ================  ==================================  ================================

    The list is in the first folder of the path to the images. The folders DTD, Food101,
    StanfordCars, Flower102 and SUN397, as CLIP-LoRA names them, are found as well.

    References
    ----------
    .. [1] K. Zhou, J. Yang, C. C. Loy and Z. Liu (2022). Learning to Prompt for
       Vision-Language Models. IJCV. https://arxiv.org/abs/2109.01134
    .. [2] T. Koleilat, H. Asgariandehkordi, H. Rivaz and Y. Xiao (2025). BiomedCoOp:
       Learning to Prompt for Biomedical Vision-Language Models. CVPR.
       https://arxiv.org/abs/2411.15232

    Examples
    --------
    >>> from skclipsvd.datasets import load
    >>> dataset = load("eurosat", "~/data")  # doctest: +SKIP
    >>> dataset.template  # doctest: +SKIP
    'a centered satellite photo of {}.'
    """
    layout = LAYOUTS.get(name)
    if layout is None:
        raise ValueError(f"name={name!r} is unknown; choose one of {', '.join(sorted(LAYOUTS))}.")
    root = require_folder(absolute(root), "the folder that holds the folders of the data sets")
    folder = next((root / f for f in layout.folders if (root / f).is_dir()), None)
    if folder is None:
        raise FileNotFoundError(
            f"{root / layout.folders[0]} does not exist; expected the folder of {name}, with "
            f"{layout.images} and {layout.listing} in it. root must be the folder above it."
        )
    listing = require_file(folder / layout.listing, "the published list for this data set")
    items = layout.read(require_folder(folder / layout.images, "the folder of images"), listing)
    items = {
        part: [(path, number, class_name.replace("_", " ")) for path, number, class_name in entries]
        for part, entries in items.items()
    }
    return build_dataset(name, items, layout.template)


def _read_split_file(images: Path, listing: Path) -> Items:
    return read_json_split(listing, images)


def _read_variants(images: Path, listing: Path) -> Items:
    """Read FGVC-Aircraft: a list of classes, and per part a list of images and classes."""
    numbers = {line: number for number, line in enumerate(_lines(listing))}
    items = {}
    for part in ("train", "val", "test"):
        name = f"images_variant_{part}.txt"
        file = require_file(listing.with_name(name), "lines of an image and its class")
        pairs = [line.partition(" ")[::2] for line in _lines(file)]
        unknown = next((pair for pair in pairs if pair[1] not in numbers), None)
        if unknown:
            raise ValueError(f"{file}: the class {unknown[1]!r} is not in {listing}.")
        items[part] = [(str(images / f"{image}.jpg"), numbers[c], c) for image, c in pairs]
    return require_images(items, "the lists images_variant_*.txt")


def _read_imagenet(images: Path, listing: Path) -> Items:
    """Read images in folders named after WordNet numbers."""
    classes = _read_class_names(listing)
    return {
        part: _read_classes(images / folder, classes, complete=True)
        for part, folder in (("train", "train"), ("test", "val"))
    }


def _read_whole_test_set(images: Path, listing: Path) -> Items:
    return {"test": _read_classes(images, _read_class_names(listing), complete=True)}


def _read_partial_test_set(images: Path, listing: Path) -> Items:
    """Read a test set that has some of the classes of ImageNet only."""
    return {"test": _read_classes(images, _read_class_names(listing), complete=False)}


def _read_numbered_test_set(images: Path, listing: Path) -> Items:
    """Read ImageNetV2: folders called 0, 1, 2, ... in the order of the classes."""
    classes = {str(i): (i, name) for i, name in _read_class_names(listing).values()}
    return {"test": _read_classes(images, classes, complete=True)}


def _read_class_names(listing: Path) -> dict[str, tuple[int, str]]:
    """Read lines of a folder and a class name into {folder: (number, class name)}."""
    pairs = sorted(line.partition(" ")[::2] for line in _lines(listing))
    return {folder: (number, name.strip()) for number, (folder, name) in enumerate(pairs)}


def _read_classes(
    images: Path, classes: Mapping[str, tuple[int, str]], *, complete: bool
) -> list[Item]:
    """List the images in the folders of the given classes."""
    found = subfolders(require_folder(images, "a folder with one folder of images per class"))
    unknown = sorted(set(found) - set(classes))
    if unknown:
        raise ValueError(f"The folder {images / unknown[0]} belongs to no class of the list.")
    items = []
    for folder, (number, class_name) in classes.items():
        if complete or folder in found:
            path = require_folder(images / folder, f"the images of the class {class_name!r}")
            items += [(image, number, class_name) for image in _some_images(path, class_name)]
    return items


def _some_images(folder: Path, class_name: str) -> list[str]:
    images = contents(folder).images
    if not images:
        raise FileNotFoundError(f"{folder} has no images; expected those of {class_name!r}.")
    return images


def _lines(file: Path) -> list[str]:
    return [line.strip() for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]


@dataclass(frozen=True)
class Layout:
    """Where a data set is: `images` and `listing` are in the first of the `folders` there is."""

    folders: tuple[str, ...]
    images: str
    listing: str
    template: str = DEFAULT_TEMPLATE
    read: Callable[[Path, Path], Items] = _read_split_file


def _biomedical(folder: str, template: str = DEFAULT_TEMPLATE) -> Layout:
    return Layout((folder,), folder, f"split_{folder}.json", template)


def _imagenet(folder: str, images: str, read: Callable[[Path, Path], Items]) -> Layout:
    return Layout((folder,), images, "classnames.txt", read=read)


LAYOUTS = {
    "caltech101": Layout(("caltech-101",), "101_ObjectCategories", "split_zhou_Caltech101.json"),
    "dtd": Layout(("dtd", "DTD"), "images", "split_zhou_DescribableTextures.json", "{} texture."),
    "eurosat": Layout(
        ("eurosat",), "2750", "split_zhou_EuroSAT.json", "a centered satellite photo of {}."
    ),
    "fgvc_aircraft": Layout(
        ("fgvc_aircraft",),
        "images",
        "variants.txt",
        "a photo of a {}, a type of aircraft.",
        _read_variants,
    ),
    "food101": Layout(
        ("food-101", "Food101"),
        "images",
        "split_zhou_Food101.json",
        "a photo of a {}, a type of food.",
    ),
    "imagenet": _imagenet("imagenet", "images", _read_imagenet),
    "oxford_flowers": Layout(
        ("oxford_flowers", "Flower102"),
        "jpg",
        "split_zhou_OxfordFlowers.json",
        "a photo of a {}, a type of flower.",
    ),
    "oxford_pets": Layout(
        ("oxford_pets",),
        "images",
        "split_zhou_OxfordPets.json",
        "a photo of a {}, a type of pet.",
    ),
    "stanford_cars": Layout(("stanford_cars", "StanfordCars"), ".", "split_zhou_StanfordCars.json"),
    "sun397": Layout(("sun397", "SUN397"), "SUN397", "split_zhou_SUN397.json"),
    "ucf101": Layout(
        ("ucf101",),
        "UCF-101-midframes",
        "split_zhou_UCF101.json",
        "a photo of a person doing {}.",
    ),
    "imagenetv2": _imagenet(
        "imagenetv2", "imagenetv2-matched-frequency-format-val", _read_numbered_test_set
    ),
    "imagenet_sketch": _imagenet("imagenet-sketch", "images", _read_whole_test_set),
    "imagenet_a": _imagenet("imagenet-adversarial", "imagenet-a", _read_partial_test_set),
    "imagenet_r": _imagenet("imagenet-rendition", "imagenet-r", _read_partial_test_set),
    "btmri": _biomedical("BTMRI"),
    "busi": _biomedical("BUSI"),
    "chmnist": _biomedical("CHMNIST"),
    "covid": _biomedical("COVID_19", "a chest xray of {}."),
    "ctkidney": _biomedical("CTKidney"),
    "kneexray": _biomedical("KneeXray"),
    "kvasir": _biomedical("Kvasir"),
    "lungcolon": _biomedical("LungColon"),
    "octmnist": _biomedical("OCTMNIST"),
    "retina": _biomedical("RETINA"),
}
