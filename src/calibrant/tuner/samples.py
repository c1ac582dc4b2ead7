"""Labelled samples that models are run on: in random order, always the same one, a share of them held out.

Samples that fit into memory are shuffled there; others are looked at as they come, and none are held out.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import numpy as np
import onnx_ir as ir

from calibrant.data.batch import AnyArray, Batch, InputInfo
from calibrant.data.open import Batches, open_data
from calibrant.errors import ModelError
from calibrant.runtime.inputs import input_infos
from calibrant.runtime.runtime import Runtime
from calibrant.runtime.saturation import kernels_are_exact
from calibrant.runtime.session import infer, open_session
from calibrant.runtime.workers import Workers

__all__ = ["Answered", "Part", "Samples", "answers"]

T = TypeVar("T")

#: Samples that are held in memory to be shuffled, at most [bytes]; more are looked at as they come.
MEMORY_BYTES = 2**30

#: A batch, and the outputs of a model by name.
Answered = tuple[Batch, dict[str, AnyArray]]


@dataclass(slots=True, eq=False)
class Samples:
    """Labelled samples.

    Args:
        data: As `open_data` takes it, references beside the inputs.
        original: The float model.
        runtime: Where models run.
        batch_size: Samples in a batch.
        preprocess: File that says how stored samples become inputs.
        holdout: Share of the samples that the search does not see.
        notes: What is to be said of the data.
        workers: Who runs models; None for this process alone.
    """

    data: Any = field(repr=False)
    original: ir.Model = field(repr=False)
    runtime: Runtime
    batch_size: int | None = None
    preprocess: Any = None
    holdout: float = 0.0
    notes: list[str] = field(default_factory=list)
    workers: Workers | None = None
    shuffled: bool = False
    inputs: list[InputInfo] = field(default_factory=list)
    _batches: Sequence[Batch] | Batches = field(default=(), repr=False)
    saturates: bool = False

    def open(self) -> None:
        """Read the data.

        Raises:
            DataError: The data does not fit.
            ModelError: The float model cannot be opened.
        """
        session = open_session(self.original, runtime=self.runtime)
        self.inputs = input_infos(session, self.original)
        batches = open_data(
            self.data, self.inputs, batch_size=self.batch_size, preprocess=self.preprocess
        )
        self._batches = _shuffled(batches) or batches
        self.shuffled = self._batches is not batches
        self.notes += [n for n in batches.notes if n not in self.notes]

    def tuned(self, count: int) -> int:
        """Return how many samples the search sees: the first ones.

        Args:
            count: Samples in all.
        """
        if not self.shuffled or self.holdout == 0:
            return count
        assert isinstance(self._batches, list)
        ends = np.cumsum([b.size for b in self._batches])
        return int(ends[np.argmin(np.abs(ends - (1 - self.holdout) * count))])

    @property
    def divisible(self) -> bool:
        """Whether single samples can be looked at: they are held in memory, and the model takes any number of them."""
        fixed = any(
            len(i.dims) and isinstance(i.dims[0], int) and i.dims[0] > 1 for i in self.inputs
        )
        return self.shuffled and (not fixed or any(b.whole for b in self._batches))

    def batches(self, ranges: Sequence[tuple[int, float]]) -> Iterator[Batch]:
        """Yield the samples of ranges, each (first, behind the last), in rising order: what is in one batch of the data together."""
        left = deque(r for r in ranges if r[0] < r[1])
        done = 0
        for batch in self._batches if left else ():
            rows: list[int] = []
            behind = done + batch.size
            while left and left[0][0] < behind:
                start, end = left[0]
                rows += range(max(start, done) - done, int(min(end, behind)) - done)
                if end > behind:
                    break
                left.popleft()
            if rows:
                yield batch.rows(rows)
            done = behind
            if not left:
                return

    def parts(self, ranges: Sequence[tuple[int, float]], count: int) -> list[Part]:
        """Divide ranges of samples into parts of whole batches; none where the data is a stream.

        Args:
            ranges: (first, behind the last) of each.
            count: How many parts, at most.
        """
        if self.shuffled:
            held = list(self.batches(ranges))
            return [Part(held=tuple(some)) for some in _divided(held, count)]
        batches = self._batches
        if not isinstance(batches, Batches) or not batches.by_index or batches.samples is None:
            return []
        size = batches.batch_size or 1
        edges = [
            (max(start, at), int(min(end, at + size)))
            for start, end in ranges
            for at in range(start - start % size, int(min(end, batches.samples)), size)
        ]
        reading = {"batch_size": size, "preprocess": self.preprocess}
        return [
            Part(self.data, tuple(self.inputs), reading, tuple(some))
            for some in _divided(edges, count)
        ]


@dataclass(frozen=True, slots=True, eq=False)
class Part:
    """Some of the samples, as a worker is given them: batches, or which samples of the data to read.

    Args:
        data: As `open_data` takes it.
        inputs: What the model takes.
        reading: `batch_size` and `preprocess`.
        edges: First sample of each batch, and behind its last.
        held: The batches, where they are held in memory.
    """

    data: Any = None
    inputs: tuple[InputInfo, ...] = ()
    reading: Mapping[str, Any] = field(default_factory=dict)
    edges: tuple[tuple[int, int], ...] = ()
    held: tuple[Batch, ...] | None = None

    def batches(self) -> Iterator[Batch]:
        """Yield the batches."""
        if self.held is not None:
            yield from self.held
            return
        data = open_data(self.data, self.inputs, **self.reading)
        for start, stop in self.edges:
            yield from data.between(start, stop)


def answers(model: ir.Model, batches: Iterable[Batch], runtime: Runtime) -> Iterator[Answered]:
    """Run a model on batches, one by one; where it refuses several samples together, each by itself."""
    session = open_session(model, runtime=runtime, integers=kernels_are_exact(runtime))
    for batch in batches:
        yield batch, _run(session, batch)


def _run(session: Any, batch: Batch) -> dict[str, AnyArray]:
    names = [o.name for o in session.get_outputs()]
    feeds = {i.name: batch.feeds[i.name] for i in session.get_inputs()}
    try:
        values = infer(session, names, feeds)
    except ModelError:
        if batch.size == 1 or batch.whole:
            raise
        parts = [_run(session, batch.part(i, i + 1)) for i in range(batch.size)]
        return {n: np.concatenate([p[n] for p in parts]) for n in names}
    return dict(zip(names, map(np.asarray, values), strict=True))


def _divided(things: Sequence[T], count: int) -> list[Sequence[T]]:
    """Return neighbours together, in so many groups or fewer."""
    edges = [len(things) * i // count for i in range(count + 1)]
    return [things[a:b] for a, b in itertools.pairwise(edges) if a < b]


def _shuffled(batches: Batches) -> list[Batch] | None:
    """Return all batches with their samples in random order; None where they do not fit into memory."""
    held: list[Batch] = []
    size = 0
    if batches.once:
        return None
    for batch in batches:
        held.append(batch)
        size += sum(x.nbytes for x in (*batch.feeds.values(), *batch.extras.values()))
        if size > MEMORY_BYTES:
            return None
    rng = np.random.default_rng(0)
    if any(b.whole for b in held) or any(
        b.feeds[n].shape[1:] != held[0].feeds[n].shape[1:] for b in held for n in b.feeds
    ):
        return [held[i] for i in rng.permutation(len(held))]
    order = rng.permutation(sum(b.size for b in held))
    feeds = {
        n: x if n in held[0].shared else np.concatenate([b.feeds[n] for b in held])[order]
        for n, x in held[0].feeds.items()
    }
    extras = {n: np.concatenate([b.extras[n] for b in held])[order] for n in held[0].extras}
    whole = replace(held[0], feeds=feeds, extras=extras, size=len(order), files=())
    starts = np.cumsum([0, *(b.size for b in held)])
    return [whole.part(int(a), int(b)) for a, b in itertools.pairwise(starts)]
