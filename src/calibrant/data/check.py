"""Checks of data against a model's inputs, before any of it reaches the model.

Each function takes an array and what the input accepts, and returns the array as the model wants it or
raises a DataError that names the input, the sample and the file.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from calibrant.data.batch import AnyArray, InputInfo, shape_text
from calibrant.errors import DataError, did_you_mean

__all__ = [
    "as_samples",
    "as_type",
    "check_names",
    "check_shape",
    "has_samples",
    "one_number",
    "to_array",
]


def check_names(given: Iterable[str], inputs: Sequence[InputInfo], where: str) -> None:
    """Raise unless every model input has an array; other arrays are extras.

    Raises:
        DataError: An input is missing; the message lists what there is and a near name.
    """
    given = list(given)
    for info in inputs:
        if info.name not in given:
            there = ", ".join(f"'{n}'" for n in given) or "nothing"
            wanted = ", ".join(str(i) for i in inputs)
            near = did_you_mean(info.name, [n for n in given if n not in {i.name for i in inputs}])
            raise DataError(
                f"{where} has no array for model input '{info.name}'; it has {there}. "
                f"The model takes {wanted}.{near}"
            )


def to_array(value: Any, where: str) -> AnyArray:
    """Return numbers, a list, an array or a tensor of any framework as a NumPy array.

    Raises:
        DataError: The value is no rectangular array of numbers.
    """
    if isinstance(value, np.ndarray):
        array: AnyArray = value.view(np.ndarray)
    else:
        try:
            if hasattr(
                value, "detach"
            ):  # a torch tensor, maybe on another device or with a gradient
                value = value.detach().cpu()
            if callable(getattr(value, "numpy", None)):
                value = value.numpy()
            array = np.asarray(value)
        except (TypeError, ValueError, RuntimeError) as e:
            raise DataError(
                f"{where} is a {type(value).__name__} that is no rectangular array of numbers: {e}."
            ) from e
    if array.dtype == object and array.size and all(isinstance(x, str) for x in array.flat):
        return array.astype(np.str_)
    if array.dtype == object:
        raise DataError(f"{where} holds Python objects; it has to be an array of numbers.")
    return array


def has_samples(rank: int, info: InputInfo) -> bool:
    """Tell whether an array of this rank has an axis of samples; one rank less is a single sample.

    Where the rank of the input is unknown, an array with dimensions has one, and none has an axis of feeds.
    """
    if info.shape is None:
        return rank > 0 and not info.by_feed
    return rank >= 1 if info.is_number else rank != len(info.shape) - 1


def as_samples(array: AnyArray, info: InputInfo) -> AnyArray:
    """Return the array with its sample axis in front: a single sample becomes (1, …), a number (1,)."""
    if info.is_number and array.size == 1:
        return array.reshape(1)
    return array if has_samples(array.ndim, info) else array[np.newaxis]


def check_shape(
    shape: Sequence[int], info: InputInfo, where: str, *, stored: Sequence[int] | None = None
) -> None:
    """Raise unless rank and fixed dimensions fit; axis 0 holds samples and may be of any length.

    Args:
        shape: Of an array with its sample axis in front.
        info: The input it is for.
        where: Name of the sample or the source, for the message.
        stored: The shape that the array has where it comes from; None where preprocessing changed it.

    Raises:
        DataError: Expected and given shape, with a hint when the two differ by a layout.
    """
    if info.shape is None:
        return
    if info.is_number:
        if len(shape) != 1:
            got = shape_text(tuple(stored if stored is not None else shape))
            raise DataError(
                f"{where}: input '{info.name}' is one number without dimensions, got shape {got}."
            )
        return
    fits = len(shape) == len(info.shape) and all(
        got == want
        for got, want in zip(shape[1:], info.shape[1:], strict=True)
        if isinstance(want, int)
    )
    if not fits:
        given = tuple(stored if stored is not None else shape)
        expected = info.own if info.by_feed and len(given) < len(info.shape) else info
        prepared = "" if stored is not None else " after preprocessing"
        raise DataError(
            f"{where}: input '{info.name}' expects shape {shape_text(expected.shape)}, "
            f"got {shape_text(given)}{prepared}." + _layout_hint(shape, info)
        )


def one_number(array: AnyArray, info: InputInfo, where: Callable[[int], str]) -> AnyArray:
    """Return the number of an input without dimensions, as an array without dimensions.

    Args:
        array: (samples,) the number that each sample of a batch gives.
        info: The input.
        where: Name of the sample at an index, for messages.

    Raises:
        DataError: The samples of one batch give different numbers.
    """
    if (array != array[0]).any():
        k = int(np.flatnonzero(array != array[0])[0])
        raise DataError(
            f"Input '{info.name}' is one number for all samples of a batch; {where(0)} has {array[0]} and "
            f"{where(k)} has {array[k]}. Use batch size 1."
        )
    return array[:1].reshape(())


def _layout_hint(shape: Sequence[int], info: InputInfo) -> str:
    if len(shape) != 4 or len(info.dims) != 4:
        return ""
    n, a, b, c = shape
    for moved, text in (
        ((n, c, a, b), "NHWC and the model takes NCHW"),
        ((n, b, c, a), "NCHW and the model takes NHWC"),
    ):
        if all(
            g == w for g, w in zip(moved[1:], info.dims[1:], strict=True) if isinstance(w, int)
        ):
            return f" The data looks like {text}; a preprocessing file can say so (source_layout, layout)."
    return ""


def _may_be_empty(array: AnyArray, info: InputInfo) -> bool:
    """Whether samples hold nothing along an axis that the model leaves free, such as a cache before the first step."""
    shape = info.shape
    if not len(array) or shape is None or len(shape) != array.ndim or len(shape) < 3:
        return False
    return all(
        n or not isinstance(d, int) or d == 0 for n, d in zip(array.shape, shape, strict=True)
    )


def as_type(array: AnyArray, info: InputInfo, where: Callable[[int], str]) -> AnyArray:
    """Return the array C-contiguous and in the model's type, its values finite.

    Between float types, between integer types, and from bool to integer, values are cast when none is
    lost to overflow. Integers are not taken for float inputs: they are mostly images that still lack
    their scaling, and the model would run on them without a word. A single number may be one.

    Args:
        array: Samples on axis 0.
        info: The input.
        where: Name of the sample at an index of axis 0, for messages.

    Raises:
        DataError: A cast that is not allowed or loses values, an empty array, NaN or infinity.
    """
    if array.size == 0 and not _may_be_empty(array, info):
        raise DataError(
            f"{where(0)}: input '{info.name}' is empty, shape {shape_text(array.shape)}."
        )
    source, target = array.dtype, info.dtype
    if source.kind == target.kind == "U":
        return np.asarray(array, order="C")
    number = info.own.is_number and source.kind in "iu" and target.kind == "f"  # no pixel
    if source != target and not number and not _castable(source, target):
        hint = (
            " Scale the data first, or give a preprocessing file (scale, mean, std)."
            if source.kind in "iu" and target.kind == "f"
            else ""
        )
        raise DataError(
            f"{where(0)}: input '{info.name}' expects {target}, got {source}, "
            f"which is not converted silently.{hint}"
        )
    if source != target and target.kind in "iu" and source.kind in "iu":
        limits = np.iinfo(target)
        low, high = int(array.min()), int(array.max())
        if low < limits.min or high > limits.max:
            raise DataError(
                f"{where(0)}: input '{info.name}' expects {target}, and values from {low} to {high} "
                "do not fit."
            )
    if source.kind == "f":
        _check_finite(array, info, where)
    with np.errstate(over="ignore"):
        out: AnyArray = np.ascontiguousarray(array, dtype=target)
    if source.kind == "f" and target.itemsize < source.itemsize:
        _check_finite(out, info, where, f" after the cast from {source} to {target}")
    return out


def _castable(source: np.dtype[Any], target: np.dtype[Any]) -> bool:
    same_family = {
        ("f", "f"),
        ("i", "i"),
        ("u", "u"),
        ("i", "u"),
        ("u", "i"),
        ("b", "i"),
        ("b", "u"),
    }
    return (source.kind, target.kind) in same_family or (
        source.kind == target.kind and source.newbyteorder("=") == target
    )


def _check_finite(
    array: AnyArray, info: InputInfo, where: Callable[[int], str], when: str = ""
) -> None:
    finite = np.isfinite(array)
    if not finite.all():
        bad = np.flatnonzero(~finite.reshape(len(array), -1).all(axis=1))  # (bad samples,)
        value = array[bad[0]][~finite[bad[0]]].flat[0] if array.ndim > 1 else array[bad[0]]
        what = "NaN" if np.isnan(value) else "infinity"
        more = f" and in {len(bad) - 1} more of these {len(array)} samples" if len(bad) > 1 else ""
        raise DataError(
            f"{where(int(bad[0]))}: input '{info.name}' holds {what}{when}{more}; "
            "only finite values are allowed."
        )
