"""What layers read in the simulated quantized model, in one walk over it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from calibrant.runtime.runtime import Runtime
from calibrant.runtime.walk import walk

__all__ = ["layer_inputs"]

Array = npt.NDArray[Any]


def layer_inputs(
    simulated: ir.Model,
    layers: Sequence[str],
    feeds: Sequence[Mapping[str, Array]],
    runtime: Runtime,
) -> Iterator[tuple[str, list[Array]]]:
    """Yield layers and what their first input holds, one array a feed.

    The layers that read one tensor come together, in graph order of these tensors. The walk goes on with the
    weights that the layers have by then.

    Args:
        simulated: The model.
        layers: Names of nodes.
        feeds: Inputs of the model.
        runtime: Where it runs.
    """
    readers: dict[str, list[str]] = {}
    for name in layers:
        source = simulated.graph.node(name).inputs[0]
        assert source is not None
        readers.setdefault(source.name or "", []).append(name)
    given = [v.name or "" for v in simulated.graph.inputs if v.name in readers]
    for tensor in given:
        for name in readers[tensor]:
            yield name, [np.asarray(feed[tensor]) for feed in feeds]
    stops = [tensor for tensor in readers if tensor not in given]
    for tensor, values in walk(simulated, stops, feeds, runtime=runtime):
        for name in readers[tensor]:
            yield name, values
