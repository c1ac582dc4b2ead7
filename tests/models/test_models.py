"""The networks that other tests use are valid, run, and have the properties they are named for."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from tests.models import (
    NETS,
    OPSETS,
    Array,
    Model,
    convolution,
    structure,
    trained_attention,
    with_external_data,
)


def run(model: onnx.ModelProto | Path, feed: dict[str, Array]) -> list[Array]:
    source = str(model) if isinstance(model, Path) else model.SerializeToString()
    session = ort.InferenceSession(source, providers=["CPUExecutionProvider"])
    outputs: list[Array] = session.run(None, feed)
    return outputs


@pytest.mark.parametrize("make", NETS.values(), ids=NETS.keys())
def test_each_network_runs_and_its_outputs_are_finite_and_not_constant(
    make: Callable[[], Model],
) -> None:
    model, feeds = make()
    first, second = run(model, feeds(seed=0)), run(model, feeds(seed=1))
    for a, b in zip(first, second, strict=True):
        assert np.isfinite(a).all()
        assert a.std() > 1e-3
        assert not np.array_equal(a, b)


@pytest.mark.parametrize("opset", OPSETS)
def test_all_opsets_compute_the_same(opset: int) -> None:
    model, feeds = structure.of_opset(opset)
    reference, _ = structure.of_opset(17)
    assert model.opset_import[0].version == opset
    np.testing.assert_allclose(run(model, feeds())[0], run(reference, feeds())[0], atol=1e-6)


def test_padding_does_not_reach_the_attention_outputs_of_real_tokens() -> None:
    for name, tokens in (("attention_where", "h"), ("attention_add", "ids")):
        model, feeds = NETS[name]()
        feed = feeds(batch=8)
        changed = feed | {tokens: feed[tokens].copy()}
        padding = feed["mask"] == 0
        changed[tokens][padding] = 0
        real = ~padding
        np.testing.assert_allclose(
            run(model, feed)[0][real], run(model, changed)[0][real], atol=1e-6
        )


def test_depthwise_leaky_has_channels_spread_over_decades() -> None:
    model, _ = convolution.depthwise_leaky(spread=3.0)
    weights = {i.name: onnx.numpy_helper.to_array(i) for i in model.graph.initializer}
    per_channel = np.abs(weights["d1"]).max(axis=(1, 2, 3))
    assert per_channel.max() / per_channel.min() > 300


def test_both_branches_of_the_if_are_reached() -> None:
    model, feeds = structure.if_subgraph()
    x = feeds()["x"]
    bright, dark = np.abs(x), -np.abs(x)
    assert not np.allclose(run(model, {"x": bright})[0], run(model, {"x": dark})[0])


def test_unnamed_nodes_have_no_name() -> None:
    model, _ = structure.unnamed_nodes()
    assert [n.name for n in model.graph.node] == ["", "", ""]


def test_external_data_computes_the_same_from_two_files(tmp_path: Path) -> None:
    model, feeds = convolution.residual()
    path = with_external_data(model, tmp_path)
    assert (tmp_path / "weights.bin").stat().st_size > 4 * 8 * 8 * 9
    np.testing.assert_array_equal(run(path, feeds())[0], run(model, feeds())[0])


def test_already_quantized_runs() -> None:
    model, feeds = structure.already_quantized()
    assert {n.op_type for n in model.graph.node} == {"QuantizeLinear", "DequantizeLinear", "Gemm"}
    assert np.isfinite(run(model, feeds())[0]).all()


def test_trained_attention_answers_as_it_did_in_training() -> None:
    case = trained_attention()
    with np.load(case.path.with_name("attention_data.npz"), allow_pickle=False) as data:
        logits = data["logits"]
    found = run(case.path, case.evaluation)[0]
    np.testing.assert_allclose(found, logits, atol=2e-4)
    assert (found.argmax(1) == case.labels).mean() > 0.97


def test_trained_attention_has_outlier_channels() -> None:
    model = onnx.load(trained_attention().path)
    weights = {i.name: onnx.numpy_helper.to_array(i) for i in model.graph.initializer}
    for block in range(3):
        gain = np.abs(weights[f"block{block}/norm1.weight"])
        assert np.sort(gain)[-3] > 4 * np.median(gain)


def test_trained_attention_does_not_care_for_longer_padding_or_batch() -> None:
    case = trained_attention()
    short = {n: x[:8, :21] for n, x in case.evaluation.items()}
    keep = case.evaluation["mask"][:8].sum(axis=1) <= 21
    assert keep.any()
    long = {n: x[:8] for n, x in case.evaluation.items()}
    np.testing.assert_allclose(
        run(case.path, short)[0][keep], run(case.path, long)[0][keep], atol=1e-4
    )
