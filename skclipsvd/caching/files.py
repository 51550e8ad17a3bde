"""Where files that can be made again are kept between runs, and how they get there."""

import atexit
import os
import shutil
import stat
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path

_VARIABLE = "SKCLIPSVD_CACHE"
_PREFIX, _SUFFIX = ".skclipsvd-", ".tmp"
_STALE_SECONDS = 24 * 3600


def cache_dir() -> Path:
    """Return the folder for files that can be made again.

    The environment variable ``SKCLIPSVD_CACHE`` wins when it is set and not empty. Otherwise it is
    the folder ``skclipsvd`` inside the operating system's cache folder of the user:
    ``$XDG_CACHE_HOME`` or ``~/.cache`` on Linux and other Unix systems, ``~/Library/Caches`` on
    macOS, ``%LOCALAPPDATA%`` or ``~/AppData/Local`` on Windows.

    Where the home is unknown, it is a private folder that lasts as long as the process. Nothing
    else is created: whoever writes makes the folder. The variables are read on every call, so a
    test may point them somewhere else.

    Returns
    -------
    folder : Path
        Absolute; it may not exist yet.

    Examples
    --------
    >>> from skclipsvd.caching.files import cache_dir
    >>> cache_dir().is_absolute()
    True
    """
    chosen = os.environ.get(_VARIABLE)
    if chosen:
        return Path(os.path.abspath(os.path.expanduser(chosen)))
    return _user_cache() / "skclipsvd"


def stamp(status: os.stat_result) -> tuple[int, int, int, int]:
    """Tell one state of a file from another, also where a copy keeps size and time."""
    return status.st_mtime_ns, status.st_ctime_ns, status.st_size, status.st_ino


@contextmanager
def replacing(path: str | os.PathLike) -> Iterator[Path]:
    """Write to the yielded path; on leaving it takes the place of `path` in one move.

    So a reader, in this process or another, sees the whole new file or the old state, and an
    interrupted writer leaves the old state. The folder is made where it is missing, ``~`` is the
    user's home, the target of a symbolic link is replaced instead of the link, and an existing
    file's permissions stay. What writers that were killed left behind is removed after a day.
    """
    path = Path(os.path.realpath(Path(path).expanduser()))
    path.parent.mkdir(parents=True, exist_ok=True)
    _remove_stale(path.parent)
    # In the same folder, because a move between file systems is a copy; with a dot, because
    # readers of class/image folders skip hidden files.
    temporary = path.with_name(f"{_PREFIX}{uuid.uuid4().hex}{_SUFFIX}")
    existing = stat.S_IMODE(path.stat().st_mode) if path.exists() else None
    try:
        with temporary.open("xb"):  # the system takes the umask off
            pass
        if existing is not None:  # before there is anything to read
            os.chmod(temporary, existing | stat.S_IWUSR)
        yield temporary
        if existing is not None:
            os.chmod(temporary, existing)
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _remove_stale(folder: Path) -> None:
    """Remove temporary files of writers that were killed."""
    now = time.time()
    for file in folder.glob(f"{_PREFIX}*{_SUFFIX}"):
        with suppress(OSError):  # somebody else removed it
            if now - file.stat().st_mtime > _STALE_SECONDS:
                file.unlink()


def _user_cache() -> Path:
    try:
        return _systems_cache()
    except RuntimeError:  # the home folder is unknown: HOME is not set, the user has no account
        return _until_exit()


@cache
def _until_exit() -> Path:
    """Make a private folder that lasts as long as the process."""
    folder = tempfile.mkdtemp(prefix="skclipsvd-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return Path(folder)


def _systems_cache() -> Path:
    if sys.platform == "win32":
        return _absolute("LOCALAPPDATA") or Path.home() / "AppData" / "Local"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches"
    return _absolute("XDG_CACHE_HOME") or Path.home() / ".cache"


def _absolute(variable: str) -> Path | None:
    # The XDG specification says to ignore a relative path.
    value = os.environ.get(variable, "")
    return Path(value) if os.path.isabs(value) else None
