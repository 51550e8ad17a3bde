"""
A search on several processes, or machines
==========================================

A grid search that dask distributes over two worker processes. If you replace the local cluster by
the address of another one, the workers are other machines.
"""

# %%
# Every worker process imports this file. So put everything that must happen only once under
# ``if __name__ == "__main__"``, as in every Python program that starts processes.

import logging

import joblib
import matplotlib.pyplot as plt
import numpy as np
from sklearn.model_selection import GridSearchCV

import skclipsvd
from skclipsvd import CLIPSVDClassifier
from skclipsvd.datasets import load_handwritten_digits
from skclipsvd.model_selection import FewShotSplit, sample_shots


def new_search():
    """Prepare a search over four learning rates."""
    clf = CLIPSVDClassifier("tiny", max_steps=10, augment=False, device="cpu", random_state=0)
    rates = {"lr": [0.004, 0.016, 0.064, 0.256]}
    return GridSearchCV(
        clf, rates, cv=FewShotSplit(2, n_splits=2, random_state=1), error_score="raise"
    )


# %%
# Pass paths, not pictures: the workers then read the images themselves, from a folder that all of
# them see under the same name.
#
# Each worker loads the model once and decodes each image once, and keeps both for its next fit.
# Only the paths, the labels and a few settings are sent to it.

if __name__ == "__main__":
    from distributed import Client, LocalCluster

    paths, labels = load_handwritten_digits()
    pool = sample_shots(labels, 8, random_state=0)
    paths, labels = np.array(paths)[pool], labels[pool]
    with (
        LocalCluster(
            n_workers=2,
            threads_per_worker=1,
            processes=True,
            dashboard_address=None,
            silence_logs=logging.ERROR,
        ) as cluster,
        Client(cluster) as client,
    ):
        search = new_search()
        with joblib.parallel_config(backend="dask"):
            search.fit(paths, labels)
        for worker, caches in client.run(skclipsvd.cache_info).items():
            backbones = caches["backbones"]
            print(f"worker {worker[-5:]}: loaded {backbones['misses']} model(s)")

    results = search.cv_results_
    print(f"best learning rate {search.best_params_['lr']}, {search.best_score_:.1%} in validation")
    figure, axis = plt.subplots(figsize=(6, 3.4), layout="constrained")
    axis.plot(results["param_lr"].astype(float), 100 * results["mean_test_score"], marker="o")
    axis.set(xscale="log", xlabel="learning rate", ylabel="validation accuracy, %")
    axis.grid(alpha=0.3)
    plt.show()
