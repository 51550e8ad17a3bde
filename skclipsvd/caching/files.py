"""Where files that can be made again are kept between runs, and how they get there."""

import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_VARIABLE = "SKCLIPSVD_CACHE"


def cache_dir():
    """Return the folder for files that can be made again.

    The environment variable ``SKCLIPSVD_CACHE`` wins when it is set and not
    empty. Otherwise it is the folder ``skclipsvd`` inside the operating
    system's cache folder of the user: ``$XDG_CACHE_HOME`` or ``~/.cache`` on
    Linux and other Unix systems, ``~/Library/Caches`` on macOS,
    ``%LOCALAPPDATA%`` or ``~/AppData/Local`` on Windows.

    Nothing is created: whoever writes makes the folder. The variables are read
    on every call, so a test may point them somewhere else.

    Returns
    -------
    pathlib.Path
        An absolute path, which may not exist yet.

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


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Write to the yielded path; on leaving it takes the place of `path` in one move.

    So a reader, in this process or another, sees the whole new file or the old state, and an
    interrupted writer leaves the old state. The folder is made where it is missing.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # In the same folder, because a move between file systems is a copy; with a dot, because
    # readers of class/image folders skip hidden files.
    handle, name = tempfile.mkstemp(prefix=".", suffix=".tmp", dir=path.parent)
    os.close(handle)
    try:
        yield Path(name)
        os.chmod(name, 0o644)  # mkstemp allows the owner only; a cache may be shared
        os.replace(name, path)
    except BaseException:
        os.unlink(name)
        raise


def _user_cache():
    if sys.platform == "win32":
        return _absolute("LOCALAPPDATA") or Path.home() / "AppData" / "Local"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches"
    return _absolute("XDG_CACHE_HOME") or Path.home() / ".cache"


def _absolute(variable):
    # The XDG specification says to ignore a relative path.
    value = os.environ.get(variable, "")
    return Path(value) if os.path.isabs(value) else None
