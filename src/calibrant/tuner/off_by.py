"""What outputs are off by, part by part and batch by batch: sums that this process takes, or workers that each run some of the batches.

A worker opens the data itself and reads its own range; what the float model answers is sent along. Batches are the same for any
number of workers, and sums come back in their order, so what is added up is the same to the last bit.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnx_ir as ir

from calibrant.analysis.metrics import cosine_similarity
from calibrant.analysis.parts import Part
from calibrant.data.batch import Batch
from calibrant.numerics.finite import finite_pairs
from calibrant.runtime.runtime import Runtime
from calibrant.runtime.saturation import kernels_are_exact
from calibrant.runtime.session import infer, open_session
from calibrant.runtime.workers import Workers
from calibrant.tuner.samples import Part as Piece

__all__ = ["Answered", "OffBy", "Sums", "divided", "off_by"]

Array = npt.NDArray[Any]

#: A batch, and what the float model answers, by output.
Answered = tuple[Batch, dict[str, Array]]

#: Tasks of each worker: a worker that is lost costs one of them.
TASKS = 4


@dataclass(slots=True)
class Sums:
    """What one part is off by, added up."""

    signal: float = 0.0
    error: float = 0.0
    cosine: float = 0.0
    count: int = 0

    def __add__(self, other: Sums) -> Sums:
        """Return both together."""
        return Sums(
            self.signal + other.signal,
            self.error + other.error,
            self.cosine + other.cosine,
            self.count + other.count,
        )

    def add(self, part: Part, mine: Array, truth: Array, samples: int) -> None:
        """Add one batch; an output of another shape is as bad as can be."""
        if mine.shape != truth.shape:
            self.error = math.inf
            self.cosine, self.count = self.cosine - samples, self.count + samples
            return
        x, y = part.take(mine), part.take(truth)
        rows = samples if y.shape[:1] == (samples,) else 1
        for a, b in zip(x.reshape(rows, -1), y.reshape(rows, -1), strict=True):
            right, own = finite_pairs(b, a)
            right, own = np.asarray(right, np.float64), np.asarray(own, np.float64)
            with np.errstate(invalid="ignore", over="ignore"):
                error = float(((own - right) ** 2).sum())
            self.error += error if math.isfinite(error) else math.inf
            self.signal += float((right**2).sum())
            cosine = float(cosine_similarity(own, right)) if right.size else 1.0
            self.cosine += cosine if math.isfinite(cosine) else -1.0
            self.count += 1

    def lost(self, measure: str) -> float:
        """Return what adds up over samples: the energy of the error, or what is missing of a cosine of 1."""
        return self.count - self.cosine if measure == "cosine_similarity" else self.error

    def value(self, measure: str) -> float:
        """Return the measure."""
        if measure == "cosine_similarity":
            return self.cosine / max(1, self.count)
        if self.error == 0:
            return math.inf
        if not math.isfinite(self.error) or self.signal == 0:
            return -math.inf
        return 10 * math.log10(self.signal / self.error)


#: What each part is off by in one batch, and how many samples that has.
OffBy = tuple[dict[str, Sums], int]


def off_by(
    model: ir.Model,
    parts: Mapping[str, Sequence[Part]],
    pairs: Iterable[Answered],
    runtime: Runtime,
) -> Iterator[OffBy]:
    """Yield what each part is off by, batch by batch.

    Args:
        model: The model.
        parts: Output -> its parts.
        pairs: Batches, each with what the float model answers.
        runtime: Where the model runs.
    """
    session = open_session(model, runtime=runtime, integers=kernels_are_exact(runtime))
    used = [i.name for i in session.get_inputs()]
    names = list(parts)
    for batch, truth in pairs:
        sums = {p.name: Sums() for some in parts.values() for p in some}
        mine = infer(session, names, {n: batch.feeds[n] for n in used})
        for name, x in zip(names, mine, strict=True):
            for part in parts[name]:
                sums[part.name].add(part, np.asarray(x), truth[name], batch.size)
        yield sums, batch.size


@dataclass(frozen=True, slots=True, eq=False)
class _Given:
    """What all tasks need."""

    model: bytes
    parts: Mapping[str, Sequence[Part]]
    runtime: Runtime


def divided(
    workers: Workers,
    model: ir.Model,
    parts: Mapping[str, Sequence[Part]],
    samples: Piece,
    truth: Sequence[Mapping[str, Array]],
    runtime: Runtime,
) -> Iterator[OffBy]:
    """Yield the same as `off_by`, by workers.

    Args:
        workers: Who runs the model.
        model: The model.
        parts: Output -> its parts.
        samples: The data, and where each batch begins and ends.
        truth: What the float model answers, batch by batch.
        runtime: Where the model runs.
    """
    count = min(len(truth), TASKS * workers.count)
    edges = [len(truth) * i // count for i in range(count + 1)]
    pieces = [
        (Piece(samples.data, samples.inputs, samples.reading, samples.edges[a:b]), truth[a:b])
        for a, b in itertools.pairwise(edges)
    ]
    runtime = Runtime(runtime.provider, runtime.threads or workers.threads)
    given = _Given(bytes(ir.to_proto(model).SerializeToString()), parts, runtime)
    for found in workers.map(_of_piece, pieces, given):
        yield from found


def _of_piece(given: _Given, piece: tuple[Piece, Sequence[dict[str, Array]]]) -> list[OffBy]:
    samples, truth = piece
    model = ir.from_proto(onnx.load_model_from_string(given.model))
    pairs = zip(samples.batches(), truth, strict=True)
    return list(off_by(model, given.parts, pairs, given.runtime))
