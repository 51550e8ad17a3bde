"""What the tests and the examples in docstrings share."""

import sys

import pytest


@pytest.fixture(autouse=True)
def _close_figures():
    """Close what was drawn: matplotlib keeps every figure, and warns of more than twenty."""
    yield
    if "matplotlib.pyplot" in sys.modules:
        sys.modules["matplotlib.pyplot"].close("all")
