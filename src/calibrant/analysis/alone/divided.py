"""Layers divided among workers: each measures some of them on a group of feeds, and figures come back as a journal has them.

What a worker is given once: the model, what layers read, the feeds, and how outputs are compared. It runs the whole model on these
feeds, as this process does, and then what lies behind each of its layers. So figures are those of one process, bit for bit, and
the parts of the outputs are the same, too: they are found here and handed on.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy.typing as npt
import onnx
import onnx_ir as ir

from calibrant.analysis.alone.jury import Jury, Sums
from calibrant.analysis.readings import HalfAlone, QuantizedAlone, Reading
from calibrant.analysis.sensitivity import one_layer
from calibrant.runtime.downstream import Whole
from calibrant.runtime.runtime import Runtime
from calibrant.runtime.workers import Workers

__all__ = ["Group", "divide"]

Array = npt.NDArray[Any]

#: Tasks of each worker: a worker that is lost costs one of them, and each runs the whole model once.
TASKS = 3


@dataclass(frozen=True, slots=True, eq=False)
class Group:
    """What the layers of a group of feeds are measured with.

    Args:
        model: The model that was run once, serialized.
        outputs: Tensors that are compared.
        reading: A function of the model that returns what changed layers read.
        feeds: Inputs of the model, for each feed.
        sizes: Samples in each feed.
        jury: How outputs are compared.
        runtime: Where models run.
    """

    model: bytes
    outputs: tuple[str, ...]
    reading: Callable[[ir.Model], Reading]
    feeds: tuple[Mapping[str, Array], ...]
    sizes: tuple[int, ...]
    jury: Jury
    runtime: Runtime

    @classmethod
    def of(
        cls,
        whole: Whole,
        reading: Reading,
        feeds: Sequence[Mapping[str, Array]],
        sizes: Sequence[int],
        jury: Jury,
        runtime: Runtime,
    ) -> Group | None:
        """Return what workers are given; None where readings, or the user's own metric, are not handed on."""
        again = _again(reading, whole.model)
        if again is None or jury.metric.function is not None:
            return None
        model = bytes(ir.to_proto(whole.model).SerializeToString())
        return cls(model, whole.outputs, again, tuple(feeds), tuple(sizes), jury, runtime)

    def measure(self, layers: Sequence[tuple[str, tuple[int, ...]]]) -> list[list[Sums]]:
        """Return the sums of each layer on its feeds.

        Args:
            layers: Their names, each with the indices of its feeds.
        """
        model = ir.from_proto(onnx.load_model_from_string(self.model))
        whole = Whole.of(model, self.outputs, self.feeds, runtime=self.runtime)
        reading, truth = self.reading(model), whole.reference()
        found = []
        for layer, feeds in layers:
            outputs, _ = one_layer(whole, reading, layer, feeds)
            found.append(
                [
                    self.jury.sums(truth[i], {**truth[i], **out}, self.sizes[i])
                    for i, out in zip(feeds, outputs, strict=True)
                ]
            )
        return found


def divide(
    group: Group, layers: Sequence[tuple[str, tuple[int, ...]]], workers: Workers
) -> dict[str, list[Sums]]:
    """Let workers measure layers; return the sums of each on its feeds."""
    count = min(len(layers), TASKS * workers.count)
    # neighbours take about as long as each other, and the first layers longest: each task gets some of all
    tasks = [tuple(layers[i::count]) for i in range(count)]
    found: dict[str, list[Sums]] = {}
    for task, sums in zip(tasks, workers.map(_measure, tasks, group), strict=True):
        found |= {layer: s for (layer, _), s in zip(task, sums, strict=True)}
    return found


def _measure(group: Group, layers: Sequence[tuple[str, tuple[int, ...]]]) -> list[list[Sums]]:
    return group.measure(layers)


@dataclass(frozen=True, slots=True, eq=False)
class _Quantized:
    """Says what quantized layers read, for a copy of their model."""

    plan: Any
    params: Any

    def __call__(self, model: ir.Model) -> Reading:
        return QuantizedAlone(model, self.plan, self.params)


def _again(reading: Reading, model: ir.Model) -> Callable[[ir.Model], Reading] | None:
    """Return a function that makes the same reading of a copy of its model; None where the reading needs another model."""
    if isinstance(reading, QuantizedAlone) and reading.model is model:
        return _Quantized(reading.plan, reading.params)
    if isinstance(reading, HalfAlone) and reading.model is model:
        return HalfAlone
    return None
