"""Folders of samples.

    calib/<input>/0.npy …               one sub-folder an input, any of the files below
    calib/b0_<input>.npy …              flat, the index in front
    calib/*.npz                         arrays by input name in each file; one feed, or samples on axis 0
    calib/*.npy | *.bin | *.jpg …       a model with one input
    calib/<class>/*.jpg …               a model with one input: one sub-folder a class (`sources.classes`)
    calib/labels.npy | labels.txt       beside any of these: one label a sample, or `file label` lines
    calib/preprocess.yaml               beside any of these: see `data.preprocess`

Files are taken in natural order (`2.npy` before `10.npy`). A file holds one sample, with or without a
batch dimension of 1, or several on axis 0. In folder and file names, signs of an input's name that do not
go well there may be written `_`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from calibrant.data.batch import AnyArray, InputInfo
from calibrant.data.check import check_names
from calibrant.data.preprocess import PREPROCESS_FILES, Preprocess, Steps
from calibrant.data.sources.arrays import load_member, load_npy, npz_headers
from calibrant.data.sources.binary import binary_file
from calibrant.data.sources.classes import class_samples
from calibrant.data.sources.columns import (
    ArrayColumn,
    Column,
    FileColumn,
    PreparedColumn,
    SampleFile,
    Table,
)
from calibrant.data.sources.labels import LABELS, add_labels
from calibrant.data.transform import finish_arrays, finish_images, images_module, stored_shape
from calibrant.errors import DataError, did_you_mean

__all__ = ["IMAGES", "column_of", "folder_table", "in_natural_order", "sample_files"]

IMAGES = (".jpg", ".jpeg", ".png", ".bmp", ".ppm", ".pgm", ".tif", ".tiff")
SAMPLES = (".npy", ".bin", *IMAGES)
FLAT = re.compile(r"b(\d+)_(.+)\.(npy|bin)")

PREPROCESS_EXAMPLE = (
    "resize: 256, crop: 224, scale: 1/255, mean: [0.485, 0.456, 0.406], std: [0.229, 0.224, 0.225]"
)


def folder_table(
    folder: Path, inputs: Sequence[InputInfo], preprocess: Preprocess | None
) -> Table:
    """Open a folder; its layout is recognised by what it holds.

    Raises:
        DataError: Nothing usable in it, layouts mixed, an input without files, images without a
            preprocessing file.
    """
    entries = sorted((p for p in folder.iterdir() if not p.name.startswith(".")), key=_natural)
    special = {*PREPROCESS_FILES, *LABELS}
    files = [p for p in entries if p.is_file() and p.name not in special]
    folders = [p for p in entries if p.is_dir()]
    spelled = {_plain(i.name): i for i in inputs} | {i.name: i for i in inputs}
    flat = [m for p in files if (m := FLAT.fullmatch(p.name))]
    loose = [p for p in files if p.suffix.lower() in SAMPLES]
    used: list[Path]
    columns: dict[str, Column]
    if any(p.name in spelled for p in folders):
        columns, used = _by_folder(folders, inputs, spelled, preprocess), folders
    elif any(m[2] in spelled for m in flat):
        columns, used = (
            _by_index(folder, flat, inputs, spelled, preprocess),
            [folder / m[0] for m in flat],
        )
    elif any(p.suffix.lower() == ".npz" for p in files):
        used = [p for p in files if p.suffix.lower() == ".npz"]
        columns = _by_archive(used, inputs)
        columns = {
            n: _prepared(c, n, inputs, preprocess, images=False) for n, c in columns.items()
        }
    elif not loose and len(inputs) == 1 and folders:
        samples = class_samples(folders, IMAGES, in_natural_order, _plain(inputs[0].name))
        if not samples:
            raise DataError(_nothing(folder, folders, inputs))
        for name in LABELS:
            if (folder / name).exists():
                raise DataError(
                    f"{folder} has {name}, and a sub-folder for each class, which says the labels as well; keep one."
                )
        images = [path for path, _ in samples]
        columns = {inputs[0].name: column_of(images, inputs[0], preprocess, str(folder))}
        columns["labels"] = ArrayColumn(np.array([label for _, label in samples], np.int64))
        used = folders
    else:
        used = loose
        if not used:
            raise DataError(_nothing(folder, folders, inputs))
        if len(inputs) != 1:
            raise DataError(
                f"{folder} holds files of one input, and the model has {len(inputs)}; make a sub-folder "
                f"for each ({', '.join(_plain(i.name) + '/0.npy' for i in inputs)}), or use .npz files."
            )
        columns = {inputs[0].name: column_of(used, inputs[0], preprocess, str(folder))}
    add_labels(columns, folder, used)
    left = [p.name for p in (*files, *folders) if p not in used]
    notes = (
        (f"{folder}: {len(left)} other entries were left out ({', '.join(left[:5])}).",)
        if left
        else ()
    )
    return Table(columns, str(folder), notes)


def in_natural_order(paths: Iterable[Path]) -> list[Path]:
    """Sort files so that `2.npy` comes before `10.npy`."""
    return sorted(paths, key=_natural)


def _natural(path: Path) -> list[tuple[bool, int, str]]:
    parts = re.split(r"(\d+)", path.name)
    return [(p.isdigit(), int(p) if p.isdigit() else 0, p) for p in parts]


def _plain(name: str) -> str:
    return re.sub(r"[^\w.-]", "_", name)


def _nothing(folder: Path, folders: Sequence[Path], inputs: Sequence[InputInfo]) -> str:
    names = [_plain(i.name) for i in inputs]
    near = did_you_mean(names[0], [p.name for p in folders])
    return (
        f"{folder} holds no samples: it needs {', '.join('*' + s for s in SAMPLES)} or *.npz files, or a "
        f"sub-folder for each input ({', '.join(names)}).{near}"
    )


# ------------------------------------------------------------------------------------------- layouts


def _by_folder(
    folders: Sequence[Path],
    inputs: Sequence[InputInfo],
    spelled: Mapping[str, InputInfo],
    preprocess: Preprocess | None,
) -> dict[str, Column]:
    found = {(spelled[p.name].name if p.name in spelled else p.name): p for p in folders}
    check_names(found, inputs, str(folders[0].parent))
    columns: dict[str, Column] = {}
    for name, path in found.items():
        files = sorted((p for p in path.iterdir() if p.suffix.lower() in SAMPLES), key=_natural)
        info = next((i for i in inputs if i.name == name), None)
        if not files and info is not None:
            raise DataError(
                f"{path} holds no samples: it needs {', '.join('*' + s for s in SAMPLES)} files."
            )
        if info is not None:
            columns[name] = column_of(files, info, preprocess, str(path))
        else:
            columns[name] = FileColumn([_extra_file(p) for p in files])
    return columns


def _by_index(
    folder: Path,
    flat: Sequence[re.Match[str]],
    inputs: Sequence[InputInfo],
    spelled: Mapping[str, InputInfo],
    preprocess: Preprocess | None,
) -> dict[str, Column]:
    found: dict[str, dict[int, Path]] = {}
    for m in flat:
        name = spelled[m[2]].name if m[2] in spelled else m[2]
        found.setdefault(name, {})[int(m[1])] = folder / m[0]
    check_names(found, inputs, str(folder))
    indexes = set(found[inputs[0].name])
    columns: dict[str, Column] = {}
    for name, paths in found.items():
        for missing in sorted(indexes ^ set(paths))[:1]:
            raise DataError(
                f"{folder}: index {missing} is there for input '{inputs[0].name}' or for '{name}' but not "
                "for both; every input has the same indexes."
            )
        files = [paths[i] for i in sorted(paths)]
        info = next((i for i in inputs if i.name == name), None)
        columns[name] = (
            column_of(files, info, preprocess, str(folder))
            if info is not None
            else FileColumn([_extra_file(p) for p in files])
        )
    return columns


def _by_archive(paths: Sequence[Path], inputs: Sequence[InputInfo]) -> dict[str, Column]:
    infos = {i.name: i for i in inputs}
    files: dict[str, list[SampleFile]] = {}
    for path in paths:
        headers = npz_headers(path)
        check_names(headers, inputs, str(path))
        for name, (shape, _) in headers.items():
            load = partial(load_member, path, name)
            info = infos.get(name)
            if info is None and inputs[0].by_feed:
                file = SampleFile(str(path), 1, partial(_whole, load), shape)
            else:
                file = SampleFile.of(str(path), load, shape, info)
            files.setdefault(name, []).append(file)
    return {n: FileColumn(f) for n, f in files.items() if n in infos or len(f) == len(paths)}


def _whole(load: Callable[[], AnyArray]) -> AnyArray:
    """Return an array of one sample, whatever its axis 0 counts."""
    return load()[np.newaxis]


# --------------------------------------------------------------------------------------------- files


def column_of(
    files: Sequence[Path], info: InputInfo, preprocess: Preprocess | None, where: str
) -> Column:
    """Return the samples of one input in files of one kind.

    Raises:
        DataError: The kinds are mixed, or a file cannot be read.
    """
    kinds = {"image" if p.suffix.lower() in IMAGES else p.suffix.lower() for p in files}
    if len(kinds) > 1:
        raise DataError(
            f"{where} mixes {' and '.join(sorted(kinds))} files for input '{info.name}'; keep one kind."
        )
    steps = preprocess.of(info.name) if preprocess is not None else None
    column = FileColumn(sample_files(files, info, steps))
    return _prepared(column, info.name, [info], preprocess, images=kinds == {"image"})


def sample_files(files: Sequence[Path], info: InputInfo, steps: Steps | None) -> list[SampleFile]:
    """Find out how many samples each file holds, without reading them.

    Raises:
        DataError: A file cannot be read, or images come without a preprocessing file.
    """
    return [_sample_file(p, info, steps) for p in files]


def _sample_file(path: Path, info: InputInfo, steps: Steps | None) -> SampleFile:
    name = str(path)
    if path.suffix.lower() == ".npy":
        return SampleFile.of(name, partial(load_npy, path), load_npy(path).shape, info)
    if path.suffix.lower() == ".bin":
        stored = np.dtype(steps.source_dtype) if steps and steps.source_dtype else info.dtype
        shape = info.dims[1:] if steps is None else stored_shape(steps, info)
        fixed = tuple(d for d in shape if isinstance(d, int))
        known = fixed if info.shape is not None and len(fixed) == len(shape) else None
        return binary_file(path, info, name=name, dtype=stored, sample_shape=known)
    if steps is None:
        raise DataError(
            f"{path} is an image, and nothing says how to turn it into input '{info}'; write "
            f"preprocess.yaml in the data folder or give --preprocess, for example {{{PREPROCESS_EXAMPLE}}}."
        )
    read_image = images_module().read_image
    in_front = (np.newaxis, np.newaxis) if info.by_feed else (np.newaxis,)
    return SampleFile(name, 1, lambda: read_image(path, steps, name)[in_front])


def _prepared(
    column: Column,
    name: str,
    inputs: Sequence[InputInfo],
    preprocess: Preprocess | None,
    *,
    images: bool,
) -> Column:
    info = next((i for i in inputs if i.name == name), None)
    steps = preprocess.of(name) if preprocess is not None else None
    if steps is None or info is None:
        return column
    finish = finish_images if images else finish_arrays
    return PreparedColumn(column, partial(finish, steps=steps, info=info))


def _extra_file(path: Path) -> SampleFile:
    if path.suffix.lower() != ".npy":
        raise DataError(
            f"{path} belongs to no model input; extra data, such as labels, is .npy files."
        )
    return SampleFile(str(path), 1, lambda: load_npy(path)[np.newaxis])
