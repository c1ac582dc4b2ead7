"""What each kernel of a model takes on this machine, as ONNX Runtime's own profile says it.

A kernel has the name of a node or of a tensor in it, with something before or behind: `conv1_nchwc`, `fused conv1`.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from calibrant.runtime.runtime import CPU, Runtime
from calibrant.runtime.session import infer, open_session

__all__ = ["kernel_seconds"]

Array = npt.NDArray[Any]

_KERNEL = "_kernel_time"


def kernel_seconds(
    model: ir.Model,
    feed: Mapping[str, Array],
    *,
    runtime: Runtime = CPU,
    seconds: float = 0.5,
    most_runs: int = 100,
) -> dict[str, float]:
    """Return the median wall time of each kernel, by its name [s].

    Args:
        model: The model, which is optimized as ONNX Runtime does by itself.
        feed: Its inputs.
        runtime: Where it runs.
        seconds: When to stop, after five runs at the least.
        most_runs: When to stop earlier.

    Raises:
        ModelError: ONNX Runtime cannot load or run the model.
    """
    with TemporaryDirectory(prefix="calibrant-") as folder:
        session = open_session(model, runtime=runtime, spinning=True, profile=Path(folder) / "run")
        names = [o.name for o in session.get_outputs()]
        inputs = {i.name: feed[i.name] for i in session.get_inputs()}
        end = time.perf_counter() + seconds
        runs = 0
        while runs < 5 or (runs < most_runs and time.perf_counter() < end):
            infer(session, names, inputs)
            runs += 1
        events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
    taken: dict[str, list[float]] = {}
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith(_KERNEL):
            taken.setdefault(event["name"].removesuffix(_KERNEL), []).append(event["dur"] * 1e-6)
    return {name: float(np.median(values)) for name, values in taken.items()}
