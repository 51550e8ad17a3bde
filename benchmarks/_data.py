"""Where the photographs lie that the project does not hold."""

import os
from pathlib import Path

VARIABLE = "SKCLIPSVD_DATA"


def data_set(name):
    """Return the folder of a data set, or None where `SKCLIPSVD_DATA` is not set."""
    if not os.environ.get(VARIABLE):
        return None
    folder = Path(os.environ[VARIABLE]) / name
    if not folder.is_dir():
        raise FileNotFoundError(f"{VARIABLE} promises data sets, but {folder} is not there.")
    return folder
