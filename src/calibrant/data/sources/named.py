"""Data that a configuration names: one folder or file for each input of the model, in order.

    images     decoded, brought to the size and channel order of the input, then (pixel - mean) / std
    numbers    .npy files, or .bin files bare or with the 20-byte header, then (x - mean) / std

A relative path is looked for beside the configuration first, then in the working directory.

Source: docs/reference/ascend-configurations.md (`preprocess_parameter`);
docs/reference/horizon-configurations.md (`cal_data_dir`).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from calibrant.data.batch import InputInfo
from calibrant.data.preprocess import Preprocess, layout_of
from calibrant.data.sources.columns import Column, Table
from calibrant.data.sources.folder import IMAGES, column_of, in_natural_order
from calibrant.errors import DataError
from calibrant.recipe import Source

__all__ = ["located", "named_table"]

NUMBERS = (".npy", ".bin")


def located(source: Source) -> Path:
    """Return where a source is: beside its configuration, or in the working directory."""
    path = Path(source.path).expanduser()
    beside = Path(source.beside) / path
    return beside if source.beside and beside.exists() else path


def named_table(
    sources: Sequence[Source], inputs: Sequence[InputInfo], preprocess: Preprocess | None = None
) -> Table:
    """Open the sources of a configuration.

    Args:
        sources: One for each input.
        inputs: The model's inputs, in order.
        preprocess: A preprocessing file, over what the sources say of themselves.

    Raises:
        DataError: There are not as many sources as inputs, or one does not exist or holds no such files.
    """
    if len(sources) != len(inputs):
        raise DataError(
            f"The configuration names data for {len(sources)} inputs, and the model has {len(inputs)} "
            f"({', '.join(i.name for i in inputs)})."
        )
    columns: dict[str, Column] = {
        info.name: _column(source, info, preprocess)
        for source, info in zip(sources, inputs, strict=True)
    }
    return Table(columns, ", ".join(str(located(s)) for s in sources))


def _column(source: Source, info: InputInfo, preprocess: Preprocess | None) -> Column:
    path = located(source)
    if not path.exists():
        beside = f", neither in '{source.beside}' nor here" if source.beside else ""
        raise DataError(
            f"'{source.path}', which the configuration names as data of input '{info.name}', does not "
            f"exist{beside}. Give the data with --data, or mend the path."
        )
    kinds = IMAGES if source.kind == "images" else NUMBERS
    files = [path]
    if path.is_dir():
        files = in_natural_order(p for p in path.iterdir() if p.suffix.lower() in kinds)
    if not files or any(p.suffix.lower() not in kinds for p in files):
        raise DataError(
            f"'{path}', which the configuration names as {source.kind} of input '{info.name}', holds none: "
            f"{', '.join('*' + k for k in kinds)} are read."
        )
    steps = _steps(source, info)
    if preprocess is None and steps:
        preprocess = Preprocess(steps, "the configuration", [info])
    return column_of(files, info, preprocess, str(path))


def _steps(source: Source, info: InputInfo) -> dict[str, Any]:
    """Say in the words of a preprocessing file what a source asks for."""
    steps: dict[str, Any] = {}
    if source.mean:
        steps["mean"] = list(source.mean) if len(source.mean) > 1 else source.mean[0]
    if source.std:
        steps["std"] = list(source.std) if len(source.std) > 1 else source.std[0]
    if source.kind == "images":
        steps["color"] = source.color or "RGB"
        own = info.own
        size = own.dims[2:] if layout_of(own) == "NCHW" else own.dims[1:3]
        if len(own.dims) == 4 and all(isinstance(n, int) for n in size):
            steps["resize"] = list(size)
    return steps
