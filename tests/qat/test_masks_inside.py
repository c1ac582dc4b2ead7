"""A constant of a network may be -inf, as masks are: training such a network is no divergence."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

torch = pytest.importorskip("torch", reason="training needs torch")

from calibrant.qat import fit, prepare
from calibrant.qat.run_state import stays_finite

W4A8 = """
    batch_num: 4
    retrain_weight_quant_config { ulq_retrain { dst_type: INT4 channel_wise: true } }
"""


def masked() -> onnx.ModelProto:
    """Return x -> Softmax(Gemm(Relu(Gemm(x))) + mask), where the mask is -inf for one class."""
    rng = np.random.default_rng(3)
    weights = {
        "w1": rng.normal(size=(8, 16)),
        "b1": rng.normal(size=16),
        "w2": rng.normal(size=(16, 5)),
        "b2": rng.normal(size=5),
        "mask": np.array([0, 0, -np.inf, 0, 0]),
    }
    nodes = [
        helper.make_node("Gemm", ["x", "w1", "b1"], ["h"], name="first"),
        helper.make_node("Relu", ["h"], ["r"], name="relu"),
        helper.make_node("Gemm", ["r", "w2", "b2"], ["s"], name="second"),
        helper.make_node("Add", ["s", "mask"], ["m"], name="masked"),
        helper.make_node("Softmax", ["m"], ["y"], name="softmax", axis=-1),
    ]
    graph = helper.make_graph(
        nodes,
        "masked",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 5])],
        [numpy_helper.from_array(w.astype(np.float32), n) for n, w in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def test_a_network_with_a_mask_of_minus_infinity_trains() -> None:
    x = {"x": np.random.default_rng(0).normal(size=(64, 8)).astype(np.float32)}
    qat = prepare(masked(), x, W4A8)
    assert any(not v.isfinite().all() for v in qat.module.state_dict().values())
    fitted = fit(qat, x, epochs=40, batch_size=32, lr=1e-3)
    assert not any("loss was" in note for note in fitted.notes)
    assert min(fitted.losses) < fitted.losses[0] / 2


def test_what_was_finite_and_is_no_more_is_seen() -> None:
    before = {"w": np.array([1.0, -np.inf]), "n": np.array([3])}
    assert stays_finite({"w": np.array([2.0, -np.inf]), "n": np.array([4])}, before)
    assert not stays_finite({"w": np.array([np.nan, -np.inf]), "n": np.array([4])}, before)
