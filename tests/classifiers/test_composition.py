"""Images through the rest of scikit-learn: who takes which form of X, and what to do where not."""

import warnings
from collections import Counter
from contextlib import nullcontext
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
from sklearn.pipeline import FeatureUnion, make_pipeline
from sklearn.preprocessing import FunctionTransformer
from sklearn.semi_supervised import SelfTrainingClassifier
from sklearn.utils import shuffle
from sklearn.utils.fixes import parse_version

from skclipsvd import (
    CLIPEncoder,
    CLIPLoRAClassifier,
    CLIPSVDClassifier,
    CLIPZeroShotClassifier,
    CosineClassifier,
)
from skclipsvd.exceptions import BareLabelWarning
from skclipsvd.model_selection import sample_shots

PER_CLASS = 4
NAMES = ("one", "two", "zero")
# For ensembles, which number the labels before they pass them on.
WORDS = dict(enumerate(NAMES))
# Where the form of X is in question, and not what the labels say.
any_words = pytest.mark.filterwarnings("ignore::skclipsvd.exceptions.BareLabelWarning")

# LogisticRegression of scikit-learn < 1.8 passes options that SciPy 1.16 deprecated.
pytestmark = pytest.mark.filterwarnings(
    "ignore:scipy.optimize. The `disp` and `iprint` options:DeprecationWarning:sklearn"
)


def svd(**params):
    """The real tiny model, with as little training as changes an answer.

    Batches smaller than every training fold keep the rows in the caller's order, so that all forms
    of X must give the same bits.
    """
    quick = dict(max_steps=1, batch_size=6, lr=0.02, layers=[-1], matrices=["v"])
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
    chosen = [np.flatnonzero(digits[1] == name)[:PER_CLASS] for name in NAMES]
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
    return svd(max_steps=None, epochs=1)


CONSUMERS = {
    "classifier": (svd, "classes"),
    "Pipeline": (lambda: make_pipeline(FunctionTransformer(), svd()), "classes"),
    "GridSearchCV": (lambda: GridSearchCV(of_epochs(), LR, **SEARCH), "classes"),
    "RandomizedSearchCV": (
        lambda: RandomizedSearchCV(of_epochs(), LR_AND_EPOCHS, n_iter=2, random_state=0, **SEARCH),
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
        lambda: VotingClassifier(
            [("a", svd(class_names=WORDS)), ("b", svd(class_names=WORDS, random_state=1))],
            voting="soft",
        ),
        "classes",
    ),
    "StackingClassifier": (
        lambda: StackingClassifier([("a", svd(class_names=WORDS))], LogisticRegression(), cv=3),
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
if parse_version(sklearn.__version__) >= parse_version("1.8"):
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


@any_words
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


@pytest.fixture(scope="module")
def held_out_probabilities(paths, labels):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", BareLabelWarning)  # the form of X is in question
        return cross_val_predict(svd(), paths, labels, cv=3, method="predict_proba")


@any_words
@all_forms
def test_cross_validation_takes_every_form(form, paths, labels, held_out_probabilities):
    X = FORMS[form](paths)
    predicted = cross_val_predict(svd(), X, labels, cv=3, method="predict_proba")
    np.testing.assert_array_equal(predicted, held_out_probabilities)


@all_forms
def test_splitting_and_shuffling_take_every_form(form, paths, labels):
    zero_shot = svd(max_steps=0)
    X = FORMS[form](paths)
    train, test, y_train, y_test = train_test_split(X, labels, random_state=0, stratify=labels)
    assert zero_shot.fit(train, y_train).predict(test).shape == y_test.shape
    np.testing.assert_array_equal(
        zero_shot.predict_proba(shuffle(X, random_state=1)),
        shuffle(zero_shot.predict_proba(paths), random_state=1),
    )


def test_a_classifier_of_images_counts_no_columns_and_returns_no_frames(fitted):
    assert not hasattr(fitted, "n_features_in_")
    assert not hasattr(fitted, "feature_names_in_")


# --- Meta-estimators that look into X -----------------------------------------------------------


COLUMN_CONSUMERS = {
    "BaggingClassifier": lambda: BaggingClassifier(
        svd(class_names=WORDS), n_estimators=2, random_state=0
    ),
    # enough steps to beat chance on these very images, which AdaBoost insists on
    "AdaBoostClassifier": lambda: AdaBoostClassifier(
        svd(max_steps=12), n_estimators=2, random_state=0
    ),
}


@pytest.fixture(scope="module")
def from_text_column(paths, labels):
    X = np.array(paths)[:, None]
    return {
        name: make().fit(X, labels, sample_weight=rising_weights(paths)).predict_proba(X)
        for name, make in COLUMN_CONSUMERS.items()
    }


def rising_weights(paths):
    return np.linspace(1, 2, len(paths))


@column_forms
@pytest.mark.parametrize("name", COLUMN_CONSUMERS)
def test_ensembles_of_weighted_images_take_a_column(name, form, paths, labels, from_text_column):
    X = FORMS[form](paths)
    ensemble = COLUMN_CONSUMERS[name]().fit(X, labels, sample_weight=rising_weights(paths))
    np.testing.assert_array_equal(ensemble.predict_proba(X), from_text_column[name])


@pytest.fixture(scope="module")
def codes(paths, labels):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", BareLabelWarning)
        return OutputCodeClassifier(svd(), code_size=1.0, random_state=0).fit(paths, labels)


@any_words
@pytest.mark.parametrize("form", [form for form in FORMS if form not in SAME_SIZE_PIXELS])
def test_error_correcting_codes_take_everything_but_pixels(form, codes, paths, labels):
    X = FORMS[form](paths)
    np.testing.assert_array_equal(clone(codes).fit(X, labels).predict(X), codes.predict(paths))


@column_forms
def test_permutation_importance_takes_a_column(form, fitted, paths, labels):
    X = FORMS[form](paths)
    importance = permutation_importance(fitted, X, labels, n_repeats=2, random_state=0)
    assert importance.importances.shape == (1, 2)


NUMBERS_ONLY = {
    "SelfTrainingClassifier": SelfTrainingClassifier,
    "OneVsOneClassifier": OneVsOneClassifier,
    "ClassifierChain": ClassifierChain,
    "StackingClassifier(passthrough=True)": lambda clf: StackingClassifier(
        [("clf", clf)], cv=3, passthrough=True
    ),
}


def numeric_targets(labels):
    """Labels as numbers, half of them unknown, and as columns of a multi-label problem."""
    numbers = np.unique(labels, return_inverse=True)[1]
    known = numbers.copy()
    known[len(known) // 2 :] = -1
    indicators = np.eye(3, dtype=int)[numbers][:, :2]
    return {"SelfTrainingClassifier": known, "ClassifierChain": indicators}


@any_words
@pytest.mark.parametrize("name", NUMBERS_ONLY)
def test_meta_estimators_that_calculate_with_x_cannot_take_paths(name, paths, labels):
    y = numeric_targets(labels).get(name, labels)
    with pytest.raises(ValueError, match=r"dtype='numeric' is not|could not convert string"):
        NUMBERS_ONLY[name](svd()).fit(np.array(paths)[:, None], y)


@all_forms
def test_every_form_of_x_gives_the_same_embeddings(form, paths):
    encoder = CLIPEncoder("tiny").fit(FORMS[form](paths))
    embeddings = encoder.transform(FORMS[form](paths))
    assert embeddings.shape == (len(paths), encoder.n_features_out_)
    np.testing.assert_array_equal(embeddings, encoder.transform(paths))


@pytest.mark.parametrize("name", NUMBERS_ONLY)
def test_they_work_on_embeddings(name, paths, labels):
    y = numeric_targets(labels).get(name, labels)
    pipeline = make_pipeline(CLIPEncoder("tiny"), NUMBERS_ONLY[name](CosineClassifier()))
    assert pipeline.fit(paths, y).predict(paths).shape == y.shape


def take(index, paths):
    return [paths[i] for i in index[:, 0].astype(int)]


def from_index(paths, estimator):
    return make_pipeline(FunctionTransformer(take, kw_args={"paths": paths}), estimator)


@any_words
@pytest.mark.parametrize("name", ["SelfTrainingClassifier", "OneVsOneClassifier"])
def test_they_work_on_a_column_of_row_numbers(name, paths, labels):
    y = numeric_targets(labels).get(name, labels)
    index = np.arange(len(paths))[:, None]
    words = {"SelfTrainingClassifier": WORDS}.get(name)  # OneVsOne numbers every pair anew
    clf = from_index(paths, svd(class_names=words))
    predicted = NUMBERS_ONLY[name](clf).fit(index, y).predict(index)
    assert set(predicted) <= set(y) - {-1}


def test_a_chain_works_on_a_column_of_row_numbers(paths, labels):
    """The row number becomes an embedding; the chain's own columns pass beside it."""
    images = from_index(paths, CLIPEncoder("tiny"))
    link = make_pipeline(
        ColumnTransformer([("image", images, [0])], remainder="passthrough"), LogisticRegression()
    )
    index = np.arange(len(paths))[:, None]
    y = numeric_targets(labels)["ClassifierChain"]
    chain = ClassifierChain(link).fit(index, y)
    assert chain.predict(index).shape == y.shape
    n_features = [one[-1].n_features_in_ for one in chain.estimators_]
    assert n_features[1] == n_features[0] + 1


# --- Searches and curves ------------------------------------------------------------------------


@pytest.fixture(scope="module")
def serial_search(paths, labels):
    return GridSearchCV(of_epochs(), LR_AND_EPOCHS, **SEARCH).fit(paths, labels)


@pytest.mark.parametrize(
    ("n_jobs", "backend"), [(1, "threading"), (2, "threading"), (1, "loky"), (2, "loky")]
)
def test_workers_do_not_change_a_search(n_jobs, backend, serial_search, paths, labels):
    search = clone(serial_search).set_params(n_jobs=n_jobs)
    with parallel_backend(backend):
        search.fit(paths, labels)
    assert search.best_params_ == serial_search.best_params_
    np.testing.assert_array_equal(
        search.cv_results_["mean_test_score"], serial_search.cv_results_["mean_test_score"]
    )
    np.testing.assert_array_equal(search.predict_proba(paths), serial_search.predict_proba(paths))


def test_nested_cross_validation(paths, labels):
    inner = GridSearchCV(of_epochs(), LR, cv=2, error_score="raise")
    scores = cross_val_score(inner, paths, labels, cv=2, error_score="raise")
    assert scores.shape == (2,)
    assert np.isfinite(scores).all()


def test_scorers_of_text_labels(paths, targets):
    """F1 needs to be told which label is the positive one, as for any classifier."""
    y = targets["binary"]
    with pytest.raises(ValueError, match="pos_label"):
        f1_score(y, y)
    f1 = make_scorer(f1_score, pos_label="zero", zero_division=0)
    scoring = {"f1": f1, "auc": "roc_auc", "log": "neg_log_loss", "accuracy": "accuracy"}
    results = cross_validate(svd(), paths, y, cv=2, scoring=scoring, error_score="raise")
    assert all(np.isfinite(results[f"test_{name}"]).all() for name in scoring)


@pytest.mark.parametrize("splitter", [KFold(3), StratifiedKFold(2)])
def test_splitters(splitter, paths, labels):
    check_splitter(paths, labels, cv=splitter)


@pytest.mark.parametrize("splitter", [GroupKFold(2), StratifiedGroupKFold(2)])
def test_splitters_of_groups(splitter, paths, labels):
    check_splitter(paths, labels, cv=splitter, groups=np.arange(len(paths)) // 3 % 2)


def check_splitter(paths, labels, **arguments):
    scores = cross_val_score(svd(), paths, labels, error_score="raise", **arguments)
    assert scores.shape == (arguments["cv"].get_n_splits(),)
    assert cross_val_predict(svd(), paths, labels, **arguments).shape == labels.shape


def test_curves(paths, labels):
    settings = dict(cv=2, error_score="raise")
    sizes, train_scores, test_scores = learning_curve(
        svd(), paths, labels, train_sizes=[6], **settings
    )
    assert sizes.tolist() == [6]
    assert train_scores.shape == test_scores.shape == (1, 2)
    _, test_scores = validation_curve(
        svd(), paths, labels, param_name="lr", param_range=[0.01, 0.1], **settings
    )
    assert test_scores.shape == (2, 2)
    _, scores, p_value = permutation_test_score(
        svd(), paths, labels, n_permutations=2, cv=2, random_state=0
    )
    assert scores.shape == (2,)
    assert 0 < p_value <= 1


# --- Displays -----------------------------------------------------------------------------------


@pytest.fixture
def axes():
    matplotlib = pytest.importorskip("matplotlib")
    matplotlib.use("Agg")
    from matplotlib import pyplot

    yield pyplot.figure().gca()
    pyplot.close("all")


@pytest.mark.parametrize(
    "display",
    [
        ConfusionMatrixDisplay,
        RocCurveDisplay,
        PrecisionRecallDisplay,
        DetCurveDisplay,
        CalibrationDisplay,
    ],
)
def test_displays_of_a_fitted_classifier(display, axes, paths, targets):
    y = targets["binary"]
    shown = display.from_estimator(svd().fit(paths, y), paths, y, ax=axes)
    assert shown.ax_ is axes


def test_display_of_a_learning_curve(axes, paths, labels):
    shown = LearningCurveDisplay.from_estimator(
        svd(), paths, labels, cv=2, train_sizes=[3, 6], ax=axes, error_score="raise"
    )
    assert shown.test_scores.shape == (2, 2)


@pytest.mark.parametrize("display", [RocCurveDisplay, PrecisionRecallDisplay])
def test_displays_of_cross_validation(display, axes, paths, targets):
    if not hasattr(display, "from_cv_results"):
        pytest.skip(f"scikit-learn {sklearn.__version__} has no {display.__name__}.from_cv_results")
    y = targets["binary"]
    results = cross_validate(svd(), paths, y, cv=2, return_estimator=True, return_indices=True)
    shown = display.from_cv_results(results, paths, y, ax=axes)
    assert len(shown.line_) == 2


# --- Frames -------------------------------------------------------------------------------------


def selects_polars_columns():
    """Older versions of scikit-learn need a protocol that polars 2 has dropped."""
    columns = ColumnTransformer([("all", "passthrough", ["a"])])
    try:
        columns.fit_transform(pl.DataFrame({"a": [1, 2]}))
    except AttributeError:
        return False
    return True


@pytest.mark.parametrize("library", [pd, pl], ids=["pandas", "polars"])
@pytest.mark.parametrize("column", ["path", ["path"]], ids=["series", "frame"])
def test_embeddings_beside_other_columns(library, column, paths, labels):
    if library is pl and not selects_polars_columns():
        pytest.skip(f"scikit-learn {sklearn.__version__} selects no columns of this polars by name")
    frame = library.DataFrame({"path": paths, "age": np.arange(len(paths)) / 10})
    encoder = CLIPEncoder("tiny")
    columns = ColumnTransformer(
        [("image", encoder, column), ("rest", "passthrough", ["age"])],
        verbose_feature_names_out=False,
    )
    table = columns.set_output(transform=library.__name__).fit_transform(frame)
    width = columns.named_transformers_["image"].n_features_out_
    assert isinstance(table, library.DataFrame)
    assert list(table.columns) == [*(f"clipencoder{i}" for i in range(width)), "age"]
    np.testing.assert_array_equal(
        np.asarray(table)[:, :width].astype(np.float32), encoder.fit_transform(paths)
    )
    pipeline = make_pipeline(columns, LogisticRegression()).fit(frame, labels)
    assert pipeline.predict(frame).shape == labels.shape


def test_a_fitted_classifier_transforms_inside_a_pipeline(fitted, paths, labels):
    encoder = CLIPEncoder(classifier=FrozenEstimator(fitted))
    scores = cross_val_score(
        make_pipeline(encoder, CosineClassifier()), paths, labels, cv=2, error_score="raise"
    )
    assert scores.shape == (2,)
    np.testing.assert_array_equal(encoder.fit_transform(paths), fitted.transform(paths))


# --- Metadata -----------------------------------------------------------------------------------


@pytest.fixture
def routing():
    with sklearn.config_context(enable_metadata_routing=True):
        yield


@pytest.fixture
def metadata(paths):
    return dict(sample_weight=rising_weights(paths), groups=np.arange(len(paths)) // 3 % 2)


def test_weights_and_groups_are_routed(routing, metadata, paths, labels):
    clf = of_epochs().set_fit_request(sample_weight=True).set_score_request(sample_weight=True)
    search = GridSearchCV(clf, LR, cv=GroupKFold(2), error_score="raise")
    weighted = search.fit(paths, labels, **metadata).best_estimator_
    alone = clone(weighted).fit(paths, labels, sample_weight=metadata["sample_weight"])
    unweighted = clone(weighted).fit(paths, labels)
    probabilities = weighted.predict_proba(paths)
    np.testing.assert_array_equal(probabilities, alone.predict_proba(paths))
    assert (probabilities != unweighted.predict_proba(paths)).any()


def test_weights_that_nobody_asked_for_are_refused(routing, metadata, paths, labels):
    search = GridSearchCV(of_epochs(), LR, cv=GroupKFold(2), error_score="raise")
    with pytest.raises(UnsetMetadataPassedError, match="sample_weight"):
        search.fit(paths, labels, **metadata)


def test_a_validation_part_is_routed(routing, paths, labels):
    clf = of_epochs().set_fit_request(X_val=True, y_val=True)
    search = GridSearchCV(clf, LR, cv=SPLIT, error_score="raise")
    search.fit(paths, labels, X_val=paths[:3], y_val=labels[:3])
    assert search.best_estimator_.validation_scores_.shape == (2,)


def test_requests_need_routing_switched_on():
    with pytest.raises(RuntimeError, match="enable_metadata_routing"):
        svd().set_fit_request(sample_weight=True)


# --- Callbacks ----------------------------------------------------------------------------------


@pytest.fixture
def callback():
    return pytest.importorskip("sklearn.callback", reason="scikit-learn < 1.9 has no callbacks")


def test_a_progress_bar_of_a_fit_and_of_a_search(callback, paths, labels, capsys):
    pytest.importorskip("rich")
    of_epochs().set_callbacks(callback.ProgressBar()).fit(paths, labels)
    assert "CLIPSVDClassifier" in capsys.readouterr().out
    search = GridSearchCV(of_epochs(), LR, **SEARCH)
    search.set_callbacks(callback.ProgressBar(max_propagation_depth=None)).fit(paths, labels)
    shown = capsys.readouterr().out
    assert "GridSearchCV" in shown
    assert "CLIPSVDClassifier" in shown


def test_a_monitor_scores_every_epoch(callback, paths, labels):
    monitor = callback.ScoringMonitor(scoring="neg_log_loss")
    clf = of_epochs().set_params(epochs=3).set_callbacks(monitor).fit(paths, labels)
    log = [row for row in monitor.get_logs().data if row["task_name"] == "epoch"]
    assert len(log) == 3
    scores = [row["neg_log_loss"] for row in log]
    expected = sklearn.metrics.get_scorer("neg_log_loss")(clf, paths, labels)
    assert scores[-1] == pytest.approx(expected, abs=1e-6)
    assert scores[0] != scores[-1]


def test_a_monitor_scores_nothing_of_the_last_fit(callback, paths, labels):
    """Neither the last fit's head nor its intercepts have a part in this one's scores."""
    classes, several = np.unique(labels), labels[:, None] == np.unique(labels)
    refitted = of_epochs().set_params(head="logistic", class_names=classes.tolist())
    refitted.fit(paths, several.astype(int)).set_params(head=None)
    logs = []
    for clf in (refitted, of_epochs().set_params(class_names=classes.tolist())):
        monitor = callback.ScoringMonitor(scoring="neg_log_loss")
        clf.set_callbacks(monitor).fit(paths, labels)
        data = monitor.get_logs().data
        logs.append([row["neg_log_loss"] for row in data if row["task_name"] == "epoch"])
    assert logs[0] == logs[1] != []


def test_a_monitor_inside_a_search(callback, paths, labels):
    monitor = callback.ScoringMonitor(scoring="accuracy")
    search = GridSearchCV(of_epochs().set_callbacks(monitor), LR, **SEARCH)
    search.fit(paths, labels)
    tasks = Counter(row["task_name"] for row in monitor.get_logs().data)
    n_fits = len(LR["lr"]) * SPLIT.get_n_splits() + 1
    assert tasks["epoch"] == n_fits


def test_a_callback_can_stop_a_fit(callback, paths, labels):
    clf = of_epochs().set_params(epochs=5).set_callbacks(StopAfterOneEpoch())
    assert clf.fit(paths, labels).n_iter_ == 2
    assert clf.predict(paths).shape == labels.shape


class StopAfterOneEpoch:
    def setup(self, estimator, context):
        pass

    def teardown(self, estimator, context):
        pass

    def on_fit_task_begin(self, estimator, context):
        pass

    def on_fit_task_end(self, estimator, context, **kwargs):
        return context.task_name == "epoch"


# --- Looks --------------------------------------------------------------------------------------


def test_html_shows_parameters_and_whether_it_is_fitted(fitted):
    pipeline = make_pipeline(FunctionTransformer(), svd(lr=0.0125))
    page = pipeline._repr_html_()
    assert "CLIPSVDClassifier" in page
    assert "0.0125" in page
    assert "Not fitted" in page
    assert "Not fitted" not in fitted._repr_html_()


@pytest.mark.parametrize("kind", [CLIPSVDClassifier, CLIPLoRAClassifier, CLIPZeroShotClassifier])
def test_embeddings_as_a_frame(kind, small_model, photographs):
    paths, labels = photographs
    settings = {} if kind is CLIPZeroShotClassifier else dict(max_steps=1, random_state=0)
    clf = kind(small_model, **settings).fit(paths, labels)
    plain = clf.transform(paths[:3])
    table = pd.DataFrame({"path": paths[:3]}, index=[5, 6, 7])
    frame = clf.set_output(transform="pandas").transform(table)
    assert isinstance(frame, pd.DataFrame)
    np.testing.assert_array_equal(frame.to_numpy(), plain)
    assert frame.index.tolist() == [5, 6, 7]
    assert frame.columns.tolist() == clf.get_feature_names_out().tolist()
    assert frame.columns[0] == f"{kind.__name__.lower()}0"
    with sklearn.config_context(transform_output="pandas"):
        assert isinstance(clone(clf).fit(paths, labels).transform(paths[:3]), pd.DataFrame)
        assert clf.predict(paths[:3]).shape == (3,)
        union = FeatureUnion([("clip", clone(clf)), ("frozen", CLIPEncoder(small_model))])
        assert union.fit_transform(paths, labels).shape == (20, 64)


# --- What the labels say ------------------------------------------------------------------------


@pytest.fixture(scope="module")
def ten(digits):
    """Ten classes: four images each to learn from, and 150 others."""
    index = sample_shots(digits[1], 4, random_state=0)
    rest = np.setdiff1d(np.arange(250), index)[:150]
    return [part[rows] for rows in (index, rest) for part in digits]


TEN = dict(
    enumerate(["eight", "five", "four", "nine", "one", "seven", "six", "three", "two", "zero"])
)


def learner(**params):
    """Little training, so that wrong words show; with the right ones nearly all is right."""
    return svd(max_steps=3, batch_size=64, **params)


def column(X):
    return np.asarray(X)[:, None]


HALVES = StratifiedShuffleSplit(1, test_size=20, random_state=0)
# Who passes labels on as they are, and who numbers them from 0.
AS_THEY_ARE = {
    "classifier": lambda clf: clf,
    "Pipeline": lambda clf: make_pipeline(FunctionTransformer(), clf),
    "GridSearchCV": lambda clf: GridSearchCV(clf, {"lr": [0.02]}, cv=HALVES, error_score="raise"),
    "RandomizedSearchCV": lambda clf: RandomizedSearchCV(
        clf, {"lr": [0.02]}, n_iter=1, cv=HALVES, error_score="raise"
    ),
    "HalvingGridSearchCV": lambda clf: HalvingGridSearchCV(
        clf, {"lr": [0.02, 0.01]}, cv=HALVES, factor=2, min_resources=40, error_score="raise"
    ),
    "CalibratedClassifierCV": lambda clf: CalibratedClassifierCV(clf, cv=HALVES),
    "AdaBoostClassifier": lambda clf: AdaBoostClassifier(clf, n_estimators=1, random_state=0),
}
NUMBERED = {
    "VotingClassifier": lambda clf: VotingClassifier([("clf", clf)], voting="soft"),
    "StackingClassifier": lambda clf: StackingClassifier(
        [("clf", clf)], LogisticRegression(C=100), cv=2
    ),
    "BaggingClassifier": lambda clf: BaggingClassifier(clf, n_estimators=2, random_state=0),
}
IN_COLUMNS = {"BaggingClassifier", "AdaBoostClassifier"}
NUMBERED_ANEW = {
    "OneVsRestClassifier": OneVsRestClassifier,
    "OutputCodeClassifier": lambda clf: OutputCodeClassifier(clf, code_size=1.0, random_state=0),
}


def accuracy(name, ensemble, ten, encode=np.asarray):
    train, y_train, test, y_test = ten
    if name in IN_COLUMNS:
        train, test = column(train), column(test)
    return ensemble.fit(train, encode(y_train)).score(test, encode(y_test))


def as_numbers(labels):
    return np.searchsorted(list(TEN.values()), labels)


@pytest.mark.parametrize("name", AS_THEY_ARE)
def test_text_labels_are_words_through(name, ten):
    assert accuracy(name, AS_THEY_ARE[name](learner()), ten) > 0.85


@pytest.mark.parametrize("name", [*AS_THEY_ARE, *NUMBERED])
def test_number_labels_with_class_names_are_words_too(name, ten):
    """The recipe: class_names=dict(enumerate(np.unique(y))), whoever numbered the labels."""
    make = {**AS_THEY_ARE, **NUMBERED}[name]
    encode = as_numbers if name in AS_THEY_ARE else np.asarray
    assert dict(enumerate(np.unique(ten[1]))) == TEN
    assert accuracy(name, make(learner(class_names=TEN)), ten, encode) > 0.85


def test_a_vote_of_one_with_class_names_is_the_classifier(ten):
    train, y_train, test, _ = ten
    plain = learner().fit(train, y_train)
    vote = NUMBERED["VotingClassifier"](learner(class_names=TEN)).fit(train, y_train)
    np.testing.assert_array_equal(vote.predict_proba(test), plain.predict_proba(test))
    np.testing.assert_array_equal(vote.predict(test), plain.predict(test))


# AdaBoost refuses what is worse than guessing, as this is; stacking learns which column is which.
LEFT_OUT = {"AdaBoostClassifier", "StackingClassifier"}


@pytest.mark.parametrize("name", sorted({*AS_THEY_ARE, *NUMBERED} - LEFT_OUT))
def test_without_class_names_numbers_are_warned_of(name, ten):
    make = {**AS_THEY_ARE, **NUMBERED}[name]
    encode = as_numbers if name in AS_THEY_ARE else np.asarray
    with pytest.warns(BareLabelWarning, match=r"class_names=dict\(enumerate\(np\.unique\(y\)\)\)"):
        assert accuracy(name, make(learner()), ten, encode) < 0.5


# scikit-learn 1.6's logistic regression calls what newer versions of SciPy warn about.
@pytest.mark.filterwarnings("ignore:scipy.optimize:DeprecationWarning")
@pytest.mark.parametrize("name", sorted(LEFT_OUT))
def test_ensembles_that_mend_or_refuse_numbers_warn_too(name, ten):
    make = {**AS_THEY_ARE, **NUMBERED}[name]
    encode = as_numbers if name in AS_THEY_ARE else np.asarray
    worse = pytest.raises(ValueError, match="worse than random")
    with pytest.warns(BareLabelWarning), worse if name in AS_THEY_ARE else nullcontext():
        accuracy(name, make(learner()), ten, encode)


@pytest.mark.parametrize("name", NUMBERED_ANEW)
def test_no_words_fit_where_every_classifier_numbers_anew(name, ten):
    """And text labels are no help there; the classifier itself is better, and needs one fit."""
    plain = accuracy("classifier", learner(), ten)
    with pytest.warns(BareLabelWarning, match="OneVsOneClassifier and OutputCodeClassifier"):
        assert accuracy(name, NUMBERED_ANEW[name](learner()), ten) < plain - 0.05


def test_several_outputs_of_text_are_words(ten):
    train, y_train, test, y_test = ten
    classes = list(TEN.values())

    def columns(y):
        return np.stack([y, np.where(np.isin(y, classes[:5]), y, "zero")], axis=1)

    fitted = MultiOutputClassifier(learner()).fit(train, columns(y_train))
    assert (fitted.predict(test)[:, 0] == y_test).mean() > 0.85
    with pytest.warns(BareLabelWarning):
        MultiOutputClassifier(svd(max_steps=0)).fit(train, as_numbers(columns(y_train)))


@pytest.mark.parametrize("wrapper", [TunedThresholdClassifierCV, FixedThresholdClassifier])
def test_thresholds_of_text_labels(wrapper, ten):
    pair = ["one", "zero"]
    train, y_train, test, y_test = ten
    few, rest = np.isin(y_train, pair), np.isin(y_test, pair)
    settings = {"cv": 2} if wrapper is TunedThresholdClassifierCV else {"pos_label": "zero"}
    clf = wrapper(learner(), **settings).fit(train[few], y_train[few])
    assert clf.score(test[rest], y_test[rest]) > 0.85
    with pytest.warns(BareLabelWarning):
        wrapper(
            svd(max_steps=0), **{**settings, **({} if "cv" in settings else {"pos_label": 1})}
        ).fit(train[few], (y_train[few] == "zero").astype(int))


def test_self_training_of_numbers_takes_words(ten):
    train, y_train, test, y_test = ten
    index = np.arange(len(train) + len(test))[:, None]
    paths = [*train, *test]
    known = as_numbers(y_train)
    known[::4] = -1
    clf = from_index(paths, learner(class_names=TEN))
    fitted = SelfTrainingClassifier(clf, max_iter=1).fit(index[: len(train)], known)
    assert fitted.score(index[len(train) :], as_numbers(y_test)) > 0.85


def test_cross_validated_probabilities_are_of_numbered_labels(ten):
    """cross_val_predict numbers the labels for every method but predict."""
    train, y_train, _, _ = ten

    def cross_validated(clf):
        probabilities = cross_val_predict(clf, train, y_train, cv=2, method="predict_proba")
        return (np.unique(y_train)[probabilities.argmax(axis=1)] == y_train).mean()

    assert cross_validated(learner(class_names=TEN)) > 0.85
    with pytest.warns(BareLabelWarning):
        assert cross_validated(learner()) < 0.5
    assert (cross_val_predict(learner(), train, y_train, cv=2) == y_train).mean() > 0.85


def test_pairs_of_classes_are_numbered_anew(ten):
    """OneVsOneClassifier, too: no words fit, and the classifier itself is better."""
    three = [np.isin(y, NAMES) for y in ten[1::2]]
    train, y_train, test, y_test = (part[three[i // 2]] for i, part in enumerate(ten))
    by_row = from_index([*train, *test], learner())
    index = np.arange(len(train) + len(test))[:, None]
    rows, others = index[: len(train)], index[len(train) :]
    plain = clone(by_row).fit(rows, y_train).score(others, y_test)
    assert plain > 0.85
    with pytest.warns(BareLabelWarning, match="OneVsRestClassifier"):
        paired = OneVsOneClassifier(by_row).fit(rows, y_train).score(others, y_test)
    assert paired < plain - 0.05
