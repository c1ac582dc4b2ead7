"""Data as batches of feeds, whatever it comes as, checked before it reaches the model.

    path        .npz, .npy, .bin, or a folder (`sources.folder` has the layouts)
    text        `module:function`, called without arguments
    mapping     arrays by input name
    array       samples on axis 0, for a model with one input
    iterable    feeds, a DataLoader too (`sources.feeds`)

Batches stream: what is held beyond the source's own arrays is one batch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from calibrant.data.batch import Batch, InputInfo
from calibrant.data.batches import Batches
from calibrant.data.check import to_array
from calibrant.data.fit import fitting
from calibrant.data.imports import import_function, is_function_name
from calibrant.data.preprocess import PREPROCESS_FILES, Preprocess
from calibrant.data.sources.arrays import mapping_table, npy_table, npz_table
from calibrant.data.sources.columns import ArrayColumn, FileColumn, PreparedColumn, Table
from calibrant.data.sources.feeds import FeedStream
from calibrant.data.sources.folder import folder_table, sample_files
from calibrant.data.sources.named import named_table
from calibrant.data.transform import finish_arrays
from calibrant.errors import CalibrantError, ConfigValueError, DataError, did_you_mean
from calibrant.recipe import Source

__all__ = ["DATA_FORMS", "Batch", "Batches", "InputInfo", "open_data"]

#: What data may be, for messages and help.
DATA_FORMS = "a .npz, .npy or .bin file, a folder of samples, or module:function"


def open_data(
    data: Any,
    inputs: Sequence[InputInfo],
    *,
    batch_size: int | None = None,
    batch_num: int | None = None,
    preprocess: str | Path | None = None,
) -> Batches:
    """Open data for a model.

    Args:
        data: See the head of this file.
        inputs: What the model takes.
        batch_size: Samples in a batch. None takes the model's fixed batch, or what an iterable yields,
            or up to 32 samples of at most 4 MiB together.
        batch_num: Batches to use; None takes all.
        preprocess: A preprocessing file (`data.preprocess`); a folder may hold its own.

    Returns:
        The batches; names, shapes, types and the first sample are checked already for arrays, files and
        folders, the rest as it is read.

    Raises:
        ConfigValueError: A batch size or number below 1, or a faulty preprocessing file.
        DataError: The data does not exist, cannot be read, is empty, or does not fit the model.
        MissingPackageError: Images without Pillow.
    """
    for key, value in (("batch_size", batch_size), ("batch_num", batch_num)):
        if value is not None and (isinstance(value, bool) or value < 1):
            raise ConfigValueError(f"{key} is {value!r}; it is 1 or more.")
    if not inputs:
        raise DataError("The model has no inputs, so no data can be fed to it.")
    steps = Preprocess.load(Path(preprocess), inputs) if preprocess is not None else None
    source = _source(data, inputs, steps, "the data")
    return Batches(source, inputs, batch_size=batch_size, batch_num=batch_num)


def _source(
    data: Any, inputs: Sequence[InputInfo], steps: Preprocess | None, name: str
) -> Table | FeedStream:
    """Open any data, with preprocessing built in."""
    if isinstance(data, tuple) and data and all(isinstance(s, Source) for s in data):
        return fitting(lambda rows: named_table(data, rows, steps), inputs)
    if isinstance(data, str) and is_function_name(data) and not Path(data).exists():
        function = import_function(data, what="Data", error=DataError)
        return _called(function, inputs, steps, data)
    if isinstance(data, str | Path):
        return fitting(lambda rows: _path_table(Path(data), rows, steps), inputs)
    if isinstance(data, Mapping):
        return fitting(
            lambda rows: _prepared(mapping_table(data, rows, name), rows, steps), inputs
        )
    if isinstance(data, np.ndarray) or hasattr(data, "detach"):
        return fitting(lambda rows: _prepared(_array_table(data, rows, name), rows, steps), inputs)
    if isinstance(data, Iterable):
        once = isinstance(data, Iterator)
        return FeedStream(
            lambda: data, inputs, name, preprocess=steps, once=once, items=_length(data)
        )
    if callable(data):
        return _called(data, inputs, steps, getattr(data, "__name__", name))
    raise DataError(
        f"The data is a {type(data).__name__}; it may be {DATA_FORMS}, a dict of arrays, an array, or an "
        "iterable of feeds."
    )


def _array_table(data: Any, rows: Sequence[InputInfo], name: str) -> Table:
    if len(rows) != 1:
        raise DataError(
            f"The data is one array, and the model has {len(rows)} inputs "
            f"({', '.join(r.name for r in rows)}); give a dict of arrays by input name."
        )
    return Table({rows[0].name: ArrayColumn.of(to_array(data, name), rows[0])}, name)


def _called(
    function: Callable[[], Any],
    inputs: Sequence[InputInfo],
    steps: Preprocess | None,
    name: str,
) -> Table | FeedStream:
    def call() -> Any:
        try:
            return function()
        except CalibrantError:
            raise
        except Exception as e:  # the user's code may raise anything
            raise DataError(f"Data '{name}' failed: {type(e).__name__}: {e}.") from e

    result = call()
    if not isinstance(result, Iterator):
        return _source(result, inputs, steps, name)
    ready = [result]  # the first pass uses it; later passes call again
    return FeedStream(lambda: ready.pop() if ready else call(), inputs, name, preprocess=steps)


def _length(data: Any) -> int | None:
    try:
        return len(data)
    except TypeError:  # no __len__, or an IterableDataset behind a DataLoader
        return None


def _path_table(path: Path, rows: Sequence[InputInfo], steps: Preprocess | None) -> Table:
    if path.is_dir():
        own = [path / name for name in PREPROCESS_FILES if (path / name).exists()]
        if steps is None and own:
            steps = Preprocess.load(own[0], rows)
        return folder_table(path, rows, steps)
    if not path.exists():
        siblings = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
        raise DataError(
            f"The data '{path}' does not exist; it may be {DATA_FORMS}."
            + did_you_mean(path.name, siblings)
        )
    suffix = path.suffix.lower()
    if suffix == ".npz":
        return _prepared(npz_table(path, rows), rows, steps)
    if suffix == ".npy":
        return _prepared(npy_table(path, rows), rows, steps)
    if suffix == ".bin" and len(rows) == 1:
        own_steps = steps.of(rows[0].name) if steps is not None else None
        files = sample_files([path], rows[0], own_steps)
        return _prepared(Table({rows[0].name: FileColumn(files)}, str(path)), rows, steps)
    raise DataError(
        f"The data '{path}' has an ending that is not read for this model; it may be {DATA_FORMS}."
    )


def _prepared(table: Table, rows: Sequence[InputInfo], preprocess: Preprocess | None) -> Table:
    if preprocess is None:
        return table
    columns = dict(table.columns)
    for r in rows:
        steps = preprocess.of(r.name)
        if steps is not None:
            prepare = partial(finish_arrays, steps=steps, info=r)
            columns[r.name] = PreparedColumn(columns[r.name], prepare)
    return Table(columns, table.source, table.notes)
