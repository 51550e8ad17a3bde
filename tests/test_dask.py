"""Worker processes of dask answer as one process does, to the last bit, and share what they may."""

import joblib
import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV

import skclipsvd
from skclipsvd import CLIPSVDClassifier

distributed = pytest.importorskip("distributed", reason="dask is not installed")


@pytest.fixture(scope="module")
def cluster():
    """Two worker processes on this machine, which compute with as many threads as this one."""
    threads = torch.get_num_threads()  # rounding depends on it; dask would choose one
    with (
        distributed.LocalCluster(
            n_workers=2,
            threads_per_worker=1,
            processes=True,
            memory_limit=0,
            dashboard_address=":0",
            env={"OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads},
        ) as machines,
        distributed.Client(machines) as client,
    ):
        client.run(torch.set_num_threads, threads)
        yield client


@pytest.fixture
def client(cluster):
    """The same workers, with nothing in their caches."""
    cluster.run(skclipsvd.clear_caches)
    return cluster


@pytest.fixture
def clf():
    return CLIPSVDClassifier(
        "tiny", lr=0.02, epochs=1, layers="top", augment=False, device="cpu", random_state=0
    )


@pytest.fixture
def some(digits):
    return tuple(column[:30] for column in digits)


def search_over(clf, rates=(0.005, 0.05)):
    grid = {"lr": rates}
    return GridSearchCV(clf, grid, cv=2, scoring="neg_log_loss", error_score="raise")


def misses(client, cache):
    """Count what each worker had to make, because it was not in its cache."""
    return [info[cache]["misses"] for info in client.run(skclipsvd.cache_info).values()]


def test_a_search_gives_what_one_process_gives(client, clf, some):
    paths, labels = some
    alone = search_over(clf).set_params(n_jobs=1).fit(paths, labels)
    spread = search_over(clf)
    with joblib.parallel_config(backend="dask"):
        spread.fit(paths, labels)

    for name, values in alone.cv_results_.items():
        if not name.endswith("_time"):
            np.testing.assert_array_equal(spread.cv_results_[name], values, err_msg=name)
    assert len(set(alone.cv_results_["mean_test_score"])) == 2
    assert spread.best_params_ == alone.best_params_
    np.testing.assert_equal(
        spread.best_estimator_.singular_values_, alone.best_estimator_.singular_values_
    )
    np.testing.assert_array_equal(spread.predict_proba(paths), alone.predict_proba(paths))

    n_fits = misses(client, "merged")
    assert sum(n_fits) == 4
    n_matrices = len(alone.best_estimator_.singular_values_)
    for made, once in (("backbones", 1), ("factors", n_matrices), ("images", len(paths))):
        assert misses(client, made) == [once if n else 0 for n in n_fits], made


def test_shards_are_predicted_as_in_one_go(client, clf, digits, some, tmp_path):
    file = str(tmp_path / "digits.joblib")
    joblib.dump(clf.fit(*some), file)
    paths = digits[0][30:71]
    shards = np.array_split(paths, 4)  # of unequal length, none a whole batch

    def predict(shard):
        clf = joblib.load(file)
        return clf.predict(shard), clf.predict_proba(shard)

    nodes = list(client.scheduler_info()["workers"])
    parts = [
        client.submit(predict, shard, workers=nodes[i % 2], pure=False)
        for i, shard in enumerate(shards)
    ]
    labels, probabilities = map(np.concatenate, zip(*client.gather(parts), strict=True))
    np.testing.assert_array_equal(labels, clf.predict(paths))
    np.testing.assert_array_equal(probabilities, clf.predict_proba(paths))
    assert misses(client, "backbones") == [1, 1]
    assert misses(client, "merged") == [1, 1]
    assert sum(misses(client, "images")) == len(paths)


def test_a_scattered_classifier_predicts_on_every_worker(client, clf, some):
    paths, labels = some
    model = client.scatter(clf.fit(paths, labels), broadcast=True)
    for node in client.scheduler_info()["workers"]:
        found = client.submit(
            CLIPSVDClassifier.predict_proba, model, paths[:8], workers=node, pure=False
        )
        np.testing.assert_array_equal(found.result(), clf.predict_proba(paths[:8]))
    assert misses(client, "factors") == [len(clf.singular_values_)] * 2  # not sent along


def test_callbacks_travel_and_do_no_harm(client, clf, some):
    callback = pytest.importorskip("sklearn.callback", reason="scikit-learn < 1.9")

    def search():
        monitor = callback.ScoringMonitor(scoring="neg_log_loss")
        found = search_over(clone(clf).set_callbacks(monitor), rates=[0.02]).fit(*some)
        rows = [row for row in monitor.get_logs().data if row["task_name"] == "epoch"]
        return found.cv_results_["mean_test_score"], [row["neg_log_loss"] for row in rows]

    score, epochs = search()
    with joblib.parallel_config(backend="dask"):
        spread_score, spread_epochs = search()
    assert spread_score == score
    # The last fit, which happens here: a monitor loses what passes through a scheduler's hands.
    assert spread_epochs[0] == epochs[0]


def test_a_missing_image_arrives_as_the_one_error(client, clf, some, tmp_path):
    paths, labels = some
    missing = str(tmp_path / "gone.png")
    message = r"^1 image\(s\): no such file\. Correct the paths or leave them out: X\[{}\] = '{}'$"
    with (
        joblib.parallel_config(backend="dask"),
        pytest.raises(FileNotFoundError, match=message.format(r"\d+", missing)),
    ):
        search_over(clf).fit([*paths[:-1], missing], labels)

    clf.fit(paths, labels)
    answer = client.submit(CLIPSVDClassifier.predict, clf, [paths[0], missing])
    with pytest.raises(FileNotFoundError, match=message.format(1, missing)):
        answer.result()


def test_a_damaged_image_arrives_as_the_one_error(client, clf, some, tmp_path):
    paths, labels = some
    damaged = tmp_path / "damaged.png"
    damaged.write_bytes(b"this is no image")
    message = rf"^1 image\(s\): cannot be decoded\. .* X\[\d+\] = '{damaged}': is not an image file"
    with (
        joblib.parallel_config(backend="dask"),
        pytest.raises(ValueError, match=message),
    ):
        search_over(clf).fit([*paths[:-1], str(damaged)], labels)
