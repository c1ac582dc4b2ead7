"""Read a table the way in which it fits the model: samples on axis 0, or one feed at a time.

Arrays of one shape can mean either (`data.axes`), so both are tried where the model allows both. What fits neither
is explained in terms of the first, with a word on the second.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from calibrant.data.axes import feeds_hint, rows_of, sample_axis
from calibrant.data.batch import AnyArray, InputInfo
from calibrant.data.check import as_type, check_shape, one_number
from calibrant.data.sources.columns import Column, RepeatedColumn, Table
from calibrant.errors import CalibrantError, ConfigValueError, DataError

__all__ = ["fitting", "sample_name", "take"]


def fitting(make: Callable[[Sequence[InputInfo]], Table], inputs: Sequence[InputInfo]) -> Table:
    """Return a table that fits, its shared samples repeated.

    Args:
        make: Makes the table for inputs as arrays of data have them (`axes.rows_of`).
        inputs: What the model takes.

    Raises:
        DataError: The data cannot be read, is empty, has different numbers of samples, or another shape or type.
        ConfigValueError: Preprocessing does not fit it.
    """
    axis = sample_axis(inputs)
    failed: CalibrantError | None = None
    for by_feed in axis.forms:
        rows = rows_of(inputs, by_feed=by_feed)
        try:
            table = replace(make(rows), by_feed=by_feed)
        except CalibrantError:
            if failed is None:
                raise
            break
        try:
            table = _repeated(table, rows)
            for row in rows:
                take(table, row, 0, 1)
        except (DataError, ConfigValueError) as e:
            failed = failed or e
            continue
        samples = table.columns[rows[0].name].samples
        if failed is not None and axis.fixed is None and samples == 1:
            break  # one feed that is all the data: rather samples that were miscounted
        return table
    assert failed is not None
    raise type(failed)(f"{failed}{feeds_hint(inputs)}") from failed


def _repeated(table: Table, rows: Sequence[InputInfo]) -> Table:
    """Count the samples, and repeat what is given once: numbers, and inputs beside an axis of feeds.

    Raises:
        DataError: The inputs have different numbers of samples, or none.
    """
    counts = {r.name: table.columns[r.name].samples for r in rows}
    once = {
        r.name
        for r in rows
        if counts[r.name] == 1 and (table.by_feed or _is_number(table.columns[r.name], r))
    }
    total = max((n for name, n in counts.items() if name not in once), default=1)
    wrong = {n: c for n, c in counts.items() if c != total and n not in once}
    if wrong:
        listed = ", ".join(f"'{n}' {c}" for n, c in counts.items() if n not in once)
        raise DataError(
            f"{table.source} has different sample counts: {listed}; they have to be equal."
        )
    if total == 0:
        raise DataError(f"{table.source} is empty: 0 samples of input '{rows[0].name}'.")
    columns: dict[str, Column] = dict(table.columns)
    if total > 1:
        columns |= {n: RepeatedColumn(columns[n], total) for n in once}
    return replace(table, columns=columns)


def take(table: Table, row: InputInfo, start: int, stop: int) -> AnyArray:
    """Return samples of an input as the model takes them, checked; one number for all where it takes one.

    Raises:
        DataError: Shape, type or values do not fit; the message names the file or the sample.
    """
    column = table.columns[row.name]
    raw = column.read(start, stop)
    stored = column.stored(start)
    where = sample_name(table, row.name, start)
    check_shape(
        raw.shape,
        row,
        where(0) if column.file(start) else table.source,
        stored=stored,
    )
    ready = as_type(raw, row, where)
    return one_number(ready, row, where) if _is_number(column, row) else ready


def _is_number(column: Column, row: InputInfo) -> bool:
    """Whether an input takes one number; where its rank is unknown, the data says so."""
    return row.is_number or (row.shape is None and not row.by_feed and column.stored(0) == ())


def sample_name(table: Table, name: str, first: int) -> Callable[[int], str]:
    """Return the names of samples of an input, counted from `first`, for messages."""
    kind = "feed" if table.by_feed else "sample"
    return lambda k: table.columns[name].file(first + k) or f"{kind} {first + k} of {table.source}"
