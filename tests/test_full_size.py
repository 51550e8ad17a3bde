"""ViT-B/16 at full size on real photographs: minutes, so only with ``-m slow``."""

import os
import subprocess
import sys
from pathlib import Path

import joblib
import numpy as np
import pytest
import torch
from helpers.data import data_set

import skclipsvd
from skclipsvd import CLIPSVDClassifier

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:pretrained=None:UserWarning"),
]


@pytest.fixture(scope="module")
def waste():
    folder = data_set("trashnet6") / "train"
    paths = [path for kind in sorted(folder.iterdir()) for path in sorted(kind.iterdir())[:3]]
    return [str(path) for path in paths], [path.parent.name for path in paths]


@pytest.fixture(scope="module")
def fitted(waste):
    clf = CLIPSVDClassifier("ViT-B-16", None, max_steps=3, batch_size=8, random_state=0)
    return clf.fit(*waste)


def test_tunes_exactly_the_published_number_of_parameters(fitted):
    assert fitted.n_parameters_tuned_ == 92_160
    assert fitted.n_parameters_ == 149_620_737
    assert np.isfinite(fitted.loss_curve_).all()


def test_dump_is_small_and_predicts_the_same_in_another_process(fitted, waste, tmp_path):
    paths = waste[0][:6]
    joblib.dump(fitted, tmp_path / "fitted.joblib")
    assert (tmp_path / "fitted.joblib").stat().st_size < 2**20
    code = (
        "import sys, warnings, joblib, numpy as np\n"
        "warnings.simplefilter('ignore')\n"
        "clf = joblib.load('fitted.joblib')\n"
        "np.save('answer.npy', clf.predict_proba(sys.argv[1:]))\n"
    )
    environment = {
        **os.environ,
        "PYTHONPATH": str(Path(skclipsvd.__file__).parents[1]),
        "OMP_NUM_THREADS": str(torch.get_num_threads()),
    }
    command = [sys.executable, "-c", code, *paths]
    subprocess.run(command, cwd=tmp_path, check=True, env=environment)
    answer = np.load(tmp_path / "answer.npy")
    np.testing.assert_allclose(answer, fitted.predict_proba(paths), atol=1e-6)


def test_answers_do_not_depend_on_neighbours(fitted, waste):
    paths = waste[0][:5]
    together = fitted.predict_proba(paths)
    alone = np.concatenate([fitted.predict_proba([path]) for path in paths])
    np.testing.assert_array_equal(alone, together)
