"""Singular value decompositions: each computed once, kept in memory and on disk."""

from __future__ import annotations

import math
import os
import shutil
import threading
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import BrokenExecutor, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from ..caching.files import cache_dir, replacing
from ..caching.process import FACTORS
from ..clip import Backbone
from ..forks import in_forked_children
from ..progress import note, phase
from .targets import Target

# All decompositions of a ViT-B/16 take 0.7 GB and half a minute on two cores.
MAX_DISK_BYTES = 8 * 2**30
# A smaller matrix is decomposed faster than its file is read.
MIN_RANK_ON_DISK = 256
_TOLERANCE = 1e-3
_SECONDS_TO_START = 60.0
_DECOMPOSING = threading.Lock()


@in_forked_children
def _forget_lock() -> None:
    global _DECOMPOSING
    _DECOMPOSING = threading.Lock()


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
        on_cpu = _from_disk_or_new(matrix, _file(folder, target))
        factors = Factors(*(part.to(backbone.device) for part in on_cpu))
        return factors, sum(part.nbytes for part in factors)

    device = str(backbone.device)

    def get(target: Target) -> Factors:
        key = (backbone.fingerprint, device, target.name)
        return FACTORS.get_or_make(key, lambda: make(target))

    if factors_in_memory(backbone, [target.name for target in targets]):
        note("decompositions of %d matrices: in memory", len(targets))
        factors = {target.name: get(target) for target in targets}
    else:
        n_on_disk = sum(_file(folder, target).exists() for target in targets)
        which = f"{n_on_disk} on disk, {len(targets) - n_on_disk} to compute"
        what = f"decompositions of {len(targets)} matrices ({which})"
        with phase(what, len(targets), "matrix") as bar:
            factors = _all_at_once(get, targets, bar.advance)
    _prune(folder.parent, keep=folder)
    return factors


def _file(folder: Path, target: Target) -> Path:
    return folder / f"{target.name}.safetensors"


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


def _all_at_once(
    get: Callable[[Target], Factors],
    targets: Sequence[Target],
    one_is_done: Callable[[], None] = lambda: None,
) -> dict[str, Factors]:
    """Call `get` in as many workers as torch has threads, each of which computes with one.

    LAPACK gains little from a second thread, and two matrices at a time gain all of it.
    """
    largest_first = sorted(targets, key=lambda target: -math.prod(target.shape))
    with _DECOMPOSING, _workers_of_one_thread(len(targets)) as pool:
        found = {}
        for target, factors in zip(largest_first, pool.map(get, largest_first), strict=True):
            found[target] = factors
            one_is_done()
    return {target.name: found[target] for target in targets}


@contextmanager
def _workers_of_one_thread(n_tasks: int) -> Iterator[ThreadPoolExecutor]:
    """Yield a pool whose workers compute with one thread each, and nobody else does.

    What a worker sets is also what threads start with that compute for the first time later. So it
    is set back before the work begins, as soon as all workers have their own.
    """
    n_threads = torch.get_num_threads()
    n_workers = max(1, min(n_threads, n_tasks))
    all_there = threading.Barrier(n_workers + 1)

    def begin() -> None:
        try:
            torch.get_num_threads()  # a thread takes the common number when it is first asked
            torch.set_num_threads(1)
            all_there.wait()
        except threading.BrokenBarrierError:
            pass  # interrupted: there is nothing left to do
        except BaseException:  # nobody should wait for a worker that will never start
            all_there.abort()
            raise

    pool = ThreadPoolExecutor(n_workers, initializer=begin)
    try:
        for _ in range(n_workers):
            pool.submit(int)  # starts a worker: none of those before is idle yet
        all_there.wait(_SECONDS_TO_START)
        torch.set_num_threads(n_threads)
        yield pool
        pool.shutdown()
    except BaseException as error:
        all_there.abort()
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(n_threads)
        if isinstance(error, (threading.BrokenBarrierError, BrokenExecutor)):
            raise MemoryError(
                "the threads that decompose weights could not start: memory or threads are used "
                "up. End other programs and try again."
            ) from error
        raise


def _read(file: Path, matrix: Tensor) -> Factors | None:
    """Return the decomposition in a file; None where there is none, or not that of `matrix`."""
    if not file.is_file():  # a pipe would be waited for
        return None
    try:
        # All of it at once, not mapped: a file that is deleted or cut off by another machine must
        # not end this process later.
        parts = {name: part.clone() for name, part in load(file.read_bytes()).items()}
        checksum = parts.pop("checksum")
        factors = Factors(**parts)
    except (OSError, SafetensorError, KeyError, TypeError, ValueError):
        return None
    if not torch.equal(checksum, _checksum(factors)):
        return None
    rank = min(matrix.shape)
    shapes = ((matrix.shape[0], rank), (rank,), (rank, matrix.shape[1]))
    if any(
        p.shape != shape or p.dtype != torch.float32
        for p, shape in zip(factors, shapes, strict=True)
    ):
        return None
    # Multiplying one vector costs next to nothing and shows whether it is this matrix's.
    probe = torch.linspace(-1, 1, matrix.shape[1])
    expected = matrix @ probe
    found = factors.u @ (factors.s * (factors.vh @ probe))
    return factors if (found - expected).norm() <= _TOLERANCE * expected.norm() else None


def _write(file: Path, factors: Factors) -> None:
    """Keep a decomposition for the next process."""
    try:
        with replacing(file) as temporary:
            parts = {**factors._asdict(), "checksum": _checksum(factors)}
            temporary.write_bytes(save(parts))
    except OSError:
        return  # a full or read-only disk costs time, not the fit


def _checksum(factors: Factors) -> Tensor:
    checksum = 0
    for part in factors:
        checksum = zlib.crc32(part.numpy().data, checksum)
    return torch.tensor(checksum)


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
