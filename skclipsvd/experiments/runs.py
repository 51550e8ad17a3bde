"""What an experiment consists of: questions, runs, and the plan that lists them."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .._version import __version__
from ..clip import choose_device, load_backbone
from ..datasets import Dataset
from ..exceptions import RepeatedImagesWarning, warn
from . import settings
from .data import (
    Part,
    checked_seeds,
    checked_shots,
    draw,
    n_drawn,
    one_line,
    rare_classes,
    words,
    write_shots,
)
from .methods import (
    METHODS,
    Estimator,
    check_overrides,
    describe,
    make_estimator,
    seeded,
    settings_hash,
)
from .results import Results, Row, key

# Maps a fitted estimator and image paths to targets. Which methods the estimator needs depends on
# the protocol, whose `check_methods` has seen to it.
Predictor = Callable[[Any, NDArray[np.object_]], NDArray[np.int64]]

Methods = str | Sequence[str] | Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True)
class Protocol:
    """A rule that says what is trained on and what is asked.

    Attributes
    ----------
    name : str
        As it stands in results.
    asks_new_classes : bool
        Whether it asks about classes that nothing was trained on.
    """

    name: str
    asks_new_classes: bool = False

    @property
    def methods(self) -> tuple[str, ...]:
        """The methods that can take part, by name."""
        return tuple(
            name
            for name, method in METHODS.items()
            if method.accepts_new_classes or not self.asks_new_classes
        )

    def check_methods(self, methods: Collection[str]) -> None:
        """Raise ValueError for methods that there are not, or not in this protocol."""
        possible = ", ".join(self.methods)
        if not methods:
            raise ValueError(f"methods is empty; choose some of {possible}.")
        for method in methods:
            if method not in METHODS:
                raise ValueError(f"methods: {method!r} is unknown; choose of {possible}.")
            if method not in self.methods:
                raise ValueError(
                    f"methods: {method!r} cannot be told other classes than it was trained on, as "
                    f"{self.name} asks; choose of {possible}."
                )


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

    def accuracy(self, estimator: Estimator) -> float:
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
        What is known of its rows without the model.
    backbone : mapping
        Its ``model_name`` and ``pretrained``, and the ``device`` where one was chosen.
    """

    estimator: Estimator
    train: Part
    tests: Sequence[Question]
    columns: Row
    backbone: Mapping[str, Any]

    @cached_property
    def weights(self) -> str:
        """What identifies the frozen weights, which are loaded for it."""
        device = choose_device(self.backbone.get("device", "auto"))
        model = load_backbone(self.backbone["model_name"], self.backbone["pretrained"], device)
        return model.fingerprint[:12]

    def identities(self) -> list[tuple]:
        """Return what identifies its rows; this loads the model."""
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
            "weights": self.weights,
            "test": test.name,
            "data_hash": test.data_hash,
            "n_train": n_drawn(self.train, self.columns["shots"]),
            "n_test": len(test.images.targets),
            "accuracy": accuracy,
        }
        return {name: one_line(v) if isinstance(v, str) else v for name, v in row.items()}


@dataclass(frozen=True, eq=False)
class Plan:
    """Everything that an experiment was told, checked as far as that takes no model.

    Attributes
    ----------
    protocol : Protocol
    data : Dataset
        What is trained on.
    train : Part
        Its images to draw shots from.
    tests : sequence of Question
    methods : mapping of str to mapping
        Parameters that one method alone is given, by its name.
    shots, seeds : sequence of int
        Without repetitions.
    setting : {"default", "published"}
    overrides : mapping
        Parameters of the estimators that replace those of the setting.
    """

    protocol: Protocol
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
            settings.parameters(self.setting, self.protocol.name, method, name),
            chosen,
            n_shots=shots,
            class_names={target: class_names[target] for target in self.train.classes},
            template=settings.template(self.setting, self.protocol.name, name, self.data.template),
        )
        model, pretrained = chosen["model_name"], chosen["pretrained"]
        columns = {
            "protocol": self.protocol.name,
            "data": name,
            "method": method,
            "model": model,
            # Not looked at by models that bring their own weights.
            "pretrained": "" if model == "tiny" or ":" in model else str(pretrained),
            "shots": shots,
            "seed": seed,
            "setting": self.setting,
            "overrides": describe(method, overrides),
            "settings_hash": settings_hash(estimator),
            "version": __version__,
        }
        return Run(estimator, self.train, self.tests, columns, chosen)


def make_plan(
    protocol: Protocol,
    data: Dataset,
    train: Part,
    tests: Sequence[Question],
    *,
    methods: Methods,
    shots: Iterable[int],
    seeds: Iterable[int],
    setting: str = "default",
    overrides: Mapping[str, Any],
) -> Plan:
    """Check everything that can be checked without a model.

    Parameters
    ----------
    protocol, data, train, tests, setting, overrides : see `Plan`
        Passed on as they are.
    methods : str, sequence of str, or mapping of str to mapping
        Names of `METHODS`, which `protocol` must admit.
    shots, seeds : iterable of int
        One or more each, which may repeat.

    Returns
    -------
    plan : Plan

    Raises
    ------
    ValueError, TypeError
        A method, parameter, number of shots or seed is unknown or out of range.
    """
    by_method = _parameters_by_method(methods)
    protocol.check_methods(by_method)
    check_overrides(overrides, by_method)
    for method, own in by_method.items():
        check_overrides(own, [method])
    shots, seeds = checked_shots(shots), checked_seeds(seeds)
    return Plan(protocol, data, train, tests, by_method, shots, seeds, setting, overrides)


def _parameters_by_method(methods: Methods) -> dict[str, Mapping[str, Any]]:
    if isinstance(methods, Mapping):
        return dict(methods)
    return {name: {} for name in ([methods] if isinstance(methods, str) else methods)}


def execute(
    plan: Plan,
    *,
    out: str | os.PathLike | None = None,
    write_splits: str | os.PathLike | None = None,
    verbose: int = 0,
) -> list[Row]:
    """Do what is not done yet, and return all of it.

    Parameters
    ----------
    plan : Plan
    out : str or path-like, optional
        A CSV file of results; by default they are returned only.
    write_splits : str or path-like, optional
        A folder to write the drawn images to.
    verbose : int, default=0
        Whether to print a line for every run.

    Returns
    -------
    rows : list of dict
        Those of the plan, in its order.
    """
    results = Results(out)
    # Loads every model, so that one which is missing shows before anything is trained.
    runs = [(run, run.identities()) for run in plan.runs()]
    _warn_of_repeated_images(plan)
    if verbose:
        _say(_what_is_used(plan))
    if write_splits is not None:
        _write_splits(plan, Path(write_splits).expanduser())
    for place, (run, identities) in enumerate(runs, start=1):
        done = {key(row) for row in results.rows()}  # other processes may add to the file
        if done.issuperset(identities):
            if verbose:
                _say(f"{place} of {len(runs)}: {_name(run.columns)}: is in {results.path} already")
            continue
        started = time.perf_counter()
        rows = run.rows()
        results.append(rows)
        if verbose:
            seconds = time.perf_counter() - started
            scores = ", ".join(f"{row['test']} {100 * row['accuracy']:.2f} %" for row in rows)
            _say(f"{place} of {len(runs)}: {_name(run.columns)}: {scores} ({seconds:.1f} s)")
    found = {key(row): row for row in results.rows()}
    return [found[identity] for _, identities in runs for identity in identities]


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _name(columns: Row) -> str:
    which = f", {columns['shots']}-shot, seed {columns['seed']}" if columns["shots"] else ""
    return f"{columns['protocol']}, {one_line(columns['data'])}, {columns['method']}{which}"


def _what_is_used(plan: Plan) -> str:
    """Say which parts of a data set are drawn from, asked, and left out."""
    tests = ", ".join(f"{test.name} ({len(test.images.targets)})" for test in plan.tests)
    used = {"train", "test", "all"}
    unused = [
        f"{name} ({len(part)})" for name, part in plan.data.splits.items() if name not in used
    ]
    return one_line(
        f"{plan.data.name}: draws from {len(plan.train.targets)} images, asks about {tests}"
        + (f"; left out, because nothing is tuned on it: {', '.join(unused)}" if unused else "")
    )


def _warn_of_repeated_images(plan: Plan) -> None:
    repeated = {}
    for shots in plan.shots if any(METHODS[method].learns for method in plan.methods) else ():
        if rare := rare_classes(plan.train, shots):
            repeated[shots] = rare
    if not repeated:
        return
    numbers = "; ".join(
        f"{shots} shots are {n_drawn(plan.train, shots)} different images, because "
        f"{len(rare)} of {len(plan.train.classes)} classes have fewer"
        for shots, rare in repeated.items()
    )
    target, n_images = next(iter(repeated[max(repeated)].items()))
    warn(
        f"{plan.data.name}: {numbers} ({plan.data.class_names[target]!r} has {n_images}). Their "
        "images are repeated, as in the published experiments.",
        RepeatedImagesWarning,
    )


def _write_splits(plan: Plan, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for shots in plan.shots:
        for seed in plan.seeds:
            name = f"{plan.protocol.name}-{plan.data.name}-{shots}-shots-seed-{seed}.json"
            write_shots(folder / name, plan.data, plan.train, draw(plan.train, shots, seed))
