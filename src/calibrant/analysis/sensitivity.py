"""How much each layer loses: quantize one alone, and compare the model's outputs with the float model's.

The float model runs once; a layer costs what lies behind it (`runtime.downstream`).

Source: docs/how-to/rank-layers.md.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy.typing as npt
import onnx_ir as ir

from calibrant.analysis.judge import Judge
from calibrant.analysis.readings import QuantizedAlone, Reading
from calibrant.plan import Plan
from calibrant.plan.parameters import Parameters
from calibrant.runtime.downstream import Whole, Work
from calibrant.runtime.runtime import CPU, Runtime

__all__ = ["Alone", "one_layer"]

Array = npt.NDArray[Any]


@dataclass(slots=True, eq=False)
class Alone:
    """Quantizes one layer alone, all else float, and says what the outputs are then worth.

    Args:
        reading: What a quantized layer reads.
        whole: The float model, run once.
        judge: The samples, and the metric.
    """

    reading: QuantizedAlone
    whole: Whole
    judge: Judge
    _total: int

    @classmethod
    def of(
        cls,
        model: ir.Model,
        plan: Plan,
        params: Parameters,
        judge: Judge,
        runtime: Runtime = CPU,
    ) -> Alone:
        """Run the float model once on the judge's samples.

        Args:
            model: The float model that the plan belongs to.
            plan: Where quantizers stand.
            params: What they are.
            judge: The samples, and the metric.
            runtime: Where it runs.
        """
        whole = Whole.of(model, judge.names, judge.feeds, runtime=runtime)
        total = max(1, sum(whole.macs_of(n.name or "") for n in model.graph))
        reading = QuantizedAlone(model, plan, params)
        return cls(reading, whole, judge.against(whole.reference()), total)

    def score(self, layer: str) -> float:
        """Return the metric of the model's outputs with this layer alone quantized."""
        feeds = range(len(self.whole.values))
        outputs, _ = one_layer(self.whole, self.reading, layer, feeds)
        return self.judge.judge(list(outputs)).score

    def share(self, layer: str) -> float:
        """Return the multiplications of a layer, over those of the model."""
        return self.whole.macs_of(layer) / self._total


def one_layer(
    whole: Whole, reading: Reading, layer: str, feeds: Sequence[int]
) -> tuple[Iterator[dict[str, Array]], Work]:
    """Return what the model answers where one layer reads something else, and what one run on all feeds costs.

    Args:
        whole: The model, run once.
        reading: What the layer reads.
        layer: Its name.
        feeds: On which of the feeds.

    Returns:
        Outputs that depend on the layer, for each of these feeds, as they are asked for.
    """
    constants = reading.constants(layer)
    part = whole.part(layer, [*reading.inputs(layer), *constants], gives=reading.gives)

    def outputs() -> Iterator[dict[str, Array]]:
        for feed in feeds:
            yield part.run(feed, reading.values(layer, whole.values[feed]) | dict(constants))

    return outputs(), part.work
