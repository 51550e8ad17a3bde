"""Images through the rest of scikit-learn: who takes which form of X, and what to do where not."""

from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
import sklearn
from joblib import parallel_backend
from PIL import Image
from sklearn.base import clone
from sklearn.calibration import CalibratedClassifierCV, CalibrationDisplay
from sklearn.compose import ColumnTransformer
from sklearn.ensemble import (
    AdaBoostClassifier,
    BaggingClassifier,
    StackingClassifier,
    VotingClassifier,
)
from sklearn.exceptions import UnsetMetadataPassedError
from sklearn.experimental import enable_halving_search_cv  # noqa: F401
from sklearn.frozen import FrozenEstimator
from sklearn.inspection import permutation_importance
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import (
    ConfusionMatrixDisplay,
    DetCurveDisplay,
    PrecisionRecallDisplay,
    RocCurveDisplay,
    f1_score,
    make_scorer,
)
from sklearn.model_selection import (
    FixedThresholdClassifier,
    GridSearchCV,
    GroupKFold,
    HalvingGridSearchCV,
    KFold,
    LearningCurveDisplay,
    RandomizedSearchCV,
    StratifiedGroupKFold,
    StratifiedKFold,
    StratifiedShuffleSplit,
    TunedThresholdClassifierCV,
    cross_val_predict,
    cross_val_score,
    cross_validate,
    learning_curve,
    permutation_test_score,
    train_test_split,
    validation_curve,
)
from sklearn.multiclass import OneVsOneClassifier, OneVsRestClassifier, OutputCodeClassifier
from sklearn.multioutput import ClassifierChain, MultiOutputClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer
from sklearn.semi_supervised import SelfTrainingClassifier
from sklearn.utils import shuffle
from sklearn.utils.fixes import parse_version

from skclipsvd import CLIPEncoder, CLIPSVDClassifier, CosineClassifier

SKLEARN = parse_version(sklearn.__version__)
PER_CLASS = 4


def svd(**params):
    """The real tiny model, with as little training as changes an answer.

    Batches smaller than every training fold keep the rows in the caller's order, so that all forms
    of X must give the same bits.
    """
    quick = dict(max_steps=2, batch_size=6, lr=0.02, layers=[-1], matrices=["v"])
    return CLIPSVDClassifier("tiny", **{**quick, "augment": False, "random_state": 0, **params})


@pytest.fixture(scope="module")
def paths(rows, digits):
    return digits[0][rows].tolist()


@pytest.fixture(scope="module")
def labels(rows, digits):
    return digits[1][rows]


@pytest.fixture(scope="module")
def rows(digits):
    """Three classes of digit files, interleaved."""
    chosen = [np.flatnonzero(digits[1] == name)[:PER_CLASS] for name in ("one", "two", "zero")]
    return np.stack(chosen, axis=1).ravel()


@pytest.fixture(scope="module")
def targets(labels):
    return {
        "classes": labels,
        "binary": np.where(labels == "zero", "zero", "other"),
        "columns": np.stack([labels, np.where(labels == "two", "even", "other")], axis=1),
    }


def pixels(path):
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


def picture(path):
    with Image.open(path) as image:
        return image.copy()


def object_array(paths):
    return np.array(paths, dtype=object)


PATH_COLUMNS = {
    "(n, 1) text array": lambda paths: np.array(paths)[:, None],
    "(n, 1) object array": lambda paths: object_array(paths)[:, None],
    "pandas frame": lambda paths: pd.DataFrame({"path": paths}),
    "polars frame": lambda paths: pl.DataFrame({"path": paths}),
}
SAME_SIZE_PIXELS = {
    "list of PIL": lambda paths: [picture(path) for path in paths],
    "list of arrays": lambda paths: [pixels(path) for path in paths],
    "stacked arrays": lambda paths: np.stack([pixels(path) for path in paths]),
}
FORMS = {
    "list of str": list,
    "tuple of str": tuple,
    "list of Path": lambda paths: [Path(path) for path in paths],
    "tuple of Path": lambda paths: tuple(Path(path) for path in paths),
    "list of bytes": lambda paths: [Path(path).read_bytes() for path in paths],
    "text array": np.array,
    "object array": object_array,
    "pandas series": lambda paths: pd.Series(paths, index=range(100, 100 + len(paths))),
    "polars series": pl.Series,
    "pyarrow array": pa.array,
    **PATH_COLUMNS,
    **SAME_SIZE_PIXELS,
}
all_forms = pytest.mark.parametrize("form", FORMS)
column_forms = pytest.mark.parametrize("form", PATH_COLUMNS)


def answers(estimator, X):
    """Probabilities; side by side where there are several outputs."""
    probabilities = estimator.predict_proba(X)
    return np.hstack(probabilities) if isinstance(probabilities, list) else probabilities


# --- Whatever hands X through untouched ---------------------------------------------------------

SPLIT = StratifiedShuffleSplit(1, test_size=3, random_state=0)
SEARCH = dict(cv=SPLIT, error_score="raise")
LR = {"lr": [0.005, 0.05]}
LR_AND_EPOCHS = {**LR, "epochs": [1, 2]}


def of_epochs():
    return svd(max_steps=None)


CONSUMERS = {
    "classifier": (svd, "classes"),
    "Pipeline": (lambda: make_pipeline(FunctionTransformer(), svd()), "classes"),
    "GridSearchCV": (lambda: GridSearchCV(of_epochs(), LR, **SEARCH), "classes"),
    "RandomizedSearchCV": (
        lambda: RandomizedSearchCV(
            of_epochs(), LR_AND_EPOCHS, n_iter=2, random_state=0, **SEARCH
        ),
        "classes",
    ),
    "HalvingGridSearchCV": (
        lambda: HalvingGridSearchCV(
            of_epochs(),
            LR,
            resource="epochs",
            min_resources=1,
            max_resources=2,
            factor=2,
            **SEARCH,
        ),
        "classes",
    ),
    "CalibratedClassifierCV": (lambda: CalibratedClassifierCV(svd(), cv=SPLIT), "classes"),
    "VotingClassifier": (
        lambda: VotingClassifier([("a", svd()), ("b", svd(random_state=1))], voting="soft"),
        "classes",
    ),
    "StackingClassifier": (
        lambda: StackingClassifier([("a", svd())], LogisticRegression(), cv=3),
        "classes",
    ),
    "OneVsRestClassifier": (lambda: OneVsRestClassifier(svd()), "classes"),
    "MultiOutputClassifier": (lambda: MultiOutputClassifier(svd()), "columns"),
    "TunedThresholdClassifierCV": (
        lambda: TunedThresholdClassifierCV(svd(), cv=SPLIT),
        "binary",
    ),
    "FixedThresholdClassifier": (
        lambda: FixedThresholdClassifier(svd(), threshold=0.3, pos_label="zero"),
        "binary",
    ),
}
if SKLEARN >= parse_version("1.8"):
    CONSUMERS["CalibratedClassifierCV temperature"] = (
        lambda: CalibratedClassifierCV(svd(), cv=SPLIT, method="temperature"),
        "classes",
    )


@pytest.fixture(scope="module")
def from_list(paths, targets):
    """What each consumer answers where X is a list of str, computed once."""
    known = {}

    def ask(name):
        if name not in known:
            make, target = CONSUMERS[name]
            known[name] = answers(make().fit(paths, targets[target]), paths)
        return known[name]

    return ask


@all_forms
@pytest.mark.parametrize("consumer", CONSUMERS)
def test_every_form_of_x_gives_the_same_probabilities(consumer, form, paths, targets, from_list):
    make, target = CONSUMERS[consumer]
    X, y = FORMS[form](paths), targets[target]
    fitted = make().fit(X, y)
    expected = from_list(consumer)
    assert len(expected) == len(paths)
    np.testing.assert_array_equal(answers(fitted, X), expected)
    predicted = fitted.predict(paths)  # another form than in fit
    assert predicted.shape == y.shape
    assert set(predicted.ravel()) <= set(y.ravel())


@pytest.fixture(scope="module")
def fitted(paths, labels):
    return svd().fit(paths, labels)


@all_forms
def test_calibration_of_a_frozen_classifier_takes_every_form(form, fitted, paths, labels):
    calibration = CalibratedClassifierCV(FrozenEstimator(fitted), cv=2)
    calibrated = clone(calibration).fit(FORMS[form](paths), labels)
    expected = calibration.fit(paths, labels)
    np.testing.assert_array_equal(
        calibrated.predict_proba(FORMS[form](paths)), expected.predict_proba(paths)
    )
    assert calibrated.calibrated_classifiers_[0].estimator.estimator is fitted


@all_forms
def test_cross_validation_takes_every_form(form, paths, labels):
    X = FORMS[form](paths)
    folds = StratifiedKFold(3)
    predicted = cross_val_predict(svd(), X, labels, cv=folds, method="predict_proba")
    expected = cross_val_predict(svd(), paths, labels, cv=folds, method="predict_proba")
    np.testing.assert_array_equal(predicted, expected)
    train, test, y_train, y_test = train_test_split(X, labels, random_state=0, stratify=labels)
    assert svd().fit(train, y_train).predict(test).shape == y_test.shape
    assert svd(max_steps=0).fit(*shuffle(X, labels, random_state=0)).classes_.size == 3
