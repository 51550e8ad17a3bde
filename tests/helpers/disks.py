"""Real disks that are full, read-only or not there."""

import contextlib
import os
import resource
import shutil
import subprocess

import pytest


class Disk:
    """A folder on a file system of its own where this user may mount one.

    Parameters
    ----------
    folder : Path
        It is created.
    """

    def __init__(self, folder):
        self.folder = folder
        folder.mkdir()
        mount = ["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", str(folder)]
        self.is_own = os.geteuid() == 0 and _succeeds(mount)

    def remove(self):
        if self.is_own:
            subprocess.run(["umount", "-l", str(self.folder)], check=True)

    def fault(self, name):
        return getattr(self, name)()

    @contextlib.contextmanager
    def full(self):
        """No byte is left: the real thing."""
        if not self.is_own:
            pytest.skip("needs a user who may mount a file system")
        filler = self.folder / "filler"
        with contextlib.suppress(OSError), filler.open("wb", buffering=0) as file:
            while True:
                file.write(bytes(4096))
        try:
            yield
        finally:
            filler.unlink()

    @contextlib.contextmanager
    def nearly_full(self):
        """A file's first bytes fit, and no more."""
        _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (200, hard))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))

    @contextlib.contextmanager
    def read_only(self):
        if self.is_own:
            self._remount("ro")
            try:
                yield
            finally:
                self._remount("rw")
        elif os.geteuid() == 0:
            pytest.skip("root may write everywhere, and may not mount a file system here")
        else:
            self.folder.chmod(0o555)
            try:
                yield
            finally:
                self.folder.chmod(0o755)

    @contextlib.contextmanager
    def a_file(self):
        """A file stands where the folders should be."""
        for folder in list(self.folder.iterdir()):
            shutil.rmtree(folder)
        names = ["cache", "images"]
        for name in names:
            (self.folder / name).write_text("a file")
        try:
            yield
        finally:
            for name in names:
                assert (self.folder / name).read_text() == "a file"
                (self.folder / name).unlink()

    def _remount(self, mode):
        subprocess.run(["mount", "-o", f"remount,{mode}", str(self.folder)], check=True)


def _succeeds(command):
    try:
        return subprocess.run(command, capture_output=True).returncode == 0
    except OSError:
        return False
