"""Singular value decompositions: each computed once, kept in memory and on disk."""

from __future__ import annotations

import math
import os
import shutil
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from ..caching.files import cache_dir, replacing
from ..caching.process import FACTORS
from ..clip import Backbone
from ..forks import in_forked_children
from .targets import Target

# All decompositions of a ViT-B/16 take 0.7 GB and half a minute on two cores.
MAX_DISK_BYTES = 8 * 2**30
# A smaller matrix is decomposed faster than its file is read.
MIN_RANK_ON_DISK = 256
_TOLERANCE = 1e-3
# One entry per caller that decomposes or waits: torch's number of threads before the first came.
_THREADS: list[int] = []
_THREADS_LOCK = threading.Lock()
_DECOMPOSING = threading.Lock()


@in_forked_children
def _forget_decompositions() -> None:
    global _THREADS_LOCK, _DECOMPOSING
    _THREADS.clear()
    _THREADS_LOCK, _DECOMPOSING = threading.Lock(), threading.Lock()


class Factors(NamedTuple):
    """The thin singular value decomposition of one frozen matrix, float32.

    Attributes
    ----------
    u : Tensor of shape (out, rank)
    s : Tensor of shape (rank,)
        Largest first.
    vh : Tensor of shape (rank, in)
    """

    u: Tensor
    s: Tensor
    vh: Tensor


def decompose(backbone: Backbone, targets: Sequence[Target]) -> dict[str, Factors]:
    """Decompose the targets' frozen matrices.

    A decomposition is computed on the CPU in float32, whatever the device, so that the i-th
    singular value means the same direction everywhere. It is made once per process, and once per
    machine for matrices large enough to be worth a file in the cache folder (`SKCLIPSVD_CACHE`).

    Parameters
    ----------
    backbone : Backbone
        Whose matrices.
    targets : sequence of Target
        Which of them.

    Returns
    -------
    factors : dict of str to Factors
        By target name, on the backbone's device.
    """
    tensors = backbone.model.state_dict()
    folder = cache_dir() / "factors" / backbone.fingerprint

    def make(target: Target) -> tuple[Factors, int]:
        matrix = tensors[target.tensor].flatten(1)[slice(*target.rows)].float().cpu()
        on_cpu = _from_disk_or_new(matrix, folder / f"{target.name}.safetensors")
        factors = Factors(*(part.to(backbone.device) for part in on_cpu))
        return factors, sum(part.nbytes for part in factors)

    device = str(backbone.device)

    def get(target: Target) -> Factors:
        key = (backbone.fingerprint, device, target.name)
        return FACTORS.get_or_make(key, lambda: make(target))

    if factors_in_memory(backbone, [target.name for target in targets]):
        factors = {target.name: get(target) for target in targets}
    else:
        factors = _all_at_once(get, targets)
    _prune(folder.parent, keep=folder)
    return factors


def factors_in_memory(backbone: Backbone, names: Iterable[str]) -> bool:
    """Tell whether this process already has decompositions; compute and read none.

    Parameters
    ----------
    backbone : Backbone
        Whose matrices.
    names : iterable of str
        Of the targets.

    Returns
    -------
    in_memory : bool
        Whether `decompose` would find every one of them.
    """
    device = str(backbone.device)
    return all((backbone.fingerprint, device, name) in FACTORS for name in names)


def _from_disk_or_new(matrix: Tensor, file: Path) -> Factors:
    if min(matrix.shape) < MIN_RANK_ON_DISK:
        return _svd(matrix)
    factors = _read(file, matrix)
    if factors is None:
        factors = _svd(matrix)
        _write(file, factors)
    return factors


def _svd(matrix: Tensor) -> Factors:
    if matrix.shape[0] < matrix.shape[1]:  # LAPACK takes twice as long for wide matrices
        v, s, uh = torch.linalg.svd(matrix.T, full_matrices=False)
        parts = uh.T, s, v.T
    else:
        parts = torch.linalg.svd(matrix, full_matrices=False)
    return Factors(*(part.contiguous() for part in parts))


def _all_at_once(get: Callable[[Target], Factors], targets: Sequence[Target]) -> dict[str, Factors]:
    """Call `get` in as many workers as torch has threads, each of which computes with one.

    LAPACK gains little from a second thread, and two matrices at a time gain all of it.
    """
    largest_first = sorted(targets, key=lambda target: -math.prod(target.shape))
    with (
        _one_thread_per_worker() as n_threads,
        ThreadPoolExecutor(n_threads, initializer=torch.set_num_threads, initargs=(1,)) as pool,
    ):
        found = dict(zip(largest_first, pool.map(get, largest_first), strict=True))
    return {target.name: found[target] for target in targets}


@contextmanager
def _one_thread_per_worker() -> Iterator[int]:
    """Yield torch's number of threads, one caller at a time; set it again on leaving.

    What a worker sets, later threads start with: a second caller must not take the 1 that the
    first one's workers set for the number to go back to.
    """
    with _THREADS_LOCK:
        _THREADS.append(_THREADS[0] if _THREADS else torch.get_num_threads())
        n_threads = _THREADS[0]
    try:
        with _DECOMPOSING:
            try:
                yield n_threads
            finally:
                torch.set_num_threads(n_threads)
    finally:
        with _THREADS_LOCK:
            _THREADS.pop()


def _read(file: Path, matrix: Tensor) -> Factors | None:
    """Read a decomposition, or None where there is none that is one of `matrix`."""
    try:
        factors = Factors(**load_file(file))
    except (OSError, SafetensorError, TypeError):
        return None
    rank = min(matrix.shape)
    shapes = ((matrix.shape[0], rank), (rank,), (rank, matrix.shape[1]))
    if any(
        p.shape != shape or p.dtype != torch.float32
        for p, shape in zip(factors, shapes, strict=True)
    ):
        return None
    # Multiplying one vector costs next to nothing and sees any damage that matters.
    probe = torch.linspace(-1, 1, matrix.shape[1])
    expected = matrix @ probe
    found = factors.u @ (factors.s * (factors.vh @ probe))
    return factors if (found - expected).norm() <= _TOLERANCE * expected.norm() else None


def _write(file: Path, factors: Factors) -> None:
    """Keep a decomposition for the next process."""
    try:
        with replacing(file) as temporary:
            save_file(factors._asdict(), temporary)
    except (OSError, SafetensorError):
        return  # a full or read-only disk costs time, not the fit


def _prune(root: Path, keep: Path) -> None:
    """Delete the backbones that were not used for longest, beyond the bound."""
    try:
        os.utime(keep)
        folders = sorted(root.iterdir(), key=lambda f: f.stat().st_mtime, reverse=True)
        total = 0
        for folder in folders:
            total += sum(f.stat().st_size for f in folder.iterdir())
            if total > MAX_DISK_BYTES and folder != keep:
                shutil.rmtree(folder, ignore_errors=True)
    except OSError:
        return  # another process is pruning, or there is nothing on disk
