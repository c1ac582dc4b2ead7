"""Lists of tensors between the operators of a model stay lists."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper, parser

import calibrant

_HEAD = '<ir_version: 8, opset_import: ["" : 18]> g (float[n, 8] x) => (float[n, m] y)'

#: What stands between the first product and the second one.
LISTS = {
    "construct": "s = SequenceConstruct (a, a) b = ConcatFromSequence <axis = 1> (s)",
    "split": "s = SplitToSequence <axis = 1> (a) b = ConcatFromSequence <axis = 1> (s)",
    "identity": "s = SequenceConstruct (a, a) t = Identity (s) b = ConcatFromSequence <axis = 1> (t)",
    "optional": "o = Optional (a) b = OptionalGetElement (o)",
    "loop": """s = SequenceEmpty <dtype = 1> ()
        t = Loop (times, yes, s) <body = body (int64 i, bool c, r) => (bool d, q) {
            d = Identity (c)
            q = SequenceInsert (r, a)
        }>
        b = ConcatFromSequence <axis = 1> (t)""",
}


@pytest.mark.parametrize("name", LISTS)
def test_a_model_with_lists_is_quantized(name: str) -> None:
    wide = 16 if name in ("construct", "identity", "loop") else 8
    text = f"{_HEAD} {{ a = MatMul (x, w) {LISTS[name]} y = MatMul (b, v) }}"
    model = parser.parse_model(text)
    r = np.random.default_rng(0)
    for label, shape in (("w", (8, 8)), ("v", (wide, 3))):
        weight = r.normal(0, 0.3, shape).astype(np.float32)
        model.graph.initializer.append(numpy_helper.from_array(weight, label))
    model.graph.initializer.append(numpy_helper.from_array(np.array(2), "times"))
    model.graph.initializer.append(numpy_helper.from_array(np.array(True), "yes"))
    body = next((n.attribute[0].g for n in model.graph.node if n.op_type == "Loop"), None)
    if body is not None:
        kind = helper.make_sequence_type_proto(
            helper.make_tensor_type_proto(TensorProto.FLOAT, None)
        )
        for value in (body.input[2], body.output[1]):
            value.type.CopyFrom(kind)
    onnx.checker.check_model(model)
    data = {"x": r.normal(0, 1, (16, 8)).astype(np.float32)}
    result = calibrant.quantize(model, data, latency=False)
    assert result.summary["layers"]["quantized"] == 2
    assert result.summary["quality"]["outputs"]["y"]["sqnr_db"] > 25
