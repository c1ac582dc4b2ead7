"""Look at a quantized model node by node: types, thresholds, and how near each output is to the float one.

Source: the tables of nodes and outputs that Horizon's tools print.
"""

from __future__ import annotations

import onnx_ir as ir

from calibrant.analysis.probe import Probe
from calibrant.emit.nodes import node_types
from calibrant.findings import NodeFidelity
from calibrant.graph.passes.half import as_float32
from calibrant.plan import Plan
from calibrant.plan.parameters import Parameters
from calibrant.runtime.measure import run
from calibrant.runtime.nodes import OutputDistance, node_cosines, output_distances
from calibrant.runtime.runtime import CPU, Runtime

__all__ = ["look_at_nodes"]


def look_at_nodes(
    float_model: ir.Model,
    deploy: ir.Model,
    plan: Plan,
    params: Parameters,
    probe: Probe | None,
    runtime: Runtime = CPU,
) -> tuple[tuple[NodeFidelity, ...], tuple[OutputDistance, ...]]:
    """Return the quantized model node by node, and its outputs sample by sample.

    Without a probe nodes have no cosines, and there are no distances.

    Args:
        float_model: The model that the plan belongs to.
        deploy: The quantized model.
        plan: Where quantizers stand.
        params: What they are.
        probe: Samples; the first one is compared node by node, all of them at the outputs.
        runtime: Where it runs.
    """
    cosines: dict[str, float] = {}
    distances: tuple[OutputDistance, ...] = ()
    if probe is not None:
        reference = as_float32(float_model, plan.half) if plan.half else float_model
        cosines = node_cosines(reference, deploy, probe.first, runtime=runtime)
        outputs = run(deploy, probe.feeds, runtime=runtime)
        sizes = [b.size for b in probe.small]
        distances = tuple(output_distances(probe.reference, outputs, sizes))
    nodes = tuple(
        NodeFidelity(
            n.node,
            n.op_type,
            cosines.get(n.node),
            n.threshold,
            n.data_type,
            {str(i): t for i, t in n.thresholds.items()},
        )
        for n in node_types(float_model, plan, params)
    )
    return nodes, distances
