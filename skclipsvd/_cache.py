"""Where files that can be made again are kept between runs."""

import os
import sys
from pathlib import Path

__all__ = ["cache_dir"]

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
    >>> from skclipsvd._cache import cache_dir
    >>> cache_dir().is_absolute()
    True
    """
    chosen = os.environ.get(_VARIABLE)
    if chosen:
        return Path(os.path.abspath(os.path.expanduser(chosen)))
    return _user_cache() / "skclipsvd"


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
