"""Each operator as torch computes it beside ONNX Runtime."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, numpy_helper

torch = pytest.importorskip("torch", reason="training needs torch")

import onnxruntime as ort

from calibrant.errors import UnsupportedError
from calibrant.graph.ops import OP_RULES
from calibrant.qat.graph import explained, to_torch
from calibrant.qat.operators import OPERATORS

RNG = np.random.default_rng(0)


def normal(*shape: int) -> np.ndarray:
    return RNG.normal(size=shape).astype(np.float32)


def i64(*values: int) -> np.ndarray:
    return np.array(values, dtype=np.int64)


def f32(*values: float) -> np.ndarray:
    return np.array(values, dtype=np.float32)


X4 = normal(2, 4, 7, 6)
X3 = normal(2, 4, 9)
X2 = normal(3, 5)

#: Operator, data inputs, constants, attributes, opset, outputs. A constant of None is a missing input.
Case = tuple[str, list[np.ndarray], list[Any], dict[str, Any]]

CASES: list[Case] = [
    ("Conv", [X4], [normal(3, 4, 3, 3), normal(3)], {"pads": [1, 1, 1, 1], "strides": [2, 1]}),
    ("Conv", [X4], [normal(3, 4, 3, 3)], {"pads": [0, 1, 2, 1], "dilations": [1, 2]}),
    ("Conv", [X4], [normal(4, 1, 3, 3), normal(4)], {"group": 4, "auto_pad": "SAME_UPPER", "strides": [2, 2]}),
    ("Conv", [X4], [normal(3, 4, 2, 2)], {"auto_pad": "SAME_LOWER"}),
    ("Conv", [X4], [normal(3, 4, 2, 2)], {"auto_pad": "VALID"}),
    ("Conv", [X3], [normal(3, 4, 3)], {"pads": [1, 1]}),
    ("Conv", [normal(1, 2, 4, 5, 6)], [normal(3, 2, 2, 2, 2)], {}),
    ("ConvTranspose", [X4], [normal(4, 3, 3, 3), normal(3)], {"strides": [2, 2], "pads": [1, 1, 1, 1]}),
    ("ConvTranspose", [X4], [normal(4, 2, 3, 3)], {"group": 2, "strides": [2, 2], "output_padding": [1, 1]}),
    ("ConvTranspose", [X4], [normal(4, 3, 3, 3)], {"strides": [2, 2], "pads": [0, 1, 1, 0]}),
    ("ConvTranspose", [X4], [normal(4, 3, 3, 3)], {"strides": [2, 2], "auto_pad": "SAME_UPPER"}),
    ("ConvTranspose", [X4], [normal(4, 3, 3, 3)], {"strides": [2, 2], "output_shape": [14, 12]}),
    ("Gemm", [X2], [normal(5, 4), normal(4)], {}),
    ("Gemm", [X2], [normal(4, 5), normal(4)], {"transB": 1, "alpha": 0.5, "beta": 2.0}),
    ("Gemm", [normal(5, 3)], [normal(5, 4), normal(1, 4)], {"transA": 1}),
    ("Gemm", [X2], [normal(5, 4)], {}),
    ("MatMul", [normal(2, 3, 4)], [normal(4, 5)], {}),
    ("MatMul", [normal(2, 3, 4), normal(2, 4, 3)], [], {}),
    ("Einsum", [normal(2, 3, 4), normal(2, 4, 5)], [], {"equation": "bij,bjk->bik"}),
    ("MaxPool", [X4], [], {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1]}),
    ("MaxPool", [X4], [], {"kernel_shape": [2, 2], "strides": [2, 2], "ceil_mode": 1}),
    ("MaxPool", [X4], [], {"kernel_shape": [3, 2], "dilations": [2, 1]}),
    ("MaxPool", [X3], [], {"kernel_shape": [2], "auto_pad": "SAME_UPPER", "strides": [2]}),
    ("AveragePool", [X4], [], {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1]}),
    ("AveragePool", [X4], [], {"kernel_shape": [3, 3], "pads": [1, 0, 0, 1], "count_include_pad": 1}),
    ("AveragePool", [X4], [], {"kernel_shape": [2, 2], "strides": [2, 2], "ceil_mode": 1}),
    ("AveragePool", [X4], [], {"kernel_shape": [2, 2], "strides": [2, 2]}),
    ("GlobalAveragePool", [X4], [], {}),
    ("GlobalMaxPool", [X4], [], {}),
    *[(op, [X2, normal(1, 5)], [], {}) for op in ("Add", "Sub", "Mul", "Div", "Max", "Min", "Sum", "Mean")],
    ("Pow", [np.abs(X2)], [np.array(2.5, dtype=np.float32)], {}),
    ("Mod", [X2], [f32(0.7)], {"fmod": 1}),
    *[
        (op, [X2], [], {})
        for op in ("Abs", "Neg", "Exp", "Floor", "Ceil", "Round", "Sign", "Sin", "Cos", "Tan", "Atan", "Sinh", "Cosh", "Erf")
    ],
    *[(op, [np.abs(X2) / 4 + 0.1], [], {}) for op in ("Log", "Sqrt", "Reciprocal", "Asin", "Acos")],
    *[(op, [X4], [], {}) for op in ("Relu", "Sigmoid", "Tanh", "HardSwish", "Softplus", "Softsign", "Mish")],
    ("LeakyRelu", [X4], [], {"alpha": 0.2}),
    ("PRelu", [X4], [normal(4, 1, 1)], {}),
    ("Clip", [X4], [np.float32(-0.5), np.float32(0.7)], {}),
    ("Clip", [X4], [None, np.float32(0.7)], {}),
    ("Clip", [X4], [np.float32(0.0)], {}),
    ("HardSigmoid", [X4], [], {"alpha": 0.3}),
    ("Elu", [X4], [], {"alpha": 0.5}),
    ("Celu", [X4], [], {"alpha": 0.5}),
    ("Selu", [X4], [], {}),
    ("Gelu", [X4], [], {}),
    ("Gelu", [X4], [], {"approximate": "tanh"}),
    ("ThresholdedRelu", [X4], [], {"alpha": 0.4}),
    ("Softmax", [X4], [], {"axis": 1}),
    ("LogSoftmax", [X2], [], {}),
    ("Reshape", [X4], [i64(0, -1, 6)], {}),
    ("Flatten", [X4], [], {"axis": 2}),
    ("Transpose", [X4], [], {"perm": [0, 2, 3, 1]}),
    ("Transpose", [X2], [], {}),
    ("Squeeze", [normal(2, 1, 3, 1)], [i64(1)], {}),
    ("Squeeze", [normal(2, 1, 3, 1)], [], {}),
    ("Unsqueeze", [X2], [i64(-1, 0)], {}),
    ("Concat", [X2, X2, normal(3, 2)], [], {"axis": 1}),
    ("Slice", [X4], [i64(1, -3), i64(100, 6), i64(2, 3), i64(2, 1)], {}),
    ("Slice", [X4], [i64(-1), i64(-100), i64(3), i64(-1)], {}),
    ("Slice", [X4], [i64(1), i64(-1)], {}),
    ("Split", [normal(2, 6)], [i64(1, 2, 3)], {"axis": 1}),
    ("Expand", [normal(3, 1)], [i64(2, 1, 4)], {}),
    ("Tile", [X2], [i64(2, 3)], {}),
    ("DepthToSpace", [normal(1, 8, 2, 3)], [], {"blocksize": 2}),
    ("DepthToSpace", [normal(1, 8, 2, 3)], [], {"blocksize": 2, "mode": "CRD"}),
    ("SpaceToDepth", [normal(1, 2, 4, 6)], [], {"blocksize": 2}),
    ("Gather", [X4], [i64(0, -1)], {"axis": 1}),
    ("Gather", [X4], [np.array(2, dtype=np.int64)], {"axis": 3}),
    ("Gather", [X4], [np.array([[0, 1], [2, 0]], dtype=np.int64)], {"axis": 2}),
    ("GatherElements", [X2], [np.array([[0, 1, -1]], dtype=np.int64)], {"axis": 1}),
    ("Pad", [X4], [i64(0, 0, 1, 2, 0, 0, 2, 1), np.float32(0.5)], {}),
    ("Pad", [X4], [i64(0, 0, 1, 2, 0, 0, 2, 1)], {"mode": "reflect"}),
    ("Pad", [X4], [i64(0, 0, 1, 2, 0, 0, 2, 1)], {"mode": "edge"}),
    ("Pad", [X4], [i64(0, 0, -1, 0, 0, 0, 1, 0)], {}),
    ("Pad", [X4], [i64(1, 2), None, i64(3)], {}),
    ("Shape", [X4], [], {}),
    ("Shape", [X4], [], {"start": 1, "end": -1}),
    ("Size", [X4], [], {}),
    ("Cast", [X4 * 3], [], {"to": TensorProto.INT32}),
    ("CastLike", [X4 * 3, np.ones(1, np.int64)], [], {}),
    ("CumSum", [X2], [np.array(1, dtype=np.int64)], {"exclusive": 1, "reverse": 1}),
    ("Trilu", [normal(4, 4)], [np.array(1, dtype=np.int64)], {"upper": 0}),
    ("Identity", [X2], [], {}),
    ("Where", [X2 > 0, X2, normal(5)], [], {}),
    *[(op, [X2, normal(3, 5)], [], {}) for op in ("Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual")],
    *[(op, [X2 > 0, X2 < 1], [], {}) for op in ("And", "Or")],
    ("Not", [X2 > 0], [], {}),
    ("IsNaN", [X2], [], {}),
    *[
        (op, [X4], [i64(1, -1)], {"keepdims": keep})
        for op in ("ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin", "ReduceL2", "ReduceSumSquare")
        for keep in (0, 1)
    ],
    ("ReduceMean", [X4], [], {}),
    ("ArgMax", [X4], [], {"axis": 1, "keepdims": 0}),
    ("BatchNormalization", [X4], [normal(4), normal(4), normal(4), np.abs(normal(4))], {"epsilon": 1e-3}),
    ("InstanceNormalization", [X4], [normal(4), normal(4)], {}),
    ("LayerNormalization", [X4], [normal(6), normal(6)], {}),
    ("LayerNormalization", [X4], [normal(7, 6)], {"axis": 2}),
    ("GroupNormalization", [X4], [normal(4), normal(4)], {"num_groups": 2}),
    ("LpNormalization", [X2], [], {"axis": 1}),
    ("Resize", [X4], [None, f32(1, 1, 2, 2)], {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}),
    ("Resize", [X4], [None, f32(1, 1, 1.5, 0.7)], {"mode": "linear"}),
    ("Resize", [X4], [None, None, i64(2, 4, 11, 3)], {"mode": "linear", "coordinate_transformation_mode": "align_corners"}),
    ("Resize", [X4], [None, None, i64(2, 4, 14, 9)], {"mode": "nearest"}),
    ("Resize", [X4], [None, None, i64(14, 12)], {"mode": "linear", "axes": [2, 3], "coordinate_transformation_mode": "pytorch_half_pixel"}),
    ("Resize", [X4], [None, f32(1, 1, 2, 2)], {"mode": "cubic"}),
    ("Resize", [X4], [None, None, i64(2, 4, 3, 11)], {"mode": "cubic", "coordinate_transformation_mode": "align_corners", "cubic_coeff_a": -0.5}),
    ("Resize", [X4], [None, f32(1, 1, 1.6, 2)], {"mode": "cubic", "exclude_outside": 1}),
    ("GridSample", [X4, RNG.uniform(-1, 1, (2, 3, 3, 2)).astype(np.float32)], [], {"mode": "linear"}),
    ("ConstantOfShape", [], [i64(2, 3)], {}),
    ("Dropout", [X2], [], {}),
    ("ReduceL1", [X4], [i64(1)], {}),
    ("ReduceLogSumExp", [X4], [i64(1, 2)], {"keepdims": 0}),
    ("ReduceLogSum", [np.abs(X4)], [i64(1)], {}),
    ("ReduceProd", [X4], [i64(-1, 1)], {"keepdims": 0}),
    ("ArgMin", [X4], [], {"axis": 2, "keepdims": 0}),
    ("GatherND", [X4, i64(1, 0, 0, -2).reshape(2, 2)], [], {}),
    ("GatherND", [X4, i64(1, 0, 3, 2).reshape(2, 2)], [], {"batch_dims": 1}),
    ("ScatterND", [X2, i64(2, 0).reshape(2, 1), normal(2, 5)], [], {}),
    ("ScatterND", [X2, i64(2, 2).reshape(2, 1), normal(2, 5)], [], {"reduction": "add"}),
    ("ScatterND", [X2, i64(0, 1, 2, 2).reshape(2, 2), normal(2)], [], {"reduction": "max"}),
    ("ScatterElements", [X2, i64(0, -1, 2, 1).reshape(2, 2), normal(2, 2)], [], {"axis": 1}),
    ("ScatterElements", [X2, i64(0, 0, 2, 1).reshape(2, 2), normal(2, 2)], [], {"reduction": "add"}),
    ("NonZero", [(X2 > 0).astype(np.float32)], [], {}),
    ("OneHot", [i64(0, -1, 2)], [i64(4), f32(0.5, 2)], {}),
    ("OneHot", [i64(0, 1, 2, 3).reshape(2, 2)], [np.array(4), f32(0, 1)], {"axis": 1}),
    ("TopK", [X2], [i64(3)], {}),
    ("TopK", [X2], [i64(2)], {"axis": 0, "largest": 0}),
    ("LSTM", [normal(5, 3, 4)], [normal(1, 24, 4), normal(1, 24, 6)], {"hidden_size": 6}),
    ("LSTM", [normal(5, 3, 4)], [normal(2, 24, 4), normal(2, 24, 6), normal(2, 48), np.array([5, 2, 3], np.int32), normal(2, 3, 6), normal(2, 3, 6)], {"hidden_size": 6, "direction": "bidirectional"}),
    ("LSTM", [normal(5, 3, 4)], [normal(1, 24, 4), normal(1, 24, 6), normal(1, 48), None, None, None, normal(1, 18)], {"hidden_size": 6, "direction": "reverse", "clip": 0.7}),
    ("LSTM", [normal(5, 3, 4)], [normal(1, 24, 4), normal(1, 24, 6)], {"hidden_size": 6, "activations": ["Sigmoid", "Softsign", "Relu"]}),
    ("GRU", [normal(5, 3, 4)], [normal(1, 18, 4), normal(1, 18, 6), normal(1, 36)], {"hidden_size": 6}),
    ("GRU", [normal(5, 3, 4)], [normal(2, 18, 4), normal(2, 18, 6), normal(2, 36), np.array([5, 2, 3], np.int32), normal(2, 3, 6)], {"hidden_size": 6, "direction": "bidirectional", "linear_before_reset": 1}),
    ("RNN", [normal(5, 3, 4)], [normal(1, 6, 4), normal(1, 6, 6), normal(1, 12)], {"hidden_size": 6}),
    ("RNN", [normal(5, 3, 4)], [normal(2, 6, 4), normal(2, 6, 6), None, None, normal(2, 3, 6)], {"hidden_size": 6, "direction": "bidirectional", "activations": ["Relu", "Tanh"]}),
]  # fmt: skip


def model_of(
    op: str, data, constants, attributes, opset: int = 22, outputs: int = 1
) -> onnx.ModelProto:
    names, initializers, inputs = [], [], []
    for i, x in enumerate(data):
        kind = helper.np_dtype_to_tensor_dtype(x.dtype)
        inputs.append(helper.make_tensor_value_info(f"x{i}", kind, x.shape))
        names.append(f"x{i}")
    for i, c in enumerate(constants):
        names.append("" if c is None else f"c{i}")
        if c is not None:
            initializers.append(numpy_helper.from_array(np.asarray(c), f"c{i}"))
    node = helper.make_node(
        op, names, [f"y{i}" for i in range(outputs)], name="the_node", **attributes
    )
    values = [helper.make_empty_tensor_value_info(f"y{i}") for i in range(outputs)]
    graph = helper.make_graph([node], "g", inputs, values, initializers)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)
    return onnx.shape_inference.infer_shapes(model)


def compare(model: onnx.ModelProto, data) -> None:
    feed = {f"x{i}": x for i, x in enumerate(data)}
    options = ort.SessionOptions()
    options.log_severity_level = 4
    session = ort.InferenceSession(model.SerializeToString(), options, ["CPUExecutionProvider"])
    wanted = session.run(None, feed)
    module = to_torch(ir.from_proto(model))
    found = explained(module, *(torch.from_numpy(x) for x in data))
    found = found if isinstance(found, tuple) else (found,)
    for mine, theirs in zip(found, wanted, strict=True):
        mine = mine.detach().numpy()
        assert mine.shape == theirs.shape
        assert mine.dtype == theirs.dtype
        np.testing.assert_allclose(mine, theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("case", CASES, ids=[f"{i}-{c[0]}" for i, c in enumerate(CASES)])
def test_an_operator_computes_what_onnx_runtime_does(case):
    op, data, constants, attributes = case
    outputs = {"Split": 3, "LSTM": 3, "GRU": 2, "RNN": 2, "TopK": 2}.get(op, 1)
    compare(model_of(op, data, constants, attributes, outputs=outputs), data)


@pytest.mark.parametrize("opset", [13, 17])
@pytest.mark.parametrize("op", ["ReduceMean", "ReduceMax", "ReduceL2"])
def test_axes_that_are_attributes_in_older_operator_sets(op, opset):
    compare(model_of(op, [X4], [], {"axes": [1, 2], "keepdims": 0}, opset=opset), [X4])


def test_every_operator_that_calibrant_quantizes_can_be_trained():
    assert set(OP_RULES) - set(OPERATORS) == set()


def test_every_operator_has_a_case():
    tested = {c[0] for c in CASES}
    apart = {
        "Range",
        "Swish",
        "RMSNormalization",
        "Scatter",
    }  # newer or older than the operator set of the cases, or without a constant
    assert set(OPERATORS) - tested == apart


def test_what_is_not_known_is_named_with_node_and_operator():
    model = model_of("Det", [normal(3, 3)], [], {})
    with pytest.raises(UnsupportedError, match=r"node 'the_node' \(Det\)"):
        to_torch(ir.from_proto(model))
    model = model_of(
        "Resize", [X4], [None, f32(1, 1, 2, 2)], {"mode": "linear", "antialias": 1}, opset=18
    )
    with pytest.raises(
        UnsupportedError,
        match=r"node 'the_node' \(Resize\): Resize with mode 'linear', antialias 1, [^\n%]*$",
    ):
        explained(to_torch(ir.from_proto(model)), torch.from_numpy(X4))
