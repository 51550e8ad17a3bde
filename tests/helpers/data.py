"""Where the photographs lie that the project does not hold."""

import os
from pathlib import Path

import pytest

VARIABLE = "SKCLIPSVD_DATA"


def data_set(name):
    """The folder of a data set: skips where none is named, fails where a named one is missing."""
    if not os.environ.get(VARIABLE):
        pytest.skip(f"needs photographs: let {VARIABLE} name the folder that holds {name!r}")
    folder = Path(os.environ[VARIABLE]) / name
    if not folder.is_dir():
        pytest.fail(f"{VARIABLE} promises data sets, but {folder} is not there")
    return folder
