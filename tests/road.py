"""Travel the road in tests: quantize small networks, run what comes out, and look into graphs."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir

from calibrant import pipeline
from calibrant.dialects.asked import RecipeLike
from calibrant.graph import targets
from calibrant.graph.load import load, prepare
from calibrant.graph.points import Points, find_points
from calibrant.recipe import Recipe
from calibrant.results import QuantizedModel
from calibrant.runtime.runtime import Runtime
from calibrant.runtime.saturation import kernels_are_exact
from calibrant.runtime.session import open_session
from tests.models import NETS, Array, Feeds, Model

TARGETS = ("generic", "layers-only", "onnxruntime")

Edges = dict[str, set[str]]


def batches(feeds: Feeds, *, count: int = 4, size: int = 8) -> list[dict[str, Array]]:
    """Return calibration batches; every call gives the same."""
    return [feeds(batch=size, seed=seed) for seed in range(count)]


def quantize(
    model: onnx.ModelProto | ir.Model | Path,
    data: Any,
    recipe: RecipeLike | None = None,
    **options: Any,
) -> QuantizedModel:
    """Quantize without spending time on a measurement of latency."""
    return pipeline.quantize(model, data, recipe, **{"latency": False, **options})


@cache
def quantized(name: str, target: str) -> QuantizedModel:
    """Quantize one of `NETS` as the defaults have it."""
    model, feeds = NETS[name]()
    return quantize(model, batches(feeds), Recipe(target=target))


def outputs(
    model: onnx.ModelProto | ir.Model | Path, feed: dict[str, Array], *, optimize: bool = True
) -> list[Array]:
    """Run a model on one feed, with kernels that do not saturate: what is tested is the model, not the CPU."""
    one = Runtime(threads=1)
    session = open_session(model, optimize=optimize, integers=kernels_are_exact(one), runtime=one)
    found: list[Array] = session.run(None, {i.name: feed[i.name] for i in session.get_inputs()})
    return found


def sqnr_db(reference: Iterable[Array], found: Iterable[Array]) -> float:
    """Return the SQNR of all floating point outputs at once [dB]; other outputs have to be equal."""
    signal = noise = 0.0
    for a, b in zip(reference, found, strict=True):
        if a.dtype.kind != "f":
            np.testing.assert_array_equal(a, b)
            continue
        x, y = a.astype(np.float64), b.astype(np.float64)
        signal += float((x**2).sum())
        noise += float(((x - y) ** 2).sum())
    return 10 * np.log10(signal / noise) if noise else np.inf


def prepared(model: Model | onnx.ModelProto) -> ir.Model:
    """Load and prepare a model."""
    return prepare(load(model[0] if isinstance(model, tuple) else model))


def points(model: ir.Model, target: str = "generic", **options: Any) -> Points:
    """Return where quantizers stand."""
    return find_points(model, targets.get(target), **options)


def edges(found: Points) -> Edges:
    """Return tensor -> edges that read it quantized; an integer output is the edge `-> producer`."""
    placed: Edges = {}
    for p in found.activations:
        users = {f"{node}:{index}" for node, index in p.users}
        placed[p.tensor] = users | ({f"-> {p.producer}"} if p.producer else set())
    return placed


def op_types(model: ir.Model) -> list[str]:
    """Return the operators of a graph in order."""
    return [node.op_type for node in model.graph]


def optimized(model: ir.Model, folder: Path) -> list[str]:
    """Return the operators that ONNX Runtime makes of a model."""
    import onnxruntime as ort

    path = folder / "optimized.onnx"
    options = ort.SessionOptions()
    options.optimized_model_filepath = str(path)
    options.log_severity_level = 4
    data = ir.to_proto(model).SerializeToString()
    ort.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    return [node.op_type for node in onnx.load(path).graph.node]


def every_net(*, but: tuple[str, ...] = ()) -> list[str]:
    """Return the names of `NETS`."""
    return [name for name in NETS if name not in but]


Make = Callable[[], Model]
