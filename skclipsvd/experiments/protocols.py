"""The papers' four protocols: what is trained on what, and tested on what."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.base import BaseEstimator
from tqdm.auto import tqdm

from .._version import __version__
from ..backbone import load_backbone
from ..datasets import Dataset
from ..inference import choose_device
from ..model_selection import _check_count, base_novel_split
from . import settings
from ._data import Part, digest, draw, parts, test_part, words, write_shots
from .methods import (
    METHODS,
    check_overrides,
    make_estimator,
    seeded,
    settings_hash,
)
from .results import Results, Row, key

Predictor = Callable[[BaseEstimator], NDArray[np.int64]]


@dataclass(frozen=True, eq=False)
class Test:
    """What a fitted estimator is asked.

    Attributes
    ----------
    name : str
        The data set, or the part of it.
    images : Part
        Whose targets are the right answers.
    predict : callable
        Maps the fitted estimator to its answers.
    data_hash : str
        Identifies the images, those to train on included, and the class names.
    """

    name: str
    images: Part
    predict: Predictor
    data_hash: str

    def accuracy(self, estimator: BaseEstimator) -> float:
        """Ask a fitted estimator."""
        return float(np.mean(self.predict(estimator) == self.images.targets))


@dataclass(frozen=True, eq=False)
class Run:
    """One estimator to fit, and what to ask it.

    Attributes
    ----------
    estimator : estimator
        Unfitted.
    train : Part
        What shots are drawn from.
    tests : sequence of Test
    columns : dict
        What is known of its rows before it is fitted.
    """

    estimator: BaseEstimator
    train: Part
    tests: Sequence[Test]
    columns: Row

    def keys(self) -> set[tuple]:
        """Return what identifies its rows."""
        return {key({**self.columns, **self._about(test)}) for test in self.tests}

    def rows(self) -> list[Row]:
        """Fit and ask."""
        shots, seed = self.columns["shots"], self.columns["seed"]
        # Zero-shot looks at nothing but the labels, of which there must be some.
        images = draw(self.train, shots or 1, seed)
        estimator = seeded(self.estimator, seed).fit(images.paths, images.targets)
        return [
            {**self.columns, **self._about(test), "accuracy": test.accuracy(estimator)}
            for test in self.tests
        ]

    def _about(self, test: Test) -> Row:
        n_train = self.columns["shots"] * len(self.train.classes)
        known = {"test": test.name, "data_hash": test.data_hash}
        return {**known, "n_train": n_train, "n_test": len(test.images.targets)}


@dataclass(frozen=True)
class Plan:
    """What the protocols have in common: which runs, and where results go."""

    protocol: str
    data: Dataset
    train: Part
    tests: Sequence[Test]
    methods: Mapping[str, Mapping[str, Any]]
    shots: Sequence[int]
    seeds: Sequence[int]
    setting: str
    model: Mapping[str, Any]

    def runs(self) -> Iterator[Run]:
        """List the runs; zero-shot needs one only, for any number of shots and seeds."""
        model = {**settings.backbone(self.setting, self.data.name), **self.model}
        device = choose_device(model.get("device", "auto"))
        weights = load_backbone(model["model_name"], model["pretrained"], device).fingerprint[:12]
        for shots in self.shots:
            for seed in self.seeds:
                for method, own in self.methods.items():
                    if METHODS[method].learns:
                        yield self._run(method, {**model, **own}, shots, seed, weights)
                    elif (shots, seed) == (self.shots[0], self.seeds[0]):
                        yield self._run(method, {**model, **own}, 0, 0, weights)

    def _run(self, method, parameters, shots, seed, weights) -> Run:
        name = self.data.name
        class_names = words(self.data)
        estimator = make_estimator(
            method,
            settings.parameters(self.setting, self.protocol, method, name),
            parameters,
            n_shots=shots,
            class_names={target: class_names[target] for target in self.train.classes},
            template=settings.template(self.setting, self.protocol, name, self.data.template),
        )
        columns = {
            "protocol": self.protocol,
            "data": name,
            "method": method,
            "model": parameters["model_name"],
            "pretrained": str(parameters["pretrained"]),
            "shots": shots,
            "seed": seed,
            "setting": self.setting,
            "overrides": _describe(parameters, METHODS[method].takes),
            "settings_hash": settings_hash(estimator),
            "weights": weights,
            "version": __version__,
        }
        columns = {k: _one_line(v) if isinstance(v, str) else v for k, v in columns.items()}
        return Run(estimator, self.train, self.tests, columns)


def few_shot(
    data: Dataset,
    *,
    methods: Sequence[str] | Mapping[str, Mapping[str, Any]] = tuple(METHODS),
    shots: Iterable[int] = settings.REPORTED_SHOTS,
    seeds: Iterable[int] = (1, 2, 3),
    setting: str = "default",
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
    setting : {"default", "published"}, default="default"
        "default" leaves all to the estimators' defaults; see `skclipsvd.experiments.settings`.
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
        ``head_alpha`` for two stages.

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
    train, images = parts(data)
    _check_trained(data, train, data, images)
    test = Test(data.name, images, _ask, digest(data, train, images))
    plan = _plan("few-shot", data, train, [test], methods, shots, seeds, setting, parameters)
    return _execute(plan, out, write_splits, verbose)


def base_to_novel(
    data: Dataset,
    *,
    methods: Sequence[str] | Mapping[str, Mapping[str, Any]] | None = None,
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
    methods : sequence of str, or mapping of str to dict, optional
        As for `few_shot`; by default all that can be told novel classes, which a linear probe
        cannot.
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
    [('base', 452), ('novel', 447)]
    """
    train, images = parts(data)
    _check_trained(data, train, data, images)
    base, novel = (half.tolist() for half in base_novel_split(train.targets))
    if min(len(base), len(novel)) < 2:
        raise ValueError(
            f"{data.name} has {len(train.classes)} classes; base-to-novel needs four or more."
        )
    data_hash = digest(data, train, images)
    tell_novel = _teller(data, novel)
    tests = [
        Test("base", images.of_classes(base), _ask, data_hash),
        Test("novel", images.of_classes(novel), tell_novel, data_hash),
    ]
    for test in tests:
        if not len(test.images.targets):
            raise ValueError(f"{data.name} has no test images of its {test.name} classes.")
    plan = _plan(
        "base-to-novel",
        data,
        train.of_classes(base),
        tests,
        _told_classes() if methods is None else methods,
        shots,
        seeds,
        setting,
        parameters,
    )
    return _execute(plan, out, write_splits, verbose)


def cross_dataset(
    data: Dataset,
    others: Sequence[Dataset],
    *,
    methods: Sequence[str] | Mapping[str, Mapping[str, Any]] | None = None,
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
    methods : sequence of str, or mapping of str to dict, optional
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
    train, tests = _source("cross-dataset", data, others)
    for other in others:
        images = test_part(other)
        if len(images.classes) < 2:
            raise ValueError(f"The test part of {other.name} has one class only.")
        # All classes compete, those without a test image included.
        tell = _teller(other, range(len(other.class_names)), parameters.get("templates"))
        tests.append(Test(other.name, images, tell, _joint_digest(data, train, other, images)))
    methods = _told_classes() if methods is None else methods
    plan = _plan("cross-dataset", data, train, tests, methods, shots, seeds, setting, parameters)
    return _execute(plan, out, write_splits, verbose)


def domain_generalisation(
    data: Dataset,
    others: Sequence[Dataset],
    *,
    methods: Sequence[str] | Mapping[str, Mapping[str, Any]] = tuple(METHODS),
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
        As for `few_shot`; also, `others` have classes that `data` has not.

    Examples
    --------
    >>> from skclipsvd.datasets import load
    >>> from skclipsvd.experiments import domain_generalisation
    >>> others = [load(name, "~/data") for name in ("imagenet_a",)]  # doctest: +SKIP
    >>> rows = domain_generalisation(load("imagenet", "~/data"), others)  # doctest: +SKIP
    """
    train, tests = _source("domain-generalisation", data, others)
    for other in others:
        images = test_part(other)
        matches = match_classes(data, train.classes, other)
        joint = _joint_digest(data, train, other, images)
        tests.append(Test(other.name, images, _chooser(images, matches), joint))
    plan = _plan(
        "domain-generalisation", data, train, tests, methods, shots, seeds, setting, parameters
    )
    return _execute(plan, out, write_splits, verbose)


# --- asking


def _ask(estimator: BaseEstimator, images: Part) -> NDArray:
    return estimator.predict(images.paths)


def _teller(data: Dataset, targets: Iterable[int], templates: Any = None) -> Predictor:
    """Ask about other classes than those that were trained on."""
    names = words(data)
    classes = {target: names[target] for target in targets}

    def predict(estimator: BaseEstimator, images: Part) -> NDArray:
        return estimator.with_classes(classes, templates=templates).predict(images.paths)

    return predict
