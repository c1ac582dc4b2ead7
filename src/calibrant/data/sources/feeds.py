"""Streams: anything that yields feeds, such as a list, a generator or a DataLoader.

A feed is a mapping of arrays by input name, one array for a model with one input, or a tuple or list of
arrays in the order of the inputs, with labels and other references behind them. Arrays may be tensors.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from calibrant.data.axes import feeds_hint, rows_of, sample_axis
from calibrant.data.batch import AnyArray, InputInfo
from calibrant.data.check import (
    as_samples,
    as_type,
    check_names,
    check_shape,
    one_number,
    to_array,
)
from calibrant.data.preprocess import Preprocess
from calibrant.data.transform import finish_arrays
from calibrant.errors import CalibrantError, DataError

__all__ = ["Feed", "FeedStream"]


@dataclass(frozen=True, slots=True, eq=False)
class Feed:
    """Checked arrays of one item of a stream.

    Args:
        inputs: Array by input name, samples on axis 0; a number that all samples share has no dimensions.
        extras: References by name, one row a sample.
        size: How many samples there are.
        whole: Axis 0 counts feeds, each of which is a sample of its own (`data.axes`).
    """

    inputs: Mapping[str, AnyArray]
    extras: Mapping[str, AnyArray]
    size: int
    whole: bool = False


class FeedStream:
    """Feeds of an iterable.

    Args:
        make: Returns the iterable; it is called anew for every pass.
        inputs: What the model takes.
        source: Description for messages.
        preprocess: How stored arrays become inputs.
        once: The iterable is an iterator that is used up by one pass.
        items: How many feeds it yields, where it says so.
    """

    def __init__(
        self,
        make: Callable[[], Iterable[Any]],
        inputs: Sequence[InputInfo],
        source: str,
        *,
        preprocess: Preprocess | None = None,
        once: bool = False,
        items: int | None = None,
    ) -> None:
        """Keep the source; nothing is read yet."""
        self._make, self._inputs, self._preprocess = make, tuple(inputs), preprocess
        self._axis = sample_axis(inputs)
        self.source, self.once, self.items = source, once, items
        self._used = False
        self.left_out: dict[str, str] = {}

    def __iter__(self) -> Iterator[Feed]:
        """Yield the feeds in order.

        Raises:
            DataError: An iterator asked for a second pass, an item that is no feed, or an exception of
                the user's own code.
        """
        if self.once and self._used:
            raise DataError(
                f"{self.source} is an iterator and was used up by the first pass over it, and another pass "
                "is needed; give a list, a DataLoader, or a function that makes a new iterator."
            )
        self._used = True
        try:
            iterator = iter(self._make())
        except CalibrantError:
            raise
        except Exception as e:  # the user's code may raise anything
            raise DataError(f"{self.source} cannot be iterated: {type(e).__name__}: {e}.") from e
        index = 0
        while True:
            try:
                item = next(iterator)
            except StopIteration:
                return
            except Exception as e:  # the user's code may raise anything
                raise DataError(
                    f"{self.source} failed at feed {index}: {type(e).__name__}: {e}."
                ) from e
            yield self._feed(item, f"feed {index} of {self.source}")
            index += 1

    def _feed(self, item: Any, where: str) -> Feed:
        named, extras = self._named(item, where)
        arrays = {i.name: to_array(named[i.name], f"{where}: '{i.name}'") for i in self._inputs}
        by_feed = not self._axis.on_axis or (
            self._axis.by_feed and not _lie_on_axis(arrays, self._inputs)
        )
        rows = rows_of(self._inputs, by_feed=by_feed)
        inputs = {r.name: self._ready(arrays[r.name], r, where) for r in rows}
        sizes = {n: len(x) for n, x in inputs.items() if x.ndim}
        once = {n for n, k in sizes.items() if by_feed and k == 1}
        size = max((k for n, k in sizes.items() if n not in once), default=1)
        if any(k != size for n, k in sizes.items() if n not in once):
            counts = ", ".join(f"'{n}' {k}" for n, k in sizes.items())
            raise DataError(
                f"{where} has inputs of different sample counts: {counts}."
                + feeds_hint(self._inputs)
            )
        if by_feed:
            inputs = {n: np.broadcast_to(x, (size, *x.shape[1:])) for n, x in inputs.items()}
        whole = by_feed and size == 1
        return Feed(inputs, self._references(extras, size, where, whole=whole), size, by_feed)

    def _ready(self, array: AnyArray, row: InputInfo, where: str) -> AnyArray:
        """Return an array as the model takes it, samples on axis 0; a shared number without dimensions."""
        steps = self._preprocess.of(row.name) if self._preprocess is not None else None
        number = row.is_number or (row.shape is None and not row.by_feed and array.ndim == 0)
        samples = as_samples(array, row)
        if steps is not None:
            samples = finish_arrays(samples, steps, row)
        stored = None if steps is not None else array.shape
        check_shape(samples.shape, row, where, stored=stored)
        ready = as_type(samples, row, lambda k: f"sample {k} of {where}")
        return one_number(ready, row, lambda k: f"sample {k} of {where}") if number else ready

    def _references(
        self, extras: Mapping[str, Any], size: int, where: str, *, whole: bool
    ) -> dict[str, AnyArray]:
        """Return the extras that are arrays of one row a sample; detection targets often are not.

        Those of a single whole feed are taken as they are.
        """
        found = {}
        for name, value in extras.items():
            try:
                array = np.atleast_1d(to_array(value, name))
            except DataError:
                array = None
            if array is not None and (whole or len(array) == size):
                found[name] = array
            elif name not in self.left_out:
                self.left_out[name] = (
                    f"'{name}' was left out: in {where} it is no array of {size} rows."
                )
        return found

    def _named(self, item: Any, where: str) -> tuple[dict[str, Any], dict[str, Any]]:
        names = [i.name for i in self._inputs]
        if isinstance(item, Mapping):
            check_names([str(k) for k in item], self._inputs, where)
            return {n: item[n] for n in names}, {
                str(k): v for k, v in item.items() if k not in names
            }
        parts = list(item) if _is_sequence_of_arrays(item) else [item]
        if len(parts) < len(names):
            raise DataError(
                f"{where} has {len(parts)} arrays, and the model has {len(names)} inputs: {', '.join(names)}."
            )
        behind = parts[len(names) :]
        labels = {("labels" if k == 0 else f"labels_{k}"): v for k, v in enumerate(behind)}
        return dict(zip(names, parts, strict=False)), labels


def _lie_on_axis(arrays: Mapping[str, AnyArray], inputs: Sequence[InputInfo]) -> bool:
    """Tell whether all arrays have samples on axis 0, as many each."""
    counts = set()
    for info in inputs:
        shape = arrays[info.name].shape
        if info.is_number or info.shape is None:
            continue
        if len(shape) not in (len(info.shape), len(info.shape) - 1):
            return False
        counts.add(shape[0] if len(shape) == len(info.shape) else 1)
    return len(counts) <= 1


def _is_sequence_of_arrays(item: Any) -> bool:
    """Tell (x, y) from [[1.0, 2.0]]: the first of several arrays has a shape of its own."""
    return isinstance(item, tuple | list) and bool(item) and hasattr(item[0], "shape")
