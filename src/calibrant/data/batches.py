"""Batches of feeds over a table of columns or a stream of feeds.

Axis 0 of every input counts samples. A model whose inputs do not share that axis (their fixed first
dimensions differ) takes one feed at a time, and its data has an axis of feeds in front.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

from calibrant.data.batch import AnyArray, Batch, InputInfo
from calibrant.data.check import as_type, check_shape
from calibrant.data.preprocess import Preprocess
from calibrant.data.sources.columns import Table
from calibrant.data.sources.feeds import Feed, FeedStream, regroup
from calibrant.data.transform import finish_arrays
from calibrant.errors import DataError

__all__ = ["Batches", "rows_of"]

log = logging.getLogger(__name__)

#: Without a batch size, a batch takes at most this much of inputs and at most this many samples.
BATCH_BYTES = 4 * 2**20
BATCH_SAMPLES = 32


class Batches:
    """The batches of a data source; iterate as often as the source allows.

    Attributes:
        source: File, folder or description.
        batch_size: Samples in a batch; None when the source's own feeds are passed on as they are.
        samples: Samples that one pass yields; None where only the pass can tell.
        batches: Batches that one pass yields; None where only the pass can tell.
        once: Only one pass is possible.
        notes: What was left out and why, one sentence each; a stream adds to them during a pass.
    """

    def __init__(
        self,
        source: Table | FeedStream,
        inputs: Sequence[InputInfo],
        *,
        batch_size: int | None = None,
        batch_num: int | None = None,
        preprocess: Preprocess | None = None,
    ) -> None:
        """Fix the batch size, and check names, counts and the first sample where they are known."""
        self._source, self._inputs, self._preprocess = source, tuple(inputs), preprocess
        self._fixed, self._stacked = _batch_rule(self._inputs)
        self._rows = rows_of(self._inputs)
        self._batch_num = batch_num
        self.source = source.source
        self.notes: list[str] = []
        if self._fixed is not None and batch_size not in (None, self._fixed):
            self._note(
                f"batch size {batch_size} became {self._fixed}: the model's batch is fixed."
            )
        self.batch_size = self._fixed if self._fixed is not None else batch_size
        self.samples: int | None = None
        self.batches: int | None = None
        self.once = False
        if isinstance(source, Table):
            for text in source.notes:
                self._note(text)
            self._measure_table(source)
        else:
            self.once = source.once
            if self.batch_size is None and source.items is not None:
                self.batches = min(source.items, batch_num or source.items)

    def __iter__(self) -> Iterator[Batch]:
        """Yield the batches.

        Raises:
            DataError: A feed does not fit the model, or a second pass over an iterator.
        """
        if isinstance(self._source, Table):
            return self._table_batches(self._source)
        return self._stream_batches(self._source)

    def rebatched(self, batch_size: int) -> Batches:
        """Return the same data in batches of another size."""
        return Batches(
            self._source,
            self._inputs,
            batch_size=batch_size,
            batch_num=self._batch_num,
            preprocess=self._preprocess,
        )

    def _note(self, text: str) -> None:
        if text not in self.notes:
            self.notes.append(text)
            log.warning("%s", text)

    # ---------------------------------------------------------------------------------------- tables

    def _measure_table(self, table: Table) -> None:
        counts = {i.name: table.columns[i.name].samples for i in self._inputs}
        total = next(iter(counts.values()))
        if len(set(counts.values())) > 1:
            listed = ", ".join(f"'{n}' {c}" for n, c in counts.items())
            raise DataError(
                f"{self.source} has different sample counts: {listed}; they have to be equal."
            )
        if total == 0:
            raise DataError(
                f"{self.source} is empty: 0 samples of input '{self._inputs[0].name}'."
            )
        self._extras = {}
        for name, column in table.columns.items():
            if name not in counts and column.samples == total:
                self._extras[name] = column
            elif name not in counts:
                self._note(
                    f"{self.source}: '{name}' was left out: it has {column.samples} rows for {total} samples."
                )
        sample_bytes = sum(self._first_sample(table, r).nbytes for r in self._rows)
        if self.batch_size is None:
            uniform = all(table.columns[r.name].uniform for r in self._rows)
            most = BATCH_SAMPLES if uniform else 1
            fit = max(1, min(most, BATCH_BYTES // max(sample_bytes, 1)))
            self.batch_size = min(1 << (fit.bit_length() - 1), total)
        whole = total - total % self._fixed if self._fixed else total
        if whole == 0:
            raise DataError(
                f"{self.source} has {total} samples, fewer than the model's fixed batch of {self._fixed}."
            )
        if whole < total:
            self._note(
                f"{self.source}: the last {total - whole} of {total} samples are left out, because the "
                f"model's batch is fixed at {self._fixed}."
            )
        self.samples = min(whole, self._batch_num * self.batch_size) if self._batch_num else whole
        self.batches = -(-self.samples // self.batch_size)
        if self._batch_num and self.batches < self._batch_num:
            self._note(
                f"{self.source} has {self.batches} batches; {self._batch_num} were asked for."
            )

    def _first_sample(self, table: Table, info: InputInfo) -> AnyArray:
        """Check the first sample before any work begins; an array is shown with its whole shape."""
        column = table.columns[info.name]
        raw = column.read(0, 1)
        file = self._file(0, info.name)
        if not file:
            check_shape((column.samples, *raw.shape[1:]), info, self.source)
        return self._ready(raw, info, self._namer(0, info.name))

    def _table_batches(self, table: Table) -> Iterator[Batch]:
        assert self.samples is not None
        assert self.batch_size is not None
        for first in range(0, self.samples, self.batch_size):
            stop = min(first + self.batch_size, self.samples)
            rows = {
                r.name: self._ready(
                    table.columns[r.name].read(first, stop), r, self._namer(first, r.name)
                )
                for r in self._rows
            }
            extras = {n: c.read(first, stop) for n, c in self._extras.items()}
            yield self._batch(rows, extras, first, stop - first)

    # --------------------------------------------------------------------------------------- streams

    def _stream_batches(self, stream: FeedStream) -> Iterator[Batch]:
        feeds: Iterable[Feed] = stream
        if self.batch_size is not None:
            feeds = regroup(stream, self.batch_size, source=self.source)
        first = count = 0
        for feed in feeds:
            if self._fixed and feed.size < self._fixed:
                self._note(
                    f"{self.source}: {feed.size} samples are left out, because the model's batch is "
                    f"fixed at {self._fixed}."
                )
                continue
            rows = {}
            for r in self._rows:
                steps = self._preprocess.of(r.name) if self._preprocess is not None else None
                raw = feed.inputs[r.name]
                raw = raw if steps is None else finish_arrays(raw, steps, r)
                rows[r.name] = self._ready(raw, r, self._namer(first, r.name))
            yield self._batch(rows, feed.extras, first, feed.size)
            first += feed.size
            count += 1
            if count == self._batch_num:
                break
        for text in stream.left_out.values():
            self._note(text)
        if count == 0:
            need = f" of {self._fixed} samples, the model's fixed batch" if self._fixed else ""
            raise DataError(f"{self.source} is empty: it yields no batch{need}.")
        if self._batch_num and count < self._batch_num:
            self._note(f"{self.source} has {count} batches; {self._batch_num} were asked for.")

    # ------------------------------------------------------------------------------------------ both

    def _ready(self, raw: AnyArray, info: InputInfo, where: Callable[[int], str]) -> AnyArray:
        check_shape(raw.shape, info, where(0))
        return as_type(raw, info, where)

    def _file(self, index: int, name: str) -> str:
        """Name the file of a sample of an input in a table of files; empty elsewhere."""
        return self._source.columns[name].file(index) if isinstance(self._source, Table) else ""

    def _namer(self, first: int, name: str) -> Callable[[int], str]:
        """Return the names of samples of an input, counted from `first`, for messages."""
        return lambda k: self._file(first + k, name) or f"sample {first + k} of {self.source}"

    def _batch(
        self, rows: Mapping[str, AnyArray], extras: Mapping[str, AnyArray], first: int, size: int
    ) -> Batch:
        feeds = {n: x[0] for n, x in rows.items()} if self._stacked else dict(rows)
        names = tuple(self._file(i, self._rows[0].name) for i in range(first, first + size))
        return Batch(feeds, dict(extras), first, size, self.source, names if any(names) else ())


def _batch_rule(inputs: Sequence[InputInfo]) -> tuple[int | None, bool]:
    """Return the fixed batch size, if any, and whether inputs share no sample axis at all."""
    first = [i.shape[0] for i in inputs if i.shape]
    fixed = {d for d in first if isinstance(d, int)}
    free = len(fixed) < len(set(first)) and any(not isinstance(d, int) for d in first)
    if len(fixed) > 1 or (free and fixed - {1}):
        return 1, True
    return (fixed.pop() if fixed else None), False


def rows_of(inputs: Sequence[InputInfo]) -> tuple[InputInfo, ...]:
    """Return the inputs with an axis of feeds in front where they share no sample axis."""
    if not _batch_rule(inputs)[1]:
        return tuple(inputs)
    return tuple(InputInfo(i.name, ("feeds", *i.shape), i.dtype) for i in inputs)
