"""What a ranking of all layers costs, counted in nodes that sessions were made to run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

import calibrant
from calibrant.runtime import downstream, segments
from tests.models import Model, Weights, build
from tests.models.convolution import IMAGE

#: What the default may cost, in passes of the samples through the model for each layer.
AIM = 0.45

BLOCKS = 9


def deep() -> Model:
    """Return a network of the form of a ResNet-20: 19 convolutions with sums around pairs of them, and a Gemm."""
    w = Weights(80)
    weights = {"w0": w.conv(8, 3), "b0": w.vector(8), "wf": w.dense(4, 8), "bf": w.vector(4)}
    lines = ["c0 = Conv <pads = [1,1,1,1]> (x, w0, b0)", "t0 = Relu (c0)"]
    for i in range(BLOCKS):
        weights |= {f"u{i}": w.conv(8, 8), f"v{i}": w.conv(8, 8)}
        weights |= {f"ub{i}": w.vector(8), f"vb{i}": w.vector(8)}
        lines += [
            f"p{i} = Conv <pads = [1,1,1,1]> (t{i}, u{i}, ub{i})",
            f"q{i} = Relu (p{i})",
            f"r{i} = Conv <pads = [1,1,1,1]> (q{i}, v{i}, vb{i})",
            f"s{i} = Add (t{i}, r{i})",
            f"t{i + 1} = Relu (s{i})",
        ]
    lines += [
        f"mean = GlobalAveragePool (t{BLOCKS})",
        "flat = Flatten (mean)",
        "y = Gemm <transB = 1> (flat, wf, bf)",
    ]
    body = "\n".join(lines)
    return build(f"net (float[N,3,16,16] x) => (float[N,4] y) {{ {body} }}", weights, IMAGE)


class Counter:
    """Nodes that sessions ran, each as often as it had samples."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.sizes: dict[int, int] = {}
        self.kept: list[Any] = []
        self.nodes = 0
        for module in (downstream, segments):
            monkeypatch.setattr(module, "open_session", self._opening(module.open_session))
            monkeypatch.setattr(module, "infer", self._running(module.infer))

    def _opening(self, real: Any) -> Any:
        def opened(model: Any, **options: Any) -> Any:
            session = real(model, **options)
            self.sizes[id(session)] = len(model.graph)
            self.kept.append(session)
            return session

        return opened

    def _running(self, real: Any) -> Any:
        def ran(session: Any, names: Any, feeds: Mapping[str, Any]) -> Any:
            found = real(session, names, feeds)
            self.nodes += self.sizes[id(session)] * len(found[0])
            return found

        return ran


def test_a_layer_costs_at_most_what_the_default_says(monkeypatch: pytest.MonkeyPatch) -> None:
    model, feeds = deep()
    counter = Counter(monkeypatch)
    found = calibrant.sensitivity(model, feeds(batch=16), samples=16)
    layers, nodes = len(found.layers), len(model.graph.node)
    assert layers == 2 * BLOCKS + 2
    spent = counter.nodes / (nodes * 16)
    assert spent <= AIM * layers
    assert spent == pytest.approx(found.work["node_passes"], rel=0.02)
    assert (found.work["passes"] or 0) <= AIM * layers
