"""Decompositions are made once, survive the process, and are not believed blindly."""

import errno
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from skclipsvd import clear_caches
from skclipsvd.adaptation import factors as module
from skclipsvd.adaptation import find_targets
from skclipsvd.caching.files import cache_dir
from skclipsvd.clip import load_backbone


@pytest.fixture
def backbone(small_model, tmp_path, monkeypatch, fresh_caches):
    monkeypatch.setenv("SKCLIPSVD_CACHE", str(tmp_path))
    monkeypatch.setattr(module, "MIN_RANK_ON_DISK", 1)
    return load_backbone(small_model, None, torch.device("cpu"))


@pytest.fixture
def count_svds(monkeypatch):
    calls = []
    real = torch.linalg.svd

    def counted(*args, **kwargs):
        calls.append(args)
        return real(*args, **kwargs)

    monkeypatch.setattr(torch.linalg, "svd", counted)
    return calls


def test_factors_multiply_to_the_matrix(backbone):
    targets = find_targets(backbone.model)
    tensors = backbone.model.state_dict()
    for name, f in module.decompose(backbone, targets).items():
        target = next(t for t in targets if t.name == name)
        frozen = tensors[target.tensor][slice(*target.rows)]
        torch.testing.assert_close(f.u @ torch.diag(f.s) @ f.vh, frozen, atol=1e-5, rtol=1e-4)
        assert (f.s[:-1] >= f.s[1:]).all()


def test_once_per_process_and_once_per_machine(backbone, count_svds):
    targets = find_targets(backbone.model)
    first = module.decompose(backbone, targets)
    assert len(count_svds) == len(targets)
    module.decompose(backbone, targets)
    assert len(count_svds) == len(targets)
    clear_caches()
    again = module.decompose(backbone, targets)
    assert len(count_svds) == len(targets)
    for name, f in first.items():
        assert all((a == b).all() for a, b in zip(f, again[name], strict=True))


@pytest.mark.parametrize("damage", ["truncate", "garbage", "other matrix", "wrong shape"])
def test_a_damaged_file_is_made_again(backbone, count_svds, damage):
    targets = find_targets(backbone.model)[:2]
    module.decompose(backbone, targets)
    folder = cache_dir() / "factors" / backbone.fingerprint
    file = folder / f"{targets[0].name}.safetensors"
    if damage == "truncate":
        file.write_bytes(file.read_bytes()[:-50])
    elif damage == "garbage":
        file.write_bytes(b"not a tensor")
    elif damage == "other matrix":
        file.write_bytes((folder / f"{targets[1].name}.safetensors").read_bytes())
    else:
        save_file({"u": torch.eye(3), "s": torch.ones(3), "vh": torch.eye(3)}, file)
    clear_caches()
    before = len(count_svds)
    factors = module.decompose(backbone, targets)[targets[0].name]
    assert len(count_svds) == before + 1
    frozen = backbone.model.state_dict()[targets[0].tensor][slice(*targets[0].rows)]
    torch.testing.assert_close((factors.u * factors.s) @ factors.vh, frozen, atol=1e-5, rtol=1e-4)


def test_no_disk_is_no_error(backbone, monkeypatch, tmp_path):
    (tmp_path / "factors").write_text("a file where the folder should be")
    assert len(module.decompose(backbone, find_targets(backbone.model)[:1])) == 1


def test_the_folder_is_bounded(backbone, monkeypatch):
    old = cache_dir() / "factors" / "another backbone"
    old.mkdir(parents=True)
    (old / "image.0.q.safetensors").write_bytes(bytes(1000))
    module.decompose(backbone, find_targets(backbone.model)[:1])
    assert old.exists()
    monkeypatch.setattr(module, "MAX_DISK_BYTES", 100)
    module.decompose(backbone, find_targets(backbone.model)[:1])
    assert not old.exists()
    assert list((cache_dir() / "factors" / backbone.fingerprint).iterdir())


def test_values_are_those_of_numpy(backbone):
    target = find_targets(backbone.model)[0]
    frozen = backbone.model.state_dict()[target.tensor][slice(*target.rows)].numpy()
    found = module.decompose(backbone, [target])[target.name].s.numpy()
    np.testing.assert_allclose(found, np.linalg.svd(frozen, compute_uv=False), rtol=1e-4)


def test_bad_images_are_named_before_anything_is_decomposed(
    small_model, photographs, count_svds, tmp_path, fresh_caches
):
    from skclipsvd import CLIPSVDClassifier

    (tmp_path / "bad.jpg").write_text("no image")
    paths, labels = [*photographs[0], str(tmp_path / "bad.jpg")], [*photographs[1], "temple"]
    with pytest.raises(ValueError, match=r"X\[20\]"):
        CLIPSVDClassifier(small_model, max_steps=1).fit(paths, labels)
    assert not count_svds


def test_a_full_disk_costs_time_not_the_fit(backbone, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    assert len(module.decompose(backbone, find_targets(backbone.model)[:2])) == 2


def test_concurrent_cold_fits_leave_torchs_threads(backbone, monkeypatch):
    before = torch.get_num_threads()
    targets = find_targets(backbone.model)[:4]
    first_computes, second_done = threading.Event(), threading.Event()
    after = {}
    real = torch.linalg.svd

    def slow(*args, **kwargs):
        first_computes.set()
        second_done.wait(0.5)
        return real(*args, **kwargs)

    monkeypatch.setattr(torch.linalg, "svd", slow)

    def second():
        torch.ones(10_000).sum()  # the thread takes its number while the first one's workers run
        module.decompose(backbone, targets[2:])
        second_done.set()
        after["second"] = torch.get_num_threads()

    torch.set_num_threads(2)
    try:
        with ThreadPoolExecutor(2) as pool:
            one = pool.submit(module.decompose, backbone, targets[:2])
            assert first_computes.wait(5)
            pool.submit(second).result()
            one.result()
        with ThreadPoolExecutor(1) as pool:
            after["later"] = pool.submit(torch.get_num_threads).result()
        assert after == {"second": 2, "later": 2}
    finally:
        torch.set_num_threads(before)


def test_a_thread_that_begins_during_a_decomposition_computes_with_all_cores(backbone, monkeypatch):
    found, original = [], torch.linalg.svd

    def elsewhere():
        torch.ones(10_000).sum()  # here a thread takes its number
        found.append(torch.get_num_threads())

    def svd(*args, **kwargs):
        with ThreadPoolExecutor(1) as pool:
            pool.submit(elsewhere).result()
        found.append(torch.get_num_threads())
        return original(*args, **kwargs)

    monkeypatch.setattr(torch.linalg, "svd", svd)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        module.decompose(backbone, find_targets(backbone.model)[:2])
        assert sorted(found) == [1, 1, 2, 2]
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
