"""Models that compute with integers, and pairs of quantizers that several readers have each for itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest

import calibrant
from calibrant.analysis.compare import compare
from calibrant.analysis.compare.losing import PLACES, Harm, _chosen, _Place
from calibrant.analysis.compare.sides import opened
from calibrant.analysis.origin import Tally
from calibrant.diagnose import rank
from calibrant.graph.load import load
from calibrant.runtime.measure import run
from tests.models import NETS

tool = pytest.importorskip("onnxruntime.quantization")

pytestmark = pytest.mark.filterwarnings("ignore")

#: Networks with convolutions, sums, pooling, resizing, concatenation, products of matrices, and a table that is looked up.
NAMES = (
    "residual",
    "pools",
    *(
        pytest.param(n, marks=pytest.mark.slow)
        for n in (
            "conv_bn_relu",
            "resize",
            "concat_branches",
            "gemm_mlp",
            "attention_add",
            "grouped",
        )
    ),
)


class _Once:
    def __init__(self, feeds: dict[str, Any]) -> None:
        self.left = [feeds]

    def get_next(self) -> dict[str, Any] | None:
        return self.left.pop() if self.left else None


def written(name: str, folder: Path, form: str, **options: Any) -> tuple[Any, str, Any]:
    """Return a network, the file that ONNX Runtime's quantizer makes of it, and feeds."""
    model, feeds = NETS[name]()
    source, target = folder / "float.onnx", folder / "quantized.onnx"
    onnx.save(model, source)
    data: Any = _Once(feeds(batch=16, seed=1))
    kind = getattr(tool.QuantFormat, form)
    tool.quantize_static(str(source), str(target), data, quant_format=kind, **options)
    return model, str(target), feeds


@pytest.mark.parametrize("name", NAMES)
def test_layers_of_integers_are_found_and_told(name: str, tmp_path: Path) -> None:
    model, quantized, feeds = written(name, tmp_path, "QOperator")
    found = compare(model, quantized, feeds(batch=4, seed=9))
    assert found.unmapped == ()
    assert found.only_mine == ()
    for row in found.layers:
        assert row.born is not None
        assert abs(row.born.other) < 0.05, row
        assert row.metrics["sqnr_db"] > 2, row


@pytest.mark.parametrize("name", NAMES)
def test_float_operators_mean_what_those_on_integers_compute(name: str, tmp_path: Path) -> None:
    _, quantized, feeds = written(name, tmp_path, "QOperator")
    model = load(quantized, quantizers=True, integers=True)
    kinds = {n.op_type for n in opened(model).graph}
    assert not any(k.startswith(("QLinear", "QGemm")) for k in kinds)
    data = feeds(batch=4, seed=9)
    (before,), (after,) = (run(m, [data]) for m in (model, opened(model)))
    for key, x in before.items():
        assert np.abs(x - after[key]).max() <= 0.06 * np.abs(x).max()  # an edge between two steps


def test_a_pair_of_quantizers_for_each_reader_is_one(tmp_path: Path) -> None:
    options = {"DedicatedQDQPair": True}
    model, quantized, feeds = written("residual", tmp_path, "QDQ", extra_options=options)
    assert sum(n.op_type == "QuantizeLinear" for n in onnx.load(quantized).graph.node) > sum(
        n.op_type == "QuantizeLinear" for n in opened(load(quantized, quantizers=True)).graph
    )
    found = compare(model, quantized, feeds(batch=4, seed=9))
    assert found.unmapped == ()


def test_a_wrong_bias_of_integers_is_first_with_its_cause() -> None:
    model, feeds = NETS["residual"]()
    built = calibrant.quantize(model, feeds(batch=16, seed=1), rank.PLAIN).deploy
    quantized = ir.to_proto(built) if isinstance(built, ir.Model) else built
    made = {o: n for n in quantized.graph.node for o in n.output}
    node = next(n for n in quantized.graph.node if n.name == "conv2")
    held = made[node.input[2]].input[0]
    tensor = next(t for t in quantized.graph.initializer if t.name == held)
    tensor.CopyFrom(onnx.numpy_helper.from_array(-onnx.numpy_helper.to_array(tensor), held))
    first = compare(model, quantized, feeds(batch=4, seed=9)).worst_first[0]
    assert first.born is not None
    assert (first.name, first.born.cause) == ("conv2", "bias")


def test_small_channels_that_are_rounded_away_are_lost() -> None:
    """One channel is 1,000 times as large as seven others, of which nothing is left: little energy, and yet most of what is said."""
    rng = np.random.default_rng(0)
    y = rng.normal(size=(2, 8, 4, 4))
    y[:, 0] *= 1000
    end = np.where(np.arange(8)[None, :, None, None] == 0, y, 0)
    tally = Tally(axis=1)
    tally.add(y, [(0, y), (1, end)], 2)
    assert tally.error / tally.signal < 1e-5
    assert tally.lost_channels == pytest.approx(7 / 8)
    assert Tally(axis=1).lost_channels == 0


def test_places_are_measured_by_energy_and_by_lost_channels() -> None:
    quiet = [_Place(None, (str(i),), Harm(1.0 + i, 0.0)) for i in range(2 * PLACES)]  # type: ignore[arg-type]
    lost = _Place(None, ("lost",), Harm(1e-9, 0.9))  # type: ignore[arg-type]
    found = _chosen([*quiet, lost])
    assert len(found) == PLACES
    assert lost in found
    assert quiet[-1] in found
    assert quiet[PLACES] not in found
