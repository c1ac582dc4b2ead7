"""How much each layer loses: quantize one alone, and compare the model's outputs with the float model's.

The float model runs once; a layer costs what lies behind it (`runtime.downstream`).

Source: horizon.md 10.3 (kind `node`).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from calibrant.analysis.judge import Judge
from calibrant.graph.input_channels import spread_over_weight
from calibrant.numerics import QuantParams, fake_quantize
from calibrant.numerics.compensation import compensate
from calibrant.numerics.finite import as_quantized
from calibrant.plan import Plan
from calibrant.plan.parameters import Parameters
from calibrant.runtime.downstream import Whole
from calibrant.runtime.runtime import CPU, Runtime

__all__ = ["Alone"]

Array = npt.NDArray[np.float32]


@dataclass(slots=True, eq=False)
class Alone:
    """Quantizes one layer alone, all else float, and says what the outputs are then worth.

    Args:
        plan: Where quantizers stand.
        params: What they are.
        whole: The float model, run once.
        judge: The samples, and the metric.
    """

    plan: Plan
    params: Parameters
    whole: Whole
    judge: Judge
    _grids: dict[str, dict[int, tuple[QuantParams, bool]]]
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
        grids: dict[str, dict[int, tuple[QuantParams, bool]]] = {}
        for d in plan.activations:
            for reader, index in d.users:
                grids.setdefault(reader, {})[index] = params.activations[d.id], d.compensation
        total = max(1, sum(whole.macs_of(n.name or "") for n in model.graph))
        return cls(plan, params, whole, judge.against(whole.reference()), grids, total)

    def score(self, layer: str) -> float:
        """Return the metric of the model's outputs with this layer alone quantized."""
        node = self.whole.model.graph.node(layer)
        mine = self._grids.get(layer, {})
        weight = next((w for w in self.plan.weights if w.layer == layer), None)
        indices = [*mine, *([weight.input_index] if weight is not None else [])]
        part = self.whole.part(layer, indices)
        outputs = []
        for feed, known in enumerate(self.whole.values):
            changed: dict[int, Array] = {}
            for i, (p, twice) in mine.items():
                source = node.inputs[i]
                assert source is not None
                grid = compensate if twice else fake_quantize
                changed[i] = grid(as_quantized(known[source.name or ""]), p).astype(np.float32)
            if weight is not None:
                changed[weight.input_index] = _weight(node, self.plan, self.params, layer)
            outputs.append(part.run(feed, changed))
        return self.judge.judge(outputs).score

    def share(self, layer: str) -> float:
        """Return the multiplications of a layer, over those of the model."""
        return self.whole.macs_of(layer) / self._total


def _weight(node: ir.Node, plan: Plan, params: Parameters, name: str) -> Array:
    """Return a layer's weight as the integers have it, with scales of its input's channels taken out."""
    w = next(w for w in plan.weights if w.layer == name)
    value = params.layers[name].floats
    folded = next(
        (d for d in plan.activations if d.folded and (name, 1 - w.input_index) in d.users), None
    )
    if folded is None:
        return value
    p = params.activations[folded.id]
    relative = p.scale.astype(np.float64) / p.common_scale
    spread = spread_over_weight(node, value.shape, relative)
    weight: Array = (value / spread).astype(np.float32)
    return weight
