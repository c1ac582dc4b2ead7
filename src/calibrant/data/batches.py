"""Batches of feeds over a table of columns or a stream of feeds.

Axis 0 of every input counts samples, or each feed is a sample of its own (`data.axes`); such a feed is a batch.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np

from calibrant.data.axes import rows_of, sample_axis
from calibrant.data.batch import AnyArray, Batch, InputInfo
from calibrant.data.fit import take
from calibrant.data.sources.boxes import NAME as BOXES
from calibrant.data.sources.boxes import boxes_by_sample
from calibrant.data.sources.columns import Column, Table
from calibrant.data.sources.feeds import Feed, FeedStream
from calibrant.data.sources.regroup import regroup
from calibrant.errors import DataError

__all__ = ["Batches"]

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
    ) -> None:
        """Fix the batch size, and count where that is possible."""
        self._source, self._inputs = source, tuple(inputs)
        axis = sample_axis(inputs)
        by_feed = source.by_feed if isinstance(source, Table) else not axis.on_axis
        self._fixed = 1 if by_feed else axis.fixed
        self._rows = rows_of(self._inputs, by_feed=by_feed)
        self._batch_num = batch_num
        self.source = source.source
        self.notes: list[str] = []
        if self._fixed is not None and batch_size not in (None, self._fixed):
            why = (
                "each feed is run by itself, since the model's inputs share no axis of samples"
                if by_feed
                else "the model's batch is fixed"
            )
            self._note(f"batch size {batch_size} became {self._fixed}: {why}.")
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

    @property
    def by_index(self) -> bool:
        """Whether samples can be read from any index on."""
        return isinstance(self._source, Table)

    def between(self, start: int, stop: int) -> Iterator[Batch]:
        """Yield samples `start` to `stop - 1`, where they can be read by index; others are not read.

        Raises:
            DataError: The data is a stream.
        """
        if not isinstance(self._source, Table):
            raise DataError(f"{self.source} is a stream, which is read from its first sample on.")
        assert self.batch_size is not None
        for batch in self._table_batches(self._source, start - start % self.batch_size):
            if batch.first >= stop:
                return
            first, last = max(start - batch.first, 0), min(stop - batch.first, batch.size)
            yield batch if batch.whole else batch.part(first, last)

    def rebatched(self, batch_size: int) -> Batches:
        """Return the same data in batches of another size."""
        return Batches(
            self._source, self._inputs, batch_size=batch_size, batch_num=self._batch_num
        )

    def _note(self, text: str) -> None:
        if text not in self.notes:
            self.notes.append(text)
            log.warning("%s", text)

    # ---------------------------------------------------------------------------------------- tables

    def _measure_table(self, table: Table) -> None:
        total = table.columns[self._rows[0].name].samples
        self._extras = self._references(table, total)
        if self.batch_size is None:
            sample_bytes = sum(take(table, r, 0, 1).nbytes for r in self._rows)
            uniform = all(table.columns[r.name].uniform for r in self._rows)
            numbers = (r for r in self._rows if r.is_number)
            uniform &= all(_is_constant(table.columns[r.name]) for r in numbers)
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

    def _references(self, table: Table, total: int) -> dict[str, Column]:
        """Return the columns that are no input and have a row for each sample."""
        found: dict[str, Column] = {}
        for name, column in table.columns.items():
            if name in {i.name for i in self._inputs}:
                continue
            if name == BOXES:
                column = boxes_by_sample(column, total, self.source)
            if column.samples == total:
                found[name] = column
            else:
                self._note(
                    f"{self.source}: '{name}' was left out: it has {column.samples} rows for {total} samples."
                )
        return found

    def _table_batches(self, table: Table, begin: int = 0) -> Iterator[Batch]:
        assert self.samples is not None
        assert self.batch_size is not None
        files = table.columns[self._rows[0].name].file
        for first in range(begin, self.samples, self.batch_size):
            stop = min(first + self.batch_size, self.samples)
            rows = {r.name: take(table, r, first, stop) for r in self._rows}
            extras = {n: c.read(first, stop) for n, c in self._extras.items()}
            names = tuple(files(i) for i in range(first, stop))
            yield self._batch(rows, extras, first, stop - first, names, whole=table.by_feed)

    # --------------------------------------------------------------------------------------- streams

    def _stream_batches(self, stream: FeedStream) -> Iterator[Batch]:
        feeds: Iterable[Feed] = regroup(stream, self.batch_size, source=self.source)
        first = count = 0
        for feed in feeds:
            if self._fixed and feed.size < self._fixed:
                self._note(
                    f"{self.source}: {feed.size} samples are left out, because the model's batch is "
                    f"fixed at {self._fixed}."
                )
                continue
            yield self._batch(feed.inputs, feed.extras, first, feed.size, (), whole=feed.whole)
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

    def _batch(
        self,
        rows: Mapping[str, AnyArray],
        extras: Mapping[str, AnyArray],
        first: int,
        size: int,
        files: tuple[str, ...],
        *,
        whole: bool,
    ) -> Batch:
        feeds = {n: np.asarray(x[0]) if whole else x for n, x in rows.items()}
        shared = frozenset(n for n, x in feeds.items() if x.ndim == 0)
        return Batch(
            feeds,
            dict(extras),
            first,
            size,
            self.source,
            files if any(files) else (),
            shared,
            whole,
        )


def _is_constant(column: Column) -> bool:
    """Whether all samples are equal."""
    values = column.read(0, column.samples)
    return bool((values == values[0]).all())
