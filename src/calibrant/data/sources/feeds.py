"""Streams: anything that yields feeds, such as a list, a generator or a DataLoader.

A feed is a mapping of arrays by input name, one array for a model with one input, or a tuple or list of
arrays in the order of the inputs, with labels and other references behind them. Arrays may be tensors.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from calibrant.data.batch import AnyArray, InputInfo
from calibrant.data.check import as_samples, check_names, to_array
from calibrant.errors import CalibrantError, DataError

__all__ = ["Feed", "FeedStream", "regroup"]


@dataclass(frozen=True, slots=True, eq=False)
class Feed:
    """Raw arrays of one item of a stream, all with the same samples on axis 0."""

    inputs: Mapping[str, AnyArray]
    extras: Mapping[str, AnyArray]
    size: int


class FeedStream:
    """Feeds of an iterable.

    Args:
        make: Returns the iterable; it is called anew for every pass.
        inputs: What the model takes.
        source: Description for messages.
        once: The iterable is an iterator that is used up by one pass.
        items: How many feeds it yields, where it says so.
    """

    def __init__(
        self,
        make: Callable[[], Iterable[Any]],
        inputs: Sequence[InputInfo],
        source: str,
        *,
        once: bool = False,
        items: int | None = None,
    ) -> None:
        """Keep the source; nothing is read yet."""
        self._make, self._inputs = make, tuple(inputs)
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
        arrays, extras = self._named(item, where)
        inputs = {
            i.name: as_samples(to_array(arrays[i.name], f"{where}: '{i.name}'"), i)
            for i in self._inputs
        }
        sizes = {n: len(a) if a.ndim else 1 for n, a in inputs.items()}
        if len(set(sizes.values())) > 1:
            counts = ", ".join(f"'{n}' {s}" for n, s in sizes.items())
            raise DataError(f"{where} has inputs of different sample counts: {counts}.")
        size = next(iter(sizes.values()))
        return Feed(inputs, self._references(extras, size, where), size)

    def _references(self, extras: Mapping[str, Any], size: int, where: str) -> dict[str, AnyArray]:
        """Return the extras that are arrays of one row a sample; detection targets often are not."""
        found = {}
        for name, value in extras.items():
            try:
                array = np.atleast_1d(to_array(value, name))
            except DataError:
                array = None
            if array is not None and len(array) == size:
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


def _is_sequence_of_arrays(item: Any) -> bool:
    """Tell (x, y) from [[1.0, 2.0]]: the first of several arrays has a shape of its own."""
    return isinstance(item, tuple | list) and bool(item) and hasattr(item[0], "shape")


def regroup(feeds: Iterable[Feed], size: int, *, source: str) -> Iterator[Feed]:
    """Cut and join feeds to a fixed number of samples; the last one may have fewer.

    At most one feed and the samples of one result are held. Where the shape of samples changes from one
    feed to the next, the result before it ends early.
    """
    held: list[Feed] = []
    count = 0
    for feed in feeds:
        if held and _shapes(held[0]) != _shapes(feed):
            yield _join(held, source)
            held, count = [], 0
        start = 0
        while start < feed.size:
            stop = min(feed.size, start + size - count)
            held.append(_cut(feed, start, stop))
            count += stop - start
            start = stop
            if count == size:
                yield _join(held, source)
                held, count = [], 0
    if held:
        yield _join(held, source)


def _shapes(feed: Feed) -> list[tuple[object, ...]]:
    return [(a.shape[1:], a.dtype) for a in feed.inputs.values()]


def _cut(feed: Feed, start: int, stop: int) -> Feed:
    if (start, stop) == (0, feed.size):
        return feed
    return Feed(
        {n: a[start:stop] for n, a in feed.inputs.items()},
        {n: a[start:stop] for n, a in feed.extras.items()},
        stop - start,
    )


def _join(feeds: Sequence[Feed], source: str) -> Feed:
    if len(feeds) == 1:
        return feeds[0]
    shared = [n for n in feeds[0].extras if all(n in f.extras for f in feeds)]
    try:
        return Feed(
            {n: np.concatenate([f.inputs[n] for f in feeds]) for n in feeds[0].inputs},
            {n: np.concatenate([f.extras[n] for f in feeds]) for n in shared},
            sum(f.size for f in feeds),
        )
    except ValueError as e:
        raise DataError(f"{source}: labels of neighbouring feeds do not fit together: {e}.") from e
