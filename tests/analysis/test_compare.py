"""Two models layer by layer: every layer finds its counterpart, and its figures are those of a direct computation."""

from __future__ import annotations

import csv
import gc
import io
import json
import math
import tracemalloc
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnx_ir as ir
import pytest

from calibrant.analysis import metrics
from calibrant.analysis.compare import Report, compare, stream
from calibrant.errors import ConfigValueError, DataError, ModelError
from calibrant.recipe import AllNodes, Recipe, Rule, Settings
from calibrant.results import QuantizedModel
from tests.models import NETS, build, normal
from tests.road import batches, every_net, outputs, quantize

Array = npt.NDArray[Any]

#: What 16 bits keep at least [dB]: a layer that is taken for another one has far less.
WIDE_DB = 45.0

FINE = Recipe(rules=(Rule(AllNodes(), Settings(activation_bits=16, weight_bits=8)),))


@cache
def fine(name: str) -> QuantizedModel:
    """Return a network with activations of 16 bits."""
    model, feeds = NETS[name]()
    return quantize(model, batches(feeds), FINE)


def report(
    truth: Any, mine: Any, feeds: Callable[..., dict[str, Array]], **options: Any
) -> Report:
    return compare(truth, mine, feeds(batch=6, seed=9), **options)


def renamed(model: ir.Model) -> ir.Model:
    """Return a copy in which no tensor and no node has the name it had."""
    model = model.clone()
    for i, node in enumerate(model.graph):
        node.name = f"n{i}"
        for j, value in enumerate(node.outputs):
            if not value.is_graph_output():
                value.name = f"t{i}_{j}"
    return model


@pytest.mark.parametrize("name", every_net(but=("opset9", "opset11")))
@pytest.mark.parametrize("form", ["deploy", "fake_quant", "renamed"])
def test_every_layer_is_found(name: str, form: str) -> None:
    model, feeds = NETS[name]()
    result = fine(name)
    made = renamed(result.deploy) if form == "renamed" else getattr(result, form)
    found = report(model, made, feeds)
    shares = [row for row in found.layers if row.metrics["sqnr_db"] < 25]
    if not result.form.equalized and not result.form.balanced:
        assert not shares, [(r.name, r.metrics["sqnr_db"]) for r in shares]
    assert len(found.layers) >= len(found.unmapped)
    compared = {row.name for row in found.layers}
    assert {d.node for d in result.plan.layers if d.quantized} <= compared | {
        u.name for u in found.unmapped if "is part of" in u.reason
    }


def test_figures_are_those_of_a_direct_computation() -> None:
    model, feeds = NETS["residual"]()
    result = fine("residual")
    x = feeds(batch=3, seed=9)
    found = compare(model, result.deploy, x, threads=1)
    single = [{n: v[i : i + 1] for n, v in x.items()} for i in range(3)]
    truth, mine = (
        np.concatenate([outputs(m, feed)[0] for feed in single]) for m in (model, result.deploy)
    )
    each = [metrics.measure_all(mine[i], truth[i]) for i in range(3)]
    for name in ("cosine_similarity", "max_absolute_error", "kullback_leibler_divergence"):
        wanted = np.mean([e[name] for e in each])
        assert found.outputs[0].whole.metrics[name] == pytest.approx(wanted, rel=1e-3)
    whole = found.outputs[0].whole
    assert whole.metrics["sqnr_db"] == pytest.approx(metrics.sqnr_db(mine, truth), rel=1e-3)
    assert whole.standard_deviation == metrics.standard_deviation(mine, truth)
    worst = int(np.argmin([e["sqnr_db"] for e in each]))
    assert whole.worst_sample == f"sample {worst} of the data"
    assert whole.shape == truth[:1].shape


def test_a_spoiled_layer_is_where_the_error_is_born() -> None:
    model, feeds = NETS["conv_bn_relu"]()
    broken = onnx.ModelProto()
    broken.CopyFrom(model)
    (weight,) = [t for t in broken.graph.initializer if t.name == "w2"]
    w = onnx.numpy_helper.to_array(weight)
    noise = np.random.default_rng(0).normal(size=w.shape) * w.std() * 0.2
    weight.CopyFrom(onnx.numpy_helper.from_array((w + noise).astype(np.float32), "w2"))
    found = report(model, broken, feeds)
    rows = {r.name: r for r in found.layers}
    assert rows["conv1"].metrics["sqnr_db"] > 120
    for name in ("conv2", "conv3", "y"):
        assert rows[name].metrics["sqnr_db"] < 40
        born = rows[name].born
        assert born is not None
        assert born.share + born.arrived == pytest.approx(1)
    shares = {n: r.born.share for n, r in rows.items() if r.born and r.metrics["sqnr_db"] < 60}
    assert shares.pop("conv2") == pytest.approx(1, abs=1e-6)
    assert all(abs(s) < 1e-3 for s in shares.values())


def test_what_is_born_and_what_arrives_add_up_in_a_quantized_model() -> None:
    model, feeds = NETS["residual"]()
    found = report(model, fine("residual").deploy, feeds, record=None)
    for row in found.layers:
        assert row.born is not None
        if math.isfinite(row.metrics["sqnr_db"]):
            assert row.born.share + row.born.arrived == pytest.approx(1)
    assert all(
        r.born is None for r in report(model, fine("residual").deploy, feeds, born=False).layers
    )


@pytest.mark.parametrize("groups", [1, 2, 10**9])
@pytest.mark.parametrize("once", [True, False])
def test_groups_and_streams_change_nothing(
    groups: int, once: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, feeds = NETS["residual"]()
    mine = fine("residual").deploy
    x = feeds(batch=5, seed=9)
    wanted = compare(model, mine, x)
    monkeypatch.setattr(stream, "GROUP_BYTES", groups)
    feed = [{n: v[i : i + 1] for n, v in x.items()} for i in range(5)]
    found = compare(model, mine, iter(feed) if once else feed)
    assert found.samples == wanted.samples == 5
    for row, other in zip(found.layers, wanted.layers, strict=True):
        assert (
            row.truth == other.truth
        )  # a runtime fuses what is not asked for, which moves a rounding here and there
        assert row.metrics["sqnr_db"] == pytest.approx(other.metrics["sqnr_db"], abs=1)
        assert (row.born is None) == (other.born is None)
    assert [o.whole.metrics for o in found.outputs] == [o.whole.metrics for o in wanted.outputs]


def test_memory_does_not_grow_with_samples() -> None:
    model, feeds = NETS["residual"]()
    mine = fine("residual").deploy

    def peak(samples: int) -> int:
        data = (feeds(batch=1, seed=i) for i in range(samples))
        gc.collect()  # what earlier tests left would go in the middle
        tracemalloc.start()
        compare(model, mine, data, samples=None, born=False)
        found = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return found

    peak(2)
    assert peak(48) < 1.3 * peak(12) + 2**18  # some cycles wait for the collector


def test_samples_are_limited() -> None:
    model, feeds = NETS["residual"]()
    mine = fine("residual").deploy
    x = feeds(batch=20)
    assert compare(model, mine, x).samples == 16
    assert compare(model, mine, x, samples=3).samples == 3
    assert compare(model, mine, x, samples=None).samples == 20
    assert compare(model, mine, x, samples=None, batch_size=8).samples == 20


def test_equal_models_agree_in_all_digits_and_others_do_not() -> None:
    model, feeds = NETS["gemm_mlp"]()
    same = report(model, model, feeds, digits=5)
    assert same.passed
    assert all(r.digits is not None and r.digits.mismatches == 0 for r in same.layers)
    found = report(model, fine("gemm_mlp").deploy, feeds, digits=5)
    assert not found.passed
    digits = found.outputs[0].whole.digits
    assert digits is not None
    assert 0 < digits.mismatches <= digits.values
    assert digits.share == digits.mismatches / digits.values
    assert "digits" in found.outputs[0].whole.failed
    assert (
        report(model, fine("gemm_mlp").deploy, feeds, digits=0).outputs[0].whole.digits is not None
    )


TWINS = """g (float[N, 4] x) => (float[N, 8] y)
{ a = Gemm<transB = 1>(x, w1)  b = Gemm<transB = 1>(x, w2)  y = Concat<axis = 1>(a, b) }"""


def test_twins_are_told_apart_by_weights_or_not_at_all() -> None:
    rng = np.random.default_rng(0)
    w1, w2 = (rng.normal(size=(4, 4)).astype(np.float32) for _ in range(2))
    model, feeds = build(TWINS, {"w1": w1, "w2": w2}, normal(4))
    swapped = TWINS.replace("Concat<axis = 1>(a, b)", "Concat<axis = 1>(b, a)")
    swapped = swapped.replace("(x, w1)", "(x, u2)").replace("(x, w2)", "(x, u1)")
    near = {"u1": w1 * 1.01, "u2": w2 * 1.01}
    other, _ = build(swapped, {k: v.astype(np.float32) for k, v in near.items()}, normal(4))
    mine = renamed(ir.from_proto(other))
    found = report(model, mine, feeds)
    assert all(r.metrics["sqnr_db"] == pytest.approx(40, abs=1) for r in found.layers)
    assert {r.name for r in found.layers} == {"a", "b", "y"}
    added = TWINS.replace("Concat<axis = 1>", "Add").replace("float[N, 8]", "float[N, 4]")
    model, _ = build(added, {"w1": w1, "w2": w2}, normal(4))
    unclear, _ = build(added, {"w1": w1, "w2": w1}, normal(4))
    lost = report(model, renamed(ir.from_proto(unclear)), feeds)
    assert {u.name for u in lost.unmapped} == {"a", "b"}
    assert all("neither names nor weights" in u.reason for u in lost.unmapped)


def test_a_dense_layer_may_have_become_a_gemm() -> None:
    rng = np.random.default_rng(0)
    w, b = rng.normal(size=(4, 3)).astype(np.float32), rng.normal(size=3).astype(np.float32)
    truth = "g (float[N, 4] x) => (float[N, 3] y) { m = MatMul(x, w)  a = Add(m, b)  y = Relu(a) }"
    mine = "g (float[N, 4] x) => (float[N, 3] y) { q = Gemm(x, w, b)  y = Relu(q) }"
    model, feeds = build(truth, {"w": w, "b": b}, normal(4))
    other, _ = build(mine, {"w": w, "b": b}, normal(4))
    found = report(model, other, feeds)
    assert {(r.name, r.mine) for r in found.layers} == {("a", "q"), ("y", "y")}
    assert [(u.name, "is part of 'q'" in u.reason) for u in found.unmapped] == [("m", True)]


def test_what_is_in_one_model_alone_is_listed() -> None:
    truth = "g (float[N, 4] x) => (float[N, 4] y) { a = Sin(x)  b = Cos(a)  y = Relu(b) }"
    mine = "g (float[N, 4] x) => (float[N, 4] y) { a = Sin(x)  c = Tan(a)  y = Relu(c) }"
    model, feeds = build(truth, {}, normal(4))
    other, _ = build(mine, {}, normal(4))
    found = report(model, other, feeds)
    assert [u.name for u in found.unmapped] == ["b"]
    assert [u.name for u in found.only_mine] == ["c"]
    assert {r.name for r in found.layers} == {"a", "y"}


def test_names_that_are_shifted_are_not_trusted() -> None:
    rng = np.random.default_rng(0)
    w = {f"w{i}": rng.normal(size=(4, 4)).astype(np.float32) for i in range(4)}
    chain = "g (float[N, 4] x) => (float[N, 4] y) {{ {a} = Gemm(x, w0)  {b} = Gemm({a}, w1)  {c} = Gemm({b}, w2)  y = Gemm({c}, w3) }}"
    model, feeds = build(chain.format(a="t1", b="t2", c="t3"), w, normal(4))
    other, _ = build(chain.format(a="t0", b="t1", c="t2"), w, normal(4))
    found = report(model, other, feeds)
    assert [(r.truth, r.mine) for r in found.layers][:3] == [
        ("t1", "t0"),
        ("t2", "t1"),
        ("t3", "t2"),
    ]
    assert all(r.metrics["sqnr_db"] > 100 for r in found.layers)


def test_a_model_of_onnx_runtimes_quantizer(tmp_path: Path) -> None:
    from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_static

    model, feeds = NETS["conv_bn_relu"]()

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.left = batches(feeds)

        def get_next(self) -> dict[str, Array] | None:
            return self.left.pop() if self.left else None

    onnx.save(model, tmp_path / "float.onnx")
    options = {"activation_type": QuantType.QInt8, "weight_type": QuantType.QInt8}
    quantize_static(
        tmp_path / "float.onnx", tmp_path / "qdq.onnx", Reader(), per_channel=True, **options
    )
    found = report(tmp_path / "float.onnx", tmp_path / "qdq.onnx", feeds)
    assert not found.unmapped
    assert not found.only_mine
    assert min(r.metrics["sqnr_db"] for r in found.layers) > 20


@pytest.mark.parametrize("info", [True, False])
def test_a_fake_quant_model_of_the_ascend_tools(tmp_path: Path, info: bool) -> None:
    model, feeds = NETS["gemm_mlp"]()
    quantize(model, batches(feeds), Recipe(target="layers-only")).save(
        tmp_path, formats=["ascend"]
    )
    if not info:
        (tmp_path / "quant_info.json").unlink()
    onnx.save(model, tmp_path / "float.onnx")
    found = report(tmp_path / "float.onnx", tmp_path / "fake_quant_model.onnx", feeds)
    assert min(r.metrics["sqnr_db"] for r in found.layers) > 20
    assert {r.op_type for r in found.layers} >= {"Gemm", "Relu"}


def test_parts_of_outputs_are_apart() -> None:
    graph = """g (float[N, 3, 8, 8] x) => (float[N, 10, 64] y)
    {
      a = Conv(x, wa)  s = Sigmoid(a)  boxes = Mul(s, pixels)
      b = Conv(x, wb)  scores = Sigmoid(b)
      joined = Concat<axis = 1>(boxes, scores)  y = Reshape(joined, rows)
    }"""
    rng = np.random.default_rng(0)
    weights = {
        "wa": rng.normal(size=(4, 3, 1, 1)).astype(np.float32),
        "wb": rng.normal(size=(6, 3, 1, 1)).astype(np.float32),
        "pixels": np.float32(640),
        "rows": np.array([0, 10, -1]),
    }
    model, feeds = build(graph, weights, normal(3, 8, 8))
    result = quantize(model, batches(feeds), Recipe(output_precision="int8"))
    (output,) = report(model, result.deploy, feeds).outputs
    assert [p.name for p in output.parts] == ["y[:, 0:4]", "y[:, 4:10]"]
    assert output.whole.metrics["sqnr_db"] > 30
    assert output.parts[1].metrics["sqnr_db"] < 5
    assert [p.passed for p in output.parts] == [True, False]


def test_files(tmp_path: Path) -> None:
    truth = "g (float[N, 4] x) => (float[N, 4] y, float[N, 4] z) { a = Sin(x)  y = Relu(a)  b = Abs(a)  z = Neg(b) }"
    mine = truth.replace("b = Abs(a)", "b = Tan(a)").replace("Relu", "Elu")
    model, feeds = build(truth, {}, normal(4))
    other, _ = build(mine, {}, normal(4))
    found = report(model, other, feeds)
    written = found.save(tmp_path / "out")
    assert [p.name for p in written] == ["compare.csv", "compare.json"]
    rows = list(csv.reader(io.StringIO(written[0].read_text(encoding="utf-8"))))
    assert rows[0][:5] == ["Index", "OpType", "LayerName", "TensorIndex", "Shape"]
    assert rows[0][-3:] == ["StandardDeviation", "Pass", "CompareFailReason"]
    assert len({len(r) for r in rows}) == 1
    by_name = {r[2]: dict(zip(rows[0], r, strict=True)) for r in rows[1:]}
    assert by_name["a"]["Pass"] == "yes"
    assert by_name["a"]["SqnrDb"] == "inf"
    assert by_name["b"]["CosineSimilarity"] == "*"
    content = json.loads(written[1].read_text(encoding="utf-8"))
    order = [float(x["metrics"]["sqnr_db"]) for x in content["layers"]]
    assert order == sorted(order)
    assert set(content["layers"][0]) >= {"name", "op_type", "metrics", "born"}
    assert set(content["outputs"]) == {"y", "z"}
    assert found.below == tuple(r for r in found.worst_first if not r.passed)


def test_limits_of_ones_own() -> None:
    model, feeds = NETS["residual"]()
    found = report(
        model, fine("residual").deploy, feeds, limits={"sqnr_db": 200, "cosine_similarity": None}
    )
    assert found.limits["sqnr_db"] == 200
    assert "cosine_similarity" not in found.limits
    assert all("sqnr_db" in r.failed for r in found.layers if math.isfinite(r.metrics["sqnr_db"]))


def test_errors() -> None:
    model, feeds = NETS["residual"]()
    with pytest.raises(ConfigValueError, match=r"'cosine_similarty'.*'cosine_similarity'"):
        report(model, model, feeds, metric="cosine_similarty")
    with pytest.raises(ConfigValueError, match="digits is 40"):
        report(model, model, feeds, digits=40)
    with pytest.raises(ConfigValueError, match="samples is 0"):
        report(model, model, feeds, samples=0)
    with pytest.raises(DataError):
        compare(model, model, iter([]))
    two, _ = NETS["two_in_two_out"]()
    with pytest.raises(ModelError, match="belongs to none of the first one's"):
        report(model, two, feeds)


def test_what_the_runtime_loses_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    model, feeds = NETS["gemm_mlp"]()
    other = onnx.ModelProto()
    other.CopyFrom(model)
    found = report(model, other, feeds)
    assert not any("kernels" in n for n in found.notes)
    from calibrant.analysis.compare import outputs as deployed
    from calibrant.runtime import session

    infer = session.infer
    calls = iter(range(10**6))

    def other_kernels(*args: Any) -> list[Array]:
        values = infer(*args)
        return [v * 1.5 for v in values] if next(calls) % 2 else values

    monkeypatch.setattr(deployed, "infer", other_kernels)
    assert any("integer kernels of this runtime" in n for n in report(model, other, feeds).notes)


def test_a_quant_info_file_of_another_tool_beside_the_model_is_noted_and_left_out(
    tmp_path: Path,
) -> None:
    model, feeds = NETS["gemm_mlp"]()
    result = quantize(model, batches(feeds))
    result.save(tmp_path, formats=["horizon"])  # its quant_info.json has another form
    found = compare(model, tmp_path / "quantized_model.onnx", feeds(batch=4, seed=1))
    assert any("quant_info.json' was not used" in n for n in found.notes)
    with pytest.raises(ConfigValueError, match="quant-info"):
        compare(
            model,
            tmp_path / "quantized_model.onnx",
            feeds(batch=4, seed=1),
            info=tmp_path / "quant_info.json",
        )


def test_a_corrected_bias_is_no_other_weight() -> None:
    """Biases may be corrected by more than their size; channels were not rescaled."""
    model, feeds = NETS["residual"]()
    wrong = ir.to_proto(fine("residual").deploy)
    makers = {n.output[0]: n for n in wrong.graph.node}
    biases = {makers[n.input[2]].input[0] for n in wrong.graph.node if n.op_type == "Conv"}
    for tensor in wrong.graph.initializer:
        if tensor.name in biases:
            values = -3 * onnx.numpy_helper.to_array(tensor)
            tensor.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))
    found = report(model, wrong, feeds)
    assert not any("are others than the float model's" in note for note in found.notes)
    assert found.worst_first[0].born is not None
    assert found.worst_first[0].born.cause == "bias"
