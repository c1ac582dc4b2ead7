"""A run of a large network, made up: what a page has to hold does not depend on where the numbers come from."""

from __future__ import annotations

from typing import Any

import numpy as np

from calibrant.report.evidence import Distributions, Network, NetworkNode, TensorSeen, WeightSeen
from calibrant.report.evidence.distributions import ALL_CHANNELS, LEAST_CHANNELS, Range
from calibrant.report.evidence.spread import bars_of, boxes_of
from calibrant.report.page import Run
from calibrant.report.page.measured import Loss, OriginRow, Origins, Rank, Shares
from tests.road import quantized

CHANNELS = 16


def large(layers: int) -> Run:
    """Return a run of a network of so many convolutions, in blocks with a branch, each with a Relu behind it."""
    rng = np.random.default_rng(0)
    nodes, skip = [], "x"
    before = "x"
    for i in range(layers):
        stem = f"/stage{i // 100}/block{i // 4}/conv{i}"
        nodes.append(NetworkNode(stem, "Conv", (before,), (f"c{i}",)))
        read = (f"c{i}", skip) if i % 4 == 3 else (f"c{i}",)
        nodes.append(NetworkNode(f"{stem}/act", "Add" if i % 4 == 3 else "Relu", read, (f"r{i}",)))
        before = f"r{i}"
        skip = before if i % 4 == 3 else skip
    names = [n.name for n in nodes if n.op_type == "Conv"]
    summary = dict(quantized("residual", "generic").summary)
    return Run(
        "large",
        summary,
        _plan(names),
        Network(("x",), (before,), tuple(nodes)),
        _distributions(names, rng),
        Origins(16, tuple(_origin(n, rng) for n in names)),
        Rank(
            "large.onnx",
            "alone",
            "sqnr_db",
            "macs",
            16,
            tuple(_loss(i, n) for i, n in enumerate(names)),
        ),
    )


def _plan(names: list[str]) -> dict[str, Any]:
    tensors: list[dict[str, Any]] = []
    for i, name in enumerate(names):
        common = {"algorithm": "mse", "rule": "default", "readers": [f"{name}:0"]}
        read = "x" if i == 0 else f"r{i - 1}"
        tensors.append(
            {
                **common,
                "tensor": read,
                "role": "activation",
                "type": "uint8",
                "scale": 0.01,
                "range": [0.0, 2.55],
            }
        )
        tensors.append(
            {
                **common,
                "tensor": f"w{i}",
                "role": "weight",
                "type": "int8",
                "scale": [0.01] * CHANNELS,
                "readers": [f"{name}:1"],
            }
        )
    settings = {"compute": "int", "activation_bits": 8, "weight_bits": 8}
    layers = [
        {
            "layer": n,
            "op_type": "Conv",
            "quantized": True,
            "reason": "",
            "settings": settings,
            "rule": "default",
        }
        for n in names
    ]
    return {"target": "generic", "tensors": tensors, "layers": layers, "kept_in_integers": []}


def _distributions(names: list[str], rng: np.random.Generator) -> Distributions:
    most = max(LEAST_CHANNELS, ALL_CHANNELS // (2 * len(names)))
    ranges = tuple(
        Range(a, 0.0, 2.5, 40.123, 0.00123, a == "mse")
        for a in ("mse", "min-max", "percentile", "kl")
    )
    tensors, weights = [], []
    for i, name in enumerate(names):
        x = rng.normal(size=(CHANNELS, 64)).astype(np.float32)
        bars, boxes = bars_of(x), boxes_of(x, 0, most)
        tensors.append(
            TensorSeen("x" if i == 0 else f"r{i - 1}", x.size, 0, bars, ranges, False, boxes)
        )
        limits = (1.23456,) * len(boxes.shown)
        weights.append(
            WeightSeen(name, f"w{i}", (CHANNELS, 64), bars, bars, 40.0, 0.01, 0.0, boxes, limits)
        )
    return Distributions(tuple(tensors), tuple(weights), 4)


def _origin(name: str, rng: np.random.Generator) -> OriginRow:
    energy, born = float(np.exp(rng.normal(-9, 2))), float(rng.uniform())
    shares = Shares(float(rng.uniform(5, 50)), 1 - born, born, 0.0, born / 2, 0.0, born / 2, 0.0)
    return OriginRow(name, "Conv", name, energy, "weight_rounding", shares, ((3, 0.5), (1, 0.2)))


def _loss(i: int, name: str) -> Loss:
    return Loss(name, "Conv", "as planned", 40.0, 1e-4 / (i + 1), 1000.0, i + 1, i + 1, False)
