"""Arrays by input name: mappings, `.npz`, `.npy` and a single `.bin`."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from calibrant.data.batch import AnyArray, InputInfo
from calibrant.data.check import check_names, has_samples, to_array
from calibrant.data.sources.columns import (
    ArrayColumn,
    Column,
    FileColumn,
    SampleFile,
    Table,
)
from calibrant.data.sources.members import MemberColumn, npy_header
from calibrant.errors import DataError

__all__ = ["load_npy", "mapping_table", "npy_table", "npz_headers", "npz_table"]

#: A `.npz` member up to this size is decompressed once and kept; a larger one is streamed each pass.
KEEP_BYTES = 64 * 2**20


def mapping_table(data: Mapping[str, Any], inputs: Sequence[InputInfo], source: str) -> Table:
    """Make columns of arrays, tensors, or lists of one array a sample.

    Raises:
        DataError: An input is missing, or a value is no array.
    """
    check_names([str(k) for k in data], inputs, source)
    infos = {i.name: i for i in inputs}
    columns: dict[str, Column] = {}
    notes: list[str] = []
    for name, value in data.items():
        where = f"{source}: '{name}'"
        info = infos.get(name)
        if info is None and _is_no_array(value):
            notes.append(f"{where} was left out: it is neither a model input nor an array.")
        elif isinstance(value, list | tuple) and value and hasattr(value[0], "shape"):
            parts = [to_array(v, f"{where}[{i}]") for i, v in enumerate(value)]
            columns[name] = FileColumn(
                [
                    SampleFile.of(f"{where}[{i}]", partial(np.asarray, p), p.shape, info)
                    for i, p in enumerate(parts)
                ]
            )
        else:
            columns[name] = _column(to_array(value, where), info)
    return Table(columns, source, tuple(notes))


def _is_no_array(value: Any) -> bool:
    try:
        to_array(value, "")
    except DataError:
        return True
    return False


def _column(array: AnyArray, info: InputInfo | None) -> ArrayColumn:
    return ArrayColumn(np.atleast_1d(array)) if info is None else ArrayColumn.of(array, info)


def npy_table(path: Path, inputs: Sequence[InputInfo]) -> Table:
    """Map a `.npy` file into memory, for a model with one input.

    Raises:
        DataError: The file is no `.npy` file, is cut short, or the model has several inputs.
    """
    if len(inputs) != 1:
        raise DataError(
            f"{path} holds one array, and the model has {len(inputs)} inputs "
            f"({', '.join(i.name for i in inputs)}); use a .npz file with one array an input."
        )
    array = load_npy(path)
    return Table({inputs[0].name: ArrayColumn.of(array, inputs[0])}, str(path))


def load_npy(path: Path) -> AnyArray:
    """Memory-map a `.npy` file.

    Raises:
        DataError: It is no `.npy` file, is cut short, or holds Python objects.
    """
    try:
        array: AnyArray = np.lib.format.open_memmap(path, mode="r")
    except Exception as e:  # numpy parses the header with ast and tokenize, which have their own
        raise DataError(f"{path} cannot be read as a .npy file: {_reason(e)}.") from e
    return array.view(np.ndarray)


def npz_headers(path: Path) -> dict[str, tuple[tuple[int, ...], np.dtype[Any]]]:
    """Read shape and type of every array of a `.npz` file, without the arrays.

    Raises:
        DataError: It is no `.npz` file, is damaged, or holds Python objects.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            headers = {}
            for member in archive.namelist():
                if member.endswith(".npy"):
                    with archive.open(member) as stream:
                        shape, _, dtype = npy_header(stream)
                    headers[member.removesuffix(".npy")] = (shape, dtype)
            return headers
    except Exception as e:  # zipfile, zlib, tokenize and numpy have their own for a damaged file
        raise DataError(f"{path} cannot be read as a .npz file: {_reason(e)}.") from e


def load_member(path: Path, name: str) -> AnyArray:
    """Decompress one array of a `.npz` file.

    Raises:
        DataError: The archive is damaged.
    """
    try:
        with np.load(path, allow_pickle=False) as archive:
            array: AnyArray = archive[name]
            return array
    except (
        Exception
    ) as e:  # zlib, zipfile and numpy each have their own errors for a damaged archive
        raise DataError(f"{path}: array '{name}' cannot be read: {_reason(e)}.") from e


def npz_table(path: Path, inputs: Sequence[InputInfo]) -> Table:
    """Open a `.npz` file with one array an input; further arrays become extras.

    A lone array without a name (`arr_0`) stands for the input of a model that has one.

    Raises:
        DataError: The file cannot be read, or an input is missing.
    """
    headers = npz_headers(path)
    stored = {name: name for name in headers}
    if len(inputs) == 1 and list(headers) == ["arr_0"]:
        stored = {inputs[0].name: "arr_0"}
    check_names(stored, inputs, str(path))
    infos = {i.name: i for i in inputs}
    columns: dict[str, Column] = {}
    for name, member in stored.items():
        shape, dtype = headers[member]
        info = infos.get(name)
        size = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
        if size > KEEP_BYTES and info is not None and has_samples(len(shape), info):
            columns[name] = MemberColumn(path, f"{member}.npy")
        else:
            columns[name] = _column(load_member(path, member), info)
    return Table(columns, str(path))


def _reason(e: BaseException) -> str:
    text = " ".join(str(e).split()).rstrip(".")
    if "allow_pickle" in text or "pickled" in text:
        return "it is no array file, or holds Python objects, which are not loaded"
    return text or type(e).__name__
