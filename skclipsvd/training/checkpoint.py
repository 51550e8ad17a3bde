"""Checkpoints: the file from which a fit that was cut off goes on, and no other fit does."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from sklearn.utils import check_random_state
from torch import Tensor

from ..caching.files import replacing
from ..exceptions import CheckpointWarning, warn
from ..progress import detail, note

INTERRUPTED = (
    "fit interrupted. The same call continues from the checkpoint {}; delete that file to start "
    "over."
)
NOTHING_WRITTEN = (
    "fit interrupted. The checkpoint {} could not be written; the same call starts over."
)
# Raised where what a checkpoint holds means something else.
_FORMAT = 1
_KEY = "skclipsvd checkpoint"
# A cut costs at most so much work; writing a few hundred short vectors takes milliseconds.
EVERY_SECONDS = 30.0
# Up to here a copy is kept of every step, for Ctrl-C: it takes milliseconds and little memory.
EVERY_STEP_BYTES = 32 * 2**20


@dataclass(frozen=True)
class Snapshot:
    """A training between two steps: tensors by name, and what JSON can hold, all of them copies."""

    tensors: dict[str, Tensor]
    values: dict[str, Any]


class Checkpoint:
    """The file of one fit, in a folder that other fits may use at the same time.

    Parameters
    ----------
    folder : Path
        From `skclipsvd.paths.writable_folder`.
    estimator_name : str
        What its name begins with.
    identity : str
        A hash of everything that decides what the fit computes.

    Attributes
    ----------
    path : Path
        The file, named by the identity.
    found : Snapshot or None
        What an equal fit left there that was cut off.
    """

    def __init__(self, folder: Path, estimator_name: str, identity: str):
        self.path = folder / f"{estimator_name}-{identity}.safetensors"
        self.identity = identity
        self.found = self._read()
        self._at_start: dict[str, Any] = {}
        self._unwritten: Snapshot | None = None
        self._last_write = -np.inf
        self._can_write = True

    def random_state(self, given: Any) -> np.random.RandomState:
        """Return the generator that the fit begins with.

        Parameters
        ----------
        given : int, RandomState or None
            The parameter. With None an interrupted fit's own beginning is taken up again.
        """
        rng = check_random_state(given)
        if self.found is not None and (given is None or given is np.random):
            rng = np.random.RandomState()
            rng.set_state(self.found.values["random_state_at_start"])
        self._at_start = random_state_as_json(rng)
        return rng

    def keep(self, n_bytes: int, take: Callable[[], Snapshot]) -> None:
        """Write a snapshot after the first step, and then now and again; between, hold small ones.

        Parameters
        ----------
        n_bytes : int
            What a snapshot takes.
        take : callable
            Makes it.
        """
        is_due = time.monotonic() - self._last_write >= EVERY_SECONDS
        if self._can_write and (is_due or n_bytes <= EVERY_STEP_BYTES):
            # In this order Ctrl-C finds one of them; of large ones none is held any more.
            self._unwritten = take()
            if is_due:
                self.write(self._unwritten)
                self._unwritten = None

    def write(self, snapshot: Snapshot) -> None:
        """Replace the file in one move; a disk that is full costs the checkpoint, not the fit."""
        values = {**snapshot.values, "random_state_at_start": self._at_start}
        header = {
            "format": _FORMAT,
            "identity": self.identity,
            "values": values,
            "sha256": _digest(snapshot.tensors, values),
        }
        tensors = {name: t.detach().cpu().contiguous() for name, t in snapshot.tensors.items()}
        try:
            with replacing(self.path) as temporary:
                save_file(tensors, temporary, metadata={_KEY: json.dumps(header)})
        except (OSError, SafetensorError) as error:
            self._can_write = False
            warn(
                f"the checkpoint {self.path} cannot be written ({error}); the fit goes on without "
                "it.",
                CheckpointWarning,
            )
        else:
            detail("checkpoint written: %s", self.path)
        self._last_write = time.monotonic()

    def remove(self) -> None:
        """Remove the file of a fit that is done."""
        if self.path.exists():
            with suppress(OSError):  # no longer ours to remove
                self.path.unlink()
                note("checkpoint removed, the fit is complete: %s", self.path)

    @contextmanager
    def written_on_interrupt(self) -> Iterator[None]:
        """Write the latest snapshot where Ctrl-C ends the fit, and say how to go on."""
        try:
            yield
        except KeyboardInterrupt as error:
            is_missing = self._unwritten is not None or not self._can_write
            if self._unwritten is not None:
                with suppress(Exception):  # nothing may stand in the interrupt's way
                    self.write(self._unwritten)
            if self.path.exists():
                error.args = (INTERRUPTED.format(self.path),)
            elif is_missing:
                error.args = (NOTHING_WRITTEN.format(self.path),)
            raise

    def _read(self) -> Snapshot | None:
        if not self.path.exists():
            return None
        try:
            return _snapshot(self.path, self.identity)
        except (OSError, SafetensorError, ValueError, KeyError, TypeError) as error:
            warn(
                f"the checkpoint {self.path} is damaged ({error}); the fit starts over and "
                "replaces it.",
                CheckpointWarning,
            )
            return None


def random_state_as_json(rng: np.random.RandomState) -> dict[str, Any]:
    """Return a generator's state as `RandomState.set_state` takes it, of what JSON can hold."""
    state = json.dumps(rng.get_state(legacy=False), default=np.ndarray.tolist)
    plain: dict[str, Any] = json.loads(state)
    return plain


def _snapshot(path: Path, identity: str) -> Snapshot:
    with safe_open(path, framework="pt") as file:
        header = json.loads((file.metadata() or {})[_KEY])
        names = file.keys()
        tensors = {name: file.get_tensor(name) for name in names}
    if header["format"] != _FORMAT or header["identity"] != identity:
        raise ValueError("it is another fit's")
    values = header["values"]
    if header["sha256"] != _digest(tensors, values):
        raise ValueError("its checksum is another one")
    return Snapshot(tensors, values)


def _digest(tensors: dict[str, Tensor], values: dict[str, Any]) -> str:
    digest = hashlib.sha256(json.dumps(values, sort_keys=True).encode())
    for name in sorted(tensors):
        digest.update(f"{name}{tuple(tensors[name].shape)}{tensors[name].dtype}".encode())
        array = tensors[name].detach().cpu().contiguous().flatten().view(torch.uint8)
        digest.update(array.numpy().data)
    return digest.hexdigest()
