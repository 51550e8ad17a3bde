"""The papers' four protocols: what is trained on what, and tested on what."""

from __future__ import annotations

import os
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator

from .._version import __version__
from ..clip import choose_device, load_backbone
from ..datasets import Dataset
from ..model_selection import base_novel_split, check_count
from . import settings
from ._data import Part, digest, draw, one_line, parts, test_part, words, write_shots
from .methods import (
    METHODS,
    check_overrides,
    describe,
    make_estimator,
    seeded,
    settings_hash,
)
from .results import Results, Row, key

# Maps a fitted estimator and image paths to targets.
Predictor = Callable[[BaseEstimator, NDArray], NDArray[np.int64]]

Methods = Sequence[str] | Mapping[str, Mapping[str, Any]]

_ALL = tuple(METHODS)
_TELLABLE = tuple(name for name, method in METHODS.items() if method.told_classes)


@dataclass(frozen=True, eq=False)
class Question:
    """What a fitted estimator is asked.

    Attributes
    ----------
    name : str
        The data set, or the part of it.
    images : Part
        Whose targets are the right answers.
    predict : callable
        Maps the fitted estimator and image paths to its answers.
    data_hash : str
        Identifies the images, those to train on included, and the class names.
    """

    name: str
    images: Part
    predict: Predictor
    data_hash: str

    def accuracy(self, estimator: BaseEstimator) -> float:
        """Ask a fitted estimator."""
        answers = self.predict(estimator, self.images.paths)
        return float(np.mean(answers == self.images.targets))


@dataclass(frozen=True, eq=False)
class Run:
    """One estimator to fit, and what to ask it.

    Attributes
    ----------
    estimator : estimator
        Unfitted.
    train : Part
        What shots are drawn from.
    tests : sequence of Question
    columns : dict
        What is known of its rows before it is fitted.
    """

    estimator: BaseEstimator
    train: Part
    tests: Sequence[Question]
    columns: Row

    def identities(self) -> list[tuple]:
        """Return what identifies its rows."""
        return [key(self._row(test, 0.0)) for test in self.tests]

    def rows(self) -> list[Row]:
        """Fit and ask."""
        shots, seed = self.columns["shots"], self.columns["seed"]
        # Zero-shot looks at nothing but the labels, of which there must be some.
        images = draw(self.train, shots or 1, seed)
        estimator = seeded(self.estimator, seed).fit(images.paths, images.targets)
        return [self._row(test, test.accuracy(estimator)) for test in self.tests]

    def _row(self, test: Question, accuracy: float) -> Row:
        row = {
            **self.columns,
            "test": test.name,
            "data_hash": test.data_hash,
            "n_train": self.columns["shots"] * len(self.train.classes),
            "n_test": len(test.images.targets),
            "accuracy": accuracy,
        }
        return {name: one_line(v) if isinstance(v, str) else v for name, v in row.items()}


@dataclass(frozen=True)
class Plan:
    """What the protocols have in common: which runs, and where results go."""

    protocol: str
    data: Dataset
    train: Part
    tests: Sequence[Question]
    methods: Mapping[str, Mapping[str, Any]]
    shots: Sequence[int]
    seeds: Sequence[int]
    setting: str
    overrides: Mapping[str, Any]

    def runs(self) -> Iterator[Run]:
        """List the runs; zero-shot needs one only, for any number of shots and seeds."""
        for shots in self.shots:
            for seed in self.seeds:
                for method in self.methods:
                    if METHODS[method].learns:
                        yield self._run(method, shots, seed)
                    elif (shots, seed) == (self.shots[0], self.seeds[0]):
                        yield self._run(method, 0, 0)

    def _run(self, method: str, shots: int, seed: int) -> Run:
        name, class_names = self.data.name, words(self.data)
        overrides = {**self.overrides, **self.methods[method]}
        chosen = {**settings.backbone(self.setting, name), **overrides}
        estimator = make_estimator(
            method,
            settings.parameters(self.setting, self.protocol, method, name),
            chosen,
            n_shots=shots,
            class_names={target: class_names[target] for target in self.train.classes},
            template=settings.template(self.setting, self.protocol, name, self.data.template),
        )
        model = (chosen["model_name"], chosen["pretrained"])
        weights = load_backbone(*model, choose_device(chosen.get("device", "auto"))).fingerprint
        columns = {
            "protocol": self.protocol,
            "data": name,
            "method": method,
            "model": model[0],
            # Not looked at by models that bring their own weights.
            "pretrained": "" if model[0] == "tiny" or ":" in model[0] else str(model[1]),
            "shots": shots,
            "seed": seed,
            "setting": self.setting,
            "overrides": describe(method, overrides),
            "settings_hash": settings_hash(estimator),
            "weights": weights[:12],
            "version": __version__,
        }
        return Run(estimator, self.train, self.tests, columns)


def few_shot(
    data: Dataset,
    *,
    methods: Methods = _ALL,
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
    train, test = _own_test(data)
    plan = _plan("few-shot", data, train, [test], methods, shots, seeds, setting, parameters)
    return _execute(plan, out, write_splits, verbose)


def base_to_novel(
    data: Dataset,
    *,
    methods: Methods = _TELLABLE,
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
        As for `few_shot`; all but the linear probe, which cannot be told novel classes.
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
    for name, classes, predict in (("base", base, _ask), ("novel", novel, _teller(data, novel))):
        images = whole.images.of_classes(classes)
        if len(classes) < 2 or not len(images.targets):
            raise ValueError(
                f"{data.name} has {len(classes)} {name} classes with {len(images.targets)} test "
                "images; base-to-novel needs two such classes, and images."
            )
        tests.append(Question(name, images, predict, whole.data_hash))
    plan = _plan(
        "base-to-novel",
        data,
        train.of_classes(base),
        tests,
        methods,
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
    methods: Methods = _TELLABLE,
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
        tell = _teller(other, range(len(other.class_names)), template)
        tests.append(Question(other.name, images, tell, digest((data, train), (other, images))))
    plan = _plan("cross-dataset", data, train, tests, methods, shots, seeds, setting, parameters)
    return _execute(plan, out, write_splits, verbose)


def domain_generalisation(
    data: Dataset,
    others: Sequence[Dataset],
    *,
    methods: Methods = _ALL,
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
    train, own = _own_test(data, others)
    tests, names = [own], words(data)
    for other in others:
        images = test_part(other)
        matches = match_classes([names[t] for t in train.classes], words(other), other.name)
        data_hash = digest((data, train), (other, images))
        tests.append(Question(other.name, images, _chooser(matches), data_hash))
    plan = _plan(
        "domain-generalisation", data, train, tests, methods, shots, seeds, setting, parameters
    )
    return _execute(plan, out, write_splits, verbose)


# --- what to ask


def _ask(estimator: BaseEstimator, paths: NDArray) -> NDArray:
    return estimator.predict(paths)


def _teller(data: Dataset, targets: Iterable[int], templates: Any = None) -> Predictor:
    """Ask about other classes than those that were trained on."""
    names = words(data)
    classes = {target: names[target] for target in targets}

    def predict(estimator: BaseEstimator, paths: NDArray) -> NDArray:
        return estimator.with_classes(classes, templates=templates).predict(paths)

    return predict


def _chooser(matches: Sequence[Sequence[int]]) -> Predictor:
    """Ask which of some of the trained classes it is."""

    def predict(estimator: BaseEstimator, paths: NDArray) -> NDArray:
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
    often, seen = Counter(tested), Counter()
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
    return train, Question(data.name, images, _ask, digest((data, train), (data, images)))


def _plan(protocol, data, train, tests, methods, shots, seeds, setting, overrides) -> Plan:
    """Check everything that can be checked without a model."""
    if isinstance(methods, str) or not isinstance(methods, Mapping):
        methods = {m: {} for m in ([methods] if isinstance(methods, str) else methods)}
    tells = protocol in ("base-to-novel", "cross-dataset")
    check_methods(methods, _TELLABLE if tells else _ALL, protocol)
    check_overrides(overrides, methods)
    for method, own in methods.items():
        check_overrides(own, [method])
    shots = [check_count("shots", n) for n in dict.fromkeys(shots)]
    seeds = list(dict.fromkeys(seeds))
    if not shots or not seeds:
        raise ValueError(f"shots={shots!r} and seeds={seeds!r} need one entry or more each.")
    if not all(isinstance(seed, Integral) and seed >= 0 for seed in seeds):
        raise ValueError(f"seeds={seeds!r} must be ints of at least 0.")
    return Plan(protocol, data, train, tests, methods, shots, seeds, setting, overrides)


def check_methods(methods: Iterable[str], possible: Sequence[str], protocol: str) -> None:
    """Raise ValueError for methods that there are not, or not in this protocol."""
    if not methods:
        raise ValueError(f"methods is empty; choose some of {', '.join(possible)}.")
    for method in methods:
        if method not in METHODS:
            raise ValueError(f"methods: {method!r} is unknown; choose of {', '.join(possible)}.")
        if method not in possible:
            raise ValueError(
                f"methods: {method!r} cannot be told other classes than it was trained on, as "
                f"{protocol} asks; choose of {', '.join(possible)}."
            )


def _execute(
    plan: Plan,
    out: str | os.PathLike | None,
    write_splits: str | os.PathLike | None,
    verbose: int,
) -> list[Row]:
    """Do what is not done yet, and return all of it."""
    results = Results(out)
    runs = list(plan.runs())
    if write_splits is not None:
        _write_splits(plan, Path(write_splits).expanduser())
    for run in runs:
        done = {key(row) for row in results.rows()}  # other processes may add to the file
        if done.issuperset(run.identities()):
            continue
        started = time.perf_counter()
        rows = run.rows()
        results.append(rows)
        if verbose:
            _report(rows, time.perf_counter() - started)
    found = {key(row): row for row in results.rows()}
    return [found[k] for run in runs for k in run.identities()]


def _report(rows: Sequence[Row], seconds: float) -> None:
    first = rows[0]
    scores = ", ".join(f"{row['test']} {100 * row['accuracy']:.2f} %" for row in rows)
    which = f", {first['shots']}-shot, seed {first['seed']}" if first["shots"] else ""
    print(
        f"{first['protocol']}, {first['data']}, {first['method']}{which}: {scores} "
        f"({seconds:.1f} s)",
        file=sys.stderr,
        flush=True,
    )


def _write_splits(plan: Plan, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for shots in plan.shots:
        for seed in plan.seeds:
            name = f"{plan.protocol}-{plan.data.name}-{shots}-shots-seed-{seed}.json"
            write_shots(folder / name, plan.data, plan.train, draw(plan.train, shots, seed))
