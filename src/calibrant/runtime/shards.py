"""See every tensor of a model once, with several workers: each sees a range of the samples, and statistics merge.

Statistics are counts by bit pattern (`stats`), so the merged ones are those of one machine, bit for bit, however the samples
are divided. A worker opens the data itself and reads its own range, so data goes through no other process.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import onnx
import onnx_ir as ir

from calibrant.data.batch import InputInfo
from calibrant.data.open import open_data
from calibrant.runtime.observe import observe
from calibrant.runtime.runtime import Runtime
from calibrant.runtime.workers import Workers
from calibrant.stats import TensorStats

__all__ = ["Shard", "observe_shards"]


@dataclass(frozen=True, slots=True, eq=False)
class Shard:
    """One range of samples.

    Args:
        model: The prepared float model, serialized.
        inputs: What the model takes.
        data: The data, as `open_data` takes it: a path, or arrays.
        reading: `batch_size` and `preprocess`.
        start: First sample.
        stop: Behind the last one.
        tensors: Tensors to look at.
        axes: Tensor -> axes to keep the distribution of each channel for.
        exact: Keep raw values.
        runtime: Where it runs.
    """

    model: bytes
    inputs: tuple[InputInfo, ...]
    data: Any
    reading: Mapping[str, Any]
    start: int
    stop: int
    tensors: tuple[str, ...]
    axes: Mapping[str, tuple[int, ...]]
    exact: bool
    runtime: Runtime

    def observe(self) -> dict[str, TensorStats]:
        """Return the statistics of this range; errors are those of `observe`."""
        model = ir.from_proto(onnx.load_model_from_string(self.model))
        batches = open_data(self.data, self.inputs, **self.reading)
        return observe(
            model,
            self.tensors,
            batches.between(self.start, self.stop),
            per_channel=self.axes,
            exact=self.exact,
            runtime=self.runtime,
        )


def observe_shards(
    shard: Shard, workers: Workers, progress: Callable[[int], None] | None = None
) -> dict[str, TensorStats]:
    """Divide a range of samples among workers, and return the statistics of all of it.

    Args:
        shard: The whole range.
        workers: Who looks.
        progress: Called with the number of samples of each part that is done.

    Raises:
        DataError: As for `observe`.
    """
    size = int(shard.reading["batch_size"])
    batches = -(-(shard.stop - shard.start) // size)  # a model may insist on whole batches
    count = min(workers.count, batches)
    edges = [
        min(shard.stop, shard.start + size * (batches * i // count)) for i in range(count + 1)
    ]
    parts = [replace(shard, start=a, stop=b) for a, b in itertools.pairwise(edges)]
    found: dict[str, TensorStats] = {}
    for part, seen in zip(parts, workers.map(_observe, parts), strict=True):
        found = {t: found[t].merge(s) for t, s in seen.items()} if found else seen
        if progress is not None:
            progress(part.stop - part.start)
    return found


def _observe(shard: Shard) -> dict[str, TensorStats]:
    return shard.observe()
