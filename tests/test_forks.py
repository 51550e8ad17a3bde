"""Processes that are forked off one that has computed: they answer, and do not wait for ever."""

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# Where a fork fails it waits for ever. What a child does here takes a few seconds.
SECONDS = 300

pytestmark = pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="only Linux forks by habit, and safely"
)

PARENT = """
import multiprocessing, os, threading, warnings
import numpy as np
import torch
from skclipsvd import CLIPEncoder, CLIPSVDClassifier, CLIPZeroShotClassifier
from skclipsvd.datasets import load_handwritten_digits
from skclipsvd.exceptions import ForkedProcessWarning

torch.set_num_threads(2)
paths, labels = load_handwritten_digits()
paths, labels = np.array(paths[:48]), labels[:48]
forking = multiprocessing.get_context("fork")

def svd():
    return CLIPSVDClassifier("tiny", max_steps=2, augment=False, random_state=0)
"""


def run(code, **environment):
    """Run a script in a process of its own, of two threads, that is not waited for for ever."""
    script = textwrap.dedent(PARENT) + textwrap.dedent(code)
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "2", **environment},
        capture_output=True,
        text=True,
        timeout=SECONDS,
    )
    assert done.returncode == 0, done.stderr
    return done


def test_forked_processes_answer_and_say_what_they_do():
    """Whatever they do first; and in silence where there was one thread anyway."""
    done = run("""
        clf = svd().fit(paths, labels)
        expected = clf.predict_proba(paths)
        with forking.Pool(2) as pool:
            parts = pool.map(clf.predict_proba, np.array_split(paths, 4))
        np.testing.assert_allclose(np.concatenate(parts), expected, atol=1e-5)

        def ends_with(work, expected_warnings):
            def child():
                with warnings.catch_warnings(record=True) as caught:
                    warnings.simplefilter("always")
                    work()
                    work()
                os._exit(0 if [one.category for one in caught] == expected_warnings else 3)

            process = forking.Process(target=child)
            process.start()
            process.join()
            return process.exitcode == 0

        for work in (
            lambda: svd().fit(paths, labels).predict(paths),
            lambda: CLIPEncoder("tiny").fit_transform(paths),
            lambda: CLIPZeroShotClassifier("tiny").fit(None, ["a", "b"]).predict(paths),
            lambda: clf.merged_model(),
        ):
            assert ends_with(work, [ForkedProcessWarning])
        assert torch.get_num_threads() == 2  # the parent's own
        torch.set_num_threads(1)
        assert ends_with(lambda: clf.predict(paths), [])
    """)
    said = "ForkedProcessWarning: This process was forked, and computes with one thread"
    assert said in done.stderr
    assert "get_context('spawn')" in done.stderr


def test_locks_that_another_thread_held_at_the_fork_are_open():
    """A cache in use, an entry being made, a picture being loaded, a decomposition."""
    run("""
        from PIL import Image
        from skclipsvd.adaptation import factors
        from skclipsvd.caching import process as caches
        from skclipsvd.clip import randomness
        from skclipsvd.images import formats

        clf = svd().fit(paths, labels)
        picture = Image.open(paths[0])
        held, done = threading.Event(), threading.Event()

        def hold():
            locks = [caches.IMAGES._lock, factors._DECOMPOSING, randomness._ONE_AT_A_TIME]
            for lock in locks + formats._LOCKS:
                lock.acquire()
            held.set()
            done.wait()

        def child():
            clf.predict([picture, paths[1]])
            svd().fit(paths, labels)
            os._exit(0)

        threading.Thread(target=hold, daemon=True).start()
        held.wait()
        process = forking.Process(target=child)
        process.start()
        process.join()
        assert process.exitcode == 0
        os._exit(0)
    """)


@pytest.mark.slow
def test_other_ways_to_start_a_process_keep_their_threads(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        textwrap.dedent(PARENT)
        + textwrap.dedent("""
        def threads(clf):
            clf.predict(paths[:8])
            return torch.get_num_threads()

        if __name__ == "__main__":
            clf = svd().fit(paths, labels)
            with multiprocessing.get_context("spawn").Pool(1) as pool:
                assert pool.map(threads, [clf]) == [2]
        """)
    )
    done = subprocess.run(
        [sys.executable, str(script)],
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "2"},
        capture_output=True,
        text=True,
        timeout=SECONDS,
    )
    assert done.returncode == 0, done.stderr
    assert "forked" not in done.stderr
