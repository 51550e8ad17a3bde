"""The papers' four protocols: what is trained on what, and tested on what."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..datasets import Dataset
from ..model_selection import base_novel_split
from . import reported
from .data import Part, digest, one_line, parts, test_part, words
from .methods import Estimator, NamesClasses, Scores
from .results import Row
from .runs import Methods, Predictor, Protocol, Question, execute, make_plan

FEW_SHOT = Protocol("few-shot")
BASE_TO_NOVEL = Protocol("base-to-novel", asks_new_classes=True)
CROSS_DATASET = Protocol("cross-dataset", asks_new_classes=True)
DOMAIN_GENERALISATION = Protocol("domain-generalisation")


def few_shot(
    data: Dataset,
    *,
    methods: Methods = FEW_SHOT.methods,
    shots: Iterable[int] = reported.SHOTS,
    seeds: Iterable[int] = (1, 2, 3),
    setting: str = "published",
    out: str | os.PathLike | None = None,
    write_splits: str | os.PathLike | None = None,
    verbose: int = 0,
    **parameters: Any,
) -> list[Row]:
    """Train on K images per class, and test on the same classes.

    Parameters
    ----------
    data : skclipsvd.datasets.Dataset
        With the parts "train" and "test"; or with the single part "all", of which one half, always
        the same, is tested on.
    methods : sequence of str, or mapping of str to dict
        Names of `METHODS`; of a mapping, the values are parameters for that method alone.
    shots : iterable of int
        Images per class to train on. A class of fewer images repeats them, as published.
    seeds : iterable of int
        Each draws other images, and is the random state of the estimators.
    setting : {"default", "published"}, default="published"
        "default" leaves all to the estimators' defaults, which choose rate and length by
        themselves; see `skclipsvd.experiments.settings`.
    out : str or path-like, optional
        A CSV file that every finished run is appended to. Runs that it has are not repeated.
    write_splits : str or path-like, optional
        A folder to write the drawn images to, as published split files.
    verbose : int, default=0
        Whether to print a line for every run.
    **parameters : object
        Parameters of the estimators, which replace those of the setting: ``model_name``,
        ``pretrained``, ``device``, ``lr``, ... each for all methods that take it. In addition,
        ``steps_per_shot`` for those that train, ``C`` for the linear probe, ``share`` and
        ``head_alpha`` for two stages, ``cache_alpha`` and ``cache_beta`` for Tip-Adapter-F.

    Returns
    -------
    rows : list of dict
        The rows of this experiment, in order, whether they were computed now or read.

    Raises
    ------
    ValueError, TypeError, FileNotFoundError
        Before anything is trained: an unknown name, a parameter out of range, missing images or
        weights.

    Examples
    --------
    >>> from skclipsvd.experiments import few_shot, open_data
    >>> rows = few_shot(
    ...     open_data("digits"),
    ...     methods=["zero-shot", "svd"],
    ...     shots=[2],
    ...     seeds=[1],
    ...     model_name="tiny",
    ...     max_steps=2,
    ... )
    >>> [(row["method"], row["shots"], row["n_test"]) for row in rows]
    [('zero-shot', 0, 899), ('svd', 2, 899)]
    """
    train, test = _own_test(data)
    plan = make_plan(
        FEW_SHOT,
        data,
        train,
        [test],
        methods=methods,
        shots=shots,
        seeds=seeds,
        setting=setting,
        overrides=parameters,
    )
    return execute(plan, out=out, write_splits=write_splits, verbose=verbose)


def base_to_novel(
    data: Dataset,
    *,
    methods: Methods = BASE_TO_NOVEL.methods,
    shots: Iterable[int] = (16,),
    seeds: Iterable[int] = (1, 2, 3),
    setting: str = "default",
    out: str | os.PathLike | None = None,
    write_splits: str | os.PathLike | None = None,
    verbose: int = 0,
    **parameters: Any,
) -> list[Row]:
    """Train on the first half of the classes, and test on each half by itself.

    Parameters
    ----------
    data : skclipsvd.datasets.Dataset
        As for `few_shot`. Base classes are the first half in its order, one more of an odd number.
    methods : sequence of str, or mapping of str to dict
        As for `few_shot`; all but those that cannot be told novel classes: the linear
        probe, ProKeR and Tip-Adapter-F.
    shots, seeds, setting, out, write_splits, verbose, **parameters : see `few_shot`
        Which runs, and where results go.

    Returns
    -------
    rows : list of dict
        For every run two: ``row["test"]`` is "base" or "novel".

    Raises
    ------
    ValueError, TypeError, FileNotFoundError
        As for `few_shot`.

    Examples
    --------
    >>> from skclipsvd.experiments import base_to_novel, open_data
    >>> rows = base_to_novel(open_data("digits"), methods=["zero-shot"], model_name="tiny")
    >>> [(row["test"], row["n_test"]) for row in rows]
    [('base', 450), ('novel', 449)]
    """
    train, whole = _own_test(data)
    base, novel = (half.tolist() for half in base_novel_split(train.targets))
    tests = []
    halves = (("base", base, predict_trained), ("novel", novel, predictor_of(data, novel)))
    for name, classes, predict in halves:
        images = whole.images.of_classes(classes)
        if len(classes) < 2 or not len(images.targets):
            raise ValueError(
                f"{data.name} has {len(classes)} {name} classes with {len(images.targets)} test "
                "images; base-to-novel needs two such classes, and images."
            )
        tests.append(Question(name, images, predict, whole.data_hash))
    images = train.of_classes(base)
    plan = make_plan(
        BASE_TO_NOVEL,
        data,
        images,
        tests,
        methods=methods,
        shots=shots,
        seeds=seeds,
        setting=setting,
        overrides=parameters,
    )
    return execute(plan, out=out, write_splits=write_splits, verbose=verbose)


def cross_dataset(
    data: Dataset,
    others: Sequence[Dataset],
    *,
    methods: Methods = CROSS_DATASET.methods,
    shots: Iterable[int] = (16,),
    seeds: Iterable[int] = (1, 2, 3),
    setting: str = "default",
    out: str | os.PathLike | None = None,
    write_splits: str | os.PathLike | None = None,
    verbose: int = 0,
    **parameters: Any,
) -> list[Row]:
    """Train on one data set, and test on others, with their own classes.

    Parameters
    ----------
    data : skclipsvd.datasets.Dataset
        To train on, and test on as well.
    others : sequence of skclipsvd.datasets.Dataset
        To test on, by their part "test" (or "all"), each with the template that it brings.
    methods : sequence of str, or mapping of str to dict
        As for `base_to_novel`.
    shots, seeds, setting, out, write_splits, verbose, **parameters : see `few_shot`
        Which runs, and where results go.

    Returns
    -------
    rows : list of dict
        For every run one per data set: ``row["test"]`` is its name.

    Raises
    ------
    ValueError, TypeError, FileNotFoundError
        As for `few_shot`.

    Examples
    --------
    >>> from skclipsvd.datasets import load
    >>> from skclipsvd.experiments import cross_dataset
    >>> others = [load(name, "~/data") for name in ("dtd", "eurosat")]  # doctest: +SKIP
    >>> rows = cross_dataset(load("imagenet", "~/data"), others, out="cross.csv")  # doctest: +SKIP
    """
    train, own = _own_test(data, others)
    tests = [own]
    for other in others:
        images = test_part(other)
        # All classes compete, those without a test image included.
        template = parameters.get("templates", other.template)
        predict = predictor_of(other, range(len(other.class_names)), template)
        data_hash = digest((data, train), (other, images))
        tests.append(Question(other.name, images, predict, data_hash))
    plan = make_plan(
        CROSS_DATASET,
        data,
        train,
        tests,
        methods=methods,
        shots=shots,
        seeds=seeds,
        setting=setting,
        overrides=parameters,
    )
    return execute(plan, out=out, write_splits=write_splits, verbose=verbose)


def domain_generalisation(
    data: Dataset,
    others: Sequence[Dataset],
    *,
    methods: Methods = DOMAIN_GENERALISATION.methods,
    shots: Iterable[int] = (16,),
    seeds: Iterable[int] = (1, 2, 3),
    setting: str = "default",
    out: str | os.PathLike | None = None,
    write_splits: str | os.PathLike | None = None,
    verbose: int = 0,
    **parameters: Any,
) -> list[Row]:
    """Train on one data set, and test on the same classes in other images.

    Parameters
    ----------
    data : skclipsvd.datasets.Dataset
        To train on, and test on as well.
    others : sequence of skclipsvd.datasets.Dataset
        To test on. One with some of the classes only, such as ImageNet-A, is a choice among these:
        scores of the others are not looked at. Classes are matched by name.
    methods, shots, seeds, setting, out, write_splits, verbose, **parameters : see `few_shot`
        Which runs, and where results go.

    Returns
    -------
    rows : list of dict
        For every run one per data set: ``row["test"]`` is its name.

    Raises
    ------
    ValueError, TypeError, FileNotFoundError
        As for `few_shot`; also, `others` have classes that ``data`` has not.

    Examples
    --------
    >>> from skclipsvd.datasets import load
    >>> from skclipsvd.experiments import domain_generalisation
    >>> others = [load(name, "~/data") for name in ("imagenet_a",)]  # doctest: +SKIP
    >>> rows = domain_generalisation(load("imagenet", "~/data"), others)  # doctest: +SKIP
    """
    train, own = _own_test(data, others)
    tests, names = [own], words(data)
    for other in others:
        images = test_part(other)
        matches = match_classes([names[t] for t in train.classes], words(other), other.name)
        data_hash = digest((data, train), (other, images))
        tests.append(Question(other.name, images, predictor_among(matches), data_hash))
    plan = make_plan(
        DOMAIN_GENERALISATION,
        data,
        train,
        tests,
        methods=methods,
        shots=shots,
        seeds=seeds,
        setting=setting,
        overrides=parameters,
    )
    return execute(plan, out=out, write_splits=write_splits, verbose=verbose)


# --- how a fitted estimator is asked


def predict_trained(estimator: Estimator, paths: NDArray[np.object_]) -> NDArray[np.int64]:
    """Ask for one of the classes that were trained on."""
    return estimator.predict(paths)


def predictor_of(data: Dataset, targets: Iterable[int], templates: Any = None) -> Predictor:
    """Ask for one of other classes, which the estimator is told by their names.

    Parameters
    ----------
    data : Dataset
        Whose classes.
    targets : iterable of int
        Which of them compete.
    templates : str or sequence of str, optional
        Prompts, instead of the estimator's.

    Returns
    -------
    predict : callable
    """
    names = words(data)
    classes = {target: names[target] for target in targets}

    def predict(estimator: NamesClasses, paths: NDArray[np.object_]) -> NDArray[np.int64]:
        return estimator.with_classes(classes, templates=templates).predict(paths)

    return predict


def predictor_among(matches: Sequence[Sequence[int]]) -> Predictor:
    """Ask for one of some of the trained classes, whatever the others score.

    Parameters
    ----------
    matches : sequence of sequence of int
        For each target the trained classes that stand for it, of which the best one counts.

    Returns
    -------
    predict : callable
    """

    def predict(estimator: Scores, paths: NDArray[np.object_]) -> NDArray[np.int64]:
        scores = estimator.decision_function(paths)
        if scores.ndim == 1:  # two classes
            scores = np.column_stack([np.zeros_like(scores), scores])
        return np.stack([scores[:, m].max(axis=1) for m in matches], axis=1).argmax(axis=1)

    return predict


def match_classes(trained: Sequence[str], tested: Sequence[str], name: str) -> list[list[int]]:
    """Find the trained classes that each tested one may be.

    Parameters
    ----------
    trained, tested : sequence of str
        Class names. Two classes may share one, as in ImageNet: where it occurs as often in both
        lists, they are matched in order; otherwise the better one of its namesakes counts.
    name : str
        Of what is tested on, for the error.

    Returns
    -------
    matches : list of list of int
        For each tested class one or more positions in `trained`.

    Examples
    --------
    >>> from skclipsvd.experiments.protocols import match_classes
    >>> match_classes(["tench", "missile", "kite", "missile"], ["missile", "tench"], "part")
    [[1, 3], [0]]
    """
    positions: dict[str, list[int]] = {}
    for position, class_name in enumerate(trained):
        positions.setdefault(class_name, []).append(position)
    unknown = sorted(set(tested) - set(positions))
    if unknown:
        raise ValueError(
            f"{name} has classes that are not trained on, such as {unknown[0]!r} ({len(unknown)} "
            "of them); domain-generalisation needs the same names. For others: cross-dataset."
        )
    often = Counter(tested)
    seen: Counter[str] = Counter()
    matches = []
    for class_name in tested:
        found = positions[class_name]
        if often[class_name] == len(found):
            found = [found[seen[class_name]]]
            seen[class_name] += 1
        matches.append(found)
    return matches


# --- what the protocols share


def _own_test(data: Dataset, others: Sequence[Dataset] = ()) -> tuple[Part, Question]:
    """Return what a data set trains on, and the test on itself."""
    names = Counter(one_line(other.name) for other in (data, *others))
    twice = [name for name, n in names.items() if n > 1]
    if twice:
        raise ValueError(f"Two data sets are called {twice[0]!r}; results go by their names.")
    train, images = parts(data)
    missing = sorted(set(images.classes) - set(train.classes))
    if missing:
        raise ValueError(
            f"{data.name} has no training images of {data.class_names[missing[0]]!r}, which it is "
            f"tested on ({len(missing)} such classes); add some, or leave the class out."
        )
    return train, Question(
        data.name, images, predict_trained, digest((data, train), (data, images))
    )
