"""Tables: pandas where it is installed, plain dicts where it is not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

from .labels import plain

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

# A list of one dict per row without pandas. Any, so that users with pandas need not rule it out.
Table: TypeAlias = "pd.DataFrame | Any"


def table(columns: Mapping[str, Sequence[Any] | NDArray]) -> Table:
    """Make a DataFrame of equally long columns, or a list of one dict per row without pandas.

    Integers with gaps (None) stay integers in both.
    """
    try:
        import pandas as pd
    except ImportError:
        rows = zip(*(map(plain, values) for values in columns.values()), strict=True)
        return [dict(zip(columns, row, strict=True)) for row in rows]
    return pd.DataFrame({name: _with_gaps(pd, values) for name, values in columns.items()})


def _with_gaps(pd: Any, values: Sequence[Any] | NDArray) -> Any:
    """Keep None beside integers and texts, which pandas would turn into NaN."""
    if not isinstance(values, list) or all(value is not None for value in values):
        return values
    integers = [isinstance(value, int) for value in values if value is not None]
    dtype = "Int64" if integers and all(integers) else object
    return pd.Series(values, dtype=dtype)
